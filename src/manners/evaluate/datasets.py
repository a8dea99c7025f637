"""Where the items of a behaviour card come from: a folder of files, the Hugging Face Hub, or the items of our own in this package.

For each topic the first that is at hand is taken: TOPIC.jsonl in the folder, in our own format; a published set in the folder; with
`hub`, a published set from the Hub, which is then kept in the cache; our own. A card names what it took, with licence and hash, and
what it did without.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from manners.errors import MannersError
from manners.evaluate import formats
from manners.evaluate.formats import Row
from manners.evaluate.questions import TOPICS, Items, Topic
from manners.models.starter import cache_folder
from manners.runs import write_jsonl

OWN = "own"
SHIPPED = Path(__file__).parent / "items"
Read = Callable[[Sequence[Row]], list[Any]]


@dataclass(frozen=True)
class Source:
    """Where items come from: `source` is where the set is published, `sha256` that of the file; `shipped` items are our own."""

    name: str
    source: str
    licence: str
    sha256: str
    shipped: bool

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class HubFile:
    """A data set on the Hub: id, configurations (each becomes the `subset` of its rows where there are several), and split."""

    id: str
    configurations: tuple[str, ...]
    split: str


@dataclass(frozen=True)
class Published:
    """A published set: names of its files, and how the rows of a file, and those of the Hub, are read."""

    name: str
    topic: Topic
    files: tuple[str, ...]
    read: Read
    source: str
    licence: str
    hub: HubFile | None = None
    read_hub: Read | None = None


PUBLISHED: tuple[Published, ...] = (
    Published("MT-Bench", "ordinary", ("question.jsonl",), formats.first_turns, "github.com/lm-sys/FastChat", "Apache-2.0"),
    Published("RealToxicityPrompts", "provoking", ("realtoxicityprompts*.jsonl", "prompts.jsonl"), formats.toxic_prompts,
              "arXiv 2009.11462", "Apache-2.0", HubFile("allenai/real-toxicity-prompts", ("",), "train")),
    Published("HarmBench", "dangerous", ("harmbench_behaviors_text_test.csv", "harmbench_behaviors_text_all.csv"),
              formats.behaviours, "github.com/centerforaisafety/HarmBench", "MIT"),
    Published("AdvBench", "dangerous", ("harmful_behaviors.csv", "advbench.csv"), formats.goals,
              "github.com/llm-attacks/llm-attacks", "MIT", HubFile("walledai/AdvBench", ("",), "train")),
    Published("XSTest", "lookalikes", ("xstest_prompts.csv", "xstest_v2_prompts.csv"), formats.lookalikes,
              "github.com/paul-rottger/exaggerated-safety", "CC BY 4.0", HubFile("walledai/XSTest", ("",), "test")),
    Published("TruthfulQA", "truthful", ("TruthfulQA.csv",), formats.truthful_qa, "github.com/sylinrl/TruthfulQA", "Apache-2.0",
              HubFile("truthfulqa/truthful_qa", ("multiple_choice",), "validation"), formats.truthful_qa_choices),
    Published("HHH alignment", "comparisons", ("hhh_alignment.jsonl",), formats.comparisons, "arXiv 2112.00861", "Apache-2.0",
              HubFile("HuggingFaceH4/hhh_alignment", ("helpful", "honest", "harmless", "other"), "test"), formats.hhh_choices),
    Published("HHH alignment (rubric)", "comparisons", ("hhh_alignment_eval.json",), formats.hhh_rubric, "arXiv 2112.00861",
              "Apache-2.0"),
)  # fmt: skip
_READERS: Mapping[Topic, Read] = {
    "ordinary": formats.prompts, "provoking": formats.prompts, "dangerous": formats.prompts, "lookalikes": formats.lookalikes,
    "truthful": formats.questions, "comparisons": formats.comparisons, "passages": formats.passages, "facts": formats.facts,
}  # fmt: skip


def gather(
    folder: Path | None = None,
    *,
    hub: bool = False,
    chosen: Mapping[Topic, str] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[Items, dict[Topic, Source], list[dict[str, str]]]:
    """The items of every topic, where each comes from, and what was done without: {"row": topic, "why": …}.

    `chosen` names the set of a topic: "own", or the name of a published one, which must then be at hand. Raises MannersError for a
    folder or file that cannot be read, and for a chosen set that is not there.
    """
    if folder is not None and not folder.is_dir():
        raise MannersError(f"{folder} is not a folder; name one that holds evaluation sets with --datasets")
    items: dict[str, tuple[Any, ...]] = {}
    sources: dict[Topic, Source] = {}
    missing: list[dict[str, str]] = []
    for topic in TOPICS:
        found, sources[topic] = _find(topic, folder, hub, (chosen or {}).get(topic, ""), say)
        items[topic] = tuple(found)
        names = [p.name for p in PUBLISHED if p.topic == topic]
        if sources[topic].shipped and names:
            why = f"{' and '.join(names)} not at hand; {len(found)} items of our own stand in"
            missing.append({"row": topic, "why": why})
    return Items(**items), sources, missing


def _find(
    topic: Topic, folder: Path | None, hub: bool, chosen: str, say: Callable[[str], None]
) -> tuple[list[Any], Source]:
    if chosen != OWN:
        if folder is not None and not chosen and (own := folder / f"{topic}.jsonl").exists():
            return _read(own, _READERS[topic], own.name, str(folder), "as its owner says", shipped=False)
        for known in [p for p in PUBLISHED if p.topic == topic and chosen in ("", p.name)]:
            if folder is not None and (path := _first(folder, known.files)):
                return _read(path, known.read, known.name, known.source, known.licence, shipped=False)
            if hub and known.hub:
                path, read = _from_hub(known.name, known.hub, say), known.read_hub or known.read
                return _read(path, read, known.name, f"Hub: {known.hub.id}", known.licence, shipped=False)
        if chosen:
            raise MannersError(
                f"sets.{topic}: {chosen!r} is not at hand; put its file into --datasets, or say 'own' for our own items"
            )
    path = SHIPPED / f"{topic}.jsonl"
    return _read(path, _READERS[topic], f"our own ({topic})", "manners", "Apache-2.0", shipped=True)


def _first(folder: Path, names: Sequence[str]) -> Path | None:
    return next((path for name in names for path in sorted(folder.rglob(name))), None)


def _read(path: Path, read: Read, name: str, source: str, licence: str, *, shipped: bool) -> tuple[list[Any], Source]:
    rows = formats.read_rows(path)
    try:
        found = read(rows)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise MannersError(f"{path} has not the rows of {name} ({error}); fetch it again, or take it away") from None
    if not found:
        raise MannersError(f"{path} holds nothing to ask; fetch it again, or take it away")
    return found, Source(name, source, licence, hashlib.sha256(path.read_bytes()).hexdigest(), shipped)


def _from_hub(name: str, hub: HubFile, say: Callable[[str], None]) -> Path:
    """The rows of a set on the Hub as a JSONL file in the cache; fetched at the first call."""
    path = cache_folder() / "datasets" / f"{hub.id.replace('/', '--')}.jsonl"
    if path.exists():
        return path
    try:
        from datasets import load_dataset
    except ImportError:
        raise MannersError('the Hub is read through the package datasets: pip install "manners[hub]"') from None
    say(f"fetching {name} from the Hub (once)")
    rows: list[Row] = []
    try:
        for configuration in hub.configurations:
            part = load_dataset(hub.id, configuration or None, split=hub.split)
            rows += [{**row, "subset": configuration} if len(hub.configurations) > 1 else dict(row) for row in part]
    except Exception as error:  # the Hub client changes its errors from release to release
        raise MannersError(
            f"{name} cannot be had from the Hub ({' '.join(str(error).split())[:200]}); fetch its file and name the folder with"
            " --datasets, or leave out --hub"
        ) from None
    write_jsonl(path, rows)
    return path
