"""What an annotator hands in: checked, turned into a ranking, and added to the log together with how it came about.

Whatever the mode, the outcome is a `Ranking` like any other. Ratings rank by their mean, thumbs make two tiers, an edited answer
beats the one it was made from. What a ranking has no room for (the seed of the display order, ratings, flags, strength, the
guideline that was shown, time at work) is a submission, which names its ranking. The reason that somebody wrote is kept beside it,
where it can be deleted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa
from pydantic import Field

from manners.config import Config
from manners.errors import MannersError
from manners.feedback.assign import Task
from manners.feedback.clock import Clock, iso, now
from manners.feedback.remarks import NOTE, keep_remark
from manners.feedback.store import Store
from manners.feedback.tables import ASSIGNMENTS, DRAFTS, GUIDELINES, ITEMS, PROMPTS, RANKINGS, REMARKS, SUBMISSIONS
from manners.records import Completion, Judgement, Ranking, content_hash

Criterion = Literal["helpful", "honest", "harmless"]
CRITERIA: tuple[Criterion, ...] = ("helpful", "honest", "harmless")
FLAGS: Mapping[str, str] = {
    "insult": "insults or threatens",
    "hate": "hate against a group",
    "violence": "helps with violence",
    "self-harm": "encourages self-harm",
    "crime": "helps with a crime",
    "sexual": "sexual content",
    "private": "private data of somebody",
    "false": "dangerously false",
}
SKIP_REASONS: Mapping[str, str] = {
    "unclear": "I do not understand the prompt",
    "expertise": "I do not know enough about this",
    "language": "another language than mine",
    "upsetting": "I do not want to read this",
    "broken": "something is broken",
    "other": "something else",
}
LONGEST_NOTE = 5_000
LONGEST_EDIT = 50_000
_LONGEST_ACTIVE_MS = 24 * 3600 * 1000


class Answer(Config):
    """What was said about one task. Answers go by their place on the screen, counting from 0.

    Which fields are looked at depends on the mode: rank and pair `tiers`, ratings `ratings`, thumbs `thumbs`, edit `base` and
    `edited`. Everything else may be said in every mode.
    """

    client_key: str = Field(
        min_length=8, max_length=64, pattern=r"^[A-Za-z0-9_-]+$", description="the same key counts once"
    )
    tiers: tuple[tuple[int, ...], ...] = Field(
        default=(), max_length=9, description="best first; places not named are unranked"
    )
    all_bad: bool = Field(default=False, description="no answer is acceptable")
    strength: int | None = Field(default=None, ge=1, le=4, description="pair: how much better, 1 slightly to 4 much")
    ratings: dict[int, dict[Criterion, int]] = Field(
        default_factory=dict, description="1 to 5 per answer and criterion"
    )
    flags: dict[int, tuple[str, ...]] = Field(default_factory=dict, description="harm flags per answer")
    thumbs: dict[int, bool] = Field(default_factory=dict, description="thumbs: true is up")
    base: int | None = Field(default=None, description="edit: the answer that was made better")
    edited: str = Field(default="", max_length=LONGEST_EDIT, description="edit: the better answer")
    note: str = Field(default="", max_length=LONGEST_NOTE, description="why")
    skip_reason: str = Field(default="", max_length=500, description="skip: nothing is judged")
    guideline_id: str = Field(default="", pattern="^[0-9a-f]{0,16}$", description="the version that was shown")
    active_ms: int = Field(default=0, ge=0, le=_LONGEST_ACTIVE_MS, description="time at work")
    revises: str = Field(
        default="", pattern="^[0-9a-f]{0,16}$", description="the submission of this task that this one changes"
    )


@dataclass(frozen=True, slots=True)
class Receipt:
    """That a submission is in the log. `known` when it was there before; `ranking_id` is None for a skip."""

    submission_id: str
    ranking_id: str | None
    known: bool


class ChangedElsewhereError(MannersError):
    """The task was answered in the meantime, in another window perhaps."""


def submit(store: Store, task: Task, answer: Answer, clock: Clock = now) -> Receipt:
    """Add an answer to the log, in one transaction; the same client key again changes nothing.

    A later answer of the same person to the same question supersedes the earlier ranking. Raises MannersError for an answer that
    says too little or too much, and ChangedElsewhereError when `revises` is not the task's latest submission.
    """
    with store.transaction() as connection:
        mine = SUBMISSIONS.c.annotator == task.user_id
        known = connection.execute(
            sa.select(SUBMISSIONS).where(mine, SUBMISSIONS.c.client_key == answer.client_key)
        ).first()
        if known is not None:
            return Receipt(known.id, known.ranking_id, True)
        # The task was read before this transaction began.
        state = connection.scalar(sa.select(ASSIGNMENTS.c.state).where(ASSIGNMENTS.c.id == task.id))
        latest = _latest(connection, task)
        if (latest.id if latest else "") != answer.revises:
            raise ChangedElsewhereError(
                "this task was answered in another window in the meantime; load it again to change that answer"
            )
        if latest is not None and latest.ranking_id and answer.skip_reason:
            raise MannersError("an answered task cannot be skipped any more; change the answer instead")
        question = _question(task)
        judgement = None if answer.skip_reason else judgement_of(task, answer, _earlier(connection, task, question))
        if judgement is not None:
            if len(judgement.completions) > len(task.completions):
                store.add_completions([(judgement.prompt, judgement.completions)])
            store.add_ranking(judgement)
        moment = iso(clock())
        row = _row(task, answer, judgement, question, _guideline(connection, task, answer), moment)
        bound = keep_remark(connection, row["id"], task.user_id, _words(answer), moment)
        connection.execute(SUBMISSIONS.insert().values(**row, commitment=bound))
        _settle(connection, task, str(state), skipped=judgement is None)
        return Receipt(row["id"], row["ranking_id"], False)


def latest_submission(store: Store, task: Task) -> Mapping[str, Any] | None:
    """The last thing that was handed in for a task, with the ranking's tiers, note and all_bad; None when nothing was."""
    ranking = (RANKINGS.c.tiers, NOTE, RANKINGS.c.all_bad, RANKINGS.c.completions.label("ranked"))
    query = (
        sa.select(SUBMISSIONS, *ranking)
        .join(RANKINGS, RANKINGS.c.id == SUBMISSIONS.c.ranking_id, isouter=True)
        .join(REMARKS, REMARKS.c.id == SUBMISSIONS.c.id, isouter=True)
        .where(SUBMISSIONS.c.assignment_id == task.id)
        .order_by(SUBMISSIONS.c.sequence.desc())
        .limit(1)
    )
    with store.reading() as connection:
        row = connection.execute(query).mappings().one_or_none()
    return dict(row) if row else None


def history(store: Store, user_id: str, limit: int) -> list[Mapping[str, Any]]:
    """What somebody handed in, the latest of every task, the newest first, with the prompt's last message."""
    newer = SUBMISSIONS.alias("newer")
    later = sa.select(newer.c.id).where(
        newer.c.assignment_id == SUBMISSIONS.c.assignment_id, newer.c.sequence > SUBMISSIONS.c.sequence
    )
    query = (
        sa.select(SUBMISSIONS, PROMPTS.c.messages)
        .join(ITEMS, ITEMS.c.id == SUBMISSIONS.c.item_id)
        .join(PROMPTS, PROMPTS.c.id == ITEMS.c.prompt_id)
        .where(SUBMISSIONS.c.annotator == user_id, ~later.exists())
        .order_by(SUBMISSIONS.c.sequence.desc())
        .limit(limit)
    )
    with store.reading() as connection:
        return [{**row, "prompt": row["messages"][-1]["content"]} for row in connection.execute(query).mappings()]


def standing(store: Store, batch_id: str) -> list[tuple[str, int, int, float]]:
    """Who did what in a batch: annotator, answers, skips, and mean seconds per answer; the busiest first."""
    answered = SUBMISSIONS.c.ranking_id.is_not(None)
    count = sa.func.count().filter(answered)
    query = (
        sa.select(
            SUBMISSIONS.c.annotator,
            count,
            sa.func.count().filter(~answered),
            sa.func.coalesce(sa.func.avg(SUBMISSIONS.c.active_ms).filter(answered), 0),
        )
        .where(SUBMISSIONS.c.batch_id == batch_id)
        .group_by(SUBMISSIONS.c.annotator)
        .order_by(count.desc(), SUBMISSIONS.c.annotator)
    )
    with store.reading() as connection:
        return [(row[0], row[1], row[2], float(row[3]) / 1000) for row in connection.execute(query)]


def judgement_of(task: Task, answer: Answer, supersedes: str | None = None) -> Judgement:
    """The judgement that an answer to a task is. Raises MannersError for an answer that the task's mode does not take."""
    check_places(answer, len(task.completions))
    completions, shown = task.completions, tuple(c.id for c in task.completions)
    match task.batch.settings.mode:
        case "rank":
            tiers = ranked(answer)
        case "pair":
            tiers = _paired(answer)
        case "ratings":
            tiers = _rated(answer, len(completions))
        case "thumbs":
            tiers = _thumbed(answer, len(completions))
        case "edit":
            # The edited answer never stood on the screen beside the others, so nothing can be said about the order.
            completions, tiers, shown = *_edited(task, answer), ()
    ids = [c.id for c in completions]
    ranking = Ranking(
        task.prompt.id,
        tuple(tuple(ids[place] for place in sorted(tier)) for tier in tiers),
        judge=task.user_id,
        shown=shown,
        all_bad=answer.all_bad or not tiers,
        seconds=round(answer.active_ms / 1000, 1) or None,
        supersedes=supersedes,
    )
    return Judgement(task.prompt, completions, ranking)


Tiers = Sequence[Sequence[int]]


def ranked(answer: Answer) -> Tiers:
    """The tiers of an answer in mode rank. Raises MannersError where they compare nothing."""
    if not answer.tiers and not answer.all_bad:
        raise MannersError("nothing is ranked yet: give at least two answers a rank, or say that all are bad")
    if sum(map(len, answer.tiers)) < 2 and not answer.all_bad:
        raise MannersError("one rank alone compares nothing: rank a second answer, or say that all are bad")
    return answer.tiers


def _paired(answer: Answer) -> Tiers:
    if answer.all_bad and not answer.tiers:
        return ()
    if sorted(place for tier in answer.tiers for place in tier) != [0, 1]:
        raise MannersError("say which of the two answers is better, or that they are equal, or both bad")
    if len(answer.tiers) == 1 and answer.strength is not None:
        raise MannersError("a tie has no strength")
    return answer.tiers


def _rated(answer: Answer, count: int) -> Tiers:
    """Tiers by the mean of the ratings of each answer; every answer needs at least one."""
    means = {place: sum(given.values()) / len(given) for place, given in answer.ratings.items() if given}
    if len(means) < count and not answer.all_bad:
        raise MannersError("rate every answer on one criterion at least")
    if len({frozenset(given) for given in answer.ratings.values() if given}) > 1:
        raise MannersError("rate all answers on the same criteria: their means are compared")
    return [[p for p, mean in means.items() if mean == level] for level in sorted(set(means.values()), reverse=True)]


def _thumbed(answer: Answer, count: int) -> Tiers:
    """Thumbs up first, thumbs down second. Where all are down, no answer is acceptable."""
    if len(answer.thumbs) < count:
        raise MannersError("give every answer a thumb, up or down")
    up, down = ([p for p, is_up in answer.thumbs.items() if is_up is wanted] for wanted in (True, False))
    return [tier for tier in (up, down) if tier] if up else ()


def _edited(task: Task, answer: Answer) -> tuple[tuple[Completion, ...], Tiers]:
    if answer.base is None or not answer.edited.strip():
        raise MannersError("choose an answer and write a better one")
    text = answer.edited.strip()
    if text == task.completions[answer.base].text.strip():
        raise MannersError("the edited answer is the same as before; change something, or skip")
    better = Completion(task.prompt.id, text, model="human")
    if any(c.id == better.id for c in task.completions):
        raise MannersError("this is another one of the answers; change something, or skip")
    return (*task.completions, better), [[len(task.completions)], [answer.base]]


def check_places(answer: Answer, count: int) -> None:
    """Raises MannersError where an answer names something that is not among `count` answers, or names one twice."""
    placed = [place for tier in answer.tiers for place in tier]
    named = [*placed, *answer.ratings, *answer.flags, *answer.thumbs, *([] if answer.base is None else [answer.base])]
    if any(not 0 <= place < count for place in named):
        raise MannersError(f"answers go by their place on the screen, from 0 to {count - 1}")
    if len(placed) != len(set(placed)) or not all(answer.tiers):
        raise MannersError("every answer has one rank, and no rank is empty")
    if any(not 1 <= rating <= 5 for given in answer.ratings.values() for rating in given.values()):
        raise MannersError("a rating is a number from 1 to 5")
    if any(flag not in FLAGS for flags in answer.flags.values() for flag in flags):
        raise MannersError(f"flags are {', '.join(FLAGS)}")


def _question(task: Task) -> str:
    """What is asked, whichever batch asks it: these answers to this prompt, compared or improved."""
    kind = "edit" if task.batch.settings.mode == "edit" else "compare"
    return content_hash("question", task.prompt.id, sorted(c.id for c in task.completions), kind)


def _latest(connection: sa.Connection, task: Task) -> sa.Row[Any, Any] | None:
    query = sa.select(SUBMISSIONS.c.id, SUBMISSIONS.c.ranking_id).where(SUBMISSIONS.c.assignment_id == task.id)
    return connection.execute(query.order_by(SUBMISSIONS.c.sequence.desc()).limit(1)).one_or_none()


def _earlier(connection: sa.Connection, task: Task, question: str) -> str | None:
    """The ranking in which this person answered this question last."""
    query = sa.select(SUBMISSIONS.c.ranking_id).where(
        SUBMISSIONS.c.annotator == task.user_id,
        SUBMISSIONS.c.question == question,
        SUBMISSIONS.c.ranking_id.is_not(None),
    )
    return connection.scalar(query.order_by(SUBMISSIONS.c.sequence.desc()).limit(1))


def _guideline(connection: sa.Connection, task: Task, answer: Answer) -> str:
    """The version that was shown, as the screen says, if there is such a version; else the one that holds now."""
    if answer.guideline_id in ("", task.batch.guideline_id):
        return task.batch.guideline_id
    known = sa.select(GUIDELINES.c.id).where(GUIDELINES.c.id == answer.guideline_id)
    return connection.scalar(known) or task.batch.guideline_id


def _row(
    task: Task, answer: Answer, judgement: Judgement | None, question: str, guideline_id: str, moment: str
) -> dict[str, Any]:  # fmt: skip
    ids = [c.id for c in task.completions]
    ratings: dict[str, dict[str, int]] = {}
    for place, given in sorted(answer.ratings.items()):
        ratings[ids[place]] = {str(criterion): rating for criterion, rating in given.items()}
    for place, is_up in sorted(answer.thumbs.items()):
        ratings.setdefault(ids[place], {})["thumb"] = int(is_up)
    return {
        "id": content_hash("submission", task.user_id, answer.client_key),
        "ranking_id": judgement.ranking.id if judgement else None,
        "assignment_id": task.id,
        "item_id": task.item_id,
        "batch_id": task.batch.id,
        "annotator": task.user_id,
        "question": question,
        "mode": task.batch.settings.mode,
        "repeat": task.round > 0,
        "guideline_id": guideline_id,
        "seed": task.seed,
        "display_order": ids,
        "strength": answer.strength,
        "ratings": ratings,
        "flags": {ids[place]: sorted(set(flags)) for place, flags in sorted(answer.flags.items()) if flags},
        "skip_reason": _skip_reason(answer),
        "started_at": task.created_at,
        "active_ms": answer.active_ms,
        "client_key": answer.client_key,
        "created_at": moment,
    }


def _skip_reason(answer: Answer) -> str:
    """One of the reasons there are to choose from; another one is somebody's own words."""
    reason = answer.skip_reason.strip()
    return reason if not reason or reason in SKIP_REASONS else "other"


def _words(answer: Answer) -> str:
    reason = answer.skip_reason.strip()
    return "\n\n".join(text for text in ("" if reason in SKIP_REASONS else reason, answer.note.strip()) if text)


def _settle(connection: sa.Connection, task: Task, state: str, skipped: bool) -> None:
    """Count the answer where it is new, and free the place of one that was skipped."""
    connection.execute(DRAFTS.delete().where(DRAFTS.c.assignment_id == task.id))
    values = {"state": "skipped" if skipped else "done"}
    connection.execute(ASSIGNMENTS.update().where(ASSIGNMENTS.c.id == task.id).values(**values))
    held, holds = state in ("open", "done"), not skipped
    if task.round == 0 and (held, state == "done") != (holds, holds):
        taken = ITEMS.c.taken + int(holds) - int(held)
        judged = ITEMS.c.judged + int(holds) - int(state == "done")
        connection.execute(ITEMS.update().where(ITEMS.c.id == task.item_id).values(taken=taken, judged=judged))
