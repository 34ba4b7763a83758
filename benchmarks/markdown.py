"""Rows of the tables on the pages of results."""

from __future__ import annotations


def header(*titles: str) -> list[str]:
    """The first two lines of a table."""
    return [row(*titles), "|" + "---|" * len(titles)]


def row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"
