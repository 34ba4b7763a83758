"""HTML from function calls, so that no text can reach the page unescaped."""

from __future__ import annotations

import html
from collections.abc import Iterable


class Markup(str):
    """Text that is HTML already. Any other string is escaped when it is put into a tag."""


Content = str | Iterable["Content"] | None

_VOID_TAGS = frozenset({"img", "meta", "wbr"})


def tag(tag_name: str, *content: Content, **attributes: str | float | bool | None) -> Markup:
    """One element with its content.

    Args:
        tag_name: e.g. "div".
        content: text (escaped), markup (kept), or iterables of them; None is nothing.
        attributes: a trailing underscore is dropped (`class_`), others become hyphens (`data_grid`); None and False
            leave the attribute out, True gives one without a value.
    """
    written = "".join(_attribute(key, value) for key, value in attributes.items())
    if tag_name in _VOID_TAGS:
        return Markup(f"<{tag_name}{written}>")
    return Markup(f"<{tag_name}{written}>{join(*content)}</{tag_name}>")


def join(*content: Content) -> Markup:
    """The content after each other, text escaped."""
    pieces = []
    for piece in content:
        if isinstance(piece, Markup):
            pieces.append(str(piece))
        elif isinstance(piece, str):
            pieces.append(html.escape(piece))
        elif piece is not None:
            pieces.append(join(*piece))
    return Markup("".join(pieces))


def _attribute(key: str, value: str | float | bool | None) -> str:
    name = key.rstrip("_").replace("_", "-")
    if value is None or value is False:
        return ""
    return f" {name}" if value is True else f' {name}="{html.escape(str(value))}"'
