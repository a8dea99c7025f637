"""The form of the ranking screen: to an answer, and back from one.

Names carry the place of an answer on the screen: `rank-0`, `rate-0-helpful`, `flag-0`, `thumb-0`. Drafts are kept as the form has
them, so that the page fills in again what was there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from manners.errors import MannersError
from manners.feedback.assign import Desk, Task
from manners.feedback.submissions import CRITERIA, LONGEST_EDIT, LONGEST_NOTE, Answer, latest_submission
from manners.web.doors import Fields

Values = Mapping[str, Any]
"""What a form shows: texts by name, lists of texts for `flag-N`."""

_LONG = {"note": LONGEST_NOTE, "edited": LONGEST_EDIT}
_NOT_KEPT = frozenset({"csrf", "client_key", "action", "revises", "guideline_id"})
_PREFERENCES: Mapping[str, tuple[tuple[tuple[int, ...], ...], int | None]] = {
    **{f"A{n}": (((0,), (1,)), n) for n in range(1, 5)},
    **{f"B{n}": (((1,), (0,)), n) for n in range(1, 5)},
    "tie": (((0, 1),), None),
}


def values_of(form: Fields) -> dict[str, Any]:
    """What a draft keeps of a form."""
    values: dict[str, Any] = {}
    for name in form.names():
        if name.startswith("flag-"):
            values[name] = form.texts(name)
        elif name not in _NOT_KEPT and len(name) <= 40:
            values[name] = form.text(name, _LONG.get(name, 100))
    return values


def answer_of(form: Fields, count: int) -> Answer:
    """The answer that a form with `count` answers on it says. Raises MannersError where a value is none of those offered."""
    preference = form.text("preference", 10)
    tiers, strength = _PREFERENCES.get(preference, (_tiers(form, count), None))
    skipping = form.text("action", 10) == "skip"
    if skipping and not form.text("skip_reason", 500).strip():
        raise MannersError("say why you skip this one")
    base = form.text("base", 2)
    given: dict[str, Any] = {
        "client_key": form.text("client_key", 64),
        "tiers": tiers,
        "strength": strength,
        "all_bad": bool(form.text("all_bad", 10)) or preference == "bad",
        "ratings": _ratings(form, count),
        "flags": {place: form.texts(f"flag-{place}") for place in range(count) if form.texts(f"flag-{place}")},
        "thumbs": {p: form.text(f"thumb-{p}", 10) == "up" for p in range(count) if form.text(f"thumb-{p}", 10)},
        "base": _number(base) if base else None,
        "edited": form.text("edited", LONGEST_EDIT),
        "note": form.text("note", LONGEST_NOTE),
        "skip_reason": form.text("skip_reason", 500) if skipping else "",
        "guideline_id": form.text("guideline_id", 16),
        "active_ms": _number(form.text("active_ms", 12) or "0"),
        "revises": form.text("revises", 16),
    }
    try:
        return Answer.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        raise MannersError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def begun(desk: Desk, task: Task) -> tuple[Values, str]:
    """What the form of a task starts from: its draft, else what was handed in; and the submission that a new one would change."""
    latest = latest_submission(desk.store, task)
    values: Values = desk.draft(task.id) or (values_of_submission(latest) if latest else {})
    if latest and latest["mode"] == "edit":
        edited = [i for i in latest["ranked"] or [] if i not in latest["display_order"]]
        texts = {c.id: c.text for c in desk.store.completions(task.prompt.id)}
        values = {"edited": texts.get(edited[0], "") if edited else "", **values}
    return values, str(latest["id"]) if latest else ""


def values_of_submission(row: Mapping[str, Any]) -> dict[str, Any]:
    """A submission as the form would have had it: what somebody sees who comes back to change their mind."""
    order = list(row["display_order"])
    values: dict[str, Any] = {"note": row["note"] or "", "skip_reason": row["skip_reason"]}
    if row["all_bad"]:
        values |= {"all_bad": "1", "preference": "bad"}
    tiers = [[order.index(i) for i in tier if i in order] for tier in row["tiers"] or []]
    values |= {f"rank-{place}": str(rank) for rank, tier in enumerate(tiers, 1) for place in tier}
    if row["mode"] == "pair" and tiers:
        values["preference"] = "tie" if len(tiers) == 1 else f"{'AB'[tiers[0][0]]}{row['strength'] or 2}"
    for place, completion_id in enumerate(order):
        for criterion, rating in row["ratings"].get(completion_id, {}).items():
            if criterion == "thumb":
                values[f"thumb-{place}"] = "up" if rating else "down"
            else:
                values[f"rate-{place}-{criterion}"] = str(rating)
        values[f"flag-{place}"] = row["flags"].get(completion_id, [])
    if row["mode"] == "edit" and tiers:
        values["base"] = str(tiers[-1][0])
    return values


def _tiers(form: Fields, count: int) -> tuple[tuple[int, ...], ...]:
    """Equal ranks tie; numbers that nobody was given are closed up."""
    ranks = {place: _number(form.text(f"rank-{place}", 2)) for place in range(count) if form.text(f"rank-{place}", 2)}
    return tuple(tuple(p for p, rank in ranks.items() if rank == level) for level in sorted(set(ranks.values())))


def _ratings(form: Fields, count: int) -> dict[int, dict[str, int]]:
    given: dict[int, dict[str, int]] = {
        place: {str(c): _number(text) for c in CRITERIA if (text := form.text(f"rate-{place}-{c}", 2))}
        for place in range(count)
    }
    return {place: ratings for place, ratings in given.items() if ratings}


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise MannersError(f"{text!r} is not a number")
    return int(text)
