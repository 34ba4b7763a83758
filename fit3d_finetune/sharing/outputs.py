"""Files that are written for others: where they may go, and what is said of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fit3d_finetune.sharing.checking import Agreement
from fit3d_ns.common.atomic import anything, require_no_obstacle
from fit3d_ns.common.errors import InputError
from fit3d_ns.common.output_place import require_writable


@dataclass(frozen=True)
class Written:
    """A file that was written and found to agree with torch."""

    path: Path
    megabytes: float
    seconds: float
    """To trace, translate, write and check."""
    agreement: Agreement

    def __str__(self) -> str:
        return f"{self.path}: {self.megabytes:.1f} MB in {self.seconds:.0f} s; {self.agreement}"


def require_free_place(output: Path, suffix: str) -> None:
    """Check, before the work, that a new file can be written.

    Raises:
        InputError: another suffix, something stands there, or nothing can be written there.
    """
    if output.suffix != suffix:
        raise InputError(f"--output {output} must end in {suffix}.")
    require_no_obstacle(output, output, anything)
    require_writable(output.parent, "--output", output.name)
