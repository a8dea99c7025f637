"""The top of the page: what happened in one line, why that may be said, and where the run stands."""

from __future__ import annotations

from collections.abc import Sequence

from manners.report import constitution, guards, verdict
from manners.report.curves import Steps
from manners.report.direct import direct_signs, direct_verdict
from manners.report.evidence import Evidence, by_step, kl_budget
from manners.report.markup import Html, join, tag
from manners.report.numerals import between, decimals, duration, interval, number, percent, plain, signed

MARKS = {"better": "✓", "hacking": "!", "mixed": "≈", "worse": "↓", "same": "=", "unknown": "?"}
KINDS = {
    "reward": "Reward model",
    "sft": "Supervised fine-tuning",
    "classifier": "Classifier",
    "dpo": "Direct preference optimisation",
    "grpo": "Group method",
    "ilql": "Offline Q-learning",
    "unknown": "Run of unknown kind",
    **constitution.KINDS,
}
# Why a run may end before its last step, apart from guards.
EARLY = {"KL budget": "its KL budget was spent", "target reward": "its target reward was reached"}
# A number, what it is, and how sure it is.
Tile = tuple[str, str, str]


def headline(evidence: Evidence) -> Html:
    """The verdict, the sentences behind it, the numbers that carry it, and what is worth a second look."""
    steps = by_step(evidence.metrics)
    said = _verdict(evidence, steps)
    acted, why = guards.interventions(steps)
    title = f"{acted}. {said.headline}" if acted else said.headline
    warned = (*verdict.signs(evidence.evaluation, steps), *direct_signs(steps)) if evidence.is_policy else ()
    return tag(
        "header",
        tag(
            "p",
            KINDS.get(evidence.kind, f"{evidence.kind.upper()} run"),
            " · ",
            tag("b", evidence.name),
            class_="eyebrow",
        ),
        tag("h1", tag("span", MARKS[said.tone], class_="mark", aria_hidden="true"), tag("span", title)),
        tag(
            "div",
            *(tag("p", sentence, class_="acted") for sentence in why),
            *(tag("p", r) for r in said.reasons),
            class_="reasons",
        ),
        _tiles(evidence),
        _watch(warned),
        _state(evidence, steps),
        class_=f"headline {said.tone}",
    )


def _verdict(evidence: Evidence, steps: Steps) -> verdict.Verdict:
    match evidence.kind:
        case "reward":
            return verdict.judge_verdict(evidence.evaluation)
        case "classifier":
            return verdict.classifier_verdict(evidence.evaluation)
        case "sft":
            return verdict.loss_verdict(evidence.evaluation, steps)
        case kind if kind in constitution.KINDS:
            return constitution.verdict(evidence)
        case "dpo" if not evidence.asks_a_judge:
            return direct_verdict(evidence.evaluation)
        case _ if evidence.evaluation.get("rows"):
            return verdict.policy_verdict(evidence.evaluation, kl_budget(evidence.config))
        case _:
            return verdict.unfinished_verdict(steps)


def _tiles(evidence: Evidence) -> Html | None:
    tiles = _policy_tiles(evidence) if evidence.is_policy else _judge_tiles(evidence)
    if not tiles:
        return None
    shown = [
        tag("div", tag("dt", label), tag("dd", tag("b", value), tag("small", sure) if sure else None))
        for value, label, sure in tiles
    ]
    return tag("dl", *shown, class_="tiles")


def _policy_tiles(evidence: Evidence) -> list[Tile]:
    tiles = []
    judges = (
        (
            "reward",
            "reward, the judge it was trained against" if evidence.asks_a_judge else "reward, a judge never asked",
        ),
        ("second_judge", "second judge, never trained on"),
    )
    for name, label in judges:
        row = verdict.row_named(evidence.evaluation, name)
        gain, span = number(row.get("gain")), interval(row.get("ci"))
        if gain is not None:
            sure = f"95 % interval {between(span, decimals(gain, *span), sign=True)}" if span else "no interval"
            tiles.append((signed(gain), label, sure))
    moved = number(verdict.row_named(evidence.evaluation, "kl").get("after"))
    if moved is not None:
        budget = kl_budget(evidence.config)
        sure = f"budget {plain(budget)}" if budget is not None else "distance from the start"
        tiles.append((plain(moved), "nats of KL per sequence", sure))
    return tiles


def _judge_tiles(evidence: Evidence) -> list[Tile]:
    found = evidence.evaluation
    tiles = []
    accuracy, span = number(found.get("accuracy")), interval(found.get("ci")) or interval(found.get("accuracy_95"))
    if accuracy is not None:
        sure = f"95 % interval {between((100 * span[0], 100 * span[1]), 1)}\u00a0%" if span else "no interval"
        label = "right on held-out texts" if evidence.kind == "classifier" else "agreement with held-out judgements"
        tiles.append((percent(accuracy, 1), label, sure))
    losses = (("heldout_loss_before", "held-out loss before"), ("heldout_loss", "held-out loss after"))
    tiles += [(plain(loss, 3), label, "nats per token") for key, label in losses if (loss := number(found.get(key)))]
    counts = (("n_pairs", "held-out pairs"), ("n_prompts", "held-out prompts"), ("texts", "held-out texts"))
    tiles += [(plain(n, 0), label, "") for key, label in counts if (n := number(found.get(key))) is not None]
    return tiles


def _watch(warned: Sequence[str]) -> Html | None:
    if not warned:
        return None
    return tag(
        "div", tag("h2", "Worth a second look"), tag("ul", *(tag("li", sign) for sign in warned)), class_="watch"
    )


def _state(evidence: Evidence, steps: Steps) -> Html:
    status = str(evidence.status.get("status", "unknown"))
    reached = f" at step {steps[-1][0]:g}" if steps else ""
    if steps and (early := EARLY.get(str(steps[-1][1].get("stopped")))):
        reached += f", {early}"
    words = {
        "finished": f"Finished{reached}",
        "interrupted": f"Interrupted{reached}; what follows is what the run had left by then",
        "failed": f"Failed{reached}: {evidence.status.get('error') or 'no reason was recorded'}",
        "running": f"Still running{reached}; what follows is what the run has left so far",
    }
    parts = [words.get(status, "It is not known whether the run came to its end")]
    if (took := number(evidence.status.get("seconds"))) is not None:
        parts.append(f"took {duration(took)}")
    if at := evidence.status.get("at"):
        parts.append(str(at).replace("T", " ").replace("+00:00", " UTC"))
    state = tag("p", " · ".join(parts), class_="state", data_status=status)
    return join([state, *(tag("p", problem, class_="state") for problem in evidence.problems)])
