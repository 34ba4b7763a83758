"""The folder of a probing: results.json, its tables as CSV, and report.html."""

from __future__ import annotations

from pathlib import Path

from fit3d_finetune.probing.results import Example, ProbeResults
from fit3d_finetune.probing.tables import TABLES, write_tables
from fit3d_finetune.report.data import FIGURE_FILES
from fit3d_finetune.report.page import FIGURES_FOLDER, write_report
from fit3d_ns.common.json_input import parse_json
from fit3d_ns.common.output_place import mark_own_folder, require_own_files, require_writable
from fit3d_ns.common.temporaries import sweep_leftovers

RESULTS_FILE = "results.json"
REPORT_FILE = "report.html"
COMMAND = "fit3d-probe"
OUTPUT_FILES = (
    *(RESULTS_FILE, REPORT_FILE),
    *(f"{table}.csv" for table in TABLES),
    *(f"{FIGURES_FOLDER}/{figure}" for figure in FIGURE_FILES),
)
"""All that a probing writes into its folder."""


def require_output_dir(output_dir: Path) -> None:
    """Check that results can be written to their folder, and would replace only those of an earlier probing.

    Raises:
        InputError: they cannot, or they would replace something else.
    """
    sweep_leftovers(output_dir)
    require_writable(output_dir / FIGURES_FOLDER)  # and with it the folder itself
    require_own_files(output_dir, OUTPUT_FILES, COMMAND, _holds_results)


def _holds_results(folder: Path) -> bool:
    """Whether it holds results of release 0.1, which left no mark."""
    try:
        data = parse_json((folder / RESULTS_FILE).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(data, dict) and {"format_version", "arms", "protocol"} <= data.keys()


def write_results(results: ProbeResults, examples: list[Example], folder: Path) -> None:
    """results.json, the tables as CSV, and report.html."""
    mark_own_folder(folder, COMMAND)
    write_tables(results, folder)
    write_report(results, examples, folder / REPORT_FILE)
    results.save(folder / RESULTS_FILE)
