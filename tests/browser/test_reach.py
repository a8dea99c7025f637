"""For everybody: names and order for those who cannot see, contrast in light and dark, narrow screens; and nothing of strangers runs."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from browsing import PAYLOADS, materials
from chromium import PHONE, Site
from playwright.sync_api import Page, expect

from manners.feedback.batch import MODES, Batch
from manners.feedback.exports import submissions
from manners.feedback.materials import material_of
from manners.feedback.people import User

Start = Callable[..., Page]
CONTRAST = Path(__file__).with_name("contrast.js").read_text(encoding="utf-8")
AXE = Path(sys.prefix) / "node" / "node_modules" / "axe-core" / "axe.min.js"
# Whatever a person can act on, as Chromium tells it to a screen reader.
_ACTING = re.compile(
    r"- (button|link|radio|checkbox|textbox|combobox|spinbutton|progressbar|dialog|complementary)\b(.*)"
)
_WIDE_AND_NARROW = {"wide": {}, "phone": PHONE}
_CANARY = """
window.ran = [];
for (const name of ["alert", "confirm", "prompt", "print", "open"]) {
  window[name] = (...given) => { window.ran.push([name, ...given]); };
}
"""


# Where the focus is: its place in the document, its name, whether it is drawn, and whether the board lies over it.
_STOP = """() => {
  const e = document.activeElement;
  if (e === document.body) return null;
  const drawn = e.type === "radio" ? e.nextElementSibling || e : e;
  const box = e.getBoundingClientRect(), board = document.getElementById("board").getBoundingClientRect();
  return {
    place: [...document.querySelectorAll("*")].indexOf(e),
    words: e.name || e.textContent.trim().slice(0, 20),
    outline: getComputedStyle(drawn).outlineStyle,
    hidden: !e.closest("#board") && box.top < board.bottom && box.bottom > board.top + 4,
  };
}"""


def unnamed(page: Page) -> list[str]:
    """What a screen reader would call just "button"."""
    return [line for line in page.locator("body").aria_snapshot().splitlines()
            if (found := _ACTING.search(line)) and not re.match(r'\s*"', found[2]) and not re.match(r"\s*/", found[2])]  # fmt: skip


@pytest.fixture
def batch(site: Site) -> Batch:
    return site.batch(materials(3, 4))


def pages_of(batch: Batch) -> list[str]:
    """Every page there is for somebody who may see all of them."""
    one = batch.id
    return [
        "/", "/history", "/account", "/exports", "/docs", f"/guidelines/{batch.guideline_id}", f"/batches/{one}/finished", "/nothing",
        "/admin/batches", "/admin/batches/new", f"/admin/batches/{one}", f"/admin/batches/{one}/quality", "/admin/quality",
        "/admin/people", "/admin/audit", "/review", f"/review/{one}", "/arena", "/admin/arena/new",
    ]  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
def test_every_control_has_a_name(site: Site, start: Start, mode: str) -> None:
    page = start(site.batch(materials(1, 2), mode=mode))
    page.locator("details").evaluate_all("all => all.forEach((e) => { e.open = true; })")
    assert unnamed(page) == []
    assert len(_ACTING.findall(page.locator("body").aria_snapshot())) > 25
    page.get_by_role("button", name="Keys").click()
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
    assert unnamed(page) == []


def test_the_focus_goes_from_top_to_bottom_and_is_always_to_be_seen(start: Start, batch: Batch) -> None:
    page = start(batch)
    seen = []
    for _ in range(60):
        page.keyboard.press("Tab")
        stop = page.evaluate(_STOP)
        if stop is None:
            break
        seen.append(stop)
    assert seen[0]["words"] == "Skip to the content"
    assert [stop["place"] for stop in seen] == sorted(stop["place"] for stop in seen)
    assert [stop["words"] for stop in seen if stop["outline"] == "none" or stop["hidden"]] == []
    words = [stop["words"] for stop in seen]
    assert [w for w in words if w.startswith("rank-")] == ["rank-0", "rank-1", "rank-2", "rank-3"]
    assert words.index("rank-3") < words.index("A") < words.index("note") < words.index("action")


def test_what_happens_is_said_aloud(start: Start, batch: Batch) -> None:
    page = start(batch)
    assert page.locator("#saved").get_attribute("aria-live") == "polite"
    page.evaluate("""() => {
        window.said = [];
        const place = document.getElementById("saved");
        new MutationObserver(() => window.said.push(place.textContent)).observe(place, { childList: true });
    }""")
    for key in ("2", "1", "0", "u"):
        page.keyboard.press(key)
    expect(page.locator("#saved")).to_have_text("Draft saved")
    assert page.evaluate("window.said") == ["A: rank 2", "B: rank 1", "C: no rank", "undone", "Draft saved"]
    expect(page.locator(".chip").first).to_have_attribute("aria-label", re.compile("Answer [AB], (rank|not)"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_light_and_dark(start: Start, batch: Batch, scheme: str) -> None:
    page = start(batch, color_scheme=scheme)
    page.keyboard.press("1")
    page.keyboard.press("2")
    page.locator("details").evaluate_all("all => all.forEach((e) => { e.open = true; })")
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", paper))) > 600) == (scheme == "light")
    measured = page.evaluate(CONTRAST)
    assert measured["count"] > 60
    assert measured["found"] == []


def test_the_measure_of_contrast_finds_what_is_pale(start: Start, batch: Batch) -> None:
    page = start(batch)
    page.evaluate("document.querySelector('h1').style.color = '#aaa'")
    # #aaa on #fbfaf7: by hand (0.956 + 0.05) / (0.402 + 0.05).
    assert page.evaluate(CONTRAST)["found"] == ["Browser batch: 2.23"]


def test_scripts_of_strangers_do_not_run(site: Site, user: User, start: Start) -> None:
    """Some of the payloads here; all of them in the long tests."""
    assert ran(site, user, start, PAYLOADS[::12]) == []


@pytest.mark.long
def test_no_script_of_any_payload_runs(
    site: Site, user: User, start: Start, record_property: Callable[[str, Any], None]
) -> None:
    assert len(PAYLOADS) >= 100
    assert ran(site, user, start, PAYLOADS) == []
    record_property("payloads in a browser, scripts that ran", f"{len(PAYLOADS)}, 0")


def ran(site: Site, user: User, start: Start, payloads: list[str]) -> list[Any]:
    """Shows each payload as prompt, history, answer, name and draft on a page, pokes at it, and gives what ran."""
    items = [
        material_of({"prompt": [*_turns(p), {"role": "user", "content": f"{p} {k}"}], "completions": [p, f"{p}!"]})
        for k, p in enumerate(payloads)
    ]
    batch = site.batch(items, payloads[0], name=payloads[0][:100])
    page = start(batch, bypass_csp=False)
    page.add_init_script(_CANARY)
    found: list[Any] = []
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    for payload in payloads:
        first = page.url
        page.reload()
        page.locator(".prompt details").evaluate_all("all => all.forEach((e) => { e.open = true; })")
        page.get_by_label("Why?").fill(payload)
        for event in ("mouseover", "click", "focus", "error", "load", "toggle", "animationstart"):
            page.locator(".md *").evaluate_all(f"all => all.forEach((e) => e.dispatchEvent(new Event('{event}')))")
        found += page.evaluate("window.ran")
        assert page.url == first, payload
        page.locator('#answer-0 .ranks label:has(input[value="1"])').click()
        page.locator('#answer-1 .ranks label:has(input[value="2"])').click()
        page.get_by_role("button", name="Submit").click()
        page.wait_for_url(lambda url, before=first: url != before)  # type: ignore[misc]
    notes = {row["note"] for row in submissions(site.store) if row["annotator"] == user.id}
    assert notes == {p.strip() for p in payloads}
    for place in ("/history", "/", f"/guidelines/{batch.guideline_id}"):
        page.goto(place)
        found += page.evaluate("window.ran")
    return found + dialogs


def _turns(text: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role in ("user", "assistant")]


@pytest.mark.long
@pytest.mark.parametrize("screen", _WIDE_AND_NARROW)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_is_within_reach(site: Site, open_page: Start, batch: Batch, scheme: str, screen: str) -> None:
    """Names, contrast, no sideways scrolling, and axe-core where npm could fetch it."""
    page = open_page(site.person("admin"), color_scheme=scheme, **_WIDE_AND_NARROW[screen])
    tasks = [site.batch(materials(1, 2), mode=mode) for mode in MODES]
    places = pages_of(batch)
    for mode in tasks:
        page.goto("/")
        page.locator(f'form[action="/batches/{mode.id}/next"] button').click()
        page.wait_for_url("**/tasks/*")
        places.append(page.url)
    for place in places:
        page.goto(place)
        page.locator("details").evaluate_all("all => all.forEach((e) => { e.open = true; })")
        assert unnamed(page) == [], place
        assert page.evaluate(CONTRAST)["found"] == [], place
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), place
        assert problems_by_axe(page) == [], place


def problems_by_axe(page: Page) -> list[str]:
    if not AXE.exists():
        return []
    page.evaluate(AXE.read_text(encoding="utf-8"))
    tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
    results = page.evaluate("tags => axe.run(document, { runOnly: tags })", tags)
    return [f"{v['id']}: {node['html'][:100]}" for v in results["violations"] for node in v["nodes"]]
