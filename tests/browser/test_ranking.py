"""The ranking screen in a real browser: what people do with keys, mouse and fingers is what is stored."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from browsing import materials
from chromium import PHONE, Site, begin
from playwright.sync_api import Browser, BrowserContext, Page, expect

from manners.feedback.batch import Batch
from manners.feedback.exports import submissions
from manners.feedback.people import User

Start = Callable[..., Page]


def texts(page: Page) -> list[str]:
    """The answers from the first card to the last."""
    return page.locator(".card > .md").all_inner_texts()


def stored(site: Site, user: User) -> list[Any]:
    """The tiers of everything that a person judged, as texts."""
    found = []
    for judgement in site.store.judgements(judge=user.id, current_only=False):
        by_id = {c.id: c.text for c in judgement.completions}
        found.append([{by_id[c] for c in tier} for tier in judgement.ranking.tiers])
    return found


def logged(site: Site, user: User) -> list[dict[str, Any]]:
    return [row for row in submissions(site.store) if row["annotator"] == user.id]


def wait_for_next(page: Page, before: str) -> None:
    page.wait_for_url(lambda url: url != before and ("/tasks/" in url or "/finished" in url or "/history" in url))


def press(page: Page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


@pytest.fixture
def batch(site: Site) -> Batch:
    return site.batch(materials(3, 4))


def test_keys_alone_from_login_to_the_second_task(site: Site, open_page: Start) -> None:
    person = site.person(name="Kim Keys")
    site.batch(materials(3, 4), name="By keyboard", overlap=3)
    page = open_page(visitor=None)
    page.goto("/")
    page.wait_for_url("**/login")
    expect(page.get_by_label("Name")).to_be_focused()
    page.keyboard.type("kim keys")
    press(page, "Tab")
    page.keyboard.type("a good password")
    press(page, "Enter")
    page.wait_for_url(f"{site.url}/")
    for _ in range(40):
        if page.evaluate("document.activeElement.closest('article')?.innerText.includes('By keyboard')"):
            break
        press(page, "Tab")
    press(page, "Enter")
    page.wait_for_url("**/tasks/*")
    first, shown = page.url, texts(page)
    # The first is second best; the second best; the third ties with the first; the fourth keeps no rank.
    press(page, "2", "1", "2", "Enter")
    wait_for_next(page, first)
    assert stored(site, person) == [[{shown[1]}, {shown[0], shown[2]}]]
    assert logged(site, person)[0]["active_ms"] >= 0
    assert [j.ranking.shown for j in site.store.judgements(judge=person.id)] == [
        tuple(logged(site, person)[0]["display_order"])
    ]
    assert len(texts(page)) == 4


def test_ties_corrections_and_arrows_by_key(site: Site, user: User, start: Start, batch: Batch) -> None:
    page = start(batch)
    shown, first = texts(page), page.url
    press(page, "3", "=", "1", "4")
    # Back up to the second, take its rank away; the first gets another one.
    press(page, "k", "k", "0", "ArrowUp", "2", "Enter")
    wait_for_next(page, first)
    assert stored(site, user) == [[{shown[2]}, {shown[0]}, {shown[3]}]]


def test_undo_goes_back_step_by_step(site: Site, user: User, start: Start, batch: Batch) -> None:
    page = start(batch)
    shown, first = texts(page), page.url
    expect(page.locator("#undo")).to_be_disabled()
    press(page, "1", "2", "3", "4", "b")
    press(page, "u", "u")
    page.locator("#undo").click()
    assert page.locator("input[type=radio]:checked").evaluate_all("all => all.map((e) => e.value)") == [
        "1",
        "2",
        "",
        "",
    ]
    page.locator("h1").click()
    press(page, "Enter")
    wait_for_next(page, first)
    assert stored(site, user) == [[{shown[0]}, {shown[1]}]]


def test_mouse_alone_with_buttons_and_dragging(site: Site, user: User, start: Start, batch: Batch) -> None:
    page = start(batch)
    shown, first = texts(page), page.url
    for label, rank in (("A", "1"), ("B", "3"), ("C", "1"), ("D", "2")):
        drag(page, label, rank)
    # A second thought: B out again, D to the third place by its buttons.
    drag(page, "B", "0")
    page.locator('.card[data-label="D"] .ranks label').nth(2).click()
    expect(page.locator('.slot[data-rank="1"] .chip')).to_have_text(["A", "C"])
    expect(page.locator('.slot[data-rank="3"] .chip')).to_have_text(["D"])
    expect(page.locator(".slot.unranked .chip")).to_have_text(["B"])
    page.get_by_role("button", name="Submit").click()
    wait_for_next(page, first)
    assert stored(site, user) == [[{shown[0], shown[2]}, {shown[3]}]]


def drag(page: Page, label: str, rank: str) -> None:
    """Carry the letter of an answer to a rank, in several steps, as a hand does."""
    start, end = middles(page, label, rank)
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(*end, steps=6)
    page.mouse.up()


def middles(page: Page, label: str, rank: str) -> list[tuple[float, float]]:
    """Where the letter of an answer is, and where its new rank."""
    chip = page.locator(".chip", has_text=re.compile(f"^{label}$"))
    boxes = [place.bounding_box() for place in (chip, page.locator(f'.slot[data-rank="{rank}"]'))]
    return [(b["x"] + b["width"] / 2, b["y"] + b["height"] / 2) for b in boxes if b]


def test_fingers_on_a_phone(site: Site, user: User, start: Start) -> None:
    batch = site.batch(materials(2, 9))
    page = start(batch, **PHONE)
    shown, first = texts(page), page.url
    # Nothing hangs out at the side, and what to read keeps most of the screen.
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    board = page.locator("#board").bounding_box()
    assert board
    assert board["height"] < 844 / 6
    for place, rank in ((8, 1), (0, 2), (3, 2)):
        page.locator(f'#answer-{place} .ranks label:has(input[value="{rank}"])').tap()
    touch_drag(page, "B", "9")
    page.get_by_role("button", name="Submit").tap()
    wait_for_next(page, first)
    assert stored(site, user) == [[{shown[8]}, {shown[0], shown[3]}, {shown[1]}]]


def touch_drag(page: Page, label: str, rank: str) -> None:
    """The same with a finger: real touch events, not a mouse that says it is one."""
    session = page.context.new_cdp_session(page)
    (x, y), (to_x, to_y) = middles(page, label, rank)
    way = [{"x": x + (to_x - x) * k / 5, "y": y + (to_y - y) * k / 5} for k in range(6)]
    session.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": way[:1]})
    for point in way[1:]:
        # At the pace of a finger: Chromium takes a quick one for a fling, and swallows the tap that follows.
        page.wait_for_timeout(40)
        session.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [point]})
    page.wait_for_timeout(150)
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


def test_all_bad_and_skipping_with_a_reason(site: Site, user: User, start: Start, batch: Batch) -> None:
    page = start(batch)
    first = page.url
    press(page, "b", "Enter")
    wait_for_next(page, first)
    second = page.url
    press(page, "s", "ArrowDown", "ArrowDown", "Tab", "Enter")
    wait_for_next(page, second)
    [bad, skipped] = logged(site, user)
    assert stored(site, user) == [[]]
    assert [j.ranking.all_bad for j in site.store.judgements(judge=user.id)] == [True]
    assert (skipped["ranking_id"], skipped["skip_reason"]) == (None, "expertise")
    assert bad["ranking_id"]


def test_an_answer_that_says_too_little_is_sent_back_with_words(
    site: Site, user: User, start: Start, batch: Batch
) -> None:
    page = start(batch)
    press(page, "1", "Enter")
    trouble = page.get_by_role("alert")
    expect(trouble).to_have_text(re.compile("rank a second answer"))
    first = page.url
    press(page, "2", "Enter")
    wait_for_next(page, first)
    assert len(stored(site, user)) == 1


def _pair(page: Page) -> None:
    press(page, "7")


def _ratings(page: Page) -> None:
    press(page, *"543", *"111")


def _thumbs(page: Page) -> None:
    press(page, "+", "-")


def _edit(page: Page) -> None:
    press(page, "ArrowDown", "e", "Control+End")
    page.keyboard.type(", and better")


@pytest.mark.parametrize(
    ("mode", "act", "send", "tiers"),
    [
        ("pair", _pair, "Enter", lambda a, b: [{b}, {a}]),
        ("ratings", _ratings, "Enter", lambda a, b: [{a}, {b}]),
        ("thumbs", _thumbs, "Enter", lambda a, b: [{a}, {b}]),
        ("edit", _edit, "Control+Enter", lambda _, b: [{f"{b}, and better"}, {b}]),
    ],
)
def test_the_other_modes_by_keyboard(
    site: Site,
    user: User,
    start: Start,
    mode: str,
    act: Callable[[Page], None],
    send: str,
    tiers: Callable[[str, str], Any],
) -> None:
    page = start(site.batch(materials(2, 2), mode=mode))
    shown, first = texts(page), page.url
    act(page)
    press(page, send)
    wait_for_next(page, first)
    assert stored(site, user) == [tiers(*shown)]
    [row] = logged(site, user)
    assert row["mode"] == mode
    assert row["strength"] == (2 if mode == "pair" else None)


def test_a_mind_that_changed(site: Site, user: User, start: Start, batch: Batch) -> None:
    page = start(batch)
    first, shown = page.url, texts(page)
    press(page, "1", "2", "3", "4", "Enter")
    wait_for_next(page, first)
    page.get_by_role("link", name="My answers").click()
    page.locator("main ol a").click()
    assert texts(page) == shown
    press(page, "4", "Enter")
    page.wait_for_url("**/history")
    assert stored(site, user)[-1] == [{shown[1]}, {shown[2]}, {shown[3], shown[0]}]
    [now] = site.store.judgements(judge=user.id)
    assert now.ranking.supersedes


# Nothing is lost


def test_a_draft_is_there_after_a_reload_and_on_another_device(
    site: Site, user: User, start: Start, open_page: Start, batch: Batch
) -> None:
    page = start(batch)
    press(page, "2", "1")
    page.get_by_label("Why?").fill("the second one knows more")
    page.reload()
    checked = "all => all.map((e) => e.value)"
    assert page.locator("input[type=radio]:checked").evaluate_all(checked) == ["2", "1", "", ""]
    expect(page.get_by_label("Why?")).to_have_value("the second one knows more")
    expect(page.locator("#saved")).to_have_text("Draft saved")
    other = open_page()
    other.goto(page.url)
    assert other.locator("input[type=radio]:checked").evaluate_all(checked) == ["2", "1", "", ""]
    expect(other.get_by_label("Why?")).to_have_value("the second one knows more")
    assert stored(site, user) == []


def test_no_connection_loses_nothing_and_says_so(site: Site, user: User, start: Start, batch: Batch) -> None:
    page = start(batch)
    shown, first = texts(page), page.url
    page.context.set_offline(True)
    press(page, "1", "2")
    expect(page.locator("#saved")).to_have_text("No connection: draft kept on this device")
    press(page, "3", "4", "Enter")
    expect(page.get_by_role("alert")).to_have_text(re.compile("No connection. Your answer is kept on this device"))
    assert stored(site, user) == []
    page.context.set_offline(False)
    wait_for_next(page, first)
    assert stored(site, user) == [[{text} for text in shown]]


def test_an_answer_left_behind_is_sent_when_the_page_is_opened_again(
    site: Site, user: User, start: Start, batch: Batch
) -> None:
    page = start(batch)
    shown, first = texts(page), page.url
    page.context.set_offline(True)
    press(page, "4", "3", "2", "1", "Enter")
    expect(page.get_by_role("alert")).to_be_visible()
    page.close()
    context: BrowserContext = page.context
    context.set_offline(False)
    again = context.new_page()
    again.goto(first)
    wait_for_next(again, first)
    assert stored(site, user) == [[{text} for text in reversed(shown)]]


def test_sending_twice_counts_once(site: Site, user: User, start: Start, batch: Batch) -> None:
    page = start(batch)
    first, lost = page.url, 0

    def lose(route: Any) -> None:
        """The server takes the answer, and its receipt never arrives."""
        nonlocal lost
        if lost < 2:
            route.fetch()
            lost += 1
            route.abort("connectionreset")
        else:
            route.continue_()

    page.route(
        re.compile(r"/tasks/[0-9a-f]+$"),
        lambda route: lose(route) if route.request.method == "POST" else route.continue_(),
    )
    press(page, "1", "2", "3", "4", "Enter", "Enter", "Enter")
    page.get_by_role("button", name="Submit").dblclick()
    wait_for_next(page, first)
    assert lost == 2
    assert len(logged(site, user)) == len(stored(site, user)) == 1


def test_a_page_of_somebody_elses_that_says_ok_is_no_receipt(
    site: Site, user: User, start: Start, batch: Batch
) -> None:
    page = start(batch)
    first = page.url
    page.route(
        re.compile(r"/tasks/[0-9a-f]+$"), lambda route: route.fulfill(status=200, body="<p>Welcome to our hotel")
    )
    press(page, "1", "2", "Enter")
    expect(page.get_by_role("alert")).to_have_text(re.compile("No connection"))
    assert stored(site, user) == []
    page.unroute_all()
    wait_for_next(page, first)
    assert len(stored(site, user)) == 1


# Keys and guideline


def test_single_keys_can_be_switched_off_and_stay_off(site: Site, user: User, start: Start, batch: Batch) -> None:
    page = start(batch)
    first = page.url
    page.get_by_role("button", name="Keys").click()
    page.get_by_label("letters and numbers act by themselves").uncheck()
    press(page, "Escape", "1", "b", "s", "u", "g")
    assert page.locator("input[type=radio]:checked").evaluate_all("all => all.map((e) => e.value)") == [""] * 4
    expect(page.get_by_role("checkbox", name="no answer is acceptable")).not_to_be_checked()
    page.reload()
    page.locator("h1").click()
    press(page, "1", "2")
    expect(page.locator('.slot[data-rank="1"] .chip')).to_have_count(0)
    # Without them everything is still there for the keyboard: arrow keys choose within the ranks of an answer.
    page.locator('#answer-0 .ranks input[value="1"]').focus()
    press(page, "Space")
    page.locator('#answer-1 .ranks input[value="1"]').focus()
    press(page, "Space", "ArrowRight", "Control+Enter")
    wait_for_next(page, first)
    assert len(stored(site, user)[0]) == 2
    page.get_by_role("button", name="Keys").click()
    page.get_by_label("letters and numbers act by themselves").check()
    press(page, "Escape", "1")
    expect(page.locator('.slot[data-rank="1"] .chip')).to_have_text(["A"])


def test_the_guideline_opens_beside_the_work_and_gives_the_focus_back(start: Start, batch: Batch) -> None:
    page = start(batch, **PHONE)
    drawer, opener = page.get_by_role("complementary", name="Guideline"), page.locator("#show-guideline")
    expect(drawer).to_be_hidden()
    opener.tap()
    expect(drawer).to_contain_text("Prefer what helps.")
    expect(drawer).to_contain_text("version 1")
    expect(opener).to_have_attribute("aria-expanded", "true")
    page.get_by_role("button", name="Close").tap()
    expect(drawer).to_be_hidden()
    expect(opener).to_be_focused()
    press(page, "g")
    expect(drawer).to_be_focused()
    press(page, "Escape")
    expect(drawer).to_be_hidden()
    expect(opener).to_have_attribute("aria-expanded", "false")


@pytest.mark.long
def test_a_newcomer_has_ranked_within_two_minutes(
    tmp_path: Path, chromium: Browser, record_property: Callable[[str, Any], None]
) -> None:
    """From `manners serve` in an empty folder, at the pace of somebody who types slowly and looks at each page for four seconds."""
    begun = time.monotonic()
    site = Site(tmp_path)
    page = chromium.new_context().new_page()

    def look() -> None:
        page.wait_for_timeout(4000)

    page.goto(site.server.told["admin_link"])
    look()
    page.keyboard.type("Nadia", delay=250)
    page.get_by_label("Password", exact=True).click()
    page.keyboard.type("a new password", delay=250)
    page.get_by_label("Password again").click()
    page.keyboard.type("a new password", delay=250)
    page.get_by_role("button", name="Create account").click()
    look()
    page.get_by_role("link", name="Create a batch").click()
    look()
    page.keyboard.type("My first batch", delay=250)
    page.get_by_label("the starter prompts").check()
    look()
    page.get_by_role("button", name="Create the batch").click()
    look()
    page.get_by_role("link", name="Work").click()
    look()
    page.get_by_role("button", name="Start").click()
    # Four answers take time to read.
    page.wait_for_timeout(20_000)
    for key in ("2", "1", "3", "4", "Enter"):
        page.keyboard.press(key)
        page.wait_for_timeout(1000)
    page.wait_for_url("**/tasks/*")
    assert site.store.counts().rankings == 1
    seconds = time.monotonic() - begun
    site.close()
    record_property("a newcomer's first ranking, from manners serve", f"{seconds:.0f} s")
    assert seconds < 120


@pytest.mark.long
def test_a_server_that_is_killed_in_between_is_no_more_than_a_pause(
    tmp_path: Path, chromium: Browser, record_property: Callable[[str, Any], None]
) -> None:
    site = Site(tmp_path)
    user, batch = site.person(), site.batch(materials(12, 3))
    page = site.context(chromium, user).new_page()
    begin(page, batch)
    for _ in range(10):
        first = page.url
        press(page, "1", "2", "3")
        site.server.kill()
        press(page, "Enter")
        expect(page.get_by_role("alert")).to_have_text(re.compile("No connection"))
        site.server.start()
        page.wait_for_url(lambda url, before=first: url != before, timeout=40_000)  # type: ignore[misc]
    assert len(stored(site, user)) == 10
    assert [row["client_key"] for row in logged(site, user)] == list(
        dict.fromkeys(row["client_key"] for row in logged(site, user))
    )
    site.close()
    record_property("kill -9 of the server under a browser, answers lost", "10, 0")
