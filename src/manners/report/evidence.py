"""What a run left in its directory, read so that a missing or a broken file is a fact to report and not a failure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from manners.config import parse_yaml
from manners.errors import MannersError
from manners.report.numerals import number
from manners.runs import Run, read_json, read_jsonl

Row = Mapping[str, Any]
ReadT = TypeVar("ReadT")


@dataclass(frozen=True)
class Evidence:
    """All that a run directory tells. What is not there is empty; `problems` says which files could not be read."""

    name: str
    kind: str
    status: Row
    metrics: Sequence[Row]
    timings: Sequence[Row]
    samples: Sequence[Row]
    evaluation: Row
    config_text: str
    config: Row
    environment: Row
    made_from: Mapping[str, Row]
    problems: Sequence[str]

    @property
    def is_policy(self) -> bool:
        """Whether the run trained a policy: then an evaluation and answers belong to it."""
        return self.kind not in ("reward", "classifier", "sft", "revise", "prefer", "judge", "constitution")

    @property
    def asks_a_judge(self) -> bool:
        """Whether a judge was asked while the policy was trained; direct methods learn from preferences, except online."""
        return self.is_policy and (self.kind != "dpo" or self.config.get("online") is True)


def gather(run: Run) -> Evidence:
    """Read the whole run directory, checkpoints excepted."""
    problems: list[str] = []

    def read(name: str, reader: Callable[[], ReadT]) -> ReadT | None:
        """What `reader` gives; None where the file is not there, or cannot be read, which is told."""
        try:
            return reader() if exists(run.path / name) else None
        except (MannersError, ValueError, KeyError, TypeError, OSError, RecursionError, yaml.YAMLError) as error:
            problems.append(f"{name} cannot be read: {' '.join(str(error).split())}")
            return None

    def json_file(name: str) -> Row:
        return mapping(read(name, lambda: read_json(run.path / name)))

    lineage = json_file("lineage.json")
    metrics = mappings(read("metrics.jsonl", run.metrics))
    timings = mappings(read("timings.jsonl", lambda: read_jsonl(run.path / "timings.jsonl")))
    config_text = read("config.yaml", lambda: (run.path / "config.yaml").read_text(encoding="utf-8")) or ""
    return Evidence(
        name=run.path.resolve().name,
        kind=str(lineage.get("kind", "unknown")),
        status=json_file("status.json"),
        metrics=metrics,
        # The clock of older runs stands beside their metrics.
        timings=timings or [row for row in metrics if "phase_seconds" in row],
        samples=mappings(read("samples.jsonl", run.samples)),
        evaluation=json_file("evaluation.json"),
        config_text=config_text,
        config=mapping(read("config.yaml", lambda: parse_yaml(config_text))),
        environment=json_file("environment.json"),
        made_from={
            str(name): mapping(entry) or {"path": entry} for name, entry in mapping(lineage.get("made_from")).items()
        },
        problems=tuple(problems),
    )


def exists(path: Path) -> bool:
    """Whether something is there; a path that the file system refuses (too long, forbidden) counts as not there."""
    try:
        return path.exists()
    except OSError:
        return False


def mapping(value: Any) -> Row:
    """`value` where it is a mapping, else nothing."""
    return value if isinstance(value, Mapping) else {}


def mappings(value: Any) -> list[Row]:
    """The mappings in `value` where it is a list, else none."""
    return [row for row in value if isinstance(row, Mapping)] if isinstance(value, list) else []


def source_path(run: Run, entry: Row) -> Path | None:
    """Where a `made_from` entry points, a relative path from the run's directory; None when it names no path."""
    path = entry.get("path")
    return run.path / path if isinstance(path, str) and path else None


def by_step(rows: Sequence[Row]) -> list[tuple[float, Row]]:
    """The rows of metrics.jsonl as (step, row), in order of steps, each step once.

    A run that was resumed writes some steps again: what was written last counts, key by key, so that a row of held-out
    numbers completes the row of its step. Where the count of steps starts anew with each epoch, it is carried on. Rows
    without a step are counted.
    """
    merged: dict[float, dict[str, Any]] = {}
    offset, last = 0.0, 0.0
    epoch: float | None = None
    for place, row in enumerate(rows, 1):
        step, this_epoch = number(row.get("step")), number(row.get("epoch"))
        if step is None:
            merged.setdefault(float(place), {}).update(row)
            continue
        if epoch is not None and this_epoch is not None and this_epoch > epoch and step + offset < last:
            offset = last
        epoch = epoch if this_epoch is None else this_epoch
        last = step + offset
        merged.setdefault(last, {}).update(row)
    return sorted(merged.items(), key=lambda item: item[0])


def kl_levels(config: Row) -> tuple[tuple[float, str], ...]:
    """The KL target and the KL budget of a config, nats per sequence, as (value, name), where it has them.

    Each is the first number below keys that together say "kl", "per_sequence" and the name.
    """
    found = []
    for name in ("target", "budget"):
        for path, value in _leaves(config, ""):
            if name in path and "kl" in path and "per_sequence" in path and (level := number(value)) is not None:
                found.append((level, name))
                break
    return tuple(found)


def kl_budget(config: Row) -> float | None:
    """The largest KL that the config allows, nats per sequence: its budget, or else the target that it steers to."""
    levels = {name: level for level, name in kl_levels(config)}
    return levels.get("budget", levels.get("target"))


def _leaves(value: Any, path: str) -> list[tuple[str, Any]]:
    if isinstance(value, Mapping):
        return [leaf for key, inner in value.items() for leaf in _leaves(inner, f"{path}.{key}")]
    return [(path, value)]
