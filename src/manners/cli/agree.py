"""`manners agree`: the quality report as text, each number with the sentence that says what it means."""

from __future__ import annotations

from collections.abc import Mapping

import typer

from manners.cli.talk import table
from manners.feedback.estimates import Estimate
from manners.feedback.quality import Measure, Quality

_NOTHING = "–"


def show(report: Quality, what: str, names: Mapping[str, str]) -> None:
    """Print the report on stdout. `names` are those of annotators; who has none goes by the pseudonym."""
    typer.echo(
        f"{what}: {report.judgements} judgements of {report.questions} questions, {report.shared} of them by two people or more"
    )
    rows = [(m.title, _number(m.estimate.value), _span(m.estimate), _chance(m), m.estimate.n) for m in report.measures]
    table("Agreement", ("measure", "value", "95 % interval", "by chance", "n"), rows)
    for measure in report.measures:
        typer.echo(f"{measure.title}: {measure.reads}")
    typer.echo(f"Place on the screen: {report.position_reads}{_p(report.position.first)}")
    typer.echo(f"Length: {report.length_reads}{_p(report.length.longer)}")
    typer.echo(f"Reliability: {report.believed}")
    if report.annotators:
        _annotators(report, names)
    for standing in report.annotators:
        for remark in standing.remarks:
            other = f" (with {names.get(remark.other, remark.other)})" if remark.other else ""
            typer.echo(f"{names.get(standing.id, standing.id)}: {remark.text}{other}")


def _annotators(report: Quality, names: Mapping[str, str]) -> None:
    """Two tables, each narrow enough for a terminal of 80 columns."""
    rows = [
        (names.get(s.id, s.id), s.judgements, _percent(s.agreement), _percent(s.consensus), _number(s.reliability),
         _number(s.alpha_without))
        for s in report.annotators
    ]  # fmt: skip
    table("Annotators", ("annotator", "answers", "others", "clear", "reliability", "α without"), rows)
    typer.echo(
        "others: on the same side as another person. clear: the same where the others leave no doubt. reliability: Dawid and"
        " Skene, 1 always right, 0 by chance, below 0 the other way round. α without: of choices, among all the others."
    )
    habits = [
        (names.get(s.id, s.id), _percent(s.position.first), _percent(s.length.longer), _seconds(s.seconds), _percent(s.fast),
         _percent(s.constancy), _percent(s.gold))
        for s in report.annotators
    ]  # fmt: skip
    table("Habits", ("annotator", "first", "longer", "seconds", "fast", "again", "gold"), habits)
    typer.echo(
        "first, longer: how often that answer wins. seconds: median. fast: faster than anybody reads. again: the same answer when"
        " asked again. gold: of the known order."
    )


def _seconds(value: float | None) -> str:
    return _NOTHING if value is None else f"{value:.0f}"


def _chance(measure: Measure) -> str:
    return _NOTHING if measure.estimate.value is None else _number(measure.chance)


def _number(value: float | None) -> str:
    return _NOTHING if value is None else f"{value:.2f}"


def _percent(estimate: Estimate) -> str:
    return _NOTHING if estimate.value is None else f"{100 * estimate.value:.0f} %"


def _span(estimate: Estimate) -> str:
    return _NOTHING if estimate.low is None or estimate.high is None else f"{estimate.low:.2f} to {estimate.high:.2f}"


def _p(estimate: Estimate) -> str:
    if estimate.p is None:
        return ""
    return f" (n = {estimate.n}, p {'< 0.001' if estimate.p < 0.001 else f'= {estimate.p:.3f}'})"
