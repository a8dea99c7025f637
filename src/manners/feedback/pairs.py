"""From rankings to what training reads: pairs, demonstrations, and the split of the prompts.

Everything is split by prompt and never by pair: all that is known about one prompt stands on one side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, TypeVar

from manners.errors import MannersError
from manners.records import SPLITS, Completion, Judgement, Pair, Prompt, Split, content_hash
from manners.runs import file_hash, read_jsonl, write_json, write_jsonl

MANIFEST = "manifest.json"
RANKINGS = "rankings"
T = TypeVar("T")


def pairs_of(judgement: Judgement) -> list[Pair]:
    """The ordered pairs that one ranking contains, the preferred completion first.

    Completions 1, 2, 3 ranked 2nd, 1st, 3rd give (2, 1), (2, 3), (1, 3). Ties, equal texts, completions that the
    ranking does not name, and rankings that say `all_bad` give no pairs. Every pair weighs 1/C(K,2) for K named
    completions, so that a ranking counts once however long it is, and less than once when it holds ties, which say less
    (Ouyang et al. 2022, arXiv:2203.02155, eq. 1). `margin` is the distance in tiers, 1 for neighbours. Several rankings of
    the same completions give a pair each, so that together they weigh as their judges' shares: a soft label.
    """
    return [
        _pair(judgement, chosen, rejected, worse - better)
        for (better, upper), (worse, lower) in combinations(enumerate(_tiers(judgement)), 2)
        for chosen in upper
        for rejected in lower
        if chosen.text != rejected.text
    ]


def ties_of(judgement: Judgement) -> list[Pair]:
    """The tied pairs that one ranking contains: what `pairs_of` leaves out, in pairs of `margin` 0 with neither preferred.

    They weigh 1/C(K,2) as well, so that pairs and ties of a ranking together weigh 1. Equal texts, which no judge can tell apart,
    and rankings that say `all_bad` give none.
    """
    return [
        _pair(judgement, one, other, 0)
        for tier in _tiers(judgement)
        for one, other in combinations(tier, 2)
        if one.text != other.text
    ]


def _tiers(judgement: Judgement) -> list[list[Completion]]:
    """The completions of each tier, best first; none where the judge found all of them bad."""
    completions = {completion.id: completion for completion in judgement.completions}
    tiers = () if judgement.ranking.all_bad else judgement.ranking.tiers
    return [[completions[completion_id] for completion_id in tier] for tier in tiers]


def _pair(judgement: Judgement, chosen: Completion, rejected: Completion, apart: int) -> Pair:
    ranking = judgement.ranking
    weight = 1 / math.comb(sum(len(tier) for tier in ranking.tiers), 2)
    return Pair(judgement.prompt, chosen, rejected, weight, float(apart), ranking.id, ranking.judge)


def demonstrations(judgements: Iterable[Judgement]) -> list[tuple[Prompt, Completion]]:
    """The preferred completions, for supervised fine-tuning: the top tier of every ranking, each completion once.

    Rankings that say `all_bad` and completions that were cut off at the length limit are left out.
    """
    found: dict[str, tuple[Prompt, Completion]] = {}
    for judgement in judgements:
        if judgement.ranking.all_bad:
            continue
        completions = {completion.id: completion for completion in judgement.completions}
        for completion_id in judgement.ranking.tiers[0]:
            if completions[completion_id].finished:
                found.setdefault(completion_id, (judgement.prompt, completions[completion_id]))
    return list(found.values())


def split_of(prompt: Prompt, seed: int, validation: float = 0.1, test: float = 0.1) -> Split:
    """The split of a prompt: its own where it has one, else drawn by a hash of the seed and the prompt.

    `validation` and `test` are the shares of the prompts that have no split of their own. The same prompt always gets
    the same split, whatever else is in the store. Raises MannersError when the shares leave nothing to train on.
    """
    if validation < 0 or test < 0 or validation + test >= 1:
        raise MannersError(
            f"validation ({validation}) and test ({test}) must be shares that leave something to train on"
        )
    if prompt.split:
        return prompt.split
    drawn = _draw("split", seed, prompt.id)
    if drawn < test:
        return "test"
    return "validation" if drawn < test + validation else "train"


def in_split(
    judgements: Iterable[Judgement], split: Split, seed: int, validation: float = 0.1, test: float = 0.1
) -> Iterator[Judgement]:
    """The judgements whose prompts are in `split`, in their order."""
    return (j for j in judgements if split_of(j.prompt, seed, validation, test) == split)


def make_pairs(
    judgements: Iterable[Judgement], seed: int, validation: float = 0.1, test: float = 0.1
) -> dict[Split, list[Pair]]:
    """All pairs of all judgements by the split of their prompts. Every split is there, be it empty."""
    pairs: dict[Split, list[Pair]] = {split: [] for split in SPLITS}
    for judgement in judgements:
        pairs[split_of(judgement.prompt, seed, validation, test)].extend(pairs_of(judgement))
    return pairs


def halves(
    judgements: Iterable[Judgement], seed: int, validation: float = 0.1, test: float = 0.1
) -> tuple[list[Judgement], list[Judgement]]:
    """The judgements of the training prompts in two halves without a common prompt, for the first and the second judge.

    Within each category, and in all, the halves differ by one prompt at most. Which half a prompt falls into depends on
    the seed and on the other training prompts.
    """
    training = list(in_split(judgements, "train", seed, validation, test))
    categories: dict[str, str] = {}
    for judgement in training:
        categories.setdefault(judgement.prompt.id, judgement.prompt.category)
    order = sorted(categories, key=lambda prompt_id: (categories[prompt_id], _draw("halves", seed, prompt_id)))
    first = set(order[::2])
    return (
        [judgement for judgement in training if judgement.prompt.id in first],
        [judgement for judgement in training if judgement.prompt.id not in first],
    )


def write_pairs(
    directory: Path,
    pairs: Mapping[Split, Sequence[Pair]],
    rankings: Mapping[Split, Sequence[Judgement]] | None = None,
    **made_from: Any,
) -> dict[str, Any]:
    """Write train.jsonl, validation.jsonl, test.jsonl and manifest.json, and return the manifest.

    `rankings` are the whole judgements behind the pairs; they go to rankings/train.jsonl and so on, for what reads ties and
    whole orders. The manifest holds `made_from` (seed, shares, the store's content hash: what the caller names) and for each
    split its file, the number of pairs, rankings and prompts, and the file's hash; the same of the rankings. It is written
    last, so that it speaks of whole files. Raises MannersError when there is no pair at all, when a prompt stands in two
    splits, or when the place cannot be written.
    """
    if not any(pairs.values()):
        raise MannersError(
            "there are no pairs to write: no ranking prefers one completion to another; collect more judgements"
        )
    _refuse_shared_prompts(pairs)
    _refuse_shared_prompts(rankings or {})
    (directory / MANIFEST).unlink(missing_ok=True)
    splits = {}
    for split in SPLITS:
        rows = pairs.get(split, ())
        counts = {"pairs": len(rows), "rankings": len({pair.ranking_id for pair in rows})}
        splits[split] = _write_rows(directory, f"{split}.jsonl", rows, **counts)
    manifest = {"kind": "pairs", "made_from": made_from, "splits": splits}
    if rankings is not None:
        manifest[RANKINGS] = {
            split: _write_rows(directory, f"{RANKINGS}/{split}.jsonl", found, rankings=len(found))
            for split, found in ((split, rankings.get(split, ())) for split in SPLITS)
        }
    write_json(directory / MANIFEST, manifest)
    return manifest


def _refuse_shared_prompts(rows: Mapping[Split, Sequence[Pair]] | Mapping[Split, Sequence[Judgement]]) -> None:
    prompts = {split: {row.prompt.id for row in rows.get(split, ())} for split in SPLITS}
    for one, other in combinations(SPLITS, 2):
        if shared := prompts[one] & prompts[other]:
            raise MannersError(
                f"{len(shared)} prompts are both in {one} and in {other}; split by prompt with make_pairs"
            )


def _write_rows(
    directory: Path, name: str, rows: Sequence[Pair] | Sequence[Judgement], **counts: int
) -> dict[str, Any]:
    """Write one file and give what the manifest says of it."""
    write_jsonl(directory / name, (row.to_json() for row in rows))
    prompts = len({row.prompt.id for row in rows})
    return {"file": name, **counts, "prompts": prompts, "hash": file_hash(directory / name)}


def read_pairs(path: Path) -> list[Pair]:
    """The pairs of one file that `write_pairs` wrote. Raises MannersError when it is missing or is something else."""
    return _read_rows(path, Pair.from_json, "pair")


def read_rankings(path: Path) -> list[Judgement]:
    """The judgements of one file that `write_pairs` wrote. Raises MannersError when it is missing or is something else."""
    return _read_rows(path, Judgement.from_json, "ranking")


def _read_rows(path: Path, read: Callable[[dict[str, Any]], T], what: str) -> list[T]:
    if path.is_dir():
        raise MannersError(f"{path} is a directory; name one of its files, such as {path / 'train.jsonl'}")
    rows = []
    for number, row in enumerate(read_jsonl(path), 1):
        try:
            rows.append(read(row))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            why = f" ({error})" if isinstance(error, ValueError) else ""
            raise MannersError(
                f"row {number} of {path} is no {what}{why}; make the file with `manners pairs`"
            ) from None
    return rows


def prompts_of(pairs: Iterable[Pair]) -> list[Prompt]:
    """The prompts of `pairs`, each once, in the order of their first pair."""
    return list({pair.prompt.id: pair.prompt for pair in pairs}.values())


def preferred_of(pairs: Iterable[Pair]) -> list[tuple[Prompt, Completion]]:
    """What supervised fine-tuning learns from: finished completions that were preferred in some pair and beaten in none."""
    pairs = list(pairs)
    beaten = {pair.rejected.id for pair in pairs}
    best = {pair.chosen.id: (pair.prompt, pair.chosen) for pair in pairs if pair.chosen.finished}
    return [answer for completion_id, answer in best.items() if completion_id not in beaten]


def _draw(*parts: Any) -> float:
    """A number in [0, 1) that depends on nothing but `parts`."""
    return int(content_hash(*parts), 16) / 16**16
