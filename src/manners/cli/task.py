"""One task in front of one person at the terminal: what they type, what it came to, and handing it in."""

from __future__ import annotations

import secrets
import time
from typing import Literal

import click
from starlette.datastructures import FormData

from manners.cli.terminal import Terminal
from manners.cli.typed import LETTERS, changed, chosen, heard, word_of
from manners.errors import MannersError
from manners.feedback.assign import Desk, Task
from manners.feedback.batch import MODES, Mode
from manners.feedback.clock import Clock
from manners.feedback.guidelines import guideline
from manners.feedback.submissions import LONGEST_EDIT, SKIP_REASONS, ChangedElsewhereError, submit
from manners.web.doors import Fields
from manners.web.forms import Values, answer_of, begun

Outcome = Literal["answered", "skipped", "back", "elsewhere", "stopped"]

# Reading takes time in which no key is pressed; more than this before one line, and the person was away.
_LONGEST_READING = 120.0
_LONGEST_SKIP_REASON = 500
_END_OF_TEXT = "."
_ASKED: dict[Mode, str] = {
    "rank": "Rank the answers, for example b>a=c",
    "pair": "Which is better? a>b slightly, a>>b, a>>>b, a>>>>b much; a=b equal; bad: both are",
    "ratings": "Rate each answer for helpful, honest, harmless, for example a 4 3 5",
    "thumbs": "Is each answer good or bad? For example a+ b-",
    "edit": "Choose an answer and make it better, for example edit a",
}
_HELP: tuple[tuple[str, str, tuple[Mode, ...]], ...] = (
    ("b>a=c", "b is best, a and c are equal; what is not named stays unranked", ("rank",)),
    ("a>>b", "a is better: > slightly, >> better, >>> clearly, >>>> much", ("pair",)),
    ("a=b", "they are equally good", ("pair",)),
    ("a+ b-", "a is good, b is bad", ("thumbs",)),
    ("edit a", "write a better answer, beginning from a", ("edit",)),
    ("a 4 3 5", "a is helpful 4, honest 3, harmless 5, each of 1 to 5; - for none", MODES),
    ("flag a insult", "flag a for harm; without a word, take its flags away", MODES),
    ("bad", "no answer is acceptable; once more takes it back", ("rank", "ratings")),
    ("bad", "both are bad", ("pair",)),
    ("bad", "all are bad", ("thumbs",)),
    ("why TEXT", "your reason", MODES),
    ("Enter", "an empty line hands in what you see", MODES),
    ("undo", "take the last line back", MODES),
    ("back", "open the answer that you handed in before, to change it", MODES),
    ("skip REASON", "leave this one out; skip alone lists reasons", MODES),
    ("show", "the prompt and the answers once more", MODES),
    ("guideline", "what to go by", MODES),
    ("quit", "stop; what you began is kept, as with Ctrl-C", MODES),
)


class Page:
    """One task in front of one person: what they typed so far, and what it came to."""

    def __init__(self, desk: Desk, task: Task, terminal: Terminal, clock: Clock) -> None:
        self._desk, self._task, self._terminal, self._clock = desk, task, terminal, clock
        self._mode, self._count = task.batch.settings.mode, len(task.completions)
        self._guideline = guideline(desk.store, task.batch.guideline_id)
        self._key = secrets.token_urlsafe(16)
        values, self._revises = begun(desk, task)
        self._values: Values = values
        self._before: list[Values] = []

    def work(self) -> Outcome:
        """Take lines until the task is handed in, skipped or left.

        Where nobody sits at the terminal, a line that says nothing raises MannersError: what follows it could be meant for another
        task.
        """
        self._show()
        try:
            while (outcome := self._turn()) is None:
                pass
        except KeyboardInterrupt:
            self._keep(self._values)
            raise
        return outcome

    def _turn(self) -> Outcome | None:
        try:
            line = self._ask()
            if line is None or word_of(line) == ("quit", ""):
                self._keep(self._values)
                return "stopped"
            return self._obey(line)
        except MannersError as error:
            if not self._terminal.interactive:
                raise MannersError(f"line {self._terminal.lines} of the input: {error}") from None
            self._terminal.tell(str(error))
            return "elsewhere" if isinstance(error, ChangedElsewhereError) else None

    def _ask(self) -> str | None:
        start = time.monotonic()
        try:
            return self._terminal.ask()
        finally:
            worked = min(time.monotonic() - start, _LONGEST_READING)
            spent = str(self._values.get("active_ms") or "0")
            total = (int(spent) if spent.isascii() and spent.isdigit() else 0) + round(worked * 1000)
            self._values = {**self._values, "active_ms": str(total)}

    def _obey(self, line: str) -> Outcome | None:
        """Do what a line says; gives what became of the task where that ends it."""
        word, rest = word_of(line)
        match word:
            case "":
                return self._hand_in()
            case "skip":
                return self._skip(rest)
            case "back":
                self._keep(self._values)
                return "back"
            case "?" | "help":
                self._help()
            case "show":
                self._show()
            case "guideline":
                self._terminal.title(f"Guideline, version {self._guideline.version}")
                self._terminal.quote(self._guideline.text)
            case "undo":
                self._undo()
            case "edit" if self._mode == "edit":
                self._edit(chosen(rest, self._count))
            case _:
                self._change(changed(self._values, line, self._mode, self._count))
        return None

    def _change(self, values: Values) -> None:
        self._before.append(self._values)
        self._keep(values)
        self._read_back()

    def _keep(self, values: Values) -> None:
        self._values = values
        self._desk.save_draft(self._task.id, self._task.user_id, self._values)

    def _undo(self) -> None:
        if not self._before:
            raise MannersError(
                "there is nothing to undo here; back opens the answer that you handed in before this one"
            )
        self._keep({**self._before.pop(), "active_ms": self._values["active_ms"]})
        self._read_back()

    def _skip(self, reason: str) -> Outcome:
        if not reason:
            reasons = "; ".join(f"skip {key}: {words}" for key, words in SKIP_REASONS.items())
            raise MannersError(f"say why, with one of these words or in your own: {reasons}")
        if len(reason) > _LONGEST_SKIP_REASON:
            raise MannersError(f"a reason has {_LONGEST_SKIP_REASON} characters at most")
        self._submit({**self._values, "skip_reason": reason}, "skip")
        return "skipped"

    def _hand_in(self) -> Outcome:
        if not heard(self._values, self._mode, self._count):
            raise MannersError("nothing is said yet; ? lists what you can type")
        self._submit(self._values, "submit")
        return "answered"

    def _submit(self, values: Values, action: str) -> None:
        held = {"client_key": self._key, "guideline_id": self._guideline.id, "revises": self._revises, "action": action}
        fields = [(name, value) for name, value in {**values, **held}.items() if isinstance(value, str)]
        flags = [(name, flag) for name, given in values.items() if isinstance(given, list) for flag in given]
        answer = answer_of(Fields(FormData([*fields, *flags])), self._count)
        submit(self._desk.store, self._task, answer, self._clock)

    def _edit(self, base: int) -> None:
        """A text of several lines: in the person's editor where they have one, else line by line."""
        text = self._written(base) if self._terminal.in_editor else self._lines(base)
        if text is None:
            raise MannersError("nothing was changed")
        if len(text) > LONGEST_EDIT:
            raise MannersError(f"an answer has {LONGEST_EDIT} characters at most")
        self._change({**self._values, "base": str(base), "edited": text.strip()})

    def _written(self, base: int) -> str | None:
        begun_with = str(self._values.get("edited") or self._task.completions[base].text)
        try:
            return click.edit(begun_with, extension=".md")
        except click.ClickException as error:
            raise MannersError(f"the editor did not start: {error.message}") from None

    def _lines(self, base: int) -> str:
        self._terminal.tell(f"Write the better answer. A line with a single {_END_OF_TEXT} ends it.")
        lines: list[str] = []
        try:
            while (line := self._terminal.ask("| ")) is not None and line != _END_OF_TEXT:
                lines.append(line)
        except KeyboardInterrupt:
            self._keep({**self._values, "base": str(base), "edited": "\n".join(lines)})
            raise
        return "\n".join(lines)

    # What is shown

    def _show(self) -> None:
        terminal, task = self._terminal, self._task
        progress = self._desk.progress(task.batch.id)
        terminal.gap()
        terminal.title(f"Prompt · {progress.judged} of {progress.wanted} judgements are there")
        for message in task.prompt.messages:
            if len(task.prompt.messages) > 1:
                terminal.tell(f"{message.role}:", "dim")
            terminal.quote(message.content)
        for letter, completion in zip(LETTERS, task.completions, strict=False):
            terminal.title(letter)
            terminal.quote(completion.text)
            if not completion.finished:
                terminal.tell("(the answer was cut off here)", "dim")
        terminal.gap()
        if self._revises:
            terminal.tell("You answered this before. What you hand in now counts instead.")
        terminal.tell(f"{_ASKED[self._mode]}. Then Enter hands in; ? lists more.", "dim")
        self._read_back()

    def _read_back(self) -> None:
        for line in heard(self._values, self._mode, self._count):
            self._terminal.tell(f"  {line}", "bold")

    def _help(self) -> None:
        for typed, meaning, modes in _HELP:
            if self._mode in modes:
                self._terminal.tell(f"{typed:<14} {meaning}")
