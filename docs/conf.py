"""These pages as a web site: `make docs` builds it, every warning is an error, and nothing is fetched from the network.

Its source folder is the repository's root, not docs/: links between docs/, benchmarks/results/, CONTRIBUTING.md and
CHANGELOG.md lead to the same files here as where the repository is read, and results are shown, not copied.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from sphinx.application import Sphinx

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path[:0] = [str(DOCS), str(ROOT)]

from command_pages import write_command_pages  # noqa: E402 (beside this file)

from fit3d_ns.common.version import installed_version  # noqa: E402

project = "fit3d"
author = "The fit3d developers"
copyright = "2026, the fit3d developers"
release = version = installed_version()

extensions = ["myst_nb"]
root_doc = "docs/index"
include_patterns = ["docs/**", "benchmarks/results/*.md", "examples/ATTRIBUTION.md", "CONTRIBUTING.md", "CHANGELOG.md"]
_SHOWN = {pattern.partition("/")[0] for pattern in include_patterns}
# What is not named above is not even looked through: an environment has a hundred thousand files.
exclude_patterns = [path.name for path in ROOT.iterdir() if path.name not in _SHOWN] + ["docs/_build", "**/.*"]

myst_heading_anchors = 4
myst_links_external_new_tab = False
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 900
nb_execution_show_tb = True
nb_merge_streams = True

html_theme = "furo"
html_title = f"fit3d {release}"
html_copy_source = False
html_extra_path = ["site_root"]
highlight_language = "text"

MERMAID = re.compile(r"```mermaid\n.*?```", re.DOTALL)
"""What code hosts draw by a program from the network; docs/flow.svg is the same as a picture."""


def draw_the_flow(app: Sphinx, page: str, source: list[str]) -> None:
    """Put the picture in the place of the diagram's text."""
    source[0] = MERMAID.sub("![from photos to a report](flow.svg)", source[0])


def setup(app: Sphinx) -> None:
    """What Sphinx calls first."""
    write_command_pages(DOCS / "commands")
    app.connect("source-read", draw_the_flow)
