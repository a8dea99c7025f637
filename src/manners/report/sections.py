"""The sections of a report below its headline. One whose evidence is missing says so, and what to do about it."""

from __future__ import annotations

import json

from manners.report import answers, figures, verdict
from manners.report.blocks import StripColumn, cell, heading, missing, row, section, strip_table, table
from manners.report.curves import Colour, panels
from manners.report.evidence import Evidence, Row, by_step, kl_levels, mapping, mappings
from manners.report.guards import fired
from manners.report.markup import Html, tag
from manners.report.microscope import microscope
from manners.report.numerals import between, decimals, duration, interval, number, percent, plain, signed
from manners.report.rollouts import read_rollouts

# Numbers of an evaluation that are shares of 0 to 1, shown as percentages.
SHARES = frozenset({"finished", "distinct_2", "accuracy"})
STAGES = {
    "reward": "Reward",
    "second_judge": "Second judge",
    "kl": "KL, nats per sequence",
    "length": "Length, tokens",
    "finished": "Finished",
    "distinct_2": "Distinct word pairs",
}
PHASES = {
    "sample": "sample answers",
    "score": "score them",
    "reference": "ask the reference",
    "advantage": "work out advantages",
    "update": "update the policy",
    "evaluate": "look at held-out prompts",
}
PARTS = {
    "sample": "sampling, the rest",
    "prefill": "sampling: prefill",
    "decode": "sampling: decode",
    "score": "the judge",
    "second judge": "the second judge",
    "reference": "the reference",
    "values": "the value function",
    "advantage": "advantages",
    "optimizer": "optimizer step",
    "record": "writing rollouts down",
    "evaluate": "held-out prompts",
}
JUDGE_COLOURS: dict[str, Colour] = {"reward": "blue", "second_judge": "orange"}


def numbers(evidence: Evidence) -> Html | None:
    """The table of the evaluation: before, after, gain and its interval, drawn and read."""
    title = "Before and after"
    rows = mappings(evidence.evaluation.get("rows"))
    if not rows and evidence.is_policy:
        hint = "`manners evaluate policy` compares the weights before and after, and writes it."
        return section("numbers", title, None, missing("No answers were evaluated: nothing has an interval.", hint))
    if not rows:
        return None
    count = number(evidence.evaluation.get("prompts"))
    lede = f"Measured on {plain(count, 0)} prompts that training did not see. " if count is not None else ""
    lede += (
        "The same prompts were answered before and after; the gain is the mean of the differences. A dot is the gain, "
        "its bar the 95 % interval, the upright line no change; each row has its own scale. A hollow dot means that "
        "chance is not ruled out."
    )
    head = tag("tr", heading("Measured", "Before", "After", "Gain", "95 % interval", "", "Prompts", "Reads as"))
    body = [_number_row(place, values) for place, values in enumerate(rows)]
    return section("numbers", title, lede, table("numbers", head, body))


def _number_row(place: int, values: Row) -> Html:
    name, read = str(values.get("name", "")), verdict.reading(values)
    scale, unit = (100.0, "%") if name in SHARES else (1.0, str(values.get("unit") or ""))
    before, after, gain = (
        None if (v := number(values.get(k))) is None else v * scale for k in ("before", "after", "gain")
    )
    found = interval(values.get("ci"))
    span = None if found is None else (found[0] * scale, found[1] * scale)
    places = 1 if name in SHARES else decimals(before, after, gain)
    # A small gain on a large number keeps the digits of the gain.
    fine = max(places, decimals(gain, *(span or ()))) if name not in SHARES else 1
    label = str(values.get("label") or name)
    strip = None
    if gain is not None:
        reach = 1.12 * max(abs(v) for v in (gain, *(span or ()))) or 1.0
        colour = JUDGE_COLOURS.get(name, "blue")
        strip = figures.interval_strip(f"number-{place}", f"{label}: gain", gain, span, (-reach, reach), colour)
    return tag(
        "tr",
        tag("th", label, tag("small", unit) if unit else None, scope="row"),
        cell("Before", plain(before, places)),
        cell("After", plain(after, places)),
        cell("Gain", signed(gain, fine), class_="gain"),
        cell("95 % interval", between(span, fine, sign=True), class_="span"),
        tag("td", strip, class_="strip"),
        cell("Prompts", plain(number(values.get("n")), 0)),
        cell("Reads as", tag("span", read, class_=f"reading {read.split()[0]}"), class_="reads"),
    )


def stages(evidence: Evidence) -> Html | None:
    """How the model did at each stage of its making, from the starter to the last weights."""
    rows = mappings(evidence.evaluation.get("stages"))
    keys = [key for key in STAGES if any(number(values.get(key)) is not None for values in rows)]
    if not keys:
        return None
    limits = {k: figures.common_limits([number(r.get(k)) for r in rows]) for k in keys if k in JUDGE_COLOURS}
    labels = [label for key in keys for label in ((STAGES[key], "") if key in limits else (STAGES[key],))]
    body = []
    for place, values in enumerate(rows):
        cells = []
        for key in keys:
            value = number(values.get(key))
            cells.append(cell(STAGES[key], percent(value, 1) if key in SHARES else plain(value)))
            if key not in limits:
                continue
            low, strip = limits[key][0], None
            if value is not None:
                at = f"stage-{place}-{key}"
                strip = figures.interval_strip(at, STAGES[key], value, None, limits[key], JUDGE_COLOURS[key], low)
            cells.append(tag("td", strip, class_="strip"))
        body.append(row(str(values.get("name", "")), *cells))
    lede = "Each stage answered the same prompts. Every column of dots has one scale."
    return section("stages", "Stage by stage", lede, table("stages", tag("tr", heading("Stage", *labels)), body))


def categories(evidence: Evidence) -> Html | None:
    """The gains of both judges in each category of prompts, all on one scale for each judge."""
    rows = {str(k): v for k, v in mapping(evidence.evaluation.get("by_category")).items() if mapping(v)}
    columns = [
        column
        for column in (
            StripColumn("Reward", "reward_gain", "ci", JUDGE_COLOURS["reward"]),
            StripColumn("Second judge", "second_judge_gain", "second_judge_ci", JUDGE_COLOURS["second_judge"]),
        )
        if any(number(values.get(column.value)) is not None for values in rows.values())
    ]
    if not columns:
        return None
    lede = (
        "Did every kind of prompt gain, or only some? A hollow dot means that chance is not ruled out; few prompts "
        "give wide intervals."
    )
    filled = strip_table("category", "Category", {"": rows}, columns, ("Prompts", "n"))
    return section("categories", "By kind of prompt", lede, filled)


def curves(evidence: Evidence) -> Html:
    """Every metric over the steps of the run, each with a sentence on what it should look like."""
    title = "The course of training"
    steps = by_step(evidence.metrics)
    shown = panels(evidence.kind, steps, kl_levels(evidence.config))
    if not shown:
        return section("curves", title, None, missing("There are no metrics: the run ended before its first step."))
    kept = max((x for x, values in steps if values.get("best") is True), default=None)
    lede = (
        "Thin lines are single steps, thick ones their running mean; dots are measured now and then, on held-out data."
    )
    if kept is not None:
        lede += (
            f" The dotted upright line marks step {kept:g}, whose weights were kept as the best on held-out prompts."
        )
    if any(number(values.get("member")) for _, values in steps):
        lede += " The members of the ensemble were trained one after another, and so stand their curves."
    alarms: dict[str, list[float]] = {}
    for alarm in fired(steps):
        alarms.setdefault(alarm.metric, []).append(alarm.step)
    if alarms:
        lede += " A triangle is an alarm of a guard."
    drawn = [
        tag(
            "figure",
            tag("figcaption", tag("h3", panel.title), tag("p", panel.lesson)),
            figures.curve_panel(panel, steps, kept, alarms),
        )
        for panel in shown
    ]
    return section("curves", title, lede, tag("div", *drawn, class_="panels"))


def time_by_phase(evidence: Evidence) -> Html | None:
    """Where the time of the steps went."""
    timed = [(x, phases) for x, values in by_step(evidence.timings) if (phases := mapping(values.get("phase_seconds")))]
    if not timed:
        return None
    names = list(dict.fromkeys(str(name) for _, phases in timed for name in phases))
    seconds = {name: [max(0.0, number(phases.get(name)) or 0.0) for _, phases in timed] for name in names}
    sums = {name: sum(seconds[name]) for name in names}
    total = sum(sums.values())
    body = [
        tag(
            "tr",
            tag("th", figures.phase_swatch(place), PHASES.get(name, name), scope="row"),
            cell("Time", duration(sums[name])),
            cell("Share", percent(sums[name] / total if total else None)),
        )
        for place, name in enumerate(names)
    ]
    body.append(row("altogether", cell("Time", duration(total)), cell("Share", ""), class_="total"))
    picture = tag("figure", figures.phase_bars("phase", names, [x for x, _ in timed], seconds))
    lede = "Sampling usually takes the largest part; a phase that grows from step to step is worth a look."
    filled = table("phases", tag("tr", heading("Phase", "Time", "Share")), body)
    return section("time", "Where the time went", lede, tag("div", picture, filled, class_="beside"))


def time_by_part(evidence: Evidence) -> Html | None:
    """Where the time of a step goes, part by part, of a run that was profiled."""
    rows = [
        (profile, number(values.get("seconds")) or 0.0)
        for _, values in by_step(evidence.timings)
        if (profile := mapping(values.get("profile_seconds")))
    ]
    if not rows:
        return None
    steady = rows[1:] or rows
    names = list(dict.fromkeys(str(name) for profile, _ in steady for name in profile))
    means = {
        PARTS.get(name, name): sum(max(0.0, number(profile.get(name)) or 0.0) for profile, _ in steady) / len(steady)
        for name in names
    }
    rest = sum(seconds for _, seconds in steady) / len(steady) - sum(means.values())
    means |= {"everything else": rest} if rest > 0 else {}
    total = sum(means.values())

    def seconds_and_share(value: float) -> tuple[Html, Html]:
        return cell("Seconds", plain(value, 3)), cell("Share", percent(value / total if total else None))

    body = [row(part, *seconds_and_share(value)) for part, value in means.items()]
    body.append(row("a step", *seconds_and_share(total), class_="total"))
    lede = (
        f"The mean of {len(steady)} steps, without the first, which warms up. "
        if len(rows) > 1
        else "One step, the first, which warms up. "
    )
    lede += (
        "No second counts twice: the optimizer step is no part of its epoch. The profile waits for the device at each end of a "
        "part, so that a profiled step may be slower than others."
    )
    filled = table("parts", tag("tr", heading("Part", "Seconds", "Share")), body)
    picture = tag("figure", figures.part_bars("profile", means))
    return section("profile", "A step, part by part", lede, tag("div", picture, filled, class_="beside"))


def before_and_after(evidence: Evidence) -> Html | None:
    """The answers before and after, to read."""
    title = "Answers before and after"
    pairs = mappings(evidence.evaluation.get("samples"))
    if pairs:
        lede = (
            "Numbers say that something changed, answers say what. Read the largest gains first, then those where the "
            "judges disagree most."
        )
        return section("answers", title, lede, answers.side_by_side(pairs))
    if not evidence.is_policy:
        return None
    hint = "`manners evaluate policy` keeps the answers that it measured."
    return section("answers", title, None, missing("No answers were compared.", hint))


def rollouts(evidence: Evidence) -> Html | None:
    """The answers that the run wrote down while it trained, open to the token."""
    title = "Under the microscope"
    found = read_rollouts(evidence.samples)
    if found:
        traced = any(rollout.trace for rollout in found)
        lede = "Answers that the model gave while it trained. "
        lede += "Open one to see what the update saw of every token. " if traced else ""
        lede += "To look for reward hacking, read the largest rewards, and where the judges disagree."
        return section("microscope", title, lede, microscope(found, evidence.config))
    if not evidence.is_policy:
        return None
    return section("microscope", title, None, missing("The run has left no samples.jsonl."))


def made_from(evidence: Evidence, tree: Html) -> Html:
    """Where the weights come from."""
    if not evidence.made_from:
        return section("lineage", "Made from", None, missing("The lineage.json of this run names no sources."))
    lede = "Each run and file with the hash of its content, down to the judgements. Equal hashes are equal contents."
    return section("lineage", "Made from", lede, tree)


def settings(evidence: Evidence) -> Html:
    """Configuration and environment, folded: what it takes to run the same thing again."""
    machine = json.dumps(evidence.environment, indent=2, ensure_ascii=False) if evidence.environment else ""
    config = tag("pre", evidence.config_text) if evidence.config_text else missing("There is no config.yaml.")
    versions = tag("pre", machine) if machine else missing("There is no environment.json.")
    return section(
        "settings",
        "To run it again",
        None,
        tag("details", tag("summary", "Configuration, every default written out"), config),
        tag("details", tag("summary", "Versions and machine"), versions),
    )
