"""Which curves a report shows, in which order, and what each of them should look like."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from manners.report.evidence import Row
from manners.report.numerals import number

Colour = Literal["blue", "orange", "green", "purple"]
Steps = Sequence[tuple[float, Row]]


@dataclass(frozen=True)
class Line:
    """One metric: its key in metrics.jsonl and its name in the legend.

    `dots`: measured only now and then; `counted`: whole numbers, of which a running mean would say nothing.
    """

    key: str
    label: str
    colour: Colour = "blue"
    dots: bool = False
    counted: bool = False


@dataclass(frozen=True)
class Axis:
    """Lines that share a unit. `levels` are values worth comparing with: (value, name)."""

    unit: str
    lines: tuple[Line, ...]
    levels: tuple[tuple[float, str], ...] = ()
    share: bool = False


@dataclass(frozen=True)
class Panel:
    """One figure: axes above each other over the same steps, and one sentence for whoever has not seen such a curve."""

    name: str
    title: str
    lesson: str
    axes: tuple[Axis, ...]

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(line.key for axis in self.axes for line in axis.lines)


def _trained(key: str, what: str) -> Line:
    return Line(key, f"training {what}")


def _held_out(key: str, what: str) -> Line:
    return Line(key, f"held-out {what}", "orange", dots=True)


POLICY: tuple[Panel, ...] = (
    Panel(
        "reward",
        "Reward",
        "What the judge said, and where that differs what was paid for it. Should climb and then level off, the held-out points with "
        "it; where they stay behind, the training prompts were learned by heart.",
        (
            Axis(
                "mean reward per answer",
                (
                    Line("reward", "training"),
                    Line("score", "as paid", "green"),
                    Line("heldout_reward", "held out", "orange", dots=True),
                ),
            ),
        ),
    ),
    Panel(
        "second-judge",
        "The second judge",
        "Never used for training. Should climb with the reward; where it turns down while the reward still climbs, the "
        "policy has begun to please its judge.",
        (
            Axis(
                "mean score per answer",
                (_trained("second_judge", "prompts"), _held_out("heldout_second_judge", "prompts")),
            ),
        ),
    ),
    Panel(
        "groups",
        "Groups without a difference",
        "Where all answers to a prompt are worth the same, nothing can be learned from them. Should stay well below the number of "
        "prompts per step; a rise means that the answers, or the judge's opinions of them, become alike.",
        (Axis("groups per step", (Line("equal_groups", "groups of equal answers", counted=True),)),),
    ),
    Panel(
        "disagreement",
        "Disagreement",
        "How far the members of the judge differ on the same answer. Should stay about where it was; where it climbs, "
        "the answers are unlike those that the members learned from.",
        (Axis("standard deviation over the members, reward", (Line("disagreement", "disagreement"),)),),
    ),
    Panel(
        "kl",
        "Distance from the start",
        "Should rise and then level off, where going further no longer pays; a climb without end means that moving away "
        "is too cheap.",
        (Axis("KL, nats per sequence", (_trained("kl", "prompts"), _held_out("heldout_kl", "prompts"))),),
    ),
    Panel(
        "likelihood",
        "How likely the answers are",
        "Under the policy itself (π) and under the reference. The gap is the distance per token; where the reference "
        "falls, the answers leave its language.",
        (
            Axis(
                "log-probability, nats per token",
                (Line("logp", "log π"), Line("reference_logp", "log π_ref", "orange")),
            ),
        ),
    ),
    Panel(
        "beta",
        "The price of moving away",
        "The price is fixed. The penalty is the price times the distance, and should stay well below the reward that is "
        "gained.",
        (
            Axis("price β, reward per nat", (Line("beta", "β"),)),
            Axis("penalty, reward per answer", (Line("shift_penalty", "shift penalty", "orange"),)),
        ),
    ),
    Panel(
        "entropy",
        "Entropy",
        "How open the choice of the next token still is. Should sink slowly; a fall towards zero means that the policy "
        "always says the same.",
        (Axis("entropy, nats per token", (Line("entropy", "entropy"),)),),
    ),
    Panel(
        "variety",
        "Variety and repetition",
        "Word pairs that differ, of all in the batch: a fall means that answers become alike. Word triples that an "
        "answer has said before: a rise means that it goes in circles.",
        (
            Axis("distinct word pairs, % of all", (Line("distinct_2", "distinct-2"),), share=True),
            Axis("repeated word triples, % of all", (Line("repetition", "repetition", "orange"),), share=True),
        ),
    ),
    Panel(
        "length",
        "Length and endings",
        "Length should change only as far as the judges have reason to ask for it, and answers should go on coming to "
        "an end.",
        (
            Axis("answer length, tokens", (Line("length", "length"),)),
            Axis("finished answers, % of all", (Line("finished", "finished", "orange"),), share=True),
        ),
    ),
    Panel(
        "value",
        "The value function",
        "Its error should fall, and the share of the reward's variance that it explains should rise towards 1; below 0 "
        "it is worse than guessing the mean.",
        (
            Axis("value loss, squared reward", (Line("value_loss", "value loss"),)),
            Axis(
                "explained variance, at most 1",
                (Line("explained_variance", "explained variance", "orange"),),
                levels=((0.0, ""),),
            ),
        ),
    ),
    Panel(
        "update",
        "Size of the updates",
        "Usually 5 to 20 % of the tokens reach the clip, and one step moves the policy by less than 0.05 nats; more "
        "means that the steps are too large.",
        (
            Axis("clipped tokens, % of all", (Line("clip_fraction", "clip fraction"),), share=True),
            Axis("KL to the policy before the step, nats per token", (Line("approx_kl", "approx. KL", "orange"),)),
            Axis("epochs per step", (Line("epochs", "epochs", counted=True),)),
        ),
    ),
    Panel(
        "optimiser",
        "Losses and learning rate",
        "The policy loss is no measure of progress: it hovers around zero. Only sudden jumps are worth a look.",
        (
            Axis("policy loss, advantage units", (Line("policy_loss", "policy loss"),), levels=((0.0, ""),)),
            Axis("KL loss, nats per token", (Line("kl_loss", "KL loss", "green"),)),
            Axis("learning rate, per step", (Line("learning_rate", "learning rate", "orange"),)),
        ),
    ),
    Panel(
        "checks",
        "Checks",
        "Before the first update of a step the policy is still the one that sampled, so the ratio must be 1. Jumps of "
        "the gradient go with steps that were too large; an update is skipped where its numbers are not usable.",
        (
            Axis("first ratio of probabilities", (Line("first_ratio", "first ratio"),), levels=((1.0, ""),)),
            Axis("gradient norm, before it is cut", (Line("gradient_norm", "gradient norm", "orange"),)),
            Axis("skipped updates per step", (Line("skipped", "skipped", "purple", counted=True),)),
        ),
    ),
)

# What is true of a run whose price adapts to a KL target.
_ADAPTIVE: Mapping[str, str] = {
    "kl": "Should rise quickly and then stay near its target; a climb without end means that moving away is too cheap.",
    "beta": "The price adapts: the controller raises it while KL is above its target. It should settle, and the penalty "
    "should stay well below the reward that is gained.",
}

_RATE = Panel(
    "learning-rate",
    "Learning rate",
    "Warms up, then sinks; shown to explain kinks in the other curves.",
    (
        Axis("learning rate, per step", (Line("learning_rate", "learning rate"),)),
        Axis("gradient norm, before it is cut", (Line("grad_norm", "gradient norm", "orange"),)),
    ),
)

JUDGE: tuple[Panel, ...] = (
    Panel(
        "loss",
        "Loss",
        "Starts near log 2 = 0.69, the loss of a coin toss, and should fall; it jumps about, because each point is one "
        "small batch.",
        (
            Axis(
                "loss, nats per pair",
                (_trained("loss", "pairs"), _held_out("heldout_loss", "pairs")),
                levels=((math.log(2), "coin toss"),),
            ),
        ),
    ),
    Panel(
        "accuracy",
        "Accuracy",
        "The share of judgements that it agrees with. Should rise from 50 % and level off; people agree with each "
        "other in about 60 to 80 %.",
        (
            Axis(
                "agreement, % of judgements",
                (_trained("accuracy", "pairs"), _held_out("heldout_accuracy", "pairs")),
                levels=((0.5, "coin toss"),),
                share=True,
            ),
        ),
    ),
    _RATE,
)

_PREFERENCES: tuple[Panel, ...] = (
    Panel(
        "loss",
        "Loss",
        "Should fall; where the held-out loss turns up while the training loss goes on falling, the pairs are being learned by heart. "
        "Losses of different names have different scales.",
        (Axis("loss", (_trained("loss", "answers"), _held_out("heldout_loss", "answers"))),),
    ),
    Panel(
        "accuracy",
        "Agreement",
        "The share of pairs whose preferred answer has the higher implicit reward. Should rise from 50 % and level off.",
        (
            Axis(
                "agreement, % of pairs",
                (_trained("rewards/accuracies", "pairs"), _held_out("heldout_rewards/accuracies", "pairs")),
                levels=((0.5, "coin toss"),),
                share=True,
            ),
        ),
    ),
    Panel(
        "implicit-rewards",
        "Implicit rewards",
        "β times how much likelier an answer has become than it was. The two should part; best with the preferred answers above 0, "
        "for where both sink, the policy only learns what not to say.",
        (
            Axis(
                "training, reward units",
                (Line("rewards/chosen", "preferred"), Line("rewards/rejected", "others", "orange")),
                levels=((0.0, ""),),
            ),
            Axis(
                "held out, reward units",
                (
                    Line("heldout_rewards/chosen", "held-out preferred", dots=True),
                    Line("heldout_rewards/rejected", "held-out others", "orange", dots=True),
                ),
                levels=((0.0, ""),),
            ),
        ),
    ),
    Panel(
        "margin",
        "Margin",
        "How far the implicit rewards of the two lie apart. Should grow and then level off; a held-out margin that stays behind is the "
        "part that was learned by heart.",
        (
            Axis(
                "margin, reward units",
                (_trained("rewards/margins", "pairs"), _held_out("heldout_rewards/margins", "pairs")),
                levels=((0.0, ""),),
            ),
        ),
    ),
    Panel(
        "likelihood-of-pairs",
        "How likely the judged answers are",
        "The preferred ones should not become much less likely; where they sink, the probability goes to answers that nobody judged.",
        (
            Axis(
                "log-probability, nats per answer",
                (Line("logps/chosen", "preferred"), Line("logps/rejected", "others", "orange")),
            ),
            Axis(
                "held out, nats per answer",
                (
                    Line("heldout_logps/chosen", "held-out preferred", dots=True),
                    Line("heldout_logps/rejected", "held-out others", "orange", dots=True),
                ),
            ),
        ),
    ),
    Panel(
        "reference-point",
        "Reference point",
        "The distance from the start that KTO measures gains and losses from, on answers to other prompts.",
        (Axis("z₀, nats per answer", (Line("kl_estimate", "z₀"),)),),
    ),
)

_SAMPLED = ("reward", "second-judge", "disagreement", "kl", "likelihood", "variety", "length")
DIRECT: tuple[Panel, ...] = (
    *_PREFERENCES,
    *(panel for panel in POLICY if panel.name in _SAMPLED),
    Panel(
        "optimiser",
        "Updates",
        "The learning rate explains kinks in the other curves. Jumps of the gradient go with steps that were too large; a step whose "
        "numbers are not usable is skipped, and two equal answers teach nothing.",
        (
            Axis("learning rate, per step", (Line("learning_rate", "learning rate"),)),
            Axis("gradient norm, before it is cut", (Line("gradient_norm", "gradient norm", "orange"),)),
            Axis(
                "skipped, or without a difference",
                (
                    Line("skipped", "skipped", "purple", counted=True),
                    Line("tied", "tied prompts", "green", counted=True),
                ),
            ),
        ),
    ),
)

SUPERVISED: tuple[Panel, ...] = (
    Panel(
        "loss",
        "Loss",
        "Should fall; where a held-out loss turns up while the training loss goes on falling, memorising has begun.",
        (Axis("loss, nats per token", (_trained("loss", "answers"), _held_out("heldout_loss", "answers"))),),
    ),
    _RATE,
)

CLASSIFIER: tuple[Panel, ...] = (
    Panel(
        "loss",
        "Loss",
        "Both should fall; where the held-out loss turns up while the training loss goes on falling, memorising has "
        "begun.",
        (Axis("loss, nats per text", (_trained("loss", "texts"), _held_out("validation_loss", "texts"))),),
    ),
    Panel(
        "accuracy",
        "Accuracy and confidence",
        "The share of texts whose class it names should rise and level off; its confidence should stay near its "
        "accuracy, so this error should stay small.",
        (
            Axis("right, % of texts", (_held_out("validation_accuracy", "texts"),), share=True),
            Axis("calibration error, %", (_held_out("validation_calibration_error", "texts"),), share=True),
        ),
    ),
    _RATE,
)

# Counters, clocks, second estimates of what is drawn, and numbers that stand in a table.
_NOT_DRAWN = frozenset(
    {
        "step",
        "epoch",
        "member",
        "episodes",
        "seconds",
        "best",
        "kl_k3",
        "value",
        "reward_std",
        "score_std",
        "second_judge_std",
    }
    | {"first_approx_kl", "value_clip_fraction"}
)
_IN_TABLES = ("validation_accuracy_", "validation_auc/")


def panels(kind: str, steps: Steps, kl_levels: tuple[tuple[float, str], ...] = ()) -> tuple[Panel, ...]:
    """The panels of a run of `kind` that have at least one number, and one more for every metric nobody planned for."""
    match kind:
        case "reward":
            known = JUDGE
        case "classifier":
            known = CLASSIFIER
        case "sft":
            known = SUPERVISED
        case "dpo":
            known = DIRECT
        case _:
            known = POLICY
    numbers = {key for _, row in steps for key, value in row.items() if number(value) is not None}
    present = numbers - _telling_nothing(steps)
    shown = [_only(panel, present) for panel in known if present & set(panel.keys)]
    shown = [_with_levels(panel, kl_levels) if panel.name == "kl" else panel for panel in shown]
    if "target" in {name for _, name in kl_levels}:
        shown = [replace(panel, lesson=_ADAPTIVE.get(panel.name, panel.lesson)) for panel in shown]
    if any(row.get("rolled_back_to") for _, row in steps):
        raised = " A roll back of a guard may raise the price."
        shown = [replace(p, lesson=p.lesson + raised) if p.name == "beta" else p for p in shown]
    planned = {key for panel in known for key in panel.keys}
    unplanned = sorted(k for k in present - planned - _NOT_DRAWN if not k.startswith(_IN_TABLES))
    return (*shown, *(_unplanned(place, key) for place, key in enumerate(unplanned)))


def points(steps: Steps, key: str, most: int = 400) -> tuple[list[float], list[float]]:
    """Steps and values of one metric; of a long run, the means of as many neighbours as bring it down to `most`."""
    found = [(x, y) for x, row in steps if (y := number(row.get(key))) is not None]
    size = math.ceil(len(found) / most) or 1
    groups = [found[i : i + size] for i in range(0, len(found), size)]
    return [_mean([x for x, _ in g]) for g in groups], [_mean([y for _, y in g]) for g in groups]


def running_mean(values: Sequence[float], reach: int) -> list[float]:
    """The mean of each value with its `reach` neighbours on either side, as far as there are any."""
    return [_mean(values[max(0, place - reach) : place + reach + 1]) for place in range(len(values))]


def _only(panel: Panel, present: set[str]) -> Panel:
    axes = [replace(axis, lines=tuple(line for line in axis.lines if line.key in present)) for axis in panel.axes]
    return replace(panel, axes=tuple(axis for axis in axes if axis.lines))


def _telling_nothing(steps: Steps) -> set[str]:
    """Metrics whose curve would lie on another one or stay at the number in the config."""
    paid_as_judged = all(number(row.get("score")) in (None, number(row.get("reward"))) for _, row in steps)
    epochs = {number(row.get("epochs")) for _, row in steps} - {None}
    return ({"score"} if paid_as_judged else set()) | ({"epochs"} if len(epochs) == 1 else set())


def _with_levels(panel: Panel, levels: tuple[tuple[float, str], ...]) -> Panel:
    return replace(panel, axes=tuple(replace(axis, levels=levels) for axis in panel.axes))


def _unplanned(place: int, key: str) -> Panel:
    return Panel(
        f"metric-{place}", key.replace("_", " "), "Recorded by the run.", (Axis("value", (Line(key, "value"),)),)
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
