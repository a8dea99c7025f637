"""`manners evaluate tasks`: our multiple choice for lm-evaluation-harness."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from manners.cli.options import Json
from manners.cli.talk import give, say
from manners.errors import MannersError

Datasets = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--datasets", help="folder with published sets, such as TruthfulQA.csv [default: our own items]"),
]


def tasks(
    folder: Annotated[Path, typer.Argument(help="folder to write; it must not exist")],
    datasets: Datasets = None,
    as_json: Json = False,
) -> None:
    """Write truthful answers and HHH comparisons as an offline task folder for lm-evaluation-harness (--include_path)."""
    from manners.evaluate.datasets import gather
    from manners.evaluate.harness import write_tasks

    if folder.exists():
        raise MannersError(f"{folder} exists already; choose another folder")
    items, sources, _ = gather(datasets)
    about = "; ".join(f"{sources[topic].name} ({sources[topic].licence})" for topic in ("truthful", "comparisons"))
    names = write_tasks(folder, items.truthful, items.comparisons, f"Items: {about}.")
    if as_json:
        give(
            {
                "folder": str(folder),
                "tasks": names,
                "items": [len(items.truthful), len(items.truthful), len(items.comparisons)],
            }
        )
        return
    say(f"{', '.join(names)} in {folder}: lm_eval --include_path {folder} --tasks manners", markup_of=str(folder))
