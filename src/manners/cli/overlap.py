"""`manners evaluate overlap`: was it trained on the test?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from manners.cli.options import Json
from manners.cli.talk import give, say, table
from manners.errors import MannersError

Trained = Annotated[
    Optional[list[Path]],  # noqa: UP045
    typer.Option("--training", help="file of training prompts; may be repeated"),
]


def overlap(
    prompts: Annotated[Path, typer.Argument(help="file of the evaluation's prompts")],
    model: Annotated[str, typer.Option("--model", help="run or checkpoint whose training prompts are followed")] = "",
    training: Trained = None,
    size: Annotated[int, typer.Option("--words", min=1, help="how many words in a row are an overlap")] = 8,
    as_json: Json = False,
) -> None:
    """Prompts of an evaluation that share a run of words with what a model was trained on, as far as its lineage tells."""
    from manners.evaluate.overlap import overlapping
    from manners.evaluate.training_data import TrainingPrompts, prompts_in_file, training_prompts

    if not model and not training:
        raise MannersError("name what it was trained on: --model RUN, or --training FILE")
    known = training_prompts(model) if model else TrainingPrompts((), (), ())
    given = [prompt for path in training or [] for prompt in prompts_in_file(path)]
    found = overlapping(prompts_in_file(prompts), [*known.prompts, *given], size)
    sources = [source.to_json() for source in known.sources]
    if as_json:
        give({**found.to_json(), "sources": sources, "unknown": list(known.unknown)})
        return
    say(f"{len(found.found)} of {found.checked} prompts overlap with {found.trained} training prompts")
    rows = [_cells(o.prompt.text, o.shared, o.training.text) for o in found.found]
    if rows:
        table("Overlaps", ("prompt", "shared words", "training prompt"), rows)
    for sentence in known.unknown:
        say(f"not followed: {sentence}", markup_of=sentence)


def _cells(*texts: str) -> list[str]:
    """Texts of a table, each on one line of at most 60 characters."""
    return [text if len(text) <= 60 else f"{text[:59]}…" for text in (" ".join(text.split()) for text in texts)]
