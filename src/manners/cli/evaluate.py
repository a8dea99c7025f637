"""`manners evaluate`: what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from manners.cli import card, gate, harness, overlap, reward_bench
from manners.cli.data import read_split
from manners.cli.options import ConfigFile, Data, Json, Replace, RunFolder, Sets
from manners.cli.talk import give, table, track
from manners.config import load_config
from manners.feedback import pairs as pairing
from manners.runs import Run


class _CardByDefault(TyperGroup):
    """What names no command is an argument of `card`: `manners evaluate MODEL` is `manners evaluate card MODEL`. With --data or --split,
    which ask for held-out prompts, it is one of `policy`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        named = not args or args[0] in {*self.commands, *ctx.help_option_names}
        held_out = any(arg.partition("=")[0] in ("--data", "--split") for arg in args)
        return super().parse_args(ctx, args if named else ["policy" if held_out else "card", *args])


app = typer.Typer(
    cls=_CardByDefault,
    no_args_is_help=True,
    help="Evaluate MODEL (or card MODEL): the behaviour card. And what the commands below measure.",
)
app.command("card")(card.card)
app.command("reward")(reward_bench.reward)
app.command("gate")(gate.gate)
app.command("overlap")(overlap.overlap)
app.command("tasks")(harness.tasks)


@app.command()
def policy(
    run: Annotated[Path, typer.Argument(help="a run that trained a policy against a judge")],
    data: Data = Path("pairs"),
    split: Annotated[str, typer.Option(help="which prompts")] = "test",
    sets: Sets = None,
    as_json: Json = False,
) -> None:
    """Before and after on prompts never trained on, by the optimised judge and by the second judge."""
    from manners.evaluate.policy import EvaluateConfig, evaluate_run

    held = pairing.prompts_of(read_split(data, split))
    evaluation = evaluate_run(Run.open(run), held, load_config(EvaluateConfig, None, sets or []), track)
    if as_json:
        give({"run": str(run), "rows": evaluation["rows"]})
    else:
        columns = ("", "before", "after", "gain", "95 % interval", "unit")
        table(f"{run}: {evaluation['prompts']} held-out prompts", columns, [_gain(row) for row in evaluation["rows"]])


def _gain(row: dict[str, Any]) -> tuple[str, ...]:
    numbers = (f"{row['before']:.3f}", f"{row['after']:.3f}", f"{row['gain']:+.3f}", interval(row["ci"]))
    return (row["label"], *numbers, row["unit"])


def interval(ends: list[float | None]) -> str:
    """[low, high], or a dash where it is undefined (a single prompt)."""
    return "–" if None in ends else "[" + ", ".join(f"{end:+.3f}" for end in ends if end is not None) + "]"


@app.command()
def overoptimisation(
    config: ConfigFile = None,
    run: RunFolder = Path("runs/overoptimisation"),
    sets: Sets = None,
    replace: Replace = False,
) -> None:
    """How far a reward model can be followed, in a made-up world whose true reward is known. The last line of stdout is one JSON object."""
    from manners.evaluate.overoptimisation import OveroptimisationConfig, measure_overoptimisation, summary
    from manners.report.overoptimisation import write_plot

    made = Run.create(
        run, "overoptimisation", settings := load_config(OveroptimisationConfig, config, sets or []), {}, replace
    )
    with made.guard():
        result = measure_overoptimisation(settings, made, track)
    plot = write_plot(run / "overoptimisation.svg", result)
    give({"run": str(run), "plot": str(plot), **summary(result), "seconds": made.status["seconds"]})
