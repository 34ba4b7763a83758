"""One thing that was looked at."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """What something is, and what is wrong with it."""

    group: str
    """Under which it is shown, e.g. "packages"."""
    name: str
    value: str
    """As it was found: a version, a path, "not installed"."""
    problem: str = ""
    """What is wrong and what to do, in one sentence; "": nothing."""
    needed: bool = True
    """Whether anything fails for certain while there is a problem. False: some uses need it."""

    @property
    def fault(self) -> bool:
        """Whether something that is needed is wrong."""
        return self.needed and bool(self.problem)
