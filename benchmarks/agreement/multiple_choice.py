"""Multiple choice by lm-evaluation-harness on a folder that `manners evaluate tasks` wrote, beside our own on the same items.

    python -m venv lmeval && lmeval/bin/pip install torch lm-eval pydantic accelerate sqlalchemy gguf &&
    PYTHONPATH=src lmeval/bin/python benchmarks/agreement/multiple_choice.py [--model starter --limit 5]

It takes an environment of its own with lm-eval in it (seen with 0.4.13); nothing else here needs it. A run of ours is exported first, so
that the harness loads what `manners export` writes. The harness encodes context and choice together, pads on the left and reads
whole logits; ours packs the choices behind one context and never forms the logits of the context. The last line is one JSON object:
accuracy by both, and the largest difference of a choice's log-probability, in nats. The exit code is 1 where a choice differs by more
than the tolerance, or an accuracy by more than a choice that is as likely as another can explain.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

import lm_eval
from lm_eval.tasks import TaskManager

from manners.evaluate.datasets import gather
from manners.evaluate.harness import HHH, MC1, MC2, transcript, write_tasks
from manners.evaluate.honest import first_choice, true_share
from manners.evaluate.observation import truthful_context
from manners.evaluate.questions import Items
from manners.evaluate.subject import Likelihoods, TrunkSubject
from manners.models.export import export_merged
from manners.models.load import checkpoint_folder
from manners.models.starter import starter
from manners.models.tiny import tiny_llama, tiny_tokenizer
from manners.sampling.local import LocalSampler

TOLERANCE = 2e-3  # nats of a whole answer in float32


def folder_of(model: str, place: Path) -> str:
    """A plain Hugging Face checkpoint of the model: itself, an export of a run, or the tiny one with room for the long context."""
    if model == "tiny":
        tokenizer = tiny_tokenizer()
        tiny_llama(len(tokenizer), context=4096).save_pretrained(place)
        tokenizer.save_pretrained(place)
        return str(place)
    if checkpoint_folder(model):
        export_merged(model, place)
        return str(place)
    return str(starter()) if model == "starter" else model


def by_harness(folder: str, tasks: Path, limit: int | None) -> dict[str, Any]:
    found = lm_eval.simple_evaluate(
        model="hf", model_args={"pretrained": folder, "dtype": "float32"}, tasks=[MC1, MC2, HHH], limit=limit, device="cpu",
        task_manager=TaskManager(include_path=str(tasks)), batch_size=8, bootstrap_iters=0, log_samples=True,
    )  # fmt: skip
    assert found is not None, "only the first of several processes gets the results"
    return dict(found)


def by_ours(model: str, items: Items, limit: int | None) -> dict[str, list[Likelihoods]]:
    """Of every task the likelihoods of its choices."""
    subject = TrunkSubject(LocalSampler.of(model), max_tokens=1, temperature=1.0, seed=0)
    questions, comparisons = items.truthful[:limit], items.comparisons[:limit]
    contexts = [truthful_context(q.text) for q in questions]

    def ask(contexts: Sequence[str], choices: Sequence[Sequence[str]]) -> list[Likelihoods]:
        return subject.continuations(contexts, [[f" {choice}" for choice in each] for each in choices])

    return {
        MC1: ask(contexts, [(q.best, *q.false) for q in questions]),
        MC2: ask(contexts, [(*q.true, *q.false) for q in questions]),
        HHH: ask([transcript(c.prompt) for c in comparisons], [(c.chosen, c.rejected) for c in comparisons]),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="tiny, starter, a Hugging Face folder, or a run of ours")
    parser.add_argument("--limit", type=int, help="only the first so many items")
    parser.add_argument("--datasets", type=Path, help="folder with published sets")
    given = parser.parse_args()
    items, _, _ = gather(given.datasets)
    with tempfile.TemporaryDirectory() as place:
        tasks = Path(place) / "tasks"
        write_tasks(tasks, items.truthful, items.comparisons, "")
        folder = folder_of(given.model, Path(place) / "model")
        theirs = by_harness(folder, tasks, given.limit)
        ours = by_ours(given.model if checkpoint_folder(given.model) else folder, items, given.limit)
    scores = {
        MC1: [first_choice(found) for found in ours[MC1]],
        MC2: [true_share(found, len(q.true)) for found, q in zip(ours[MC2], items.truthful, strict=False)],
        HHH: [first_choice(found) for found in ours[HHH]],
    }
    report = {}
    agree = True
    for task, likelihoods in ours.items():
        samples = sorted(theirs["samples"][task], key=lambda sample: sample["doc_id"])
        gaps = [
            abs(logp - told[0])
            for sample, own in zip(samples, likelihoods, strict=True)
            for logp, told in zip(own.logps.tolist(), sample["filtered_resps"], strict=True)
        ]
        mean = sum(scores[task]) / len(scores[task])
        accuracy = float(theirs["results"][task]["acc,none"])
        report[task] = {"n": len(samples), "harness": accuracy, "ours": mean, "largest_gap_nats": max(gaps)}
        agree &= max(gaps) < TOLERANCE and abs(accuracy - mean) < 1.5 / len(samples)
    print(json.dumps({"model": given.model, "tasks": report, "agree": agree}))
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
