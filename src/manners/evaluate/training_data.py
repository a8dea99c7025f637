"""Which prompts a model was trained on, as far as its runs say: from weights back along lineage.json to pairs, judgements and files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from manners.config import parse_yaml
from manners.errors import MannersError
from manners.feedback.importers.files import read_rows
from manners.feedback.importers.rows import ImportOptions, Reject
from manners.feedback.importers.turns import prompt_of
from manners.feedback.pairs import MANIFEST
from manners.records import Prompt
from manners.runs import file_hash, read_json

STARTER = "starter"
WATCHES = "second judge"  # the one source that nothing is learned from


@dataclass(frozen=True)
class Source:
    """A file that something in a model's lineage learned from, and the run that read it. `changed`: it is not what it was then."""

    path: Path
    run: str
    prompts: int
    changed: bool = False

    def to_json(self) -> dict[str, Any]:
        return {"path": str(self.path), "run": self.run, "prompts": self.prompts, "changed": self.changed}


@dataclass(frozen=True)
class TrainingPrompts:
    """Each prompt once, the files that they came from, and what could not be followed, a sentence each."""

    prompts: tuple[Prompt, ...]
    sources: tuple[Source, ...]
    unknown: tuple[str, ...]


def training_prompts(model: str) -> TrainingPrompts:
    """The prompts that a run or checkpoint of ours was trained on: its own, those of the runs that it started from, and those of the
    reward models that it was trained against. A second judge is left out: nothing was learned from it.

    Of folders of pairs the training split is read. A plain checkpoint has no lineage: what it was trained on stays unknown.
    """
    prompts: dict[str, Prompt] = {}
    sources: list[Source] = []
    unknown: list[str] = []
    waiting, seen = [model], set()
    while waiting:
        named = waiting.pop()
        run = _run_of(Path(named))
        if run is None:
            unknown.append(f"{named}: no run of ours; what it was trained on is not recorded")
            continue
        if run.resolve() in seen:
            continue
        seen.add(run.resolve())
        for path, recorded in _files_of(run, waiting):
            try:
                found = list(_prompts_of(path))
            except MannersError as error:
                unknown.append(str(error))
                continue
            prompts |= {prompt.id: prompt for prompt in found}
            changed = bool(recorded) and path.exists() and file_hash(_hashed(path)) != recorded
            sources.append(Source(path, str(run), len({p.id for p in found}), changed))
    return TrainingPrompts(tuple(prompts.values()), tuple(sources), tuple(dict.fromkeys(unknown)))


def prompts_in_file(path: Path) -> list[Prompt]:
    """The prompts of a file: lines of text, or rows with a `prompt` (text or messages), with messages, or with a `text`.

    Raises MannersError where it cannot be read or holds none.
    """
    if path.suffix in (".txt", ".md"):
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise MannersError(f"{path} is not a file of prompts: {error}") from None
        found = [Prompt.of(line.strip()) for line in lines if line.strip()]
    else:
        rows = (row.value for row in read_rows(path) if not isinstance(row, Reject))
        found = [prompt for row in rows if (prompt := _prompt_of(row)) is not None]
    if not found:
        raise MannersError(f"{path} holds no prompts; give lines of text, or rows with a prompt")
    return found


def _run_of(path: Path) -> Path | None:
    """The run that `path` is, or that the checkpoint `path` lies in."""
    for place in (path, *(p.parent for p in (path, *path.parents) if p.name == "checkpoints")):
        if (place / "lineage.json").exists():
            return place
    return None


def _files_of(run: Path, waiting: list[str]) -> Iterator[tuple[Path, str]]:
    """The files that a run learned from with their recorded hashes; the models in its lineage are added to `waiting`."""
    for name, entry in read_json(run / "lineage.json")["made_from"].items():
        if name.startswith(WATCHES):
            continue
        path = run / entry["path"]
        if entry.get("kind") in ("file", "pairs") and _run_of(path) is None and not (path / "config.json").exists():
            yield path, entry.get("hash", "")
        else:
            waiting.append(str(path) if path.exists() else str(entry["path"]))
    settings = parse_yaml((run / "config.yaml").read_text(encoding="utf-8")) if (run / "config.yaml").exists() else {}
    if isinstance(settings, dict) and settings.get("prompts") == STARTER:
        with resources.as_file(resources.files("manners") / STARTER / "judgements.jsonl") as judgements:
            yield judgements, ""


def _prompts_of(path: Path) -> Iterable[Prompt]:
    """Those of a file, or of the training split of a folder of pairs."""
    if path.is_dir():
        if not (path / "train.jsonl").exists():
            raise MannersError(f"{path} holds no train.jsonl; the prompts in it are not known")
        path = path / "train.jsonl"
    elif not path.exists():
        raise MannersError(f"{path} is not on this machine; the prompts in it are not known")
    return prompts_in_file(path)


def _hashed(path: Path) -> Path:
    """What the recorded hash is of."""
    return path / MANIFEST if (path / MANIFEST).exists() else path


def _prompt_of(row: Mapping[str, Any]) -> Prompt | None:
    """The prompt of a row, None where it has none."""
    value = row.get("prompt", row)
    try:
        if isinstance(value, Mapping):
            return Prompt.from_json(value) if "messages" in value else Prompt.of(str(value["text"]))
        return prompt_of(value, {}, ImportOptions())
    except (KeyError, TypeError, ValueError):
        return None
