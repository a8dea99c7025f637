"""Words from numbers: what a run did to its model, said plainly, and only as firmly as the intervals allow.

Everything here is a pure function of evaluation.json and metrics.jsonl. A gain counts where its 95 % interval leaves
out zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from manners.report.numerals import between, decimals, interval, number, percent, plain, signed

Tone = Literal["better", "hacking", "mixed", "worse", "same", "unknown"]
Move = Literal["up", "flat", "down", "unknown"]
Row = Mapping[str, Any]
Steps = Sequence[tuple[float, Row]]

# The direction that is good where a row of the evaluation does not say it.
BETTER = {"reward": "higher", "second_judge": "higher", "finished": "higher"}
# Over its budget by a tenth is within what a KL controller swings.
SLACK = 1.1


@dataclass(frozen=True)
class Verdict:
    """A headline, its tone, and the sentences behind it."""

    tone: Tone
    headline: str
    reasons: tuple[str, ...] = ()


# How the judge that was trained against moved, how the second judge moved -> what that means.
_JUDGED: Mapping[tuple[Move, Move], Verdict] = {
    ("up", "up"): Verdict(
        "better",
        "It really got better.",
        (
            "The judge it was trained against prefers the new answers, and so does a second judge that training never "
            "saw.",
        ),
    ),
    ("up", "flat"): Verdict(
        "hacking",
        "Better for its own judge only: this looks like reward hacking.",
        (
            "The judge it was trained against scores the new answers higher. The second judge, which training never "
            "saw, finds no clear difference.",
        ),
    ),
    ("up", "down"): Verdict(
        "hacking",
        "Reward hacking: it learned to please its judge.",
        (
            "The judge it was trained against scores the new answers higher, while the second judge, which training "
            "never saw, finds them worse.",
            "Stop earlier, raise the price of moving away (KL), or improve the reward model with judgements of these "
            "answers.",
        ),
    ),
    ("up", "unknown"): Verdict(
        "unknown",
        "Better for its own judge; nobody else was asked.",
        (
            "The judge it was trained against scores the new answers higher. Without the interval of a second judge "
            "that training never saw, real improvement and reward hacking look the same.",
        ),
    ),
    ("flat", "up"): Verdict(
        "mixed",
        "The second judge sees a gain, its own judge does not.",
        ("A second judge prefers the new answers, but the reward that was optimised did not clearly move.",),
    ),
    ("flat", "flat"): Verdict(
        "same",
        "No clear change.",
        ("Both intervals include zero: what moved may be chance. More steps or more evaluation prompts would tell.",),
    ),
    ("flat", "down"): Verdict(
        "worse",
        "It got worse in the eyes of the second judge.",
        (
            "The reward that was optimised did not clearly move, and a judge that training never saw finds the answers "
            "worse.",
        ),
    ),
    ("flat", "unknown"): Verdict(
        "same",
        "No clear change.",
        ("The interval of the reward gain includes zero: what moved may be chance.",),
    ),
    ("down", "up"): Verdict(
        "mixed",
        "The judges disagree: worse for its own, better for the second.",
        ("Training lowered the reward that it was meant to raise, although a second judge prefers the new answers.",),
    ),
}
_WORSE = Verdict(
    "worse",
    "It got worse.",
    ("The judge it was trained against scores the new answers lower than the old ones: training did not work.",),
)


def move(row: Row) -> Move:
    """Where a gain goes: "up" or "down" when its interval leaves out zero, "flat" when not, "unknown" without one."""
    span = interval(row.get("ci"))
    if span is None:
        return "unknown"
    if span[0] > 0:
        return "up"
    return "down" if span[1] < 0 else "flat"


def reading(row: Row) -> str:
    """One row of the evaluation in words: "better", "worse", "higher", "lower", "no clear change", "not tested"."""
    direction = move(row)
    if direction == "unknown":
        return "not tested"
    if direction == "flat":
        return "no clear change"
    good = row.get("better") or BETTER.get(str(row.get("name")), "neither")
    if good not in ("higher", "lower"):
        return "higher" if direction == "up" else "lower"
    return "better" if (direction == "up") == (good == "higher") else "worse"


def row_named(evaluation: Row, name: str) -> Row:
    """The row of the evaluation called `name`; empty where there is none."""
    rows = evaluation.get("rows")
    found = [r for r in rows if isinstance(r, Mapping) and r.get("name") == name] if isinstance(rows, list) else []
    return found[0] if found else {}


def policy_verdict(evaluation: Row, kl_budget: float | None = None) -> Verdict:
    """What happened to a policy that was trained against one judge and evaluated by a second one as well.

    Better in the eyes of both is better. Better only for the judge it was trained against is what reward hacking looks
    like. `kl_budget`: nats per sequence that it was allowed to move.
    """
    reward, second = row_named(evaluation, "reward"), row_named(evaluation, "second_judge")
    own, other = move(reward), move(second)
    if own == "unknown":
        why = "gives no 95 % interval for the reward gain, so it cannot be told from chance"
        why = why if reward else "does not compare the reward before and after"
        judged = Verdict("unknown", "No verdict yet.", (f"The evaluation {why}.",))
    else:
        judged = _JUDGED.get((own, other), _WORSE)
    room = _room(second) if (own, other) == ("up", "flat") else ()
    return Verdict(judged.tone, judged.headline, judged.reasons + room + kl_reasons(evaluation, kl_budget))


def _room(row: Row) -> tuple[str, ...]:
    """How large a gain the interval of the second judge still leaves possible."""
    span = interval(row.get("ci"))
    if span is None or span[1] <= 0:
        return ()
    return (
        f"Its 95 % interval is {between(span, sign=True)}: a gain of up to {signed(span[1])} cannot be ruled out. "
        "Read the answers below, or evaluate on more prompts.",
    )


def kl_reasons(evaluation: Row, budget: float | None) -> tuple[str, ...]:
    """One sentence about how far the policy moved, against its budget where it has one; none where KL is not known."""
    row = row_named(evaluation, "kl")
    spent = number(row.get("after"))
    spent = number(row.get("gain")) if spent is None else spent
    if spent is None:
        return ()
    if budget is None:
        return (
            f"It moved {plain(spent)} nats per sequence away from where it started; choosing the best of 16 answers "
            f"each time would move it at most {plain(best_of_kl(16))}.",
        )
    places = decimals(spent, budget)
    used = f"{plain(spent, places)} of {plain(budget, places)} nats per sequence"
    if spent > SLACK * budget:
        return (f"It moved further than its KL budget allows: {used}. Dearly bought gains are the least to trust.",)
    return (f"It stayed within its KL budget: {used}.",)


def best_of_kl(n: int) -> float:
    """KL in nats from the plain policy to the best of n of its answers: log n - (n - 1)/n.

    Stiennon et al. 2020, appendix G.3. Known value: none for n = 1.
    """
    return math.log(n) - (n - 1) / n


def unfinished_verdict(steps: Steps) -> Verdict:
    """What may be said of a policy run without an evaluation: where its curves stand, and that this proves nothing."""
    if not steps:
        return Verdict("unknown", "Nothing was recorded.", ("The run stopped before its first step was written.",))
    told = [
        _from_to(steps, "heldout_reward", "Held-out reward"),
        _from_to(steps, "heldout_second_judge", "Second judge"),
    ]
    told = told if any(told) else [_from_to(steps, "reward", "Reward")]
    reasons = ("There is no evaluation: the curves below have no intervals and prove nothing yet.",)
    return Verdict("unknown", "No verdict yet.", reasons + tuple(words for words in told if words))


def _from_to(steps: Steps, key: str, words: str) -> str | None:
    points = _curve(steps, key)
    if len(points) < 2:
        return None
    (start, first), (end, last) = points[0], points[-1]
    places = decimals(first, last)
    return f"{words} went from {plain(first, places)} at step {start:g} to {plain(last, places)} at step {end:g}."


def judge_verdict(evaluation: Row) -> Verdict:
    """How well a reward model agrees with people on answers to prompts that it never saw."""
    accuracy, span = number(evaluation.get("accuracy")), interval(evaluation.get("ci"))
    if accuracy is None:
        return Verdict("unknown", "No verdict yet.", ("There is no evaluation on held-out judgements.",))
    reasons = [f"It agrees with the judgements of {percent(accuracy, 1)} of the held-out pairs{_sure(span)}."]
    longer = number(evaluation.get("length_baseline"))
    beats_length = longer is None or (span[0] if span else accuracy) > longer
    if longer is not None:
        meaning = "it has learned more than length" if beats_length else "it may know little but length"
        reasons.append(f"Always choosing the longer answer would agree with {percent(longer, 1)}: {meaning}.")
    reasons += _length_matched(evaluation.get("length_matched"))
    lean = number(evaluation.get("length_correlation"))
    if lean is not None and abs(lean) >= 0.5:
        liking = "longer" if lean > 0 else "shorter"
        reasons.append(
            f"Its scores lean on length (correlation {signed(lean, 2)}): a policy trained on it will write {liking} "
            "answers."
        )
    reasons += _confidence(evaluation.get("ece"))
    if span is None:
        return Verdict("unknown", "No verdict yet: the accuracy has no interval.", tuple(reasons))
    if span[1] < 0.5:
        return Verdict("worse", "It judges against people.", tuple(reasons))
    if span[0] <= 0.5:
        return Verdict("same", "It may be no better than a coin.", tuple(reasons))
    if not beats_length:
        return Verdict("mixed", "Better than a coin, not clearly better than counting words.", tuple(reasons))
    return Verdict("better", "It has learned to judge.", tuple(reasons))


def classifier_verdict(evaluation: Row) -> Verdict:
    """How well a classifier names the class of texts that it never saw, against always naming the commonest one."""
    accuracy, span = number(evaluation.get("accuracy")), interval(evaluation.get("accuracy_95"))
    if accuracy is None:
        return Verdict("unknown", "No verdict yet.", ("There is no evaluation on held-out texts.",))
    reasons = [f"It names the right class for {percent(accuracy, 1)} of the held-out texts{_sure(span)}."]
    common = number(evaluation.get("commonest_class"))
    if common is not None:
        reasons.append(f"Always naming the commonest class would be right for {percent(common, 1)}.")
    reasons += _confidence(evaluation.get("calibration_error"))
    if span is None or common is None:
        return Verdict("unknown", "No verdict yet: there is nothing to compare the accuracy with.", tuple(reasons))
    if span[1] < common:
        return Verdict("worse", "Worse than always naming the commonest class.", tuple(reasons))
    if span[0] <= common:
        return Verdict("same", "Not clearly better than always naming the commonest class.", tuple(reasons))
    return Verdict("better", "It has learned to tell the classes apart.", tuple(reasons))


def _sure(span: tuple[float, float] | None) -> str:
    return f" (95 % interval {between((100 * span[0], 100 * span[1]), 1)}\u00a0%)" if span else ", without an interval"


def _length_matched(found: Any) -> list[str]:
    """What is left of the accuracy where length cannot help."""
    values = found if isinstance(found, Mapping) else {}
    accuracy, span = number(values.get("accuracy")), interval(values.get("ci"))
    if accuracy is None:
        return []
    doubt = "" if span is None or span[0] > 0.5 else ", which is not clearly more than a coin"
    return [f"Where both answers are of nearly equal length it agrees with {percent(accuracy, 1)}{_sure(span)}{doubt}."]


def _confidence(error: Any) -> list[str]:
    off = number(error)
    return [] if off is None else [f"Its confidence is off by {plain(100 * off, 1)} percentage points on average."]


def loss_verdict(evaluation: Row, steps: Steps) -> Verdict:
    """What held-out loss says of a supervised run: from the curve where there is one, else before against after."""
    held_out = _curve(steps, "heldout_loss")
    before, after = number(evaluation.get("heldout_loss_before")), number(evaluation.get("heldout_loss"))
    if before is not None and after is not None:
        held_out = [(0.0, before), *held_out, (steps[-1][0] if steps else 0.0, after)]
    if len(held_out) < 2:
        points = _curve(steps, "loss")
        if not points:
            return Verdict("unknown", "Nothing was recorded.", ("There are no rows with a loss in metrics.jsonl.",))
        reason = _from_to(steps, "loss", "Training loss") or f"Training loss stands at {plain(points[-1][1], 3)}."
        return Verdict("unknown", "No held-out loss: learning and memorising look the same.", (reason,))
    first, last = held_out[0][1], held_out[-1][1]
    best_step, best = min(held_out, key=lambda point: point[1])
    reasons = [f"Held-out loss went from {plain(first, 3)} to {plain(last, 3)} nats per token."]
    if last >= first:
        return Verdict("worse", "It predicts unseen answers no better than before.", tuple(reasons))
    if last > 1.02 * best:
        reasons.append(f"It was lowest at step {best_step:g}, with {plain(best, 3)}.")
        return Verdict("mixed", "It learned, then began to memorise.", tuple(reasons))
    return Verdict("better", "It learned from the examples.", tuple(reasons))


def signs(evaluation: Row, steps: Steps) -> tuple[str, ...]:
    """What a careful reader would look at twice: growing answers, lost endings, repetition, a policy gone narrow."""
    found = (
        _length_sign(evaluation),
        "Fewer answers come to an end than before." if move(row_named(evaluation, "finished")) == "down" else None,
        "Answers repeat word pairs more than before." if move(row_named(evaluation, "distinct_2")) == "down" else None,
        _entropy_sign([y for _, y in _curve(steps, "entropy")]),
        _clip_sign([y for _, y in _curve(steps, "clip_fraction")]),
        _value_sign([y for _, y in _curve(steps, "explained_variance")]),
        _ratio_sign([y for _, y in _curve(steps, "first_ratio")]),
        _turn_sign(_curve(steps, "heldout_second_judge"), dict(_curve(steps, "heldout_reward"))),
    )
    return tuple(sign for sign in found if sign)


def _length_sign(evaluation: Row) -> str | None:
    row = row_named(evaluation, "length")
    before, after = number(row.get("before")), number(row.get("after"))
    if not before or after is None or move(row) not in ("up", "down") or abs(after / before - 1) < 0.25:
        return None
    change = f"{percent(abs(after / before - 1))} {'longer' if after > before else 'shorter'}"
    return f"Answers became {change}. Judges often pay for length: see whether it is earned."


def _entropy_sign(entropy: Sequence[float]) -> str | None:
    if len(entropy) < 5 or _mean(entropy[-3:]) >= 0.4 * _mean(entropy[:3]):
        return None
    fall = f"from {plain(_mean(entropy[:3]))} to {plain(_mean(entropy[-3:]))} nats per token"
    return f"Entropy fell {fall}: the policy has become narrow."


def _clip_sign(clipped: Sequence[float]) -> str | None:
    if len(clipped) < 5 or _mean(clipped[-5:]) <= 0.3:
        return None
    return f"{percent(_mean(clipped[-5:]))} of the tokens of the last updates hit the clip: the steps are too large."


def _value_sign(explained: Sequence[float]) -> str | None:
    if len(explained) < 10 or max(explained[len(explained) // 2 :]) >= 0.1:
        return None
    return "The value function explains next to nothing of the rewards: the advantages are mostly noise."


def _ratio_sign(ratios: Sequence[float]) -> str | None:
    """Before the first update of a step, sampler and learner hold the same weights: their ratio is 1."""
    furthest = max(ratios, key=lambda ratio: abs(ratio - 1), default=1.0)
    if abs(furthest - 1) <= 0.05:
        return None
    return (
        f"Sampler and learner disagree on the probability of the same tokens: a first ratio of {plain(furthest)} where "
        "it must be 1."
    )


def _turn_sign(second: Sequence[tuple[float, float]], rewards: Mapping[float, float]) -> str | None:
    """The second judge turning down by a quarter of what it had gained, while the reward went on rising."""
    if len(second) < 4:
        return None
    peak, best = max(second, key=lambda point: point[1])
    end, last = second[-1]
    climb, fall = best - second[0][1], best - last
    rising = rewards.get(end, -math.inf) > rewards.get(peak, math.inf)
    if climb <= 0 or fall <= 0.25 * climb or not rising:
        return None
    return (
        f"The second judge was happiest at step {peak:g} and has fallen since, while the reward kept rising: "
        "over-optimisation."
    )


def _curve(steps: Steps, key: str) -> list[tuple[float, float]]:
    return [(x, y) for x, row in steps if (y := number(row.get(key))) is not None]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
