"""Who may enter: every route as every role, forged forms, sessions, passwords, invitations."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
from browsing import CHEAP, Browser, FakeClock, field_in, token_in
from fastapi import FastAPI
from fastapi.routing import APIRoute

from manners.feedback.batch import Batch
from manners.feedback.people import IDLE_SECONDS, ROLES, SESSION_SECONDS, People, Role
from manners.web import WebSettings, create_app
from manners.web.passwords import Passwords, Throttle

Enter = Callable[..., Browser]

# The least role of every route there is. A route that is missing here fails the test: somebody has to decide.
OPEN = {"GET /health", "GET /static/{name}", "GET /docs", "GET /openapi.json"}
OUTSIDE = {"GET /login", "POST /login", "GET /invite/{token}", "POST /invite/{token}"}
LEAST: dict[str, Role] = {
    "POST /logout": "annotator",
    "GET /account": "annotator",
    "POST /account/password": "annotator",
    "POST /account/tokens": "annotator",
    "POST /account/tokens/{token_id}/revoke": "annotator",
    "GET /": "annotator",
    "POST /batches/{batch_id}/next": "annotator",
    "GET /batches/{batch_id}/finished": "annotator",
    "GET /tasks/{task_id}": "annotator",
    "POST /tasks/{task_id}": "annotator",
    "POST /tasks/{task_id}/draft": "annotator",
    "GET /history": "annotator",
    "GET /guidelines/{guideline_id}": "annotator",
    "GET /exports": "reviewer",
    "GET /exports/{name}": "reviewer",
    "GET /account/data.json": "annotator",
    "GET /constitution": "reviewer",
    "GET /review": "reviewer",
    "GET /review/{batch_id}": "reviewer",
    "GET /review/{batch_id}/{item_id}": "reviewer",
    "POST /review/{batch_id}/{item_id}": "reviewer",
    "GET /arena": "reviewer",
    "GET /arena/{batch_id}": "reviewer",
    "GET /admin/arena/new": "admin",
    "POST /admin/arena": "admin",
    "GET /admin/people/{user_id}/data.json": "admin",
    "GET /admin/quality": "reviewer",
    "GET /admin/batches/{batch_id}/quality": "reviewer",
    "GET /admin/batches": "admin",
    "GET /admin/batches/new": "admin",
    "POST /admin/batches": "admin",
    "GET /admin/batches/{batch_id}": "admin",
    "POST /admin/batches/{batch_id}/state": "admin",
    "POST /admin/batches/{batch_id}/guideline": "admin",
    "GET /admin/sampling/{job_id}": "admin",
    "POST /admin/sampling/{job_id}/cancel": "admin",
    "GET /admin/people": "admin",
    "POST /admin/people/{user_id}": "admin",
    "POST /admin/invites": "admin",
    "POST /admin/invites/{invite_id}/withdraw": "admin",
    "GET /admin/audit": "admin",
}
API: dict[str, Role] = {
    "GET /api/me": "annotator",
    "GET /api/batches": "annotator",
    "POST /api/batches/{batch_id}/next": "annotator",
    "POST /api/tasks/{task_id}": "annotator",
    "GET /api/batches/{batch_id}": "reviewer",
    "GET /api/submissions": "reviewer",
    "GET /api/pairs": "reviewer",
    "GET /api/exports": "reviewer",
    "GET /api/exports/{name}": "reviewer",
    "GET /api/quality": "reviewer",
    "GET /api/arena": "reviewer",
    "GET /api/batches/{batch_id}/arena": "reviewer",
    "GET /api/batches/{batch_id}/quality": "reviewer",
    "POST /api/batches": "admin",
}


def routes_of(routes: Iterable[Any]) -> set[str]:
    """Every method and path that the app answers, whatever routers they lie in."""
    found: set[str] = set()
    for route in routes:
        if isinstance(route, APIRoute):
            found |= {f"{method} {route.path}" for method in route.methods or ()}
        elif hasattr(route, "original_router"):
            prefix = getattr(route, "prefix", "")
            found |= {
                f"{line.split()[0]} {prefix}{line.split()[1]}" for line in routes_of(route.original_router.routes)
            }
        else:
            found |= {f"{method} {route.path}" for method in route.methods - {"HEAD"}}
    return found


def ask(browser: Browser, line: str, **headers: str) -> Any:
    """Send the emptiest request that this route takes."""
    method, path = line.split()
    path = path.replace("{name}", "judgements.jsonl")
    for part in (
        "token",
        "token_id",
        "batch_id",
        "task_id",
        "guideline_id",
        "user_id",
        "invite_id",
        "item_id",
        "job_id",
    ):
        path = path.replace("{" + part + "}", "0123456789abcdef")
    form = {"csrf": browser.csrf} if method == "POST" and not path.startswith("/api") else None
    return browser.request(method, path, headers=headers, data=form)


def test_every_route_is_decided_upon(app: FastAPI) -> None:
    assert routes_of(app.routes) == OPEN | OUTSIDE | LEAST.keys() | API.keys()


@pytest.mark.parametrize("line", sorted(LEAST))
def test_every_page_as_every_role(enter: Enter, outside: Browser, line: str) -> None:
    answer = ask(outside, line)
    if line.startswith("GET"):
        assert (answer.status_code, answer.headers["location"]) == (303, "/login")
    else:
        assert answer.status_code == 401
    for role in ROLES:
        answer = ask(enter(role), line)
        if ROLES.index(role) < ROLES.index(LEAST[line]):
            assert answer.status_code == 403, role
            assert f"for the role {LEAST[line]}" in answer.text
        else:
            assert answer.status_code not in (401, 403, 500), role


@pytest.mark.parametrize("line", sorted(API))
def test_every_call_as_every_role(enter: Enter, outside: Browser, people: People, line: str) -> None:
    assert ask(outside, line).status_code == 401
    assert ask(outside, line, authorization="Bearer manners_wrong").status_code == 401
    for role in ROLES:
        browser = enter(role)
        # A session is no token: a page of another site could not be told from us.
        assert ask(browser, line).status_code == 401
        answer = ask(outside, line, authorization=f"Bearer {people.make_token(browser.user.id, 'test')}")
        if ROLES.index(role) < ROLES.index(API[line]):
            assert answer.status_code == 403, role
        else:
            assert answer.status_code in (200, 404, 422), role


@pytest.mark.parametrize("line", sorted(line for line in LEAST if line.startswith("POST")))
def test_a_form_without_the_right_token_does_nothing(enter: Enter, line: str) -> None:
    admin, other = enter("admin"), enter("admin", "another")
    for token in ("", "wrong", other.csrf, admin.csrf[:-1], "ü"):
        admin.csrf, kept = token, admin.csrf
        assert ask(admin, line).status_code == 403
        admin.csrf = kept
    assert ask(admin, line).status_code != 403


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://testserver.evil.example"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_other_sites_send_nothing(enter: Enter, outside: Browser, headers: dict[str, str]) -> None:
    admin = enter("admin")
    for line in ("POST /admin/invites", "POST /logout"):
        assert ask(admin, line, **headers).status_code == 403
    outside.csrf = token_in(outside.get("/login").text)
    assert ask(outside, "POST /login", **headers).status_code == 403
    assert admin.get("/account").status_code == 200
    assert ask(admin, "POST /logout", origin="http://testserver").status_code == 303


def log_in(browser: Browser, name: str, password: str) -> Any:
    token = token_in(browser.get("/login").text)
    return browser.post("/login", data={"csrf": token, "name": name, "password": password})


def test_signing_in_starts_a_new_session_and_out_ends_it(enter: Enter, outside: Browser, app: FastAPI) -> None:
    enter("annotator", "Ann")
    assert log_in(outside, " ANN ", "a good password").status_code == 303
    mine = outside.cookies["manners_session"]
    assert "Ann" in outside.get("/account").text
    cookie = next(c for c in outside.cookies.jar if c.name == "manners_session")
    assert cookie.has_nonstandard_attr("HttpOnly")
    outside.csrf = token_in(outside.get("/account").text)
    assert outside.send_form("/logout").headers["location"] == "/login"
    with Browser(app, follow_redirects=False) as thief:
        thief.cookies.set("manners_session", mine)
        assert thief.get("/account").status_code == 303


def test_a_session_that_somebody_planted_is_ended_by_signing_in(enter: Enter, app: FastAPI, people: People) -> None:
    enter("annotator", "Ann")
    token = people.start_session(enter("annotator", "mallory").user.id)
    with Browser(app, follow_redirects=False) as browser:
        page = browser.get("/login").text
        signed = app.state.office.signer.sign(token).decode()
        answer = browser.post(
            "/login",
            data={"csrf": token_in(page), "name": "Ann", "password": "a good password"},
            headers={"cookie": f"manners_session={signed}; manners_form={browser.cookies['manners_form']}"},
        )
        assert answer.status_code == 303
        assert browser.cookies["manners_session"] != signed
        assert people.session(token) is None


@pytest.mark.parametrize("cookie", ["", "x", "a.b.c", "0" * 5000, "ü"])
def test_made_up_sessions_open_nothing(outside: Browser, cookie: str) -> None:
    answer = outside.get("/account", headers={b"cookie": f"manners_session={cookie}".encode("latin-1")})
    assert answer.status_code == 303


def test_a_token_without_our_signature_is_none(enter: Enter, outside: Browser, people: People) -> None:
    token = people.start_session(enter("admin").user.id)
    assert people.session(token) is not None
    outside.cookies.set("manners_session", token)
    assert outside.get("/account").status_code == 303


def test_sessions_end_by_age_by_idleness_and_by_lock(enter: Enter, clock: FakeClock, people: People) -> None:
    ann, bob, admin = enter("annotator", "ann"), enter("annotator", "bob"), enter("admin")
    clock.seconds += IDLE_SECONDS - 60
    assert ann.get("/account").status_code == 200
    clock.seconds += 120
    assert ann.get("/account").status_code == 200
    assert bob.get("/account").status_code == 303
    people.set_active(ann.user.id, False)
    assert ann.get("/account").status_code == 303
    for _ in range(int(SESSION_SECONDS / IDLE_SECONDS) + 1):
        admin.get("/account")
        clock.seconds += IDLE_SECONDS - 60
    assert admin.get("/account").status_code == 303


def test_guessing_is_slowed_down(enter: Enter, outside: Browser, clock: FakeClock) -> None:
    enter("annotator", "Ann")
    codes = [log_in(outside, "Ann", f"guess {k} of many").status_code for k in range(7)]
    assert codes == [401] * 5 + [429, 429]
    # Not even the right password counts before the time is over.
    refused = log_in(outside, "Ann", "a good password")
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    clock.seconds += 1.01
    assert log_in(outside, "Ann", "a good password").status_code == 303


def test_names_that_exist_and_names_that_do_not_look_alike(enter: Enter, outside: Browser) -> None:
    enter("annotator", "Ann")
    pages = [log_in(outside, name, "not the password").text for name in ("Ann", "Zoe")]
    assert pages[0].replace("Ann", "X") == pages[1].replace("Zoe", "X")


def test_the_wait_doubles_up_to_a_limit_and_is_forgotten_after_a_success(clock: FakeClock) -> None:
    throttle = Throttle(patience=3, longest=60, clock=clock)
    waits = []
    for _ in range(12):
        throttle.failed("ann")
        waits.append(throttle.wait("ann", "other"))
    assert waits == [0, 0, 1, 2, 4, 8, 16, 32, 60, 60, 60, 60]
    assert throttle.wait("other") == 0
    throttle.succeeded("ann")
    assert throttle.wait("ann") == 0


def test_an_invitation_makes_one_account(outside: Browser, people: People, app: FastAPI) -> None:
    link = f"/invite/{people.invite('annotator')}"
    for _ in range(3):
        page = outside.get(link)
        assert page.status_code == 200
    good = {"name": "Ann Lee", "password": "correct horse", "again": "correct horse"}
    for change, reason in (
        ({"again": "other horse!"}, "differ"),
        ({"password": "short", "again": "short"}, "10 to 1000 characters"),
        ({"name": "  "}, "1 to 60 characters"),
        ({"name": "a\u202eb"}, "direction of writing"),
    ):
        refused = outside.post(link, data={"csrf": token_in(page.text), **good, **change})
        assert (refused.status_code, reason in refused.text) == (422, True)
    made = outside.post(link, data={"csrf": token_in(page.text), **good})
    assert made.headers["location"] == "/"
    assert "Ann Lee" in outside.get("/account").text
    with Browser(app, follow_redirects=False) as late:
        assert late.get(link).status_code == 404
    second = people.invite("annotator")
    page = outside.get(f"/invite/{second}")
    taken = outside.post(f"/invite/{second}", data={"csrf": token_in(page.text), **good, "name": "ann LEE"})
    assert (taken.status_code, "name is taken" in taken.text) == (422, True)


def test_an_invitation_needs_the_token_of_its_page(outside: Browser, people: People) -> None:
    link = f"/invite/{people.invite('admin')}"
    fields = {"name": "Ann", "password": "correct horse", "again": "correct horse"}
    for csrf in ({}, {"csrf": ""}):
        assert outside.post(link, data={**fields, **csrf}).status_code == 403
    outside.get(link)
    assert outside.post(link, data={**fields, "csrf": "guess"}).status_code == 403
    assert people.everybody() == []


def test_a_new_password_ends_the_other_sessions(enter: Enter) -> None:
    here, there = enter("annotator", "Ann"), enter("annotator", "Ann")
    fields = {"password": "a good password", "new": "a better password", "again": "a better password"}
    assert here.send_form("/account/password", **{**fields, "password": "wrong password"}).status_code == 422
    assert here.send_form("/account/password", **{**fields, "again": "other"}).status_code == 422
    assert there.get("/account").status_code == 200
    assert here.send_form("/account/password", **fields).status_code == 303
    assert there.get("/account").status_code == 303
    assert here.get("/account").status_code == 200


def test_passwords_are_argon2id_and_nobody_fits_nobody() -> None:
    passwords = Passwords(CHEAP)
    hashed = passwords.hash("a good password")
    assert hashed.startswith("$argon2id$")
    assert passwords.fits("a good password", hashed)
    assert not passwords.fits("a good Password", hashed)
    assert not passwords.fits("nobody's password", None)
    assert not passwords.fits("x", "not a hash")


def test_behind_https_cookies_are_for_https_alone(store: Any, people: People) -> None:
    link = f"/invite/{people.invite('admin')}"
    app = create_app(store, WebSettings(public_url="https://rank.example"), Passwords(CHEAP))
    with Browser(app, base_url="https://rank.example", follow_redirects=False) as browser:
        page = browser.get(link)
        assert page.headers["strict-transport-security"].startswith("max-age=")
        fields = {"csrf": token_in(page.text), "name": "A", "password": "correct horse", "again": "correct horse"}
        cookies = browser.post(link, data=fields).headers.get_list("set-cookie")
        [session] = [c for c in cookies if c.startswith("__Host-manners=") and "Max-Age=0" not in c]
        for part in ("Secure", "HttpOnly", "SameSite=lax", "Path=/"):
            assert part in session
        assert "Domain" not in session
        assert browser.get("/admin/people").status_code == 200


def test_tokens_work_until_they_are_revoked(enter: Enter, outside: Browser) -> None:
    ann = enter("annotator", "Ann")
    page = ann.send_form("/account/tokens", name="my <b>script</b>").text
    token = page.split("manners_")[1].split("<")[0]
    headers = {"authorization": f"Bearer manners_{token}"}
    assert outside.get("/api/me", headers=headers).json()["name"] == "Ann"
    account = ann.get("/account").text
    assert token not in account
    assert "my &lt;b&gt;script" in account
    address = account.split('action="/account/tokens/')[1].split("/")[0]
    assert enter("annotator", "bob").send_form(f"/account/tokens/{address}/revoke").status_code == 303
    assert outside.get("/api/me", headers=headers).status_code == 200
    ann.send_form(f"/account/tokens/{address}/revoke")
    assert outside.get("/api/me", headers=headers).status_code == 401


def test_an_admin_cannot_leave_nobody_in_charge(enter: Enter, batch: Batch) -> None:
    admin = enter("admin")
    for action in ("role", "lock", "forget"):
        refused = admin.send_form(f"/admin/people/{admin.user.id}", action=action, role="annotator")
        assert (refused.status_code, "only admin" in refused.text) == (422, True)
    other = enter("annotator", "Zoe")
    admin.send_form(f"/admin/people/{other.user.id}", action="role", role="admin")
    assert other.get(f"/admin/batches/{batch.id}").status_code == 200
    assert admin.send_form(f"/admin/people/{admin.user.id}", action="role", role="annotator").status_code == 303
    assert admin.get("/admin/people").status_code == 403


def test_an_invitation_is_shown_once_and_can_be_withdrawn(enter: Enter, outside: Browser) -> None:
    admin = enter("admin")
    page = admin.send_form("/admin/invites", role="reviewer", uses="2", note="the <i>crowd</i>").text
    link = page.split("http://testserver")[1].split("<")[0]
    assert outside.get(link).status_code == 200
    people_page = admin.get("/admin/people").text
    assert link not in people_page
    assert "the &lt;i&gt;crowd" in people_page
    number = people_page.split('action="/admin/invites/')[1].split("/")[0]
    assert admin.send_form(f"/admin/invites/{number}/withdraw").status_code == 303
    assert outside.get(link).status_code == 404
    for wrong in ("0", "501", "-1", "two", "²"):
        assert admin.send_form("/admin/invites", role="reviewer", uses=wrong).status_code == 422
    assert admin.send_form("/admin/invites", role="owner").status_code == 400
    assert field_in(page, "csrf") == admin.csrf
