"""`manners constitution`: principles in place of people."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from manners.cli.options import AcceptChanges, ConfigFile, Json, Replace, Resume, RunFolder, Sets
from manners.cli.talk import give, table
from manners.constitution.constitution import Constitution

app = typer.Typer(no_args_is_help=True, help="Constitution: show, check, run, revise, prefer, judge.")
File = Annotated[str, typer.Argument(help="constitution file (YAML), or 'default' for that of the package")]


@app.command()
def show(file: File = "default", as_json: Json = False) -> None:
    """The principles of a constitution."""
    constitution = Constitution.load(file)
    if as_json:
        give({**constitution.model_dump(mode="json"), "hash": constitution.hash})
        return
    typer.echo(f"{constitution.name}, version {constitution.version}, hash {constitution.hash}\n")
    table("Critique and revision", ("id", "about", "critique", "revision"),
          [(c.id, ", ".join(c.aspects), c.critique, c.revision) for c in constitution.critiques])  # fmt: skip
    table("Comparison", ("id", "about", "principle"),
          [(c.id, ", ".join(c.aspects), c.principle) for c in constitution.comparisons])  # fmt: skip


@app.command()
def check(file: Annotated[str, typer.Argument(help="constitution file (YAML)")], as_json: Json = False) -> None:
    """Whether a constitution is as it should be; the first thing that is wrong, in one line."""
    constitution = Constitution.load(file)
    counts = {
        "critiques": len(constitution.critiques),
        "comparisons": len(constitution.comparisons),
        "revision_examples": len(constitution.revision_examples),
        "comparison_examples": len(constitution.comparison_examples),
    }
    if as_json:
        give({"name": constitution.name, "version": constitution.version, "hash": constitution.hash, **counts})
        return
    said = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items())
    typer.echo(
        f"{constitution.name}, version {constitution.version}, hash {constitution.hash}: {said}; nothing is wrong"
    )


@app.command()
def revise(
    config: ConfigFile = None,
    run: RunFolder = Path("runs/revise"),
    prompts: Annotated[str, typer.Option(help="a file of prompts, or 'red_team' for those of the package")] = "",
    db: Annotated[str, typer.Option("--db", help="take the prompts from this feedback store")] = "",
    category: Annotated[str, typer.Option(help="only prompts of this category")] = "",
    written: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="so many more prompts, written by the model", min=0),
    ] = None,
    resume: Resume = None,
    accept_changes: AcceptChanges = False,
    sets: Sets = None,
    replace: Replace = False,
    as_json: Json = False,
) -> None:
    """Phase 1: answer, criticise and revise under the principles; leaves demonstrations for `manners train sft --data`."""
    from manners.cli.revising import run_revise, table_of

    given = {"prompts": prompts, "database": db, "category": category, "written": written}
    over = [f"{key}={value}" for key, value in given.items() if value not in ("", None)]
    made, numbers = run_revise(
        config, [*over, *(sets or [])], run=run, resume=resume, accept_changes=accept_changes, replace=replace
    )
    if as_json:
        give({"run": str(made.path), **numbers})
    else:
        table_of(made, numbers)


@app.command()
def prefer(
    config: ConfigFile = None,
    run: RunFolder = Path("runs/prefer"),
    prompts: Annotated[str, typer.Option(help="a file of prompts, or 'red_team' or 'helpful' of the package")] = "",
    mix: Annotated[
        str, typer.Option(help="judgements that the pairs are mixed with, say of helpfulness by people")
    ] = "",
    check_on: Annotated[
        str, typer.Option(help="comparisons by people that the judge is checked on first, or 'none'")
    ] = "",
    resume: Resume = None,
    retry: Annotated[bool, typer.Option("--retry", help="with --resume: ask again what failed")] = False,
    accept_changes: AcceptChanges = False,
    sets: Sets = None,
    replace: Replace = False,
    as_json: Json = False,
) -> None:
    """Phase 2: answers compared by a judge under the principles; leaves rankings, and soft pairs for `manners train reward --data`."""
    from manners.cli.preferring import run_prefer, table_of_preferences

    given = {"prompts": prompts, "mix": mix, "check_on": check_on}
    over = [f"{key}={value}" for key, value in given.items() if value]
    made, numbers = run_prefer(
        config,
        [*over, *(sets or [])],
        run=run,
        resume=resume,
        accept_changes=accept_changes,
        replace=replace,
        retry=retry,
    )
    if as_json:
        give({"run": str(made.path), **numbers})
    else:
        table_of_preferences(made, numbers)


@app.command()
def judge(
    config: ConfigFile = None,
    data: Annotated[
        str, typer.Option(help="judgements or pairs by people; 'starter': those of the package")
    ] = "starter",
    run: RunFolder = Path("runs/judge"),
    resume: Resume = None,
    retry: Annotated[bool, typer.Option("--retry", help="with --resume: ask again what failed")] = False,
    accept_changes: AcceptChanges = False,
    sets: Sets = None,
    replace: Replace = False,
    as_json: Json = False,
) -> None:
    """How good a judge is: agreement with people, flips on swapping, calibration, doubt, pull of length, by principle."""
    from manners.cli.preferring import run_judge, table_of_quality

    made, quality = run_judge(
        config, sets or [], data, run=run, resume=resume, accept_changes=accept_changes, replace=replace, retry=retry
    )
    if as_json:
        give({"run": str(made.path), **quality})
    else:
        table_of_quality(quality)


@app.command("run")
def run_both(
    config: ConfigFile = None,
    run: RunFolder = Path("runs/constitution"),
    resume: Resume = None,
    accept_changes: AcceptChanges = False,
    sets: Sets = None,
    replace: Replace = False,
) -> None:
    """Both phases and PPO in one go, and what they were worth. The last line of stdout is one JSON object."""
    from manners.cli.constitutional import run_constitution

    give(run_constitution(config, sets or [], run=run, resume=resume, accept_changes=accept_changes, replace=replace))
