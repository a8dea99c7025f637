"""All commands together. Each reads its arguments, calls one function below, and says what came of it.

Commands that need torch import it when they are called, so that `manners import` starts at once and without it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import manners
from manners.cli import collect, constitution, evaluate, train, use
from manners.cli.options import ConfigFile, Data, RunFolder, Sets
from manners.cli.talk import give
from manners.config import load_config

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown",
                  help="From people's rankings to a language model that behaves better.")  # fmt: skip


@app.callback(invoke_without_command=True)
def _top(version: Annotated[bool, typer.Option("--version", help="print the version and stop")] = False) -> None:
    if version:
        typer.echo(manners.__version__)
        raise typer.Exit


@app.command()
def demo(
    run: RunFolder = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="seed of everything")] = 0,
    sets: Sets = None,
) -> None:
    """The main job, end to end, on the starter model and the starter judgements. The last line of stdout is one JSON object."""
    from manners.cli.demo import DemoConfig, run_demo

    give(run_demo(load_config(DemoConfig, None, [f"seed={seed}", *(sets or [])]), run))


@app.command()
def compare(
    config: ConfigFile = None,
    run: RunFolder = Path("runs/compare"),
    data: Data = Path("pairs"),
    split: Annotated[str, typer.Option(help="held-out prompts that all answer in the end")] = "test",
    sets: Sets = None,
) -> None:
    """Several methods on the same data with the same budget: one table, one plot. The last line of stdout is one JSON object."""
    from manners.cli.compare import compare_methods

    give(compare_methods(config, sets or [], data, split, run))


app.add_typer(collect.app)
app.add_typer(train.app, name="train")
app.add_typer(constitution.app, name="constitution")
app.add_typer(evaluate.app, name="evaluate")
app.add_typer(use.app)
