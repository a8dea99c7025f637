"""Guards against reward hacking: numbers of a training run that must not go too far, and what happens when one does.

A policy that has found a hole in its judge shows it elsewhere: its answers become alike, repeat themselves or stop being
language, a second judge does not see the gain, the KL to the reference runs away. Each guard watches one such number, step by
step, mostly against the first step, where the policy still is the reference.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from manners.config import Config

Signal = Literal[
    "kl", "negative_kl", "entropy", "repetition", "length", "distinct_2", "reference_logp", "second_judge", "disagreement",
    "value_loss", "clip_fraction",
]  # fmt: skip
Action = Literal["warn", "stop", "roll_back"]
Row = Mapping[str, float]


class Guard(Config):
    """Which number is watched, how far it may go, and what happens when it goes further.

    | signal | the number that `limit` is compared with | alarm |
    |---|---|---|
    | `kl` | KL to the reference, nats per sequence: the KL budget | above |
    | `negative_kl` | the same; a KL is never negative, so sampling and training disagree about log π | below |
    | `entropy` | entropy of the policy, nats per token: entropy collapse | below |
    | `repetition` | share of word 3-grams that occurred before in the same answer | above |
    | `length` | tokens per answer, as a ratio to the first step | outside [1/limit, limit] |
    | `distinct_2` | distinct word pairs over all word pairs of a batch, as a ratio to the first step: mode collapse | below |
    | `reference_logp` | by how much mean log π_ref of the answers has fallen, nats per token: drift out of language | above |
    | `second_judge` | gain of the judge that is optimised less that of the second judge; each in standard deviations over answers, its own, at the first step | above |
    | `disagreement` | mean standard deviation among the members of an ensemble of judges, as a ratio to the first step | above |
    | `value_loss` | value loss, as a ratio to the median of the steps before (from the fourth step on) | above |
    | `clip_fraction` | share of tokens whose ratio left the trust region, in the last epoch | above |
    """  # noqa: E501 - rows of a table

    signal: Signal = Field(description="the number that is watched")
    limit: float = Field(allow_inf_nan=False, description="how far it may go, in the signal's own unit")
    patience: int = Field(1, gt=0, description="steps in a row beyond the limit until the alarm")
    action: Action = Field(
        "warn", description="warn: say it; stop: end the run; roll_back: return to the best checkpoint and go on"
    )

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.signal == "length" and self.limit <= 1:
            raise ValueError("the limit of length is a ratio above 1, say 2: answers half as long or twice as long")
        if self.signal == "distinct_2" and not 0 < self.limit < 1:
            raise ValueError("the limit of distinct_2 is a share of the first step's, between 0 and 1")
        if self.signal == "negative_kl" and self.limit > 0:
            raise ValueError("the limit of negative_kl is 0 or less, say -1")
        return self


DEFAULTS: tuple[Guard, ...] = (
    Guard(signal="negative_kl", limit=-1, patience=2),
    Guard(signal="distinct_2", limit=0.8, action="roll_back"),
    Guard(signal="second_judge", limit=1, patience=2),
    Guard(signal="reference_logp", limit=0.5, patience=2),
    Guard(signal="repetition", limit=0.3, patience=2),
    Guard(signal="length", limit=2.5, patience=2),
    Guard(signal="entropy", limit=0.1, patience=2),
    Guard(signal="disagreement", limit=2, patience=2),
    Guard(signal="value_loss", limit=10),
    Guard(signal="clip_fraction", limit=0.5, patience=2),
)


@dataclass(frozen=True, slots=True)
class Alarm:
    """A guard that saw its number beyond the limit. `says` is meant to be read: the finding with its numbers, and what to do."""

    guard: Signal
    action: Action
    says: str
    value: float
    limit: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Guards:
    """Looks at the metrics of a run, row by row.

    What it remembers depends on the rows alone: a run that goes on after an interruption restores it with `replay`.
    """

    def __init__(self, guards: Iterable[Guard]) -> None:
        self._watches = [_Watch(guard) for guard in guards]

    def look(self, row: Mapping[str, Any]) -> list[Alarm]:
        """The alarms of one step; call it once per step, in order.

        A guard gives its alarm at the step where its patience ends, and not again until its number has been back within the
        limit. A row without the number, or with one that is not finite, changes nothing. An alarm that rolls the run back lets
        the patience of all guards start anew.
        """
        alarms = [alarm for watch in self._watches if (alarm := watch.look(row))]
        if any(alarm.action == "roll_back" for alarm in alarms):
            for watch in self._watches:
                watch.beyond = 0
        return alarms

    def replay(self, rows: Iterable[Mapping[str, Any]]) -> Self:
        """The same, brought to where it was after `rows` of metrics.jsonl."""
        for row in rows:
            self.look(row)
        return self

    def unwatched(self, row: Mapping[str, Any]) -> list[str]:
        """One sentence for each guard that watches nothing, since `row` lacks its number; worth saying once, at the first step."""
        sentences = []
        for watch in self._watches:
            missing = [name for name in watch.kind.reads if _number(row, name) is None]
            if missing:
                cure = f"; {watch.kind.cure}" if watch.kind.cure else ""
                sentences.append(
                    f"the guard {watch.guard.signal} watches nothing: no {', '.join(missing)} is measured{cure}"
                )
        return sentences


class _Watch:
    """One guard at work: the rows it has seen, and for how many of them in a row its number has been beyond the limit."""

    def __init__(self, guard: Guard) -> None:
        self.guard = guard
        self.kind = _KINDS[guard.signal]
        self.rows: list[Row] = []
        self.beyond = 0

    def look(self, row: Mapping[str, Any]) -> Alarm | None:
        numbers = {name: number for name in self.kind.reads if (number := _number(row, name)) is not None}
        if len(numbers) < len(self.kind.reads):
            return None
        self.rows.append(numbers)
        value = self.kind.measure(self.rows)
        if value is None:
            return None
        self.beyond = self.beyond + 1 if self.kind.beyond(value, self.guard.limit) else 0
        if self.beyond != self.guard.patience:
            return None
        guard = self.guard
        finding = self.kind.finding.format(now=numbers, first=self.rows[0], value=value, limit=guard.limit)
        return Alarm(guard.signal, guard.action, f"{finding}. {self.kind.advice}", value, guard.limit)


def _number(row: Mapping[str, Any], name: str) -> float | None:
    """What metrics.jsonl has as null, since JSON knows no infinity, is no number in the running loop either."""
    value = row.get(name)
    return float(value) if value is not None and math.isfinite(value) else None


@dataclass(frozen=True)
class _Kind:
    """A signal: the columns it reads, its number from the rows so far (None: there is none yet), and the words of its alarm.

    In `finding`, `now` and `first` are the last and the first row. `cure` says how to have the columns measured.
    """

    reads: tuple[str, ...]
    measure: Callable[[Sequence[Row]], float | None]
    beyond: Callable[[float, float], bool]
    finding: str
    advice: str
    cure: str = ""


def _last(name: str) -> Callable[[Sequence[Row]], float]:
    return lambda rows: rows[-1][name]


def _ratio_to_first(name: str) -> Callable[[Sequence[Row]], float | None]:
    return lambda rows: rows[-1][name] / rows[0][name] if rows[0][name] else None


def _ratio_to_median(name: str) -> Callable[[Sequence[Row]], float | None]:
    def measure(rows: Sequence[Row]) -> float | None:
        usual = median(row[name] for row in rows[:-1]) if len(rows) > 3 else 0.0
        return rows[-1][name] / usual if usual else None

    return measure


def _fall(name: str) -> Callable[[Sequence[Row]], float]:
    return lambda rows: rows[0][name] - rows[-1][name]


def _gap_of_gains(rows: Sequence[Row]) -> float | None:
    """Where all answers of the first step score alike, the unit is the first standard deviation that is not 0."""
    gains = []
    for judge in ("reward", "second_judge"):
        spread = next((row[f"{judge}_std"] for row in rows if row[f"{judge}_std"]), None)
        gain = rows[-1][judge] - rows[0][judge]
        if spread is None and gain:
            return None
        gains.append(gain / spread if spread else 0.0)
    return gains[0] - gains[1] if gains[0] > 0 else 0.0


def _outside(ratio: float, limit: float) -> bool:
    return not 1 / limit <= ratio <= limit


_KINDS: dict[Signal, _Kind] = {
    "kl": _Kind(
        ("kl",), _last("kl"), operator.gt,
        "KL to the reference is {value:.2f} nats per sequence, the budget is {limit:g}: the answers are no longer such as the "
        "judge was trained on",
        "Raise beta or lower learning_rate.",
    ),
    "negative_kl": _Kind(
        ("kl",), _last("kl"), operator.lt,
        "KL to the reference is {value:.2f} nats per sequence, and a KL cannot be negative: sampling and training disagree about "
        "the log-probabilities",
        "Compare first_ratio with 1; check temperature, number type and the sampler before you believe this run.",
    ),
    "entropy": _Kind(
        ("entropy",), _last("entropy"), operator.lt,
        "entropy fell to {value:.2f} nats per token from {first[entropy]:.2f} at the start (floor {limit:g}): the policy hardly "
        "tries anything new",
        "Raise entropy_weight or beta, or lower learning_rate.",
    ),
    "repetition": _Kind(
        ("repetition",), _last("repetition"), operator.gt,
        "{value:.0%} of the word triples repeat what the same answer said before, {first[repetition]:.0%} at the start (limit "
        "{limit:.0%}): the answers go in circles",
        "Read samples.jsonl; if the judge likes it, collect judgements against it.",
    ),
    "length": _Kind(
        ("length",), _ratio_to_first("length"), _outside,
        "answers are {now[length]:.1f} tokens long, {first[length]:.1f} at the start ({value:.2f} times; limit {limit:g} times "
        "either way): the judge may pay for length alone",
        "Compare short and long answers of samples.jsonl by the second judge; collect judgements where length and merit differ.",
    ),
    "distinct_2": _Kind(
        ("distinct_2",), _ratio_to_first("distinct_2"), operator.lt,
        "distinct word pairs fell to {now[distinct_2]:.2f} from {first[distinct_2]:.2f} at the start ({value:.2f} of it, limit "
        "{limit:g}): the answers have become alike",
        "Read samples.jsonl for the phrase that the judge overpays; raise beta, or collect judgements against it.",
    ),
    "reference_logp": _Kind(
        ("reference_logp",), _fall("reference_logp"), operator.gt,
        "to the reference the answers are less probable by {value:.2f} nats per token ({now[reference_logp]:.2f}, at the start "
        "{first[reference_logp]:.2f}; limit {limit:g}): they leave its language",
        "Read samples.jsonl for gibberish; raise beta.",
    ),
    "second_judge": _Kind(
        ("reward", "reward_std", "second_judge", "second_judge_std"), _gap_of_gains, operator.gt,
        "the judge that is optimised rose from {first[reward]:.2f} to {now[reward]:.2f}, the second judge went from "
        "{first[second_judge]:.2f} to {now[second_judge]:.2f}: {value:.1f} standard deviations apart (limit {limit:g}), so the "
        "gain is not to be believed",
        "Read samples.jsonl; raise beta, or collect judgements of such answers.",
        "name a second_judge in the config",
    ),
    "disagreement": _Kind(
        ("disagreement",), _ratio_to_first("disagreement"), operator.gt,
        "the judges of the ensemble differ by {now[disagreement]:.2f}, {value:.1f} times as much as at the start (limit {limit:g}): "
        "the answers are unlike what they were trained on",
        "Raise beta, or let the ensemble pay its minimum instead of its mean.",
        "it takes an ensemble of reward models",
    ),
    "value_loss": _Kind(
        ("value_loss",), _ratio_to_median("value_loss"), operator.gt,
        "the value loss is {now[value_loss]:.3g}, {value:.1f} times its median so far (limit {limit:g}): the value function has lost "
        "track, and advantages are noise",
        "Lower value_learning_rate; look for a jump in the scores.",
    ),
    "clip_fraction": _Kind(
        ("clip_fraction",), _last("clip_fraction"), operator.gt,
        "{value:.0%} of the tokens left the trust region in one step (limit {limit:.0%}): the updates are too large for the "
        "experiment behind them",
        "Lower learning_rate, or make epochs fewer.",
    ),
}  # fmt: skip
