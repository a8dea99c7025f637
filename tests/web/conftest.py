"""A feedback app over an empty store, people of every role, and a browser that carries the token of its forms."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from browsing import CHEAP, Browser, FakeClock, materials, token_in
from fastapi import FastAPI

from manners.feedback.assign import Desk
from manners.feedback.batch import Batch, BatchSettings
from manners.feedback.people import People, Role, User
from manners.feedback.store import Store
from manners.web import WebSettings, create_app
from manners.web.office import Office
from manners.web.passwords import Passwords


@pytest.fixture
def app(store: Store, clock: FakeClock) -> FastAPI:
    return create_app(store, WebSettings(public_url="http://testserver"), Passwords(CHEAP), clock)


@pytest.fixture
def outside(app: FastAPI) -> Iterator[Browser]:
    """A browser in which nobody is signed in."""
    with Browser(app, follow_redirects=False) as browser:
        yield browser


@pytest.fixture
def enter(app: FastAPI, people: People) -> Iterator[Callable[..., Browser]]:
    """Opens a browser in which somebody of that role is signed in; the same name again is the same person."""
    known: dict[str, User] = {}
    opened: list[Browser] = []

    def enter(role: Role, name: str = "") -> Browser:
        name = name or f"the {role}"
        if name not in known:
            known[name] = people.accept(people.invite(role), name, Passwords(CHEAP).hash("a good password"))
        office: Office = app.state.office
        browser = Browser(app, follow_redirects=False)
        token = people.start_session(known[name].id)
        browser.cookies.set("manners_session", office.signer.sign(token).decode())
        browser.csrf = token_in(browser.get("/account").text)
        browser.user = known[name]
        opened.append(browser)
        return browser

    yield enter
    for browser in opened:
        browser.close()


@pytest.fixture
def batch(desk: Desk) -> Batch:
    """Three items of three answers to rank, one judgement each."""
    return desk.create(BatchSettings(name="First batch"), "# Be kind", materials())
