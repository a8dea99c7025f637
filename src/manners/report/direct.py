"""What may be said of a policy that learned from preferences directly, with no judge in the loop."""

from __future__ import annotations

from collections.abc import Mapping

from manners.report.numerals import between, interval, number, percent, signed
from manners.report.verdict import Move, Row, Steps, Verdict, kl_reasons, move, row_named

# How the two judges moved, neither of which training ever asked -> tone, headline and the sentence behind it.
_SEEN: Mapping[tuple[Move, Move], Verdict] = {
    ("up", "up"): Verdict(
        "better", "It really got better.", ("Two judges that training never asked both prefer the new answers.",)
    ),
    ("up", "unknown"): Verdict(
        "better", "It got better.", ("A judge that training never asked prefers the new answers.",)
    ),
    ("flat", "flat"): Verdict("same", "No clear change.", ("Both intervals include zero: what moved may be chance.",)),
    ("flat", "unknown"): Verdict(
        "same", "No clear change.", ("The interval includes zero: what moved may be chance.",)
    ),
}
_MIXED = Verdict(
    "mixed",
    "Not every judge sees a gain.",
    ("One judge prefers the new answers, the other finds no clear difference.",),
)
_WORSE = Verdict(
    "worse",
    "It got worse.",
    ("A judge that training never asked finds the new answers worse: lower the learning rate, or raise beta.",),
)


def direct_verdict(evaluation: Row) -> Verdict:
    """What came of it: in the eyes of judges that training never asked where there are any, else by its own implicit rewards."""
    own, other = move(row_named(evaluation, "reward")), move(row_named(evaluation, "second_judge"))
    agrees = _agreement(evaluation)
    if own == "unknown":
        why = "No judge has compared its answers with those before; `manners evaluate policy` does, where the config names a judge."
        return Verdict("unknown", "No verdict yet.", (*agrees, why))
    judged = _WORSE if "down" in (own, other) else _SEEN.get((own, other), _MIXED)
    return Verdict(judged.tone, judged.headline, (*judged.reasons, *agrees, *kl_reasons(evaluation, None)))


def direct_signs(steps: Steps) -> tuple[str, ...]:
    """What deserves a second look: preferred answers that have become less likely than they were."""
    rewards = [value for _, row in steps if (value := number(row.get("heldout_rewards/chosen"))) is not None]
    if not rewards or rewards[-1] >= 0:
        return ()
    return (
        f"The preferred answers themselves have become less likely (implicit reward {signed(rewards[-1], 2)}): the margin grows because"
        " the others fall faster. A fine-tuning term, sft_weight, holds them.",
    )


def _agreement(evaluation: Row) -> tuple[str, ...]:
    found = evaluation.get("preferences")
    values = found if isinstance(found, Mapping) else {}
    accuracy, span = number(values.get("accuracy")), interval(values.get("ci"))
    if accuracy is None:
        return ()
    sure = f" (95 % interval {between((100 * span[0], 100 * span[1]), 1)}\u00a0%)" if span else ""
    return (f"By its implicit rewards it agrees with {percent(accuracy, 1)} of the held-out pairs{sure}.",)
