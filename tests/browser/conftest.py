"""One server and one Chromium for the tests of the screen; each test brings people, a batch and pages of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("playwright", reason="Playwright is not installed")

from chromium import CHROMIUM, Site, begin, launch
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from manners.feedback.batch import Batch
from manners.feedback.people import User

Open = Callable[..., Page]


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    if not CHROMIUM:
        pytest.skip("there is no chromium; apt-get install chromium")
    site = Site(tmp_path_factory.mktemp("site"))
    yield site
    site.close()


@pytest.fixture(scope="module")
def chromium(site: Site) -> Iterator[Browser]:  # noqa: ARG001 - where there is no Chromium, there is no site
    # Not for the whole session: Playwright keeps an event loop in this thread, and other tests run one of their own.
    with sync_playwright() as playwright:
        browser = launch(playwright)
        yield browser
        browser.close()


@pytest.fixture
def user(site: Site) -> User:
    return site.person()


@pytest.fixture
def open_page(site: Site, chromium: Browser, user: User) -> Iterator[Open]:
    """Opens a page of a browser of its own in which `user` is signed in. What a page throws or logs as an error fails the test."""
    opened: list[BrowserContext] = []
    errors: list[str] = []

    def open_page(visitor: User | None = user, **options: Any) -> Page:
        context = site.context(chromium, visitor, **options)
        opened.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        return page

    yield open_page
    for context in opened:
        context.close()
    assert errors == []


@pytest.fixture
def start(open_page: Open) -> Callable[..., Page]:
    """Opens the first task of a batch."""

    def start(batch: Batch, **options: Any) -> Page:
        page = open_page(**options)
        begin(page, batch)
        return page

    return start
