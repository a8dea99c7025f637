"""The pieces that the sections are built of: a titled section, a notice of what is missing, tables and their strips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from manners.report import figures
from manners.report.curves import Colour
from manners.report.evidence import Row
from manners.report.markup import Html, escape, join, tag
from manners.report.numerals import Interval, between, interval, number, percent, plain, signed


@dataclass(frozen=True)
class StripColumn:
    """A number with its interval, drawn in one column on one scale: the keys of both in a row, and what they are."""

    label: str
    value: str
    ci: str
    colour: Colour = "blue"
    centre: float = 0
    share: bool = False

    def words(self, row: Row) -> Html:
        value, span = number(row.get(self.value)), interval(row.get(self.ci))
        if self.share:
            within = between((100 * span[0], 100 * span[1]), 0) if span else None
            said = percent(value, 1)
        else:
            within = between(span, 2, sign=True) if span else None
            said = signed(value, 2)
        return join([tag("span", said, class_="gain"), tag("small", within) if within else None])


def section(name: str, title: str, lede: str | None, *content: Html | None) -> Html:
    """A part of the page with a heading, a sentence on how to read it, and the thing itself."""
    return tag("section", tag("h2", title), tag("p", lede, class_="lede") if lede else None, *content, id=name)


def missing(what: str, hint: str = "") -> Html:
    """What is not there and how it comes about; `backticks` in the hint mark a command."""
    parts = [tag("code", part) if place % 2 else escape(part) for place, part in enumerate(hint.split("`"))]
    return tag("p", what, " ", *parts, class_="missing")


def table(name: str, head: Html | None, body: Sequence[Html]) -> Html:
    """A table that scrolls by itself where the screen is too narrow for it."""
    filled = tag("table", tag("thead", head) if head else None, tag("tbody", *body), class_=name)
    return tag("div", filled, class_="scroll")


def heading(*labels: str) -> Html:
    """The cells of a table's first row; an empty label stands above a column of drawings."""
    return join(tag("th", label, scope="col") if label else tag("td") for label in labels)


def cell(label: str, content: str | None, class_: str | None = None) -> Html:
    """One value; narrow screens show `label` above it, since they have no first row."""
    return tag("td", content, data_label=label, class_=class_)


def row(name: str, *cells: Html | None, class_: str | None = None) -> Html:
    """A row of a table, named by its first cell."""
    return tag("tr", tag("th", name, scope="row"), *cells, class_=class_)


def strip_table(
    name: str,
    first: str,
    groups: Mapping[str, Mapping[str, Row]],
    columns: Sequence[StripColumn],
    count: tuple[str, str],
) -> Html:
    """A table of named rows, in groups that share one scale, with a drawn column for each of `columns`.

    `groups`: heading -> rows, "" for rows without a heading; `count`: label and key of how many.
    """
    rows = [values for group in groups.values() for values in group.values()]
    limits = {
        c.value: figures.common_limits(
            [c.centre, *(number(r.get(c.value)) for r in rows)]
            + [end for r in rows for end in interval(r.get(c.ci)) or ()]
        )
        for c in columns
    }
    head = [heading(first, count[0])]
    for c in columns:
        scale = figures.strip_scale(f"{name}-scale-{c.value}", limits[c.value], c.label, c.share)
        head += [heading(c.label), tag("td", scale, class_="strip")]
    body = []
    for title, group in groups.items():
        if title:
            body.append(tag("tr", tag("th", title, scope="colgroup", colspan=2 + 2 * len(columns)), class_="group"))
        for label, values in group.items():
            body.append(_strip_row(f"{name}-{len(body)}", label, values, columns, limits, count))
    return table("category", tag("tr", *head), body)


def _strip_row(
    name: str,
    title: str,
    values: Row,
    columns: Sequence[StripColumn],
    limits: Mapping[str, Interval],
    count: tuple[str, str],
) -> Html:
    cells = [cell(count[0], plain(number(values.get(count[1])), 0))]
    for c in columns:
        value, span = number(values.get(c.value)), interval(values.get(c.ci))
        strip = None
        if value is not None:
            strip = figures.interval_strip(
                f"{name}-{c.value}", f"{title}: {c.label}", value, span, limits[c.value], c.colour, c.centre
            )
        cells += [cell(c.label, c.words(values)), tag("td", strip, class_="strip")]
    return row(title, *cells)
