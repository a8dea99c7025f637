"""The words everything else speaks: prompts, completions, rankings, pairs.

All four are frozen dataclasses of the standard library. Each reads and writes plain JSON values, and prompts, completions and
rankings carry an id that is a hash of their content, so that equal things are recognised wherever they meet.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

Role = Literal["system", "user", "assistant"]
Source = Literal["human", "ai", "rule"]
Split = Literal["train", "validation", "test"]

ROLES: tuple[Role, ...] = ("system", "user", "assistant")
SOURCES: tuple[Source, ...] = ("human", "ai", "rule")
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


def content_hash(*parts: Any) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of `parts` written as canonical JSON."""
    text = json.dumps(parts, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise ValueError(f"role must be one of {', '.join(ROLES)}, not {self.role!r}")


@dataclass(frozen=True, slots=True)
class Prompt:
    """A conversation that waits for the assistant's next turn.

    `category` and `split` describe where the prompt came from and are not part of its identity. An empty `split` means that
    the split is drawn from the id (see `feedback.pairs.split_of`).
    """

    messages: tuple[Message, ...]
    category: str = ""
    split: Split | Literal[""] = ""

    def __post_init__(self) -> None:
        if not self.messages:
            raise ValueError("a prompt needs at least one message")
        if not self.messages[-1].content.strip():
            raise ValueError("the last message of the prompt is empty")
        if self.split and self.split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, not {self.split!r}")

    @property
    def id(self) -> str:
        return content_hash("prompt", [[m.role, m.content] for m in self.messages])

    @property
    def text(self) -> str:
        """The last message alone: what a table or a heading shows."""
        return self.messages[-1].content

    @classmethod
    def of(cls, text: str, **fields: Any) -> Prompt:
        """A prompt of a single user message."""
        return cls((Message("user", text),), **fields)

    def to_json(self) -> dict[str, Any]:
        return {"messages": [asdict(m) for m in self.messages], "category": self.category, "split": self.split}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Prompt:
        messages = tuple(Message(m["role"], m["content"]) for m in value["messages"])
        return cls(messages, value.get("category", ""), value.get("split", ""))


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer to one prompt. `finished` is False where sampling stopped at the length limit, before the end of the turn."""

    prompt_id: str
    text: str
    finished: bool = True
    model: str = ""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None

    @property
    def id(self) -> str:
        return content_hash("completion", self.prompt_id, self.text, self.finished, self.model)

    def to_json(self) -> dict[str, Any]:
        return {"prompt_id": self.prompt_id, "text": self.text, "finished": self.finished, "model": self.model,
                "sampling": dict(self.sampling), "seed": self.seed}  # fmt: skip

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Completion:
        return cls(value["prompt_id"], value["text"], value.get("finished", True), value.get("model", ""),
                   value.get("sampling") or {}, value.get("seed"))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Ranking:
    """One judgement of one prompt.

    `tiers` holds completion ids, best tier first; members of a tier are tied. A partial ranking simply does not name some of
    the completions in `shown`, which keeps the order in which they stood on the screen. `all_bad` says that no answer was
    acceptable; such a ranking gives no pairs. `supersedes` names the earlier ranking of which this is a change of mind.
    """

    prompt_id: str
    tiers: tuple[tuple[str, ...], ...]
    source: Source = "human"
    judge: str = ""
    shown: tuple[str, ...] = ()
    all_bad: bool = False
    seconds: float | None = None
    note: str = ""
    supersedes: str | None = None

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise ValueError(f"source must be one of {', '.join(SOURCES)}, not {self.source!r}")
        named = [c for tier in self.tiers for c in tier]
        if len(named) != len(set(named)):
            raise ValueError("a completion is named twice in the ranking")
        if any(not tier for tier in self.tiers):
            raise ValueError("a tier of the ranking is empty")
        if not named and not self.all_bad:
            raise ValueError("the ranking names no completion and does not say all_bad")
        if self.shown and not set(named) <= set(self.shown):
            raise ValueError("the ranking names a completion that was not shown")

    @property
    def id(self) -> str:
        return content_hash("ranking", self.prompt_id, self.tiers, self.source, self.judge, self.shown, self.all_bad,
                            self.note, self.supersedes)  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Ranking:
        return cls(value["prompt_id"], tuple(tuple(t) for t in value["tiers"]), value.get("source", "human"),
                   value.get("judge", ""), tuple(value.get("shown", ())), value.get("all_bad", False),
                   value.get("seconds"), value.get("note", ""), value.get("supersedes"))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Judgement:
    """A ranking together with the prompt and the completions it speaks of: what an importer yields and the store gives back."""

    prompt: Prompt
    completions: tuple[Completion, ...]
    ranking: Ranking

    def __post_init__(self) -> None:
        if self.ranking.prompt_id != self.prompt.id or any(c.prompt_id != self.prompt.id for c in self.completions):
            raise ValueError("prompt, completions and ranking do not belong together")
        known = {c.id for c in self.completions}
        if not {c for tier in self.ranking.tiers for c in tier} <= known:
            raise ValueError("the ranking names a completion that is not there")

    def to_json(self) -> dict[str, Any]:
        """One self-contained line of our own JSONL: `tiers` and `shown` count into `completions`, from 0."""
        place = {c.id: i for i, c in enumerate(self.completions)}
        ranking = {k: v for k, v in self.ranking.to_json().items() if k not in ("prompt_id", "tiers", "shown")}
        completions = [{k: v for k, v in c.to_json().items() if k != "prompt_id"} for c in self.completions]
        tiers = [[place[c] for c in tier] for tier in self.ranking.tiers]
        shown = [place[c] for c in self.ranking.shown]
        return {"prompt": self.prompt.to_json(), "completions": completions, "tiers": tiers, "shown": shown, **ranking}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Judgement:
        prompt = Prompt.from_json(value["prompt"])
        completions = tuple(Completion.from_json({**c, "prompt_id": prompt.id}) for c in value["completions"])
        ids = [c.id for c in completions]
        ranking = Ranking.from_json(
            {
                **value,
                "prompt_id": prompt.id,
                "tiers": [[_at(ids, i) for i in tier] for tier in value["tiers"]],
                "shown": [_at(ids, i) for i in value.get("shown") or ()],
            }
        )
        return cls(prompt, completions, ranking)


def _at(ids: Sequence[str], index: int) -> str:
    if not isinstance(index, int) or not 0 <= index < len(ids):
        raise ValueError(f"tiers count into completions from 0 to {len(ids) - 1}, {index!r} is not there")
    return ids[index]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two completions of one prompt, the preferred one first.

    `weight` is 1/C(K,2) for a ranking of K completions, so that every ranking counts once. `margin` is how many tiers lie
    between the two (1 = neighbours, 0 = tied). `judge` is who said so. `probability`, from 0.5 to 1, is how likely the first one
    really is the better: 1 for a plain judgement, less where the judge gave a probability.
    """

    prompt: Prompt
    chosen: Completion
    rejected: Completion
    weight: float = 1.0
    margin: float = 1.0
    ranking_id: str = ""
    judge: str = ""
    probability: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.weight < float("inf"):
            raise ValueError(f"weight must be a positive number, not {self.weight!r}")
        if not 0.5 <= self.probability <= 1:
            raise ValueError(
                f"probability must be 0.5 to 1, since the likelier one stands first, not {self.probability!r}"
            )

    def swap(self) -> Pair:
        """The same pair the other way round: what a judge is asked to see both orders."""
        return replace(self, chosen=self.rejected, rejected=self.chosen)

    def to_json(self) -> dict[str, Any]:
        """JSON values; `judge` and `probability` are written where they say something."""
        value = {"prompt": self.prompt.to_json(), "chosen": self.chosen.to_json(), "rejected": self.rejected.to_json(),
                 "weight": self.weight, "margin": self.margin, "ranking_id": self.ranking_id}  # fmt: skip
        if self.judge:
            value["judge"] = self.judge
        if self.probability != 1:
            value["probability"] = self.probability
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Pair:
        return cls(Prompt.from_json(value["prompt"]), Completion.from_json(value["chosen"]),
                   Completion.from_json(value["rejected"]), value.get("weight", 1.0), value.get("margin", 1.0),
                   value.get("ranking_id", ""), value.get("judge", ""), value.get("probability", 1.0))  # fmt: skip
