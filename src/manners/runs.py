"""The run directory: where a method leaves its config, metrics, samples, checkpoints and report.

    RUN/config.yaml  environment.json  lineage.json  status.json  metrics.jsonl  timings.jsonl  samples.jsonl  evaluation.json
        checkpoints/  resume/  report.html

Everything is written beside its final place and renamed, so that no reader and no crash ever sees half a file. What depends on
the clock stands in timings.jsonl and status.json alone: two runs that do the same leave the same metrics, byte for byte.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol, TypeVar

from manners.config import Config, dump_config
from manners.errors import MannersError

T = TypeVar("T")


class Track(Protocol):
    """Goes through `items` and shows how far along it is: the command line gives one that draws a bar."""

    def __call__(self, items: Sequence[T], description: str) -> Iterable[T]: ...


def untracked(items: Sequence[T], description: str) -> Iterable[T]:  # noqa: ARG001 - the signature is Track's
    """Goes through `items` silently."""
    return items


_PACKAGES = ("manners", "torch", "transformers", "accelerate", "numpy", "safetensors")


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Give a path beside `path` to write to, and rename it to `path` when the block ends well; else remove it.

    Works for a file and for a directory. Raises MannersError when the disk is full or the place cannot be written.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove(beside)
        yield beside
        if path.is_dir():
            old = path.with_name(f".{path.name}.{os.getpid()}.old")
            _remove(old)
            path.rename(old)
            try:
                beside.rename(path)
            except OSError:
                old.rename(path)
                raise
            _remove(old)
        else:
            beside.replace(path)
    except OSError as error:
        _remove(beside)
        reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
        raise MannersError(f"cannot write {path}: {reason}; free some room or choose another place") from error
    except BaseException:
        _remove(beside)
        raise


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def _recover(folder: Path) -> None:
    """Undo what a crash within `writing` left in `folder`: half-written parts go, a folder that was moved aside comes back."""
    for left in folder.glob(".*.old"):
        name = left.name.split(".")[1]
        if not (folder / name).exists():
            left.rename(folder / name)
    for left in [*folder.glob(".*.old"), *folder.glob(".*.part")]:
        _remove(left)


def write_text(path: Path, text: str) -> None:
    with writing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_json(path: Path) -> Any:
    try:
        return json.loads(_read(path))
    except json.JSONDecodeError as error:
        raise MannersError(f"{path} is not JSON: {error}") from None


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """All rows of a JSONL file. A last line cut short by a crash is left out; any other broken line is an error."""
    lines = _bytes(path).split(b"\n")
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line.decode("utf-8")))
        except ValueError as error:  # not JSON, or not UTF-8
            if number < len(lines):
                what = "is not UTF-8; cannot read it" if isinstance(error, UnicodeDecodeError) else "is not JSON"
                raise MannersError(f"{path} line {number} {what}") from None
    return rows


def _read(path: Path) -> str:
    try:
        return _bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise MannersError(f"cannot read {path}: {error}") from None


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise MannersError(f"{path} does not exist") from None
    except OSError as error:
        raise MannersError(f"cannot read {path}: {error.strerror}") from None


def file_hash(path: Path) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of a file, or of the names and contents of all files of a directory."""
    digest = hashlib.sha256()
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    for file in files:
        if path.is_dir():
            digest.update(f"{file.relative_to(path)}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]


class Run:
    """A directory that one command fills. `create` refuses one that already holds a run, unless told to replace it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path, kind: str, config: Config, lineage: Mapping[str, Any], replace: bool = False) -> Run:
        """Start a run of `kind` ("sft", "reward", "ppo", ...) in `path`.

        `lineage` names what the run is made from: {name: {"path": ..., "hash": ...}}. Raises MannersError when the directory
        holds something already and `replace` is False.
        """
        if path.exists() and not path.is_dir():
            raise MannersError(f"{path} is a file; name a directory for the run")
        if path.is_dir() and any(path.iterdir()):
            if not replace:
                raise MannersError(f"{path} is not empty; choose another --run or say --replace")
            if not (path / "lineage.json").exists():
                raise MannersError(f"{path} holds other files and no run; it is not replaced, choose another --run")
        with writing(path) as beside:  # whole or not at all, so that a run that is there can be resumed
            write_json(beside / "lineage.json", {"kind": kind, "made_from": dict(lineage)})
            write_text(beside / "config.yaml", f"# {kind}\n{dump_config(config)}")
            write_json(beside / "environment.json", environment())
            cls(beside).mark("running")
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> Run:
        if not (path / "lineage.json").exists():
            raise MannersError(f"{path} is not a run directory (no lineage.json); `manners runs` lists the runs")
        return cls(path)

    @property
    def kind(self) -> str:
        return str(read_json(self.path / "lineage.json")["kind"])

    def mark(self, status: str, **facts: Any) -> None:
        """Say where the run stands: "running", "finished", "interrupted" or "failed", with facts worth knowing later."""
        write_json(
            self.path / "status.json",
            {"status": status, "at": datetime.now(UTC).isoformat(timespec="seconds"), **facts},
        )

    @property
    def status(self) -> dict[str, Any]:
        path = self.path / "status.json"
        return dict(read_json(path)) if path.exists() else {"status": "unknown"}

    def log(self, **metrics: Any) -> None:
        """Append one row to metrics.jsonl."""
        self._append("metrics.jsonl", metrics)

    def time(self, **timing: Any) -> None:
        """Append one row to timings.jsonl."""
        self._append("timings.jsonl", timing)

    def sample(self, **sample: Any) -> None:
        """Append one row to samples.jsonl."""
        self._append("samples.jsonl", sample)

    def _append(self, name: str, row: Mapping[str, Any]) -> None:
        line = json.dumps(_finite(row), ensure_ascii=False, allow_nan=False) + "\n"
        try:
            with (self.path / name).open("a", encoding="utf-8") as stream:
                stream.write(line)
        except OSError as error:
            reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
            raise MannersError(
                f"cannot write {self.path / name}: {reason}; free some room or choose another place"
            ) from error

    def metrics(self) -> list[dict[str, Any]]:
        path = self.path / "metrics.jsonl"
        return read_jsonl(path) if path.exists() else []

    def samples(self) -> list[dict[str, Any]]:
        path = self.path / "samples.jsonl"
        return read_jsonl(path) if path.exists() else []

    @property
    def seconds(self) -> float:
        """How long the steps in timings.jsonl took."""
        path = self.path / "timings.jsonl"
        return sum(row["seconds"] for row in read_jsonl(path)) if path.exists() else 0.0

    def checkpoint(self, name: str) -> Path:
        return self.path / "checkpoints" / name

    @contextlib.contextmanager
    def state(self, step: int) -> Iterator[Path]:
        """Give an empty folder for the state after `step` steps; when the block ends well it replaces the state before it."""
        with writing(self.path / "resume" / f"{step:08d}") as beside:
            beside.mkdir()
            yield beside
        for older in self._states()[:-1]:
            _remove(older)

    def _states(self) -> list[Path]:
        return sorted(p for p in (self.path / "resume").glob("*") if p.name.isdigit())

    def resume(self) -> Path | None:
        """Bring the run back to its last whole state and give that state's folder; None where it had none yet.

        Rows of later steps leave metrics.jsonl, timings.jsonl and samples.jsonl, and what a crash left half renamed is put in order.
        """
        _recover(self.path / "checkpoints")
        _recover(self.path / "resume")
        states = self._states()
        steps = int(states[-1].name) if states else 0
        for name in ("metrics.jsonl", "timings.jsonl", "samples.jsonl"):
            if (self.path / name).exists():
                rows = self._bytes_of_rows(self.path / name, steps)
                with writing(self.path / name) as beside:
                    beside.write_bytes(rows)
        return states[-1] if states else None

    @staticmethod
    def _bytes_of_rows(path: Path, steps: int) -> bytes:
        """The lines of a JSONL file whose "step" is below `steps`, as they are."""
        whole = [line for line in _bytes(path).splitlines(keepends=True) if line.endswith(b"\n")]
        return b"".join(line for line in whole if json.loads(line)["step"] < steps)

    @contextlib.contextmanager
    def guard(self) -> Iterator[Run]:
        """Mark the run finished, interrupted (Ctrl-C) or failed when the block ends; the exception goes on."""
        start = time.monotonic()
        try:
            yield self
        except KeyboardInterrupt:
            self.mark("interrupted", seconds=round(time.monotonic() - start, 1))
            raise
        except BaseException as error:
            self.mark("failed", seconds=round(time.monotonic() - start, 1), error=str(error)[:500])
            raise
        self.mark("finished", seconds=round(time.monotonic() - start, 1))


def _finite(value: Any) -> Any:
    """`value` with None in place of numbers that JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def environment() -> dict[str, Any]:
    """Versions and machine: what somebody needs to run the same thing again. No host name, no user name."""
    versions = {}
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "packages": versions,
    }
