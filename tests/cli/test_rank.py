"""Ranking at the terminal: from typed lines to the log, over a pipe and at a real pseudo-terminal."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from browsing import FakeClock, materials
from typer.testing import CliRunner

from manners.cli.app import app
from manners.cli.rank import Sitting, rank
from manners.errors import MannersError
from manners.feedback.assign import Desk
from manners.feedback.batch import Batch, BatchSettings, Mode
from manners.feedback.chain import audit
from manners.feedback.exports import submissions
from manners.feedback.materials import Material, material_of
from manners.feedback.people import People, User
from manners.feedback.store import Store
from manners.feedback.submissions import Answer, submit
from manners.web.passwords import Passwords

COMMAND = [sys.executable, "-c", "from manners.cli import main; main()"]
Type = Callable[..., Sitting]


@pytest.fixture
def ana(people: People) -> User:
    return people.accept(people.invite("annotator"), "Ana", "no hash")


@pytest.fixture
def type_lines(store: Store, ana: User, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> Type:
    """Types lines as Ana, or somebody else, over a pipe."""

    def typing(*lines: str, named: str = "", as_: str = ana.name) -> Sitting:
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        return rank(store, None, named, as_, False, "rank", clock)

    return typing


def make(desk: Desk, mode: Mode = "rank", items: list[Material] | None = None, **settings: Any) -> Batch:
    return desk.create(BatchSettings(name="A batch", mode=mode, **settings), "# Be kind", items or materials())


def on_screen(desk: Desk, ana: User, batch: Batch) -> list[str]:
    """The texts of the answers of Ana's next task, from a to the last."""
    task_id = desk.next(ana.id, batch.id)
    assert task_id
    return [c.text for c in desk.task(task_id, ana.id).completions]


def tiers_in(store: Store) -> list[list[list[str]]]:
    """The rankings that hold, as texts; within a tier in the order of the alphabet."""
    return [
        [sorted(c.text for c in j.completions if c.id in tier) for tier in j.ranking.tiers] for j in store.judgements()
    ]


def notes_in(store: Store) -> list[str]:
    return [row["note"] or "" for row in submissions(store)]


def test_a_ranking_is_stored_as_it_was_typed(type_lines: Type, desk: Desk, store: Store, ana: User) -> None:
    batch = make(desk)
    a, b, c = on_screen(desk, ana, batch)
    sitting = type_lines("b>a=c", "why  shorter ", "flag a false", "c 4 - 2", "")
    assert (sitting.answers, sitting.skipped, sitting.finished) == (1, 0, False)
    assert tiers_in(store) == [[[b], sorted([a, c])]]
    [row] = submissions(store)
    [judgement] = store.judgements()
    places = {answer.text: answer.id for answer in judgement.completions}
    assert row["display_order"] == [places[text] for text in (a, b, c)]
    assert row["flags"] == {places[a]: ["false"]}
    assert row["ratings"] == {places[c]: {"helpful": 4, "harmless": 2}}
    assert (row["note"], judgement.ranking.judge, judgement.ranking.source) == ("shorter", ana.id, "human")
    assert row["guideline_id"] == batch.guideline_id
    with store.reading() as connection:
        assert audit(connection).whole


def test_partial_rankings_ties_and_all_bad(type_lines: Type, desk: Desk, store: Store, ana: User) -> None:
    batch = make(desk)
    _, b, c = on_screen(desk, ana, batch)
    assert type_lines("c>b", "", "a=b=c", "", "bad", "").finished
    first, second, third = tiers_in(store)
    assert first == [[c], [b]]
    assert [len(tier) for tier in second] == [3]
    assert third == []
    assert [j.ranking.all_bad for j in store.judgements()] == [False, False, True]


@pytest.mark.parametrize(
    ("mode", "answers", "lines", "expected", "strength"),
    [
        ("pair", 2, ["b>>>a"], [[1], [0]], 3),
        ("pair", 2, ["a=b"], [[0, 1]], None),
        ("pair", 2, ["bad"], [], None),
        ("ratings", 2, ["a 2 3", "b 5 4"], [[1], [0]], None),
        ("thumbs", 3, ["a+ b-", "c+"], [[0, 2], [1]], None),
        ("thumbs", 1, ["bad"], [], None),
    ],
)
def test_every_mode(
    type_lines: Type, desk: Desk, store: Store, ana: User, mode: Mode, answers: int, lines: list[str],
    expected: list[list[int]], strength: int | None,
) -> None:  # fmt: skip
    batch = make(desk, mode, materials(1, answers))
    texts = on_screen(desk, ana, batch)
    assert type_lines(*lines, "").finished
    assert tiers_in(store) == [[sorted(texts[place] for place in tier) for tier in expected]]
    [row] = submissions(store)
    assert row["strength"] == strength


def test_a_better_answer_of_several_lines(type_lines: Type, desk: Desk, store: Store) -> None:
    make(desk, "edit", materials(1, 2))
    type_lines("edit b", "First line.", "", "  b>a is no command here", ".", "")
    [[better, worse]] = tiers_in(store)
    assert better == ["First line.\n\n  b>a is no command here"]
    assert worse[0].startswith("answer")


def test_undo_takes_back_one_line_after_the_other(type_lines: Type, desk: Desk, store: Store, ana: User) -> None:
    a, b, _ = on_screen(desk, ana, make(desk))
    type_lines("a>b", "b>a", "why not sure", "undo", "undo", "")
    assert tiers_in(store) == [[[a], [b]]]
    assert notes_in(store) == [""]


def test_back_changes_the_answer_before(type_lines: Type, desk: Desk, store: Store, ana: User) -> None:
    a, _, c = on_screen(desk, ana, make(desk))
    type_lines("a>b>c", "", "back", "c>a", "", "a>b", "")
    assert tiers_in(store)[0] == [[c], [a]]
    assert len(tiers_in(store)) == 2
    rows = list(submissions(store))
    assert len(rows) == 3
    assert rows[1]["assignment_id"] == rows[0]["assignment_id"] != rows[2]["assignment_id"]


def test_back_goes_as_far_as_there_are_answers(type_lines: Type, desk: Desk, store: Store) -> None:
    make(desk)
    type_lines("a>b", "", "b>c", "", "back", "back", "why the first one", "")
    assert notes_in(store) == ["", "", "the first one"]
    first = next(submissions(store))
    assert list(submissions(store))[-1]["assignment_id"] == first["assignment_id"]
    with pytest.raises(MannersError, match="no earlier answer"):
        type_lines("back", "back", "back")


def test_skip_says_why(type_lines: Type, desk: Desk, store: Store) -> None:
    make(desk)
    with pytest.raises(MannersError, match="skip language: another language"):
        type_lines("skip")
    assert type_lines("skip language", "skip it is my own text").skipped == 2
    assert [row["skip_reason"] for row in submissions(store)] == ["language", "other"]
    assert notes_in(store) == ["", "it is my own text"]
    assert list(store.judgements()) == []


def test_help_guideline_and_progress(type_lines: Type, desk: Desk, capfd: pytest.CaptureFixture[str]) -> None:
    make(desk)
    type_lines("?", "guideline", "a>b", "")
    shown = capfd.readouterr().err
    assert "Be kind" in shown
    assert "b is best, a and c are equal" in shown
    assert "thumbs" not in shown  # only what this mode takes
    assert "0 of 3 judgements" in shown
    assert "1 of 3 judgements" in shown
    assert "1 done by you" in shown
    assert all(len(line) <= 80 for line in shown.splitlines())


def test_the_end_of_input_hands_nothing_in_and_keeps_the_draft(
    type_lines: Type, desk: Desk, store: Store, ana: User
) -> None:
    batch = make(desk)
    task_id = desk.next(ana.id, batch.id)
    assert task_id
    assert not type_lines("c>a", "why half").finished
    assert list(submissions(store)) == []
    draft = desk.draft(task_id)
    assert (draft["rank-2"], draft["rank-0"], draft["note"]) == ("1", "2", "half")
    assert type_lines("").answers == 1
    assert notes_in(store) == ["half"]


class Scripted(io.StringIO):
    """Lines as functions give them, one after the other."""

    def __init__(self, *lines: Callable[[], str]) -> None:
        super().__init__()
        self.lines = iter(lines)

    def readline(self, _size: int | None = -1, /) -> str:  # type: ignore[override]
        return next(self.lines)()


def test_every_line_is_kept_before_the_next_one_and_so_is_the_time(
    desk: Desk, store: Store, ana: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = make(desk)
    task_id = desk.next(ana.id, batch.id)
    assert task_id
    times = iter(
        [0.0, 3.5, 10.0, 1010.0, 2000.0, 2001.0]
    )  # a line after 3.5 s, one after 1000 s, and the last after 1 s
    monkeypatch.setattr("manners.cli.task.time.monotonic", lambda: next(times))
    seen = []

    def look(line: str) -> str:
        seen.append(dict(desk.draft(task_id)))
        return line

    def stop() -> str:
        seen.append(dict(desk.draft(task_id)))
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "stdin", Scripted(lambda: "c>a\n", lambda: look("why so\n"), stop))
    with pytest.raises(KeyboardInterrupt):
        rank(store, None, "", "Ana", False, "rank")
    assert [(d["rank-2"], d.get("note"), d["active_ms"]) for d in seen] == [("1", None, "3500"), ("1", "so", "123500")]
    assert desk.draft(task_id)["active_ms"] == "124500"


def test_a_draft_of_the_browser_goes_on_here(type_lines: Type, desk: Desk, store: Store, ana: User) -> None:
    batch = make(desk)
    a, b, c = on_screen(desk, ana, batch)
    task_id = desk.next(ana.id, batch.id)
    assert task_id
    desk.save_draft(task_id, ana.id, {"rank-0": "2", "rank-1": "2", "rank-2": "1", "note": "begun there"})
    type_lines("")
    assert tiers_in(store) == [[[c], sorted([a, b])]]


class Meanwhile(io.StringIO):
    """Lines that are typed after something else has happened."""

    def __init__(self, happens: Callable[[], object], lines: str) -> None:
        super().__init__(lines)
        self.happens = happens

    def readline(self, size: int | None = -1, /) -> str:  # type: ignore[override]
        if self.tell() == 0:
            self.happens()
        return super().readline(-1 if size is None else size)


def test_a_lease_that_ran_out_while_typing(
    desk: Desk, store: Store, ana: User, people: People, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = make(desk, items=materials(1), lease_minutes=10)
    bob = people.accept(people.invite("annotator"), "Bob", "no hash")
    task_id = desk.next(ana.id, batch.id)
    assert task_id

    def an_hour_passes() -> None:
        clock.seconds += 3600
        assert desk.next(bob.id, batch.id)

    monkeypatch.setattr(sys, "stdin", Meanwhile(an_hour_passes, "a>b\nwhy late\n\n"))
    sitting = rank(store, None, "", "Ana", False, "rank", clock)
    assert (sitting.answers, sitting.finished) == (1, True)
    [row] = submissions(store)
    assert (row["annotator"], row["assignment_id"], row["note"]) == (ana.id, task_id, "late")
    assert desk.progress(batch.id).judged == 1


def test_answered_in_the_browser_meanwhile(
    desk: Desk, store: Store, ana: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = make(desk)
    task_id = desk.next(ana.id, batch.id)
    assert task_id

    task = desk.task(task_id, ana.id)
    answer = Answer(client_key="from-the-browser", tiers=((0,), (1,)))
    monkeypatch.setattr(sys, "stdin", Meanwhile(lambda: submit(store, task, answer), "c>b\n\n"))
    with pytest.raises(MannersError, match="another window"):
        rank(store, None, "", "Ana", False, "rank")
    assert len(list(submissions(store))) == 1


def test_a_wrong_line_of_a_script_stops_it_before_the_next_task(type_lines: Type, desk: Desk, store: Store) -> None:
    make(desk)
    with pytest.raises(MannersError, match="line 3 of the input: 'a>b!' says nothing here"):
        type_lines("a>b", "", "a>b!", "", "b>a", "")
    assert len(list(submissions(store))) == 1
    with pytest.raises(MannersError, match="nothing is said yet"):
        type_lines("")


def test_who_and_what(type_lines: Type, desk: Desk, people: People) -> None:
    with pytest.raises(MannersError, match="no batch is open"):
        type_lines()
    first = make(desk)
    assert type_lines(as_="ANA").batch.id == first.id
    with pytest.raises(MannersError, match=r"nobody here is called 'Eve'.*--new"):
        type_lines(as_="Eve")
    second = desk.create(BatchSettings(name="Another"), "# Be brief", materials(text="other"))
    with pytest.raises(MannersError, match=r"several batches are open.*'Another', 'A batch'"):
        type_lines()
    assert type_lines(named="Another").batch.id == type_lines(named=second.id).batch.id == second.id
    with pytest.raises(MannersError, match="there is no batch 'none'"):
        type_lines(named="none")
    [user] = people.everybody()
    people.set_active(user.id, False)
    with pytest.raises(MannersError, match="locked out"):
        type_lines(named="Another")


def test_gold_and_repeated_items_come_as_in_the_browser(type_lines: Type, desk: Desk, store: Store) -> None:
    gold = material_of({"prompt": "2 + 2?", "completions": ["4", "5"], "gold": [[0], [1]]})
    make(desk, items=[*materials(40, 2), gold], gold_share=0.5, repeat_share=0.5)
    type_lines(*["a>b", ""] * 60)
    rows = list(submissions(store))
    assert sum(row["prompt_id"] == gold.prompt.id for row in rows) >= 1
    assert any(row["repeat"] for row in rows)


def file_of(folder: Path, *rows: Any) -> Path:
    path = folder / "answers.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_file_goes_on_where_it_was(tmp_path: Path) -> None:
    path = file_of(
        tmp_path, {"prompt": "p", "completions": ["x", "y"]}, {"no": "row"}, {"prompt": "q", "completions": ["x", "y"]}
    )
    asked = ["rank", str(path), "--db", str(tmp_path / "new.db"), "--as", "Ana", "--json"]
    first = CliRunner().invoke(app, asked, input="a>b\n\n")
    assert "left out: line 2" in first.stderr
    told = json.loads(first.stdout)
    assert (told["answers"], told["finished"]) == (1, False)
    again = json.loads(CliRunner().invoke(app, asked, input="b>a\n\n").stdout)
    assert again == {**told, "finished": True}
    with Store.open(tmp_path / "new.db") as store:
        assert len(list(store.judgements())) == 2
        assert len(Desk(store).batches()) == 1
        [user] = People(store).everybody()
        assert (user.name, user.role) == ("Ana", "annotator")


def test_an_account_made_here_opens_no_door(tmp_path: Path) -> None:
    path = file_of(tmp_path, {"prompt": "p", "completions": ["x", "y"]})
    CliRunner().invoke(app, ["rank", str(path), "--db", str(tmp_path / "s.db"), "--as", "Ana"], input="")
    with Store.open(tmp_path / "s.db") as store:
        known = People(store).credentials("Ana")
    assert known
    passwords = Passwords()
    assert not any(passwords.fits(guess, known[1]) for guess in ("", "nobody's password"))


class Typist:
    """Sits at a pseudo-terminal of 80 columns."""

    def __init__(self, *arguments: str) -> None:
        self.pid, self.line = pty.fork()
        if self.pid == 0:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # whoever runs the tests may ignore it
            os.environ |= {"COLUMNS": "80", "TERM": "xterm", "NO_COLOR": "1"}
            os.environ.pop("EDITOR", None)
            os.environ.pop("VISUAL", None)
            os.execv(sys.executable, [*COMMAND, *arguments])
        self.seen = ""

    def shows(self, words: str, within: float) -> bool:
        """Whether `words` come up within so many seconds."""
        end = time.monotonic() + within
        while words not in self.seen and time.monotonic() < end:
            if select.select([self.line], [], [], 0.2)[0]:
                try:
                    self.seen += os.read(self.line, 4096).decode()
                except OSError:  # the other end hung up
                    break
        return words in self.seen

    def wait_for(self, words: str) -> str:
        """Everything that was shown up to the next `words`."""
        assert self.shows(words, within=30), self.seen
        before, _, self.seen = self.seen.partition(words)
        return before

    def type(self, text: str) -> None:
        os.write(self.line, text.encode())

    def interrupt_until(self, words: str) -> None:
        """Press Ctrl-C as a person does: again after a while, since a line editor can miss one between two waits for a key."""
        for _ in range(10):
            self.type("\x03")
            if self.shows(words, within=5):
                break
        self.wait_for(words)

    def code(self) -> int:
        while True:  # until the other end hangs up, so that it never waits for somebody to read
            try:
                if not os.read(self.line, 4096):
                    break
            except OSError:
                break
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_control_c_at_a_real_terminal_loses_nothing(tmp_path: Path) -> None:
    hostile = "\x1b[2J\x1b]0;owned\x07\x9b31m"
    path = file_of(tmp_path, {"prompt": hostile + "p", "completions": [hostile + "x", "y"]})
    db = str(tmp_path / "s.db")
    typist = Typist("rank", str(path), "--db", db, "--as", "Ana")
    shown = typist.wait_for("\n> ")
    assert "\u241b[2J" in shown
    assert "\x1b[2J" not in shown
    assert "\x1b]0;" not in shown
    assert "\x9b" not in shown
    typist.type("a<b\r")
    typist.wait_for("write the better answer first")  # a person is told, and goes on
    typist.type("b>a\r")
    typist.wait_for("b > a")
    typist.wait_for("\n> ")
    typist.type("why half")
    typist.wait_for("why half")
    typist.interrupt_until("What you began is kept")
    assert typist.code() == 130

    typist = Typist("rank", "--db", db, "--as", "Ana")
    typist.wait_for("b > a")  # the draft
    typist.wait_for("\n> ")
    typist.type("\r")
    typist.wait_for("Nothing is left")
    assert typist.code() == 0
    with Store.open(db) as store:
        [judgement] = store.judgements()
        shown_ids = judgement.ranking.shown
        assert judgement.ranking.tiers == ((shown_ids[1],), (shown_ids[0],))


def test_it_needs_no_torch(tmp_path: Path) -> None:
    path = file_of(tmp_path, {"prompt": "p", "completions": ["x", "y"]})
    asked = ["manners", "rank", str(path), "--db", str(tmp_path / "s.db"), "--as", "Ana"]
    code = (
        f"import sys\nfrom manners.cli.app import app\nsys.argv = {asked!r}\n"
        "try:\n    app()\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'numpy', 'transformers', 'matplotlib'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], input="a>b\n\n", capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{tmp_path / 's.db'}: 1 answers, 0 skipped", "[]"]
