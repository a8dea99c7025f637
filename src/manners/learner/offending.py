"""A batch that made a run skip or stop is written down, so that somebody can look at it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from manners.batches import Rollouts, TokenBatch
from manners.errors import MannersError
from manners.runs import Run, write_jsonl, writing


@contextlib.contextmanager
def watching(run: Run, step: int, rollouts: Rollouts, batch: TokenBatch | None = None) -> Iterator[None]:
    """Whatever goes wrong within the block, the texts of `rollouts`, and the tensors of `batch` where there is one, are in
    RUN/offending before the error goes on."""
    try:
        yield
    except Exception as error:
        where = keep_texts(run, step, rollouts)
        if batch is not None:
            keep_tensors(run, step, batch)
        reason = str(error) if isinstance(error, MannersError) else f"{type(error).__name__}: {error}"
        raise MannersError(f"step {step}: {reason}; the batch is in {where}") from error


def keep_texts(run: Run, step: int, rollouts: Rollouts) -> Path:
    """Write the prompts and completions to RUN/offending/step-….jsonl and give its path."""
    path = run.path / "offending" / f"step-{step:06d}.jsonl"
    rows = zip(rollouts.prompts, rollouts.completions, strict=True)
    write_jsonl(path, ({"prompt": p.text, "completion": c.text, "finished": c.finished} for p, c in rows))
    return path


def keep_tensors(run: Run, step: int, batch: TokenBatch) -> Path:
    """Write every tensor of `batch` to RUN/offending/step-….safetensors and give its path; branch states are left out."""
    path = run.path / "offending" / f"step-{step:06d}.safetensors"
    found = {f.name: getattr(batch, f.name) for f in fields(batch) if f.name != "states"}
    with writing(path) as beside:
        # copies: fields may be views of one tensor, which safetensors refuses
        kept = {k: v.detach().cpu().contiguous().clone() for k, v in found.items() if isinstance(v, Tensor)}
        save_file(kept, beside)
    return path
