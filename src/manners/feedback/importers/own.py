"""Our own JSON lines: what `Judgement.to_json` writes, and a simple form that is easily written by hand.

The full form is taken to the letter, white space included, so that an exported store comes back with the same ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from manners.feedback.importers.rows import (
    BadRowError,
    ImportOptions,
    Layout,
    list_of,
    need,
    number_of,
    row_by_row,
    text_of,
    texts_of,
)
from manners.feedback.importers.turns import judgement_of, prompt_of
from manners.records import Judgement

_KINDS: dict[str, tuple[type, ...]] = {
    "source": (str,), "judge": (str,), "note": (str,), "all_bad": (bool,), "shown": (list,),
    "supersedes": (str, type(None)), "seconds": (int, float, type(None)),
}  # fmt: skip
_COMPLETION_KINDS: dict[str, tuple[type, ...]] = {
    "finished": (bool,), "model": (str,), "sampling": (dict, type(None)), "seed": (int, type(None)),
}  # fmt: skip


def _fits(row: Mapping[str, Any], _: ImportOptions) -> bool:
    return {"prompt", "completions"} <= row.keys() and not {"tiers", "ranking", "all_bad"}.isdisjoint(row)


def _judgement(row: Mapping[str, Any], options: ImportOptions) -> Judgement:
    need(row, "prompt", "completions")
    return _full(row, options) if "tiers" in row else _simple(row, options)


def _full(row: Mapping[str, Any], options: ImportOptions) -> Judgement:
    prompt = row["prompt"]
    if not isinstance(prompt, Mapping):
        raise BadRowError("the prompt must be an object with messages")
    for message in list_of(prompt.get("messages"), "the messages of the prompt"):
        if not isinstance(message, Mapping) or not isinstance(message.get("content"), str) or "role" not in message:
            raise BadRowError("the prompt must hold messages with role and content")
    if prompt["messages"] and prompt["messages"][-1]["role"] != "user":
        raise BadRowError("the last turn of the prompt is not the user's")
    _check(prompt, {"category": (str,), "split": (str,)})
    for completion in list_of(row["completions"], "completions"):
        if not isinstance(completion, Mapping):
            raise BadRowError("a completion must be an object with its text")
        text_of(completion.get("text"), "a completion")
        _check(completion, _COMPLETION_KINDS)
        if not -(2**63) <= (completion.get("seed") or 0) < 2**63:
            raise BadRowError("the seed of a completion needs more than 64 bits")
    _check(row, _KINDS)
    for tier in list_of(row["tiers"], "tiers"):
        for place in list_of(tier, "a tier"):
            _place(place)
    for place in row.get("shown", ()):
        _place(place)
    if row.get("seconds") is not None:
        number_of(row["seconds"], "seconds")
    defaults = {"judge": row.get("judge") or options.judge, "source": row.get("source", options.source)}
    kept = {
        **prompt,
        "category": prompt.get("category") or options.category,
        "split": prompt.get("split") or options.split,
    }
    judgement = Judgement.from_json({**row, **defaults, "prompt": kept})
    if not row.get("shown"):
        # An unknown order on the screen is something else than having seen the completions in the order of the file.
        return replace(judgement, ranking=replace(judgement.ranking, shown=()))
    return judgement


def _simple(row: Mapping[str, Any], options: ImportOptions) -> Judgement:
    all_bad = row.get("all_bad", False)
    if not isinstance(all_bad, bool):
        raise BadRowError("all_bad must be true or false")
    if not all_bad:
        need(row, "ranking")
    texts = texts_of(row["completions"])
    tiers = []
    for tier in list_of(row.get("ranking") or [], "the ranking"):
        tiers.append([_place(place) for place in (tier if isinstance(tier, list) else [tier])])
    for place in (place for tier in tiers for place in tier):
        if place >= len(texts):
            raise BadRowError(
                f"the ranking names completion {place}, the last one is {len(texts) - 1} (counting from 0)"
            )
    note = row.get("note") or ""
    if not isinstance(note, str):
        raise BadRowError("the note must be text")
    judgement = judgement_of(
        prompt_of(row["prompt"], row, options), texts, tiers, row, options, all_bad=all_bad, note=note
    )
    if row.get("seconds") is None:
        return judgement
    return replace(judgement, ranking=replace(judgement.ranking, seconds=number_of(row["seconds"], "seconds")))


def _check(value: Mapping[str, Any], kinds: Mapping[str, tuple[type, ...]]) -> None:
    for key, kind in kinds.items():
        if key in value and (not isinstance(value[key], kind) or (isinstance(value[key], bool) and bool not in kind)):
            names = " or ".join("null" if k is type(None) else k.__name__ for k in kind)
            raise BadRowError(f"{key!r} must be {names}, not {value[key]!r}")


def _place(place: Any) -> int:
    if not isinstance(place, int) or isinstance(place, bool) or place < 0:
        raise BadRowError(f"a completion is named by its place, counting from 0, not by {place!r}")
    return place


OWN = Layout("manners", "prompt, completions, and ranking, all_bad or tiers (our own)", _fits, row_by_row(_judgement))
