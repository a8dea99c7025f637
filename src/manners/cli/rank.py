"""`manners rank`: the ranking screen in the terminal, for people over ssh.

The desk, the rules and the drafts are those of the browser, so a person may begin there and go on here.
"""

from __future__ import annotations

import getpass
import secrets
from dataclasses import dataclass
from pathlib import Path

from manners.cli.task import Outcome, Page
from manners.cli.terminal import Terminal
from manners.errors import MannersError
from manners.feedback.assign import Desk
from manners.feedback.batch import Batch, BatchSettings
from manners.feedback.clock import Clock, now
from manners.feedback.guidelines import starter_guideline
from manners.feedback.importers.rows import Reject
from manners.feedback.materials import Material, read_materials
from manners.feedback.people import People, User, login_of
from manners.feedback.store import Store
from manners.feedback.submissions import history
from manners.records import content_hash
from manners.web.passwords import Passwords

_HISTORY = 200
_KEPT = "Stopped. What you began is kept; the same command goes on with it."


@dataclass(frozen=True, slots=True)
class Sitting:
    """What came of one call: how many answers were handed in and skipped, and whether the person has nothing left to do."""

    batch: Batch
    answers: int
    skipped: int
    finished: bool


def person_called(store: Store, name: str, is_new: bool) -> User:
    """The account that `name` means; without a name, the login name. The first person of a store is let in without more ado.

    An account made here fits no password. Raises MannersError for a name that nobody has, and for somebody locked out.
    """
    people = People(store)
    name = name or _login_name()
    everybody = [user for user in people.everybody() if user.name]
    known = next((user for user in everybody if login_of(user.name) == login_of(name)), None)
    if known is not None:
        if not known.active:
            raise MannersError(f"{known.name!r} is locked out; ask an admin")
        return known
    if everybody and not is_new:
        raise MannersError(
            f"nobody here is called {name!r}; say --as NAME as in the browser, or add --new for a new account"
        )
    token = people.invite("annotator", "at the terminal", seconds=60)
    return people.accept(token, name, Passwords().hash(secrets.token_urlsafe(32)))


def _login_name() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        raise MannersError("say who you are with --as NAME") from None


def batch_called(desk: Desk, named: str) -> Batch:
    """The batch of that id or name; without one, the only open batch. Raises MannersError where that says too little."""
    batches = desk.batches()
    if named:
        found = [b for b in batches if named in (b.id, b.settings.name)]
        if len(found) > 1:
            raise MannersError(
                f"several batches are called {named!r}; name one by its id: {', '.join(b.id for b in found)}"
            )
    else:
        found = [b for b in batches if b.open]
        if len(found) > 1:
            raise MannersError(f"several batches are open; name one with --batch: {_names(found)}")
    if not found:
        there = f"; there are {_names(batches)}" if batches else "; give a file of prompts and answers to make one"
        raise MannersError((f"there is no batch {named!r}" if named else "no batch is open") + there)
    return found[0]


def _names(batches: list[Batch]) -> str:
    return ", ".join(repr(b.settings.name) for b in batches[:9])


def batch_of_file(desk: Desk, path: Path, mode: str, terminal: Terminal) -> Batch:
    """The batch that holds the prompts and answers of a file, made when it is not there yet: the same file goes on where it was."""
    results = list(read_materials(path))
    found = [r for r in results if isinstance(r, Material)]
    rejects = [f"line {r.line}: {r.reason}" for r in results if isinstance(r, Reject)]
    if not found:
        raise MannersError("; ".join([f"{path} holds no prompt with answers to judge", *rejects[:1]]))
    for reject in rejects[:5]:
        terminal.tell(f"left out: {reject}")
    content = content_hash([[m.prompt.id, [c.id for c in m.completions], m.gold] for m in found], mode)
    name = f"{path.name[:100]} {content[:8]}"
    same = next((b for b in desk.batches() if b.settings.name == name), None)
    settings = BatchSettings.model_validate({"name": name, "mode": mode})
    return same or desk.create(settings, starter_guideline(), found)


class Rater:
    """One person at one terminal, who judges one batch."""

    def __init__(self, desk: Desk, user: User, batch: Batch, terminal: Terminal, clock: Clock = now) -> None:
        self._desk, self._user, self._batch, self._terminal, self._clock = desk, user, batch, terminal, clock
        self._answers = self._skipped = self._steps_back = 0

    def sit(self) -> Sitting:
        """Go from task to task until nothing is left, the person stops, or the input ends."""
        self._terminal.tell(f"{self._batch.settings.name}: you are {self._user.name}. ? lists what you can type.")
        while (task_id := self._opened_again() or self._desk.next(self._user.id, self._batch.id)) is not None:
            page = Page(self._desk, self._desk.task(task_id, self._user.id), self._terminal, self._clock)
            match self._worked(page):
                case "stopped":
                    self._terminal.tell(_KEPT)
                    return Sitting(self._batch, self._answers, self._skipped, False)
                case "answered":
                    self._answers += 1
                    self._took("Handed in")
                case "skipped":
                    self._skipped += 1
                    self._took("Skipped")
                case "elsewhere":
                    self._steps_back = 0
                case "back":
                    self._go_back()
        self._terminal.tell("Nothing is left for you in this batch. Thank you.")
        return Sitting(self._batch, self._answers, self._skipped, True)

    def _worked(self, page: Page) -> Outcome:
        try:
            return page.work()
        except KeyboardInterrupt:
            self._terminal.gap()
            self._terminal.tell(_KEPT)
            raise

    def _took(self, word: str) -> None:
        self._steps_back = 0
        self._terminal.tell(f"{word}. {self._desk.done(self._user.id, self._batch.id)} done by you.")

    def _go_back(self) -> None:
        self._steps_back += 1
        if self._opened_again() is None:
            self._steps_back -= 1
            words = "there is no earlier answer of yours in this batch"
            if not self._terminal.interactive:
                raise MannersError(f"line {self._terminal.lines} of the input: {words}")
            self._terminal.tell(words)

    def _opened_again(self) -> str | None:
        """The task so many steps back that the person answered or skipped; None where they did not go back so far."""
        if not self._steps_back:
            return None
        mine = [r for r in history(self._desk.store, self._user.id, _HISTORY) if r["batch_id"] == self._batch.id]
        return str(mine[self._steps_back - 1]["assignment_id"]) if self._steps_back <= len(mine) else None


def rank(store: Store, file: Path | None, named: str, as_: str, is_new: bool, mode: str, clock: Clock = now) -> Sitting:
    """Judge a batch of the store, or a file of prompts and answers, as the person called `as_`."""
    desk, terminal = Desk(store, clock), Terminal()
    if file is not None and named:
        raise MannersError("name a file or a --batch, not both")
    batch = batch_of_file(desk, file, mode, terminal) if file is not None else batch_called(desk, named)
    return Rater(desk, person_called(store, as_, is_new), batch, terminal, clock).sit()
