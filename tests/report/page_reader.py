"""A report taken apart, for the tests that look at what a reader would see."""

from __future__ import annotations

from html.parser import HTMLParser

from manners.report import build_report
from manners.report.lineage import related_runs
from manners.runs import Run

VOID = {"meta", "br", "link", "img", "input", "hr"}
ATTACK = (
    "<script>alert(1)</script></style></textarea><img src=x onerror=alert(2)>\"'><p onload=alert(3)> &amp; \x00 \ud800"
)


class Page(HTMLParser):
    """A page taken apart; complains about what a strict reader would."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.faults: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: dict[str, list[str]] = {}
        self.feed(text)
        self.close()
        self.faults += [f"{name} is never closed" for name in self.open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if len(dict(attrs)) != len(attrs):
            self.faults.append(f"{tag} has an attribute twice")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> closes something else")

    def handle_data(self, data: str) -> None:
        if self.open:
            self.words.setdefault(self.open[-1], []).append(data)

    def text(self, *tags: str) -> str:
        return "\n".join(word for tag in tags or self.words for word in self.words.get(tag, []))

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.elements if name == tag]


def page_of(run: Run) -> Page:
    page = Page(build_report(run, related_runs(run)))
    assert page.faults == []
    return page
