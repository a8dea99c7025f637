"""`manners arena`: which model people prefer, as a table in the terminal."""

from __future__ import annotations

import typer

from manners.cli.talk import table
from manners.feedback.arena import Arena
from manners.feedback.estimates import Estimate


def show(report: Arena, place: str) -> None:
    """Print the sentences, the scores and who met whom. `place` is where the votes come from."""
    people = "person" if report.judges == 1 else "people"
    typer.echo(f"{place}: {report.votes} votes by {report.judges} {people} on {report.prompts} prompts")
    for sentence in report.sentences:
        typer.echo(sentence)
    if not report.standings:
        return
    rows = [
        (s.model, _points(s.score), _points(s.at_equal_length), s.votes, f"{s.mean_length:.0f}")
        for s in report.standings
    ]
    table("Scores", ("model", "score", "at equal length", "votes", "mean length"), rows)
    duels = [
        (d.first, d.second, d.wins, d.losses, d.ties, d.both_bad, d.rate.n, _percent(d.rate)) for d in report.duels
    ]
    table(
        "Who met whom",
        ("first", "second", "first won", "second won", "equal", "both bad", "n", "first preferred"),
        duels,
    )
    left_out = [f"{count} votes: {why}" for why, count in report.left_out.items() if count]
    typer.echo(f"Both bad: {_percent(report.both_bad)}. " + (f"Left out: {'; '.join(left_out)}." if left_out else ""))


def _points(estimate: Estimate) -> str:
    if estimate.value is None:
        return "–"
    return f"{estimate.value:.0f} ({estimate.low:.0f} to {estimate.high:.0f})"


def _percent(estimate: Estimate) -> str:
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return "–"
    return f"{100 * estimate.value:.0f} % ({100 * estimate.low:.0f} to {100 * estimate.high:.0f} %)"
