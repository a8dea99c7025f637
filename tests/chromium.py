"""A real browser against a real server: Debian's Chromium, driven by Playwright, and `manners serve` in a process of its own."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from browsing import CHEAP
from crowd import Server
from itsdangerous import TimestampSigner
from playwright.sync_api import Browser, BrowserContext, Page, Playwright

from manners.feedback.assign import Desk
from manners.feedback.batch import Batch, BatchSettings
from manners.feedback.materials import Material
from manners.feedback.people import People, Role, User
from manners.feedback.store import Store
from manners.web.passwords import Passwords

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or ""
PASSWORD = "a good password"
DESK = {"width": 1280, "height": 900}
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}
_QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
)


def launch(playwright: Playwright) -> Browser:
    """Chromium without a window. It runs as root in containers, where its sandbox cannot, and calls nobody by itself."""
    return playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=list(_QUIET))


class Site:
    """A server on a store of its own; tests put people and batches into the store, and look into it afterwards."""

    def __init__(self, folder: Path) -> None:
        self.db = str(folder / "site.db")
        self.server = Server(self.db)
        self.store = Store.open(self.db)
        self.people, self.desk = People(self.store), Desk(self.store)
        self._password = Passwords(CHEAP).hash(PASSWORD)

    @property
    def url(self) -> str:
        return self.server.told["url"]

    def close(self) -> None:
        self.server.stop()
        self.store.close()

    def person(self, role: Role = "annotator", name: str = "") -> User:
        return self.people.accept(self.people.invite(role), name or f"{role} {secrets.token_hex(4)}", self._password)

    def batch(
        self, materials: Sequence[Material], guideline: str = "# Be kind\n\nPrefer what helps.", **settings: Any
    ) -> Batch:
        return self.desk.create(BatchSettings(**{"name": "Browser batch", **settings}), guideline, materials)

    def context(self, browser: Browser, user: User | None, **options: Any) -> BrowserContext:
        """A browser of its own, in which that person is signed in already; nobody where there is none."""
        context = browser.new_context(base_url=self.url, **{"viewport": DESK, **options})
        if user is not None:
            token = TimestampSigner(self.people.secret(), salt="manners.web").sign(self.people.start_session(user.id))
            context.add_cookies([{"name": "manners_session", "value": token.decode(), "url": self.url}])
        context.set_default_timeout(10_000)
        return context


def begin(page: Page, batch: Batch) -> str:
    """From the list of work to the first task of a batch; gives the address of the task."""
    page.goto("/")
    page.locator(f'form[action="/batches/{batch.id}/next"] button').click()
    page.wait_for_url("**/tasks/*")
    return page.url
