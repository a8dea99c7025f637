"""What strangers and models write can be read, and can do nothing: not in a page, not in the log, not to the server."""

from __future__ import annotations

import asyncio
import html
import json
import random
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from browsing import CHEAP, PAYLOADS, Browser, FakeClock, field_in
from fastapi import FastAPI

from manners.feedback.adjudicate import disputes, settle
from manners.feedback.assign import Desk
from manners.feedback.batch import Batch, BatchSettings
from manners.feedback.exports import submissions
from manners.feedback.materials import material_of
from manners.feedback.people import People
from manners.feedback.store import Store
from manners.feedback.submissions import Answer, submit
from manners.web import WebSettings, create_app
from manners.web.passwords import Passwords
from manners.web.rendering import markdown
from manners.web.shield import CONTENT_SECURITY_POLICY

Enter = Callable[..., Browser]

_OWN = {"html", "head", "meta", "title", "link", "script", "body", "a", "header", "nav", "form", "input", "button", "main", "p", "h1",
        "h2", "h3", "section", "article", "div", "span", "progress", "details", "summary", "ol", "ul", "li", "fieldset", "legend",
        "label", "select", "option", "textarea", "footer", "aside", "dialog", "dl", "dt", "dd", "kbd", "b", "table", "thead", "tbody",
        "tr", "th", "td", "code", "small", "template"}  # fmt: skip
_OF_MARKDOWN = {"p", "br", "hr", "em", "strong", "s", "code", "pre", "blockquote", "ul", "ol", "li", "a", "table", "thead", "tbody",
                "tr", "th", "td", "h3", "h4", "h5", "h6"}  # fmt: skip


class Reader(HTMLParser):
    """Reads a page as a browser would, and notes whatever could run, load or send something."""

    def __init__(self, page: str, allowed: set[str]) -> None:
        super().__init__(convert_charrefs=True)
        self.dangers: list[str] = []
        self.words: list[str] = []
        self.values: list[str] = []
        self._allowed = allowed
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self._allowed:
            self.dangers.append(f"<{tag}>")
        for name, value in attrs:
            value = value or ""
            self.values.append(value)
            if name.startswith("on") or name in (
                "style",
                "srcdoc",
                "formaction",
                "ping",
                "background",
                "poster",
                "srcset",
            ):
                self.dangers.append(f"{tag} {name}")
            if name in ("href", "src", "action"):
                outward = tag == "a" and value.lower().startswith(("http://", "https://", "mailto:"))
                if not (outward or (value.startswith(("/", "#")) and not value.startswith("//"))):
                    self.dangers.append(f"{tag} {name}={value}")
            if tag in ("script", "link") and name in ("src", "href") and not value.startswith("/static/"):
                self.dangers.append(f"{tag} {name}={value}")

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return "".join(self.words)


def test_the_list_is_long_and_the_reader_sees_through_it() -> None:
    assert len(PAYLOADS) == len(set(PAYLOADS)) >= 100
    seen = [payload for payload in PAYLOADS if Reader(payload, _OF_MARKDOWN).dangers]
    # The others are dangerous as Markdown or in an attribute, where the tests below put them.
    assert len(seen) > 80


@pytest.mark.parametrize("payload", PAYLOADS)
def test_markdown_makes_nothing_that_acts(payload: str) -> None:
    for text in (
        payload,
        f"before {payload} after",
        f"- {payload}",
        f"\n\n{payload}\n\n",
        f"[{payload}](https://e.example)",
    ):
        made = Reader(str(markdown(text)), _OF_MARKDOWN)
        assert made.dangers == [], text
        assert all(v.startswith(("http", "mailto:", "noopener")) for v in made.values if "alert" in v or ":" in v), text


def test_markdown_still_formats_and_links_say_that_they_lead_away() -> None:
    made = str(
        markdown(
            "# Title\n\n**bold** `code` [x](https://e.example/a?b=c&d)\n\n| a |\n|---|\n| 1 |\n\n1. one\n\n<b>raw</b>"
        )
    )
    assert "<h3>Title</h3>" in made
    assert "<strong>bold</strong> <code>code</code>" in made
    assert '<a href="https://e.example/a?b=c&amp;d" rel="noopener noreferrer nofollow">x</a>' in made
    assert "<td>1</td>" in made
    assert "<li>one</li>" in made
    assert "&lt;b&gt;raw&lt;/b&gt;" in made


@pytest.mark.parametrize("noise", ["[", "![", "*a ", "`", "<", "> ", "**_", "[](", "|a", "- ", "\\", "a\0b\x1b"])
def test_noise_neither_breaks_nor_slows_the_page(noise: str) -> None:
    markdown(noise * (50_000 // len(noise)))


def test_control_characters_are_made_visible() -> None:
    assert str(markdown("a\0b\x1b[31mc\x85")) == "<p>a\u2400b\u241b[31mc\ufffd</p>\n"


def test_payloads_everywhere_on_every_page(enter: Enter, desk: Desk, people: People, store: Store) -> None:
    """One item per payload, in the prompt, the history, every answer, the note, the draft; and in every name there is."""
    admin, ann = enter("admin", PAYLOADS[0][:60]), enter("reviewer", '"><img src=x onerror=alert(1)>')
    items = [
        material_of(
            {"prompt": [{"role": "user", "content": p}, {"role": "assistant", "content": p}, {"role": "user", "content": f"{p} {k}"}],
             "completions": [p, f"{p}!"]}
        )
        for k, p in enumerate(PAYLOADS)
    ]  # fmt: skip
    batch = desk.create(BatchSettings(name=PAYLOADS[12], seed=3), PAYLOADS[20], items)
    people.invite("annotator", PAYLOADS[30], by=admin.user.id)
    people.make_token(ann.user.id, PAYLOADS[40])
    address = ann.send_form(f"/batches/{batch.id}/next").headers["location"]
    for payload in PAYLOADS:
        fields = {
            "client_key": field_in(ann.get(address).text, "client_key"),
            "rank__0": "1",
            "rank__1": "2",
            "note": payload,
        }
        ann.send_form(f"{address}/draft", **fields, edited=payload)
        page = Reader(ann.get(address).text, _OWN | _OF_MARKDOWN)
        assert page.dangers == [], payload
        assert payload.replace("\n", "").strip() in page.text.replace("\n", ""), payload
        answer = ann.send_form(address, accept="application/json", action="submit", **fields).json()
        page = Reader(ann.get(address).text, _OWN | _OF_MARKDOWN)
        assert page.dangers == [], payload
        address = answer["next"]
    assert {row["note"] for row in submissions(store)} == {payload.strip() for payload in PAYLOADS}
    pages = (
        "/",
        "/history",
        "/account",
        "/exports",
        f"/guidelines/{batch.guideline_id}",
        f"/batches/{batch.id}/finished",
    )
    more = (
        "/admin/batches",
        f"/admin/batches/{batch.id}",
        "/admin/people",
        "/admin/batches/new",
        "/admin/audit",
        "/docs",
    )
    for browser, places in ((ann, pages), (admin, (*pages, *more))):
        for place in places:
            assert Reader(browser.get(place).text, _OWN | _OF_MARKDOWN).dangers == [], place


_OF_PLOTS = {"svg", "title", "desc", "line", "text", "circle", "rect"}


def test_payloads_on_the_pages_of_reviewers(enter: Enter, desk: Desk, store: Store) -> None:
    """In models' names, in answers, in the reasons of judges and reviewers, on every page where those stand."""
    rita, ann, admin = enter("reviewer", "rita"), enter("reviewer", "ann"), enter("admin")
    items = [
        material_of({"prompt": f"{p} {k}", "completions": [{"text": p, "model": PAYLOADS[k % 9]}, {"text": f"{p}!", "model": "b"}]})
        for k, p in enumerate(PAYLOADS)
    ]  # fmt: skip
    batch = desk.create(BatchSettings(name=PAYLOADS[3], mode="pair", overlap=2, seed=1), "g", items)
    with store.transaction():
        for user in (rita.user, ann.user):
            for k, payload in enumerate(PAYLOADS):
                task = desk.task(desk.next(user.id, batch.id) or "", user.id)
                best = k % 2 if user.id == ann.user.id else 0
                submit(store, task, Answer(client_key=task.id, tiers=((best,), (1 - best,)), note=payload))
    for k, (found, payload) in enumerate(zip(disputes(store, batch.id), PAYLOADS, strict=True)):
        if k % 4:
            continue
        address = f"/review/{batch.id}/{found.item_id}"
        if k % 20 == 0:
            seen = {"client_key": "0123456789", "seen": found.seen}
            rejected = rita.send_form(address, action="settle", note=payload, **seen)
            assert (rejected.status_code, Reader(rejected.text, _OWN | _OF_MARKDOWN | _OF_PLOTS).dangers) == (422, [])
        decision = Answer(client_key=found.item_id, tiers=((0,), (1,)), note=payload)
        settle(store, found, decision, rita.user.id, found.seen)
        page = Reader(rita.get(address).text, _OWN | _OF_MARKDOWN | _OF_PLOTS)
        assert page.dangers == [], payload
        assert payload.replace("\n", "").strip() in page.text.replace("\n", ""), payload
    assert 'class="dot"' in rita.get(f"/arena/{batch.id}").text
    listed = ("/review", f"/review/{batch.id}", "/arena", f"/arena/{batch.id}")
    for browser, addresses in ((ann, listed), (admin, (*listed, "/admin/arena/new", "/admin/people"))):
        for address in addresses:
            assert Reader(browser.get(address).text, _OWN | _OF_MARKDOWN | _OF_PLOTS).dangers == [], address


@pytest.mark.parametrize("payload", PAYLOADS[::7])
def test_what_comes_back_in_an_error_is_escaped(enter: Enter, outside: Browser, payload: str) -> None:
    admin = enter("admin")
    token = field_in(outside.get("/login").text, "csrf")
    pages = [
        outside.post("/login", data={"csrf": token, "name": payload, "password": "x"}),
        admin.send_form(
            "/admin/batches", files={"file": ("x.jsonl", payload.encode())}, name=payload, mode=payload, source="file"
        ),
        admin.send_form(
            "/admin/batches", files={"file": (f"{payload}.exe", b"")}, name="n", mode="rank", source="file"
        ),
        admin.send_form("/admin/invites", role=payload),
        admin.send_form("/admin/arena", name=payload, model=[payload, "b"], most=payload, guideline=payload),
        admin.send_form(
            "/admin/arena",
            files=[("first", (f"{payload}.exe", b"")), ("second", ("x.jsonl", payload.encode()))],
            name="n",
            source="files",
            first_name=payload,
        ),
        admin.get("/exports/" + quote(payload.replace("/", ""))),
        outside.get("/static/" + quote(payload.replace("/", ""))),
    ]
    for page in pages:
        assert page.status_code in (400, 401, 404, 413, 422), page.text
        assert Reader(page.text, _OWN | _OF_MARKDOWN).dangers == []


def test_every_answer_carries_the_policy(enter: Enter, outside: Browser, batch: Batch) -> None:
    admin = enter("admin")
    task = admin.send_form(f"/batches/{batch.id}/next").headers["location"]
    answers = [
        admin.get(path)
        for path in ("/", task, "/static/manners.js", "/nowhere", "/exports/pairs.csv", "/api/me", "/docs")
    ]
    answers += [
        outside.get("/login"),
        outside.post("/login"),
        outside.post("/login", headers={"origin": "https://evil.example"}),
    ]
    for answer in answers:
        assert answer.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
    for name in ("script-src", "style-src"):
        [rule] = [part for part in CONTENT_SECURITY_POLICY.split("; ") if part.startswith(name)]
        assert rule == f"{name} 'self'"
    assert answers[0].headers["cache-control"] == "no-store"


def test_our_own_script_makes_no_html() -> None:
    folder = Path(str(create_app.__code__.co_filename)).parent / "static"
    script = (folder / "manners.js").read_text(encoding="utf-8")
    for sink in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "new Function",
        'setAttribute("on',
    ):
        assert sink not in script


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py",
        "/static/..%2fapp.py",
        "/static/%2e%2e/app.py",
        "/static/....//app.py",
        "/static/%2fetc%2fpasswd",
        "/static/manners.css%00.svg",
        "/static/..\\app.py",
        "//etc/passwd",
        "/exports/../../etc/passwd",
        "/exports/..%2f..%2fetc%2fpasswd",
        "/exports/%00",
        "/guidelines/..%2f..%2fstarter%2fguideline.md",
        "/tasks/..%2f..",
    ],
)
def test_no_path_leads_out(enter: Enter, path: str) -> None:
    answer = enter("admin").get(path)
    assert answer.status_code == 404
    for secret in ("create_app", "root:", "Guideline:"):
        assert secret not in answer.text


def test_of_an_uploaded_files_name_only_the_ending_counts(enter: Enter, tmp_path: Path, desk: Desk) -> None:
    admin = enter("admin")
    row = json.dumps({"prompt": "p", "completions": ["a", "b"]}).encode()
    for name in ("../../evil.jsonl", f"{tmp_path}/evil.jsonl", "a\\..\\evil.jsonl"):
        made = admin.send_form(
            "/admin/batches", files={"file": (name, row)}, name="up", mode="rank", source="file", guideline="g"
        )
        assert made.status_code == 303, made.text
    assert list(tmp_path.rglob("*evil*")) == []
    assert len(desk.batches()) == 3


def test_bodies_have_a_limit(store: Store, people: People, enter: Enter, clock: FakeClock) -> None:
    settings = WebSettings("http://testserver", body_bytes=20_000, upload_bytes=60_000)
    admin = enter("admin")
    with Browser(create_app(store, settings, Passwords(CHEAP), clock), follow_redirects=False) as browser:
        token = people.start_session(admin.user.id)
        app: Any = browser.app
        browser.cookies.set("manners_session", app.state.office.signer.sign(token).decode())
        browser.csrf = field_in(browser.get("/account").text, "csrf")
        assert browser.send_form("/admin/invites", role="annotator", note="x" * 21_000).status_code == 413

        def endless() -> Any:
            # Without a length, as a program sends that does not know it itself.
            for _ in range(1000):
                yield b"x" * 1000

        kind = {"content-type": "application/x-www-form-urlencoded"}
        assert browser.post("/admin/invites", content=endless(), headers=kind).status_code == 413
        assert (
            browser.post("/api/tasks/x", content=endless(), headers={"content-type": "application/json"}).status_code
            == 413
        )
        large = json.dumps({"prompt": "p" * 30_000, "completions": ["a", "b"]}).encode()
        fields = {"name": "n", "mode": "rank", "source": "file", "guideline": "g"}
        assert browser.send_form("/admin/batches", files={"file": ("a.jsonl", large)}, **fields).status_code == 303
        assert browser.send_form("/admin/batches", files={"file": ("a.jsonl", large * 3)}, **fields).status_code == 413


def test_half_a_form_is_not_acted_upon(enter: Enter, app: FastAPI, people: People) -> None:
    """The beginning of the body is a good form; the rest of it comes later, and is too much."""
    admin = enter("admin")
    beginning = f"csrf={admin.csrf}&role=admin&uses=3&note=n&rest=".encode()
    parts = [beginning, *[b"x" * 100_000 + b"&rest="] * 6]
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": parts.pop(0) if parts else b"", "more_body": bool(parts)}

    async def send(message: Any) -> None:
        sent.append(message)

    cookie = f"manners_session={admin.cookies['manners_session']}".encode()
    kind = (b"content-type", b"application/x-www-form-urlencoded")
    scope = {"type": "http", "method": "POST", "path": "/admin/invites", "raw_path": b"/admin/invites", "query_string": b"",
             "root_path": "", "scheme": "http", "http_version": "1.1", "server": ("testserver", 80), "client": ("127.0.0.1", 1),
             "headers": [(b"host", b"testserver"), (b"cookie", cookie), kind]}  # fmt: skip
    asyncio.run(app(scope, receive, send))
    assert [message["status"] for message in sent if message["type"] == "http.response.start"] == [413]
    assert people.invitations() == []


@pytest.mark.parametrize(
    "value", ["' OR 1=1 --", "1; DROP TABLE rankings", "\0", "x' UNION SELECT * FROM users --", "%", "\ud800", "ﬀ" * 30]
)
def test_odd_names_and_ids_are_only_texts(
    enter: Enter, outside: Browser, store: Store, batch: Batch, value: str
) -> None:
    admin = enter("admin")
    token = field_in(outside.get("/login").text, "csrf")
    encoded = value.encode("utf-8", "surrogatepass")
    body = b"csrf=" + token.encode() + b"&password=x&name=" + quote(encoded).encode()
    kind = {"content-type": "application/x-www-form-urlencoded"}
    assert outside.post("/login", content=body, headers=kind).status_code in (400, 401)
    quoted = quote(encoded)
    for path in ("/tasks/", "/admin/batches/", "/guidelines/", "/invite/", "/exports/"):
        assert admin.get(f"{path}{quoted}").status_code == 404
    assert admin.get(f"/exports/pairs.csv?batch={quoted}").status_code == 404
    assert store.counts().prompts == 3
    assert batch.open


def test_forms_of_nonsense_never_break_the_server(enter: Enter, batch: Batch) -> None:
    draws = random.Random(0)
    ann = enter("annotator")
    address = ann.send_form(f"/batches/{batch.id}/next").headers["location"]
    names = ["rank-0", "rank-1", "rank-2", "rate-0-helpful", "flag-0", "thumb-0", "base", "edited", "preference", "all_bad", "note",
             "skip_reason", "client_key", "guideline_id", "active_ms", "revises", "action"]  # fmt: skip
    values = ["", "0", "1", "-1", "99999999999999999999", "1e9", "²", "٣", "x" * 5001, "\u202e", "NaN", "skip", "submit", "A4", "insult",
              "0123456789abcdef", "null", "[]", "{}"]  # fmt: skip
    for _ in range(150):
        fields = {name: draws.choice(values) for name in draws.sample(names, draws.randint(1, len(names)))}
        answer = ann.post(address, data={"csrf": ann.csrf, **fields}, headers={"accept": "application/json"})
        assert answer.status_code in (200, 409, 413, 422), (fields, answer.text)
        draft = ann.post(f"{address}/draft", data={"csrf": ann.csrf, **fields})
        assert draft.status_code in (200, 413), fields
        assert ann.get(address).status_code == 200, fields


def test_other_bodies_than_forms(enter: Enter, app: FastAPI, batch: Batch) -> None:
    ann = enter("annotator")
    address = ann.send_form(f"/batches/{batch.id}/next").headers["location"]
    headers = {"x-csrf-token": ann.csrf}
    for kind, body in (
        ("application/json", b"{}"),
        ("multipart/form-data; boundary=x", b"--x\r\nbroken"),
        ("multipart/form-data", b"no boundary"),
        ("application/x-www-form-urlencoded", b"\xff\xfe=%ff&&&==;"),
        ("text/plain", b"csrf=x"),
        ("", b""),
    ):
        answer = ann.post(address, content=body, headers={**headers, "content-type": kind})
        assert answer.status_code in (400, 403, 422), (kind, answer.text)
    with_file = ann.send_form(address, files={"note": ("a.txt", b"file for a text")}, rank__0="1", rank__1="2")
    assert with_file.status_code == 400
    assert html.unescape(with_file.text).count("note must be text") == 1
    assert app.state.office.store.counts().rankings == 0


def test_csv_cells_that_spreadsheets_compute_are_made_texts(enter: Enter, desk: Desk) -> None:
    batch = desk.create(
        BatchSettings(name="csv"), "g", [material_of({"prompt": "p", "completions": ["=1+1", "@SUM(A1)"]})]
    )
    reviewer = enter("reviewer")
    address = reviewer.send_form(f"/batches/{batch.id}/next").headers["location"]
    reviewer.send_form(address, client_key="0123456789", rank__0="1", rank__1="2", action="submit")
    rows = reviewer.get("/exports/pairs.csv").text.splitlines()
    assert sorted(rows[1].split(",")[1:3]) == ["'=1+1", "'@SUM(A1)"]
