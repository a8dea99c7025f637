"""HTML from Python values: whatever is not marked as HTML is escaped.

Prompts, completions, paths and categories come from models and from strangers. `tag` therefore takes plain text and
escapes it; only what `tag` itself made, and the report's own files, are `Html`. Joining `Html` with plain text gives
plain text again, so a slip shows as visible markup on the page and never as markup that works.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


_VOID = frozenset({"meta", "br", "input"})
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def clean(text: str) -> str:
    """`text` with what no page may hold made visible: control characters, and lone surrogates, which UTF-8 lacks."""
    text = text.replace("\r\n", "\n")
    text = _CONTROL.sub(lambda m: chr(0x2400 + ord(m[0])) if ord(m[0]) < 0x20 else "\ufffd", text)
    return _SURROGATE.sub("\ufffd", text)


def escape(text: str) -> Html:
    """`text` as HTML that shows it, safe in content and in quoted attributes."""
    return Html(html.escape(clean(text), quote=True))


def join(parts: Iterable[str | None], between: str = "") -> Html:
    """All parts in a row; None is left out, plain text is escaped."""
    return Html(_as_html(between).join(_as_html(part) for part in parts if part is not None))


def tag(name: str, /, *children: str | None, **attributes: str | float | bool | None) -> Html:
    """One element: `tag("p", "a < b", class_="note")` gives `<p class="note">a &lt; b</p>`.

    A trailing underscore of an attribute name is dropped and inner ones become hyphens; None and False leave the
    attribute out, True writes it without a value.
    """
    written = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in _VOID:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{join(children)}</{name}>")


def verbatim(name: str, text: str) -> Html:
    """A `style` or `script` element around one of the report's own files, which browsers read without unescaping."""
    if "</" in text or "<!--" in text:
        raise ValueError(f"the {name} must not hold '</' or '<!--'")
    return Html(f"<{name}>{text}</{name}>")


def _as_html(text: str) -> Html:
    return text if isinstance(text, Html) else escape(text)


def _attribute(key: str, value: str | float | bool | None) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escape(str(value))}"'
