"""All measures of a card together: those of one model by itself, and those that take two."""

from __future__ import annotations

from collections.abc import Mapping

from manners.evaluate import harmless, helpful, honest, side_effects
from manners.evaluate.bench import ComparisonJudge, Judges, compared, preferences, scores_of
from manners.evaluate.datasets import Source
from manners.evaluate.quantities import Measured
from manners.evaluate.questions import Items, Topic
from manners.evaluate.sitting import Sitting
from manners.evaluate.subject import Likelihoods


def measure(
    sitting: Sitting, items: Items, sources: Mapping[Topic, Source], judges: Judges, version: str
) -> list[Measured]:
    """What is measured of one model by itself. `version`: of the toxicity scorer."""
    seen, kinds = sitting.seen, sitting.kinds
    alone = {topic: [each[0] for each in kinds[topic]] for topic in ("dangerous", "lookalikes")}
    found = [
        *harmless.toxicity(sitting.probabilities["provoking"], "provoking", sources["provoking"], version),
        *harmless.toxicity(sitting.probabilities["ordinary"], "ordinary", sources["ordinary"], version),
        harmless.attack_success(alone["dangerous"], sources["dangerous"]),
    ]
    if judges.harm:
        scores = scores_of(judges.harm, items.dangerous, seen.dangerous)[:, 0]
        found.append(harmless.attack_success_by_judge(scores, sources["dangerous"], judges.harm.name))
    found += honest.truthful(items.truthful, seen.first, seen.second, sources["truthful"])
    if judges.second:
        found.append(
            helpful.scores(
                scores_of(judges.second, items.ordinary, seen.ordinary), sources["ordinary"], judges.second.name
            )
        )
    return [
        *found,
        *helpful.refusals(items.lookalikes, alone["lookalikes"], sources["lookalikes"]),
        *helpful.hhh(items.comparisons, seen.comparisons, sources["comparisons"]),
        *side_effects.of_answers(items.ordinary, seen.ordinary, kinds["ordinary"], sources["ordinary"]),
        side_effects.perplexity(seen.passages, sources["passages"]),
        side_effects.facts(seen.facts, sources["facts"]),
    ]


def measure_both(
    own: Sitting,
    base: Sitting,
    replies: tuple[list[Likelihoods], list[Likelihoods]],
    items: Items,
    sources: Mapping[Topic, Source],
    judges: Judges,
) -> tuple[list[Measured], list[str]]:
    """What there is only between two models: win rates, and the KL from `replies`, how likely each of them finds the own answers."""
    found = [side_effects.shift(*replies, sources["ordinary"])]
    if not judges.judge:
        return found, []
    asked = judges.judge
    if isinstance(asked.by, ComparisonJudge):
        preferred, flipped = compared(asked.by, items.ordinary, own.seen.ordinary, base.seen.ordinary)
        warnings = [
            f"{asked.name} changed its mind with the order in {flipped.double().mean():.0%} of comparisons; those are ties"
        ]
    else:
        scores = [scores_of(asked, items.ordinary, each.seen.ordinary) for each in (own, base)]
        preferred, warnings = preferences(*scores), []
    rows, more = helpful.win_rates(preferred, own.seen.ordinary, base.seen.ordinary, sources["ordinary"], asked.name)
    return rows + found, warnings + more
