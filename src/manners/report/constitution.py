"""What a constitution did: the rounds of critique and revision to read, and each phase before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from manners.constitution.steps import VERDICTS, Step, by_prompt, read_steps
from manners.errors import MannersError
from manners.report.answers import answer, conversation, side_by_side
from manners.report.blocks import cell, heading, missing, row, section, table
from manners.report.evidence import Evidence, Row, gather, mapping, mappings
from manners.report.lists import controls, more
from manners.report.markup import Html, tag
from manners.report.numerals import between, interval, number, percent, plain, signed
from manners.report.sections import curves
from manners.report.verdict import Verdict
from manners.runs import Run, read_jsonl

KINDS: Mapping[str, str] = {
    "revise": "Critique and revision",
    "prefer": "Feedback from a model",
    "judge": "How good a judge is",
    "constitution": "Constitutional AI",
}
STAGES = {"before": "Before", "after_sl": "After phase 1", "after_rl": "After PPO"}
MEASURES = {
    "harmless": "Harmless, by the AI judge",
    "not_toxic": "Not toxic, by the offline scorer",
    "helpful": "Helpful, by people's judgements",
    "boilerplate": "Stock phrases",
    "preaching": "Preaching",
    "refusals": "Refusals of helpful prompts",
    "words": "Words per answer",
}
SHARES = ("boilerplate", "preaching", "refusals")
QUALITY = {
    "agreement": "agrees with people",
    "agreement_one_order": "the same, asked in one order",
    "flip_rate": "winner changes with the order",
    "first_wins": "the answer shown first wins",
    "longer_wins": "the longer answer wins",
}
MOST_PROMPTS = 200


def verdict(evidence: Evidence) -> Verdict:
    """What can be said in a line."""
    found = evidence.evaluation
    match evidence.kind:
        case "revise" if found:
            said = f"{plain(number(found.get('accepted')), 0)} of {plain(number(found.get('revisions')), 0)} revisions were accepted"
            learned = f"{plain(number(found.get('demonstrations')), 0)} demonstrations to learn from."
            return Verdict("unknown", said, (learned,))
        case "constitution" if mappings(found.get("measures")):
            return _worth(mappings(found.get("measures")))
        case "prefer" | "judge" if found:
            return Verdict("unknown", f"{_share(found.get('flip_rate'))} of the winners change with the order")
        case _:
            return Verdict("unknown", "The run has not come to its end")


def _worth(measures: Sequence[Row]) -> Verdict:
    """Better where one yardstick of harmlessness rose beyond chance and none, nor helpfulness, fell."""
    gains = {str(m.get("measure")): mapping(mapping(m.get("gains")).get("after_rl")) for m in measures}
    every = {name: interval(gain.get("ci")) for name, gain in gains.items()}
    spans = {name: every.get(name) for name in ("harmless", "not_toxic", "helpful")}
    beside = [
        MEASURES[n]
        for n, span in every.items()
        if n in MEASURES and n not in spans and span and (span[0] > 0 or span[1] < 0)
    ]
    up = [MEASURES[name] for name, span in spans.items() if span and span[0] > 0]
    down = [MEASURES[name] for name, span in spans.items() if span and span[1] < 0]
    reasons = (
        f"Of harmlessness and helpfulness, rose beyond chance: {'; '.join(up) or 'nothing'}.",
        f"Fell beyond chance: {'; '.join(down) or 'nothing'}.",
        *([f"What changed beside them, beyond chance: {'; '.join(beside)}."] if beside else []),
    )
    if down:
        return Verdict("mixed" if up else "worse", "Something was lost" if up else "It got worse", reasons)
    if up:
        return Verdict("better", "Something was gained and nothing was lost, beyond chance", reasons)
    return Verdict("same", "No change of harmlessness or helpfulness that chance does not explain", reasons)


def parts(evidence: Evidence, run: Run) -> list[Html | None]:
    """The sections of a run of one of KINDS."""
    match evidence.kind:
        case "revise":
            return [*_rounds(evidence.evaluation), reader(run.path)]
        case "constitution":
            return _phases(evidence, run)
        case _:
            return [quality(evidence.evaluation)]


def _phases(evidence: Evidence, run: Run) -> list[Html | None]:
    revised, ppo = run.path / "revise", run.path / "ppo"
    found = evidence.evaluation
    phase_1 = _rounds(gather(Run.open(revised)).evaluation) if (revised / "lineage.json").exists() else []
    return [
        _measures(mappings(found.get("measures"))), _by_round(mappings(found.get("by_round"))), *phase_1,
        quality(mapping(found.get("judge"))), _models(found),
        curves(gather(Run.open(ppo))) if (ppo / "lineage.json").exists() else None,
        _answers(run.path / "answers.jsonl"), reader(revised),
    ]  # fmt: skip


def _measures(measures: Sequence[Row]) -> Html:
    title = "What it was worth"
    if not measures:
        return section(
            "worth", title, None, missing("It was not measured yet.", "`manners constitution run --resume` goes on.")
        )
    lede = (
        "The same prompts, from which nothing learned, answered at each stage; gains are paired by prompt. Yardsticks differ on"
        " purpose: the AI judge was the teacher, the toxicity scorer reads words alone, and the helpfulness model learned from"
        " judgements that nothing else here learned from."
    )
    head = tag("tr", heading("Measured", *STAGES.values(), "Gain of phase 1", "Gain in all", "Prompts"))
    body = []
    for found in measures:
        name, stages, gains = str(found.get("measure")), mapping(found.get("stages")), mapping(found.get("gains"))
        cells = [cell(label, _told(mapping(stages.get(key)), name in SHARES)) for key, label in STAGES.items()]
        cells += [
            cell("Gain of phase 1", _told(mapping(gains.get("after_sl")), name in SHARES, sign=True)),
            cell("Gain in all", _told(mapping(gains.get("after_rl")), name in SHARES, sign=True)),
            cell("Prompts", plain(number(mapping(stages.get("before")).get("n")), 0)),
        ]
        body.append(row(MEASURES.get(name, name), *cells))
    meanings = [
        tag("li", tag("b", MEASURES.get(str(m.get("measure")), "")), ": ", str(m.get("meaning"))) for m in measures
    ]
    return section("worth", title, lede, table("worth", head, body), tag("ul", *meanings, class_="quiet"))


def _by_round(rows: Sequence[Row]) -> Html | None:
    if not rows:
        return None
    names = [name for name in MEASURES if name in rows[0]]
    head = tag("tr", heading("Round", *(MEASURES[name] for name in names), "Prompts"))
    body = [
        row(str(found.get("round")), *(cell(MEASURES[name], _told(mapping(found.get(name)), name in SHARES)) for name in names),
            cell("Prompts", plain(number(mapping(found.get("harmless")).get("n")), 0)))
        for found in rows
    ]  # fmt: skip
    lede = "The text that stands after each round of revision, all on the red-team prompts that were revised; round 0 is the first answer."
    return section("by-round", "By round of revision", lede, table("by-round", head, body))


def _rounds(evaluation: Row) -> list[Html]:
    """How the revisions were taken, round by round, and what came of each principle."""
    rounds = mappings(evaluation.get("rounds"))
    if not rounds:
        return [section("rounds", "Round by round", None, missing("No round is finished."))]
    kinds = [kind for kind in VERDICTS if any(number(mapping(r.get("verdicts")).get(kind)) for r in rounds)]
    head = tag("tr", heading("Round", *kinds, "stock phrases", "preaching", "words"))
    body = []
    for found in rounds:
        counts = mapping(found.get("verdicts"))
        cells = [cell(kind, plain(number(counts.get(kind)) or 0, 0)) for kind in kinds]
        cells += [cell("stock phrases", _told(mapping(found.get("boilerplate")), True)),
                  cell("preaching", _told(mapping(found.get("preaching")), True)),
                  cell("words", plain(number(found.get("words")), 1))]  # fmt: skip
        body.append(row(str(found.get("round")), *cells))
    meanings = tag("ul", *(tag("li", tag("b", kind), ": ", VERDICTS[kind]) for kind in kinds), class_="quiet")
    lede = "A revision that is not accepted is kept, and the text before it stays. Wording is counted in what stands after a round."
    principles = [
        row(
            name,
            cell("Drawn", plain(number(count.get("drawn")), 0)),
            cell("Accepted", plain(number(count.get("accepted")), 0)),
        )
        for name, count in ((str(k), mapping(v)) for k, v in mapping(evaluation.get("principles")).items())
    ]
    used = section(
        "principles", "Principles", "How often each was drawn, and how often its revision was accepted.",
        table("principles", tag("tr", heading("Principle", "Drawn", "Accepted")), principles),
    )  # fmt: skip
    return [section("rounds", "Round by round", lede, table("rounds", head, body), meanings), used]


def reader(run: Path) -> Html:
    """Each prompt of a run of critique and revision with all its rounds, to be read."""
    title = "Critiques and revisions"
    try:
        steps = by_prompt(read_steps(run))
    except MannersError as error:
        return section("steps", title, None, missing(str(error)))
    categories = sorted({own[0].prompt.category for own in steps} - {""})
    cards = tag("div", *(_card(place, own) for place, own in enumerate(steps[:MOST_PROMPTS])), class_="samples list")
    rest = (
        tag("p", f"{len(steps) - MOST_PROMPTS} more are in revisions.jsonl.", class_="quiet")
        if len(steps) > MOST_PROMPTS
        else None
    )
    lede = (
        "Read how an answer changed: the first answer, then in each round the principle, the critique and the revision."
    )
    return section("steps", title, lede, controls({"order": "as they came"}, categories), cards, more(), rest)


def _card(place: int, own: Sequence[Step]) -> Html:
    first = own[0]
    return tag(
        "article",
        tag("header", tag("span", first.prompt.category, class_="kind")) if first.prompt.category else None,
        tag("div", conversation(first.prompt.to_json()), class_="prompt", dir="auto"),
        tag("section", tag("h4", "Answer"), answer(first.revision)),
        *(_round(step) for step in own[1:]),
        class_="sample",
        data_order=-place,
        data_category=first.prompt.category,
    )


def _round(step: Step) -> Html:
    facts = f"{step.principle} · {step.verdict} · seed {step.seed}"
    return tag(
        "section",
        tag("h4", f"Round {step.round}", tag("small", facts)),
        tag("p", tag("b", "Critique"), " ", step.critique or "(empty)", class_="quiet", dir="auto"),
        answer(step.revision),
    )


def quality(found: Row) -> Html:
    """How good the judge is."""
    rows = [(label, mapping(found.get(key))) for key, label in QUALITY.items() if mapping(found.get(key))]
    if not rows:
        return section("ai-judge", "The AI judge", None, missing("It was not measured."))
    body = [
        row(label, cell("Value", _told(values, True)), cell("Comparisons", plain(number(values.get("n")), 0)))
        for label, values in rows
    ]
    lede = f"{found.get('judge', 'The judge')}, on comparisons that were judged before. Below half it would teach the opposite."
    head = tag("tr", heading("Measured", "Value", "Comparisons"))
    return section("ai-judge", "The AI judge", lede, table("ai-judge", head, body))


def _models(found: Row) -> Html:
    body = [
        row(
            label,
            cell("Right", percent(number(values.get("accuracy")), 1)),
            cell("Pairs", plain(number(values.get("n_pairs")), 0)),
        )
        for label, values in (
            ("Preference model, which PPO follows", mapping(found.get("preference_model"))),
            ("Helpfulness model, which only measures", mapping(found.get("helpfulness_model"))),
        )
        if values
    ]
    lede = "How often each prefers what was preferred, on held-out judgements of helpfulness."
    return section(
        "models", "Reward models", lede, table("models", tag("tr", heading("Model", "Right", "Pairs")), body)
    )


def _answers(path: Path) -> Html:
    title = "Answers before and after"
    if not path.is_file():
        return section("answers", title, None, missing("No answers were compared yet."))
    by_id: dict[str, dict[str, object]] = {}
    for found in read_jsonl(path):
        sample = by_id.setdefault(
            str(found["prompt"]), {"prompt": found["prompt"], "category": found["prompt"].get("category", "")}
        )
        sample[{"before": "before", "after_rl": "after"}.get(found["stage"], "between")] = found["answer"]
    return section("answers", title, "The prompts that were measured on.", side_by_side(list(by_id.values())))


def _told(found: Row, share: bool = False, sign: bool = False) -> Html:
    """A number with its interval below it."""
    value, span = number(found.get("value")), interval(found.get("ci"))
    scale, unit = (100.0, "\u00a0%") if share else (1.0, "")
    shown = None if value is None else value * scale
    places = 0 if share else 2
    within = between((span[0] * scale, span[1] * scale), places, sign=sign) if span else None
    words = (signed if sign else plain)(shown, places)
    return tag("span", f"{words}{unit if value is not None else ''}", tag("small", f" {within}") if within else None)


def _share(found: object) -> str:
    return percent(number(mapping(found).get("value")), 0)
