"""Fit a sequence classifier to labelled texts; the logit of one of its classes can then be a reward.

Labels come as texts with a class each, from a JSONL or CSV file. The texts are split by their hash, so that a text is
always on the same side and never on both. What is left out: choosing the best epoch (the numbers reported are those of
the last one, measured once on texts that decided nothing) and classes that exclude each other only sometimes.
"""

from __future__ import annotations

import csv
import errno
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import ConfigDict, Field
from safetensors import SafetensorError
from torch import Tensor

from manners.config import Config
from manners.errors import MannersError
from manners.models.recompute import recomputed
from manners.records import content_hash
from manners.rewards.classifier import ClassifierScorer, Row, load_tokenizer, local_checkpoint, one_line
from manners.runs import Run, write_json, writing

BINS = 15


class ClassifierConfig(Config):
    """How to fit the classifier."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    model: str = Field(description="the base: a folder or Hub id of an encoder or decoder with safetensors weights")
    labels: dict[str, str] = Field(
        default={},
        description="value in the label column -> class, in the order of the logits; empty: every value is a class",
    )
    epochs: int = Field(default=3, ge=1, description="passes over the training texts")
    learning_rate: float = Field(
        default=2e-5, gt=0, description="of AdamW at its height; falls to 0 in a straight line"
    )
    batch: int = Field(default=16, ge=1, description="texts per step and process")
    max_length: int = Field(default=256, ge=8, description="tokens per text; what is longer loses its end")
    weight_decay: float = Field(default=0.01, ge=0, description="on matrices, not on biases and norms")
    warmup: float = Field(
        default=0.1, ge=0, lt=1, description="share of the steps in which the learning rate rises from 0"
    )
    max_grad_norm: float = Field(default=1.0, gt=0, description="the gradient is scaled down to this norm")
    dropout: bool = Field(
        default=False, description="train with the dropout rates of the base's config; off: none at all"
    )
    class_weights: Literal["plain", "balanced"] = Field(
        default="plain", description="balanced: every class has the same total weight in the loss, however rare it is"
    )
    gradient_checkpointing: bool = Field(
        default=False, description="compute every layer again in the backward pass: slower, for less memory"
    )
    validation: float = Field(default=0.1, gt=0, lt=1, description="share of the texts held out to measure on")
    seed: int = Field(default=0, description="of the new head, the order of the texts and dropout")
    device: Literal["auto", "cpu"] = Field(default="auto", description="auto: what Accelerate finds")


@dataclass(frozen=True, slots=True)
class LabelledText:
    """A text and the class somebody gave it."""

    text: str
    label: str


class Labelled(NamedTuple):
    """What a file holds: the good rows, and one line for each row that could not be used."""

    texts: list[LabelledText]
    problems: list[str]


def read_labelled(path: Path, text_column: str = "text", label_column: str = "label") -> Labelled:
    """Labelled texts of a .jsonl or .csv file; the label may be text, a whole number or true/false.

    A row without a text or a label, or that cannot be read, is left out and told in `problems`. Raises MannersError
    for a file that is missing, has another ending, lacks a column, or has no good row.
    """
    readers = {".jsonl": _jsonl_rows, ".csv": _csv_rows}
    if path.suffix.lower() not in readers:
        raise MannersError(f"{path} must end in .jsonl or .csv to be read as labelled texts")
    texts, problems = [], []
    try:
        for number, row in readers[path.suffix.lower()](path, (text_column, label_column)):
            try:
                texts.append(_labelled(row, text_column, label_column))
            except ValueError as error:
                problems.append(f"line {number}: {error}")
    except OSError as error:
        raise MannersError(f"cannot read {path}: {error.strerror}") from None
    if not texts:
        raise MannersError(f"{path} holds no labelled text; {problems[0] if problems else 'it is empty'}")
    return Labelled(texts, problems)


def train_classifier(
    config: ClassifierConfig,
    texts: Sequence[LabelledText],
    run: Run,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Fit a classifier, measure it on the held-out texts, and leave it in `run.checkpoint("final")`.

    The checkpoint is a plain Hugging Face folder. What is returned also stands in `evaluation.json` of the run:
    accuracy with its 95 % Wilson interval, ROC AUC of every class (that class against the rest, by the logit that
    would be the reward), counts, precision and recall of every class, expected calibration error, mean loss in nats,
    and the accuracy of always naming the commonest class. `progress` is told the steps done and the steps in all.
    Raises MannersError for texts that cannot be trained on, a base that cannot be loaded, and a loss that is not
    finite.
    """
    from accelerate import Accelerator
    from accelerate.utils import set_seed

    accelerator = Accelerator(cpu=config.device == "cpu")
    set_seed(config.seed)
    classes, train, held_out = _split(config, texts)
    scorer = _new_classifier(config, classes, accelerator.device)
    if config.gradient_checkpointing:
        _compute_again(scorer.model, config)
    rows = scorer.encode([t.text for t in train])
    truncated = scorer.truncated
    targets = [classes.index(t.label) for t in train]
    weights = class_weights(targets, len(classes), config.class_weights).to(accelerator.device)
    examples: Any = list(zip(rows, targets, strict=True))
    loader: Any = torch.utils.data.DataLoader(
        examples,
        batch_size=config.batch,
        shuffle=True,
        generator=torch.Generator().manual_seed(config.seed),
        collate_fn=_collate(scorer),
    )
    optimizer: Any = torch.optim.AdamW(_groups(scorer.model, config.weight_decay), lr=config.learning_rate)
    model, optimizer, loader = accelerator.prepare(scorer.model, optimizer, loader)
    steps = config.epochs * len(loader)
    step = 0
    for epoch in range(1, config.epochs + 1):
        model.train(config.dropout)
        for inputs, wanted in loader:
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * schedule(step, steps, config.warmup)
            losses = F.cross_entropy(model(**inputs).logits.float(), wanted, reduction="none")
            loss = (weights[wanted] * losses).sum() / accelerator.reduce(weights[wanted].sum(), "sum")
            if not loss.isfinite():
                raise MannersError(f"the loss is not finite at step {step + 1}; choose a lower learning_rate")
            # The denominator is that of all processes; their gradients are then averaged, where a sum is wanted.
            accelerator.backward(loss * accelerator.num_processes)
            norm = accelerator.clip_grad_norm_(model.parameters(), config.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            if accelerator.is_main_process:
                rate = optimizer.param_groups[0]["lr"]
                run.log(step=step, epoch=epoch, loss=loss.item(), grad_norm=float(norm), learning_rate=rate)
            if progress is not None:
                progress(step, steps)
        found = _measure(scorer, classes, held_out)
        if accelerator.is_main_process:
            run.log(step=step, epoch=epoch, **_numbers(found))
    counts = Counter(t.label for t in train)
    result = {
        **found,
        "training": {
            "texts": len(train),
            "classes": {name: counts[name] for name in classes},
            "truncated": truncated,
            "max_length": scorer.max_length,
            "steps": steps,
        },
    }
    if accelerator.is_main_process:
        _save(scorer, run.checkpoint("final"))
        write_json(run.path / "evaluation.json", result)
    accelerator.wait_for_everyone()
    return result


def is_held_out(text: str, share: float) -> bool:
    """Whether a text is measured on and not trained on: by its hash alone, so for every seed and every file alike."""
    return int(content_hash("labelled text", text.strip()), 16) < share * 16**16


def schedule(step: int, steps: int, warmup: float) -> float:
    """The share of the learning rate at `step` (from 0): up in a straight line over the warm-up, then down to 0."""
    rising = round(warmup * steps)
    return (step + 1) / rising if step < rising else (steps - step) / (steps - rising)


def class_weights(targets: Sequence[int], classes: int, how: Literal["plain", "balanced"]) -> Tensor:
    """The weight [C] of a text of each class: 1, or N / (C n_c) ("balanced"), whose mean over the texts is 1 too."""
    if how == "plain":
        return torch.ones(classes)
    counts = torch.bincount(torch.tensor(targets), minlength=classes)
    return len(targets) / (classes * counts.float())


def wilson(right: int, of: int) -> tuple[float, float]:
    """The 95 % interval of Wilson (1927) for a share of `right` in `of`, which stays within 0 and 1 at any size."""
    from scipy.stats import binomtest

    interval = binomtest(right, of).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def roc_auc(scores: Sequence[float], positive: Sequence[bool]) -> float | None:
    """The chance that a positive scores above a negative, ties counting half (Mann-Whitney); None without both."""
    from scipy.stats import rankdata

    mask = np.asarray(positive, dtype=bool)
    P, N = int(mask.sum()), int((~mask).sum())
    if not P or not N:
        return None
    return float((rankdata(scores)[mask].sum() - P * (P + 1) / 2) / (P * N))


def calibration_error(confidence: Sequence[float], right: Sequence[bool], bins: int = BINS) -> float:
    """Expected calibration error in 0 to 1 (Guo et al. 2017, eq. 3): |accuracy - confidence| of equal bins (low, high],
    weighted by how many texts fall into each."""
    sure, hit = np.asarray(confidence, dtype=float), np.asarray(right, dtype=float)
    place = np.clip(np.ceil(sure * bins).astype(int) - 1, 0, bins - 1)
    gaps = [abs(hit[place == b].sum() - sure[place == b].sum()) for b in range(bins)]
    return float(sum(gaps) / len(sure))


def _split(
    config: ClassifierConfig, texts: Sequence[LabelledText]
) -> tuple[list[str], list[LabelledText], list[LabelledText]]:
    """The classes in the order of the logits, the texts to train on and those to measure on, with classes as labels."""
    values = {t.label for t in texts}
    names = config.labels or {value: value for value in sorted(values)}
    if unknown := sorted(values - names.keys()):
        raise MannersError(
            f"the label {unknown[0]!r} is not among `labels` ({', '.join(names)}); add it, or drop its rows"
        )
    classes = list(dict.fromkeys(names.values()))
    if len(classes) < 2:
        raise MannersError(f"a classifier needs texts of two classes or more; here are {', '.join(classes) or 'none'}")
    train: list[LabelledText] = []
    held_out: list[LabelledText] = []
    for t in texts:
        side = held_out if is_held_out(t.text, config.validation) else train
        side.append(LabelledText(t.text, names[t.label]))
    if not held_out:
        raise MannersError(f"none of the {len(texts)} texts fell to the held-out side; raise validation, or give more")
    if missing := [c for c in classes if c not in {t.label for t in train}]:
        raise MannersError(f"no text to train on is {missing[0]!r}; give more texts of it, or lower validation")
    return classes, train, held_out


def _new_classifier(config: ClassifierConfig, classes: Sequence[str], device: torch.device) -> ClassifierScorer:
    """The base with a new head, in a scorer, so that training reads texts exactly as scoring will."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    folder = local_checkpoint(config.model)
    tokenizer = load_tokenizer(folder)
    try:
        base = AutoConfig.from_pretrained(
            folder,
            id2label=dict(enumerate(classes)),
            label2id={c: i for i, c in enumerate(classes)},
            trust_remote_code=False,
        )
        base.problem_type = "single_label_classification"
        _agree_on_pad(base.get_text_config(), tokenizer, config.model)
        model, report = AutoModelForSequenceClassification.from_pretrained(
            folder,
            config=base,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        raise MannersError(f"base model {config.model} cannot be loaded: {one_line(error)}") from None
    new = [*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])]
    # Only what sits on top may be new: the head, and the pooler that encoders pretrained on words alone do not have.
    if strange := sorted(k for k in new if k.startswith(f"{model.base_model_prefix}.") and ".pooler." not in k):
        raise MannersError(
            f"base model {config.model} is not whole: weights such as {strange[0]} are missing; take another"
        )
    scorer = ClassifierScorer(
        model.to(device), tokenizer, 0, name=config.model, max_length=config.max_length, batch=config.batch
    )
    if scorer.batch < config.batch:
        raise MannersError(f"{config.model} cannot read texts of unlike length in one batch; set batch to 1")
    # Scoring then cuts texts where training did.
    tokenizer.model_max_length = scorer.max_length
    return scorer


def _compute_again(model: Any, config: ClassifierConfig) -> None:
    """Let every layer of `model` be computed again in the backward pass."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [(name, part) for name, part in model.named_modules() if isinstance(part, GradientCheckpointingLayer)]
    if not layers:
        raise MannersError(
            f"{config.model} has no layers that can be computed again; set gradient_checkpointing to false"
        )
    for name, layer in layers:
        model.set_submodule(name, recomputed(layer, random=config.dropout))


def _agree_on_pad(base: Any, tokenizer: Any, name: str) -> None:
    """Let the model and its tokenizer have one pad token: decoders find the end of a text by it."""
    if base.pad_token_id is not None and 0 <= base.pad_token_id < base.vocab_size:
        if tokenizer.pad_token_id != base.pad_token_id:
            tokenizer.pad_token = tokenizer.convert_ids_to_tokens(base.pad_token_id)
        return
    for token in (tokenizer.pad_token, tokenizer.eos_token, tokenizer.unk_token):
        if token is not None and tokenizer.convert_tokens_to_ids(token) < base.vocab_size:
            tokenizer.pad_token = token
            base.pad_token_id = tokenizer.pad_token_id
            return
    raise MannersError(
        f"the tokenizer of {name} has no token to pad with; give it a pad_token in tokenizer_config.json"
    )


def _collate(scorer: ClassifierScorer) -> Callable[[Sequence[tuple[Row, int]]], tuple[dict[str, Tensor], Tensor]]:
    def collate(examples: Sequence[tuple[Row, int]]) -> tuple[dict[str, Tensor], Tensor]:
        return scorer.collate([row for row, _ in examples]), torch.tensor([target for _, target in examples])

    return collate


def _groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


def _measure(scorer: ClassifierScorer, classes: Sequence[str], held_out: Sequence[LabelledText]) -> dict[str, Any]:
    scorer.model.eval()
    logits = scorer.logits([t.text for t in held_out])
    wanted = torch.tensor([classes.index(t.label) for t in held_out])
    sure, named = logits.softmax(1).max(1)
    right = named == wanted
    low, high = wilson(int(right.sum()), len(held_out))
    counts = torch.bincount(wanted, minlength=len(classes))
    per_class = {}
    for i, name in enumerate(classes):
        hits = int((right & (wanted == i)).sum())
        per_class[name] = {
            "texts": int(counts[i]),
            "named": int((named == i).sum()),
            "recall": hits / int(counts[i]) if counts[i] else None,
            "precision": hits / int((named == i).sum()) if (named == i).any() else None,
            "auc": roc_auc(logits[:, i].tolist(), (wanted == i).tolist()),
        }
    return {
        "texts": len(held_out),
        "right": int(right.sum()),
        "accuracy": int(right.sum()) / len(held_out),
        "accuracy_95": [low, high],
        "commonest_class": int(counts.max()) / len(held_out),
        "calibration_error": calibration_error(sure.tolist(), right.tolist()),
        "loss": F.cross_entropy(logits, wanted).item(),
        "classes": per_class,
    }


def _numbers(found: Mapping[str, Any]) -> dict[str, float]:
    """The held-out numbers as a row of metrics; a class that the held-out texts lack has no AUC and is left out."""
    low, high = found["accuracy_95"]
    areas = {f"validation_auc/{name}": c["auc"] for name, c in found["classes"].items() if c["auc"] is not None}
    return {
        "validation_accuracy": found["accuracy"],
        "validation_accuracy_low": low,
        "validation_accuracy_high": high,
        "validation_calibration_error": found["calibration_error"],
        "validation_loss": found["loss"],
        **areas,
    }


def _save(scorer: ClassifierScorer, path: Path) -> None:
    with writing(path) as beside:
        try:
            scorer.model.save_pretrained(beside)
            scorer.tokenizer.save_pretrained(beside)
        except SafetensorError as error:
            # safetensors reports what the system said only in the text of an exception of its own.
            raise OSError(errno.ENOSPC if "os error 28" in str(error) else errno.EIO, one_line(error)) from error


def _labelled(row: Mapping[str, Any] | None, text_column: str, label_column: str) -> LabelledText:
    if row is None:
        raise ValueError("cannot be read as a row")
    text, label = row.get(text_column), row.get(label_column)
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"no text in {text_column!r}")
    if isinstance(label, bool):
        label = str(label).lower()
    if not isinstance(label, str | int) or not str(label).strip():
        raise ValueError(f"no label in {label_column!r}")
    try:
        text.encode()
        str(label).encode()
    except UnicodeEncodeError:
        raise ValueError("not UTF-8") from None
    return LabelledText(text, str(label).strip())


def _jsonl_rows(path: Path, _: tuple[str, str]) -> Iterator[tuple[int, dict[str, Any] | None]]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                row = None
            yield number, row if isinstance(row, dict) else None


def _csv_rows(path: Path, columns: tuple[str, str]) -> Iterator[tuple[int, dict[str, Any] | None]]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
        rows = csv.DictReader(stream)
        header = rows.fieldnames or []
        for column in columns:
            if column not in header:
                raise MannersError(f"{path} has no column {column!r}; it has {', '.join(header) or 'none'}")
        while True:
            try:
                row: dict[str, Any] | None = next(rows)
            except StopIteration:
                return
            except csv.Error:
                row = None
            yield rows.reader.line_num, row
