"""Lists to sort, filter and search: what a list needs so that lists.js can work it.

A list is an element of class "list" in a section of its own. Its cards carry what they are sorted by in data attributes.
The controls are hidden until the script, which alone can work them, shows them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from manners.report.markup import Html, tag


def controls(orders: Mapping[str, str], categories: Sequence[str] = ()) -> Html:
    """The line above a list. `orders`: data attribute -> words, "-" in front turns it round; the first one holds at the start."""
    choose = _select("Category", "category", {"": "all"} | {c: c for c in categories}) if categories else None
    search = tag("label", "Find ", tag("input", type="search", name="search", placeholder="words in it"))
    count = tag("span", class_="count", role="status")
    return tag("p", choose, _select("Order", "sort", orders), search, count, class_="controls", hidden=True)


def more() -> Html:
    """The button below a list that lets more of it be seen."""
    return tag("p", tag("button", "Show more", type="button", class_="more"), class_="controls", hidden=True)


def datum(value: float | None) -> str | None:
    """A number as a data attribute; none where there is none."""
    return None if value is None else f"{value:.6g}"


def _select(label: str, name: str, options: Mapping[str, str]) -> Html:
    chosen = tag("select", *(tag("option", words, value=value) for value, words in options.items()), name=name)
    return tag("label", label, " ", chosen)
