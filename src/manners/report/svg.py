"""From a matplotlib figure to an `svg` element of the page.

A figure carries no colours of its own: it is drawn in stand-in colours, which are replaced by the variables of
styles.css, so that light, dark and printed pages need one drawing. Text stays text, in the font of the page. The same
data always gives the same bytes.
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Any
from xml.etree import ElementTree

import matplotlib.style
from matplotlib.figure import Figure

from manners.report.markup import Html, clean

# Variable of styles.css -> the colour that stands in for it while drawing.
COLOURS: Mapping[str, str] = {
    "ink": "#000001",
    "muted": "#000002",
    "grid": "#000003",
    "paper": "#000004",
    "blue": "#000011",
    "orange": "#000012",
    "green": "#000013",
    "purple": "#000014",
    "sand": "#000015",
    "grey": "#000016",
}

_STYLE: Mapping[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "manners",
    "path.simplify": False,
    "text.parse_math": False,
    "figure.dpi": 72,
    "savefig.dpi": 72,
    "font.family": ["DejaVu Sans"],
    "font.size": 11,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "savefig.transparent": True,
    "text.color": COLOURS["ink"],
    "axes.labelcolor": COLOURS["muted"],
    "axes.edgecolor": COLOURS["muted"],
    "xtick.color": COLOURS["muted"],
    "ytick.color": COLOURS["muted"],
    "grid.color": COLOURS["grid"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.ymargin": 0.08,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "lines.solid_capstyle": "round",
    "lines.solid_joinstyle": "round",
}

# The ids that matplotlib counts up, such as "line2d_3": nothing points at them.
_COUNTED_ID = re.compile(r"[A-Za-z0-9.]+_\d+")


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """matplotlib in the style of the report, with nothing of the user's, silent about glyphs: the page has fonts."""
    with matplotlib.style.context(["default", dict(_STYLE)]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def svg(figure: Figure, name: str, title: str, description: str) -> Html:
    """The figure as an element that can stand beside others in a page.

    All ids start with `name`; an artist with a `gid` has the id NAME-GID. `title` and `description` are what a screen
    reader says. Must be called inside `drawing()`.
    """
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    drawn = ElementTree.fromstring(stream.getvalue())
    root = ElementTree.Element(
        "svg",
        {
            "viewBox": drawn.attrib["viewBox"],
            "class": "figure",
            "role": "img",
            "aria-labelledby": f"{name}-title {name}-desc",
        },
    )
    for element, text in (("title", title), ("desc", description)):
        ElementTree.SubElement(root, element, {"id": f"{name}-{element}"}).text = clean(text)
    root.extend(_adopted(child, name) for child in drawn if _is_drawn(child))
    written = ElementTree.tostring(root, encoding="unicode")
    for colour, stand_in in COLOURS.items():
        written = written.replace(stand_in, f"var(--{colour})")
    return Html(written)


def _is_drawn(element: ElementTree.Element) -> bool:
    """Whether an element shows something: not metadata, nor the style sheet, which would hold for the whole page."""
    name = _local(element.tag)
    return name != "metadata" and not (name == "defs" and all(_local(child.tag) == "style" for child in element))


def _adopted(element: ElementTree.Element, name: str) -> ElementTree.Element:
    """A copy without XML namespaces, with ids of its own and the font of the page."""
    copy = ElementTree.Element(_local(element.tag))
    copy.text = clean(element.text or "") if copy.tag == "text" else None
    for key, value in element.attrib.items():
        key = _local(key)
        if (key == "id" and _COUNTED_ID.fullmatch(value)) or value.startswith("rotate(-0 "):
            continue
        if key == "id":
            value = f"{name}-{value}"
        elif key == "href" or value.startswith("url(#"):
            value = value.replace("#", f"#{name}-", 1)
        elif key == "style":
            value = re.sub(r"font-family: [^;]*;? ?", "", re.sub(r"font: ([0-9.]+px)[^;]*", r"font-size: \1", value))
        copy.set(key, value)
    copy.extend(_adopted(child, name) for child in element)
    return copy


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def alone(drawn: str, width: int, height: int) -> str:
    """The `svg` element of a page as a file of its own: with its namespace, the colours of styles.css, and paper below it."""
    palette = (resources.files("manners") / "report" / "styles.css").read_text(encoding="utf-8").partition("\n\n")[0]
    style = f"<style>{palette}\nsvg {{ font-family: var(--sans); }}</style>"
    paper = f'<rect width="{width}" height="{height}" fill="var(--paper)"/>'
    head, _, rest = drawn.partition(">")
    return f'{head} xmlns="http://www.w3.org/2000/svg">{style}{paper}{rest}\n'
