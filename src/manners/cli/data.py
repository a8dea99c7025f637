"""What commands read and write around the methods: prompts, pairs, lineage."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from manners.errors import MannersError
from manners.feedback import pairs as pairing
from manners.feedback.aggregation import comparisons_of, reliability, weighted
from manners.feedback.answers import demonstrations_in, read_answers
from manners.feedback.assign import Desk
from manners.feedback.batch import ANSWERS, MODES, BatchSettings, check_answers
from manners.feedback.guidelines import starter_guideline
from manners.feedback.materials import prompt_in, sampled
from manners.feedback.opinions import read_opinions
from manners.feedback.store import Store
from manners.records import SPLITS, Completion, Judgement, Pair, Prompt
from manners.runs import Run, file_hash, read_json, read_jsonl


def make_pairs(
    store: Store, out: Path, *, seed: int, validation: float, test: float, source: Any, halves: bool, weights: str = ""
) -> dict[str, Any]:
    """Write the pairs and rankings of a store, and with `halves` those of each half of the training prompts; gives the manifest.

    With `weights` "dawid-skene" each pair weighs as much as its judge can be believed; the manifest names the reliabilities.
    """
    judgements = list(store.judgements(source=source))
    made_from: dict[str, Any] = {
        "judgements": store.content_hash(), "seed": seed, "validation": validation, "test": test
    }  # fmt: skip
    reliabilities: Mapping[str, float] = {}
    if weights:
        reliabilities = _reliabilities(store)
        made_from["weights"] = {"by": weights, "reliabilities": reliabilities}
    splits = {
        split: weighted(pairs, reliabilities)
        for split, pairs in pairing.make_pairs(judgements, seed, validation, test).items()
    }
    rankings = {split: list(pairing.in_split(judgements, split, seed, validation, test)) for split in SPLITS}
    manifest = pairing.write_pairs(out, splits, rankings, **made_from)
    if halves:
        parts = pairing.halves(judgements, seed, validation, test)
        for name, part in zip(("first", "second"), parts, strict=True):
            half = [pair for judgement in part for pair in pairing.pairs_of(judgement)]
            pairing.write_pairs(
                out / name,
                {**splits, "train": weighted(half, reliabilities)},
                {**rankings, "train": part},
                half=name,
                **made_from,
            )
    return manifest


def _reliabilities(store: Store) -> Mapping[str, float]:
    trust = reliability(comparisons_of(read_opinions(store).latest()))
    if trust.undefined:
        raise MannersError(f"--weights dawid-skene: {trust.undefined}; leave the option out")
    return trust.values


def read_prompts(path: Path) -> list[Prompt]:
    """Prompts from a text file (one a line) or JSONL (prompts, judgements, or {"prompt": "text"}). Raises MannersError."""
    try:
        if path.suffix != ".jsonl":
            found = [Prompt.of(line.strip()) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        else:
            found = [prompt_in(row) for row in read_jsonl(path)]
    except (FileNotFoundError, IsADirectoryError):
        raise MannersError(f"{path} is not a file of prompts") from None
    except (KeyError, TypeError, ValueError) as error:
        raise MannersError(f"{path} holds a row that is no prompt: {error}") from None
    if not found:
        raise MannersError(f"{path} holds no prompts")
    return found


def batch_settings(name: str, mode: str, answers: int) -> BatchSettings:
    """Settings of a batch of items with so many answers. Raises MannersError where the mode takes another number."""
    one_of("--mode", mode, MODES)
    settings = BatchSettings.model_validate({"name": name, "mode": mode})
    check_answers(settings.mode, answers)
    return settings


def make_batch(store: Store, settings: BatchSettings, rows: Sequence[tuple[Prompt, Sequence[Completion]]]) -> str:
    """Make a batch of what a model answered; gives a line that says what it holds and how to go on."""
    materials = sampled(rows, ANSWERS[settings.mode][0])
    Desk(store).create(settings, starter_guideline(), materials)
    same = f" ({len(rows) - len(materials)} left out: too few different answers)" if len(materials) < len(rows) else ""
    return f"batch {settings.name!r}: {len(materials)} prompts{same}; next, manners serve or manners rank"


def prompts_for(named: str, data: Path | None, seed: int) -> tuple[list[Prompt], list[Prompt]]:
    """Prompts to train on and held-out ones: from the file `named`, from the built-in ones ("starter"), else from the pairs in `data`.

    Held-out prompts are the validation split of the pairs where `data` is given, else a tenth of the prompts named (their own
    split where they have one); those of a test split are left alone.
    """
    if not named:
        splits = [pairing.prompts_of(read_split(data or Path("pairs"), split)) for split in ("train", "validation")]
        return splits[0], splits[1]
    if named == "starter":
        with resources.as_file(resources.files("manners") / "starter" / "judgements.jsonl") as judgements:
            asked = read_prompts(judgements)
    else:
        asked = read_prompts(Path(named))
    if data:
        return asked, pairing.prompts_of(read_split(data, "validation"))
    split = {p.id: pairing.split_of(p, seed, validation=0.1, test=0) for p in asked}
    return [p for p in asked if split[p.id] == "train"], [p for p in asked if split[p.id] == "validation"]


def read_split(data: Path, split: str) -> list[Pair]:
    """The pairs of one split of a folder that `manners pairs` wrote. Raises MannersError where it is missing."""
    one_of("--split", split, SPLITS)
    if not (data / f"{split}.jsonl").exists():
        raise MannersError(
            f"{data} holds no {split}.jsonl; make it with `manners pairs --out {data}`, or name another --data"
        )
    return pairing.read_pairs(data / f"{split}.jsonl")


def read_demonstrations(data: Path, split: str, seed: int) -> list[tuple[Prompt, Completion]]:
    """What fine-tuning imitates: the preferred answers of a folder that `manners pairs` wrote, or all answers of a file of answers."""
    if data.is_file():
        return demonstrations_in(read_answers(data), split, seed)
    return pairing.preferred_of(read_split(data, split))


def read_rankings(data: Path, split: str) -> list[Judgement]:
    """The whole rankings of one split of such a folder. Raises MannersError where it holds none."""
    path = data / pairing.RANKINGS / f"{split}.jsonl"
    if not path.exists():
        raise MannersError(
            f"{data} holds no {pairing.RANKINGS}/{split}.jsonl, which ties and losses over whole rankings need;"
            f" make it anew with `manners pairs --out {data}`, or set loss=pairs and ties=drop"
        )
    return pairing.read_rankings(path)


def made_from(run: Path, **sources: Path | str) -> dict[str, Any]:
    """Lineage entries {path, hash, kind} of what a run is made from; paths are relative to the run's folder."""
    entries = {}
    for name, source in sources.items():
        if not source:
            continue
        path = Path(source)
        if not path.exists():
            entries[name] = {"path": str(source), "hash": "", "kind": "model"}
            continue
        entry = {"path": os.path.relpath(path, run), "kind": "file"}
        if (path / "lineage.json").exists():
            if not (path / "checkpoints").exists():
                raise MannersError(f"run {path} has no checkpoint to build on; let it finish, or name another run")
            entry |= {"kind": Run.open(path).kind, "hash": file_hash(path / "checkpoints")}
        elif (path / pairing.MANIFEST).exists():
            manifest = read_json(path / pairing.MANIFEST)
            entry |= {
                "kind": "pairs",
                "hash": file_hash(path / pairing.MANIFEST),
                "judgements": manifest["made_from"].get("judgements", ""),
            }
        else:
            entry["hash"] = file_hash(path)
        entries[name] = entry
    return entries


def one_of(option: str, value: str, known: tuple[str, ...]) -> None:
    """Raise MannersError where `value` is none of the known values of `option`."""
    if value not in known:
        raise MannersError(f"{option} must be one of {', '.join(k for k in known if k)}, not {value!r}")
