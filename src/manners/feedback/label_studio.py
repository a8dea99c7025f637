"""Tasks for Label Studio, with what was judged as annotations, for the two labelling configurations below.

`Ranker` alone knows neither ties nor gaps; with a bucket for every rank it can say both: two answers in one bucket are equal, and an
answer in none was not ranked. `Pairwise` knows left and right; that both are equal, or none is acceptable, is a choice beside it.
"""

from __future__ import annotations

from typing import Any

from manners.feedback.judged import Judged, Opinion

MOST_RANKS = 9
NONE_ACCEPTABLE = "no answer is acceptable"
EQUAL = "equally good"

_BUCKETS = "".join(f'    <Bucket name="{rank}" title="{rank}"/>\n' for rank in range(1, MOST_RANKS + 1))
RANKER_CONFIG = f"""\
<View>
  <Text name="prompt" value="$prompt"/>
  <List name="answers" value="$answers" title="Answers"/>
  <Ranker name="ranking" toName="answers">
{_BUCKETS}  </Ranker>
  <Choices name="verdict" toName="prompt">
    <Choice value="{NONE_ACCEPTABLE}"/>
  </Choices>
</View>
"""
PAIRWISE_CONFIG = f"""\
<View>
  <Text name="prompt" value="$prompt"/>
  <Pairwise name="preference" toName="left,right"/>
  <Text name="left" value="$left"/>
  <Text name="right" value="$right"/>
  <Choices name="verdict" toName="prompt">
    <Choice value="{EQUAL}"/>
    <Choice value="{NONE_ACCEPTABLE}"/>
  </Choices>
</View>
"""


def ranker_task(item: Judged) -> dict[str, Any]:
    """One task for `RANKER_CONFIG`. `annotators` in its data names who gave each annotation."""
    ids = [f"answer-{number}" for number in range(1, len(item.completions) + 1)]
    answers = [{"id": name, "title": name, "body": c.text} for name, c in zip(ids, item.completions, strict=True)]
    return _task(item, {"answers": answers}, [_ranked(opinion, ids) for opinion in item.opinions])


def pairwise_task(item: Judged) -> dict[str, Any]:
    """One task for `PAIRWISE_CONFIG`, of an item with two answers."""
    left, right = item.completions
    return _task(item, {"left": left.text, "right": right.text}, [_preferred(opinion) for opinion in item.opinions])


def _task(item: Judged, data: dict[str, Any], results: list[list[dict[str, Any]]]) -> dict[str, Any]:
    prompt = item.prompt
    text = prompt.text if len(prompt.messages) == 1 else "\n\n".join(f"{m.role}: {m.content}" for m in prompt.messages)
    annotators = [opinion.judge or opinion.source for opinion in item.opinions]
    annotations = [
        {"result": result, "lead_time": opinion.seconds, "was_cancelled": False, "ground_truth": False}
        for result, opinion in zip(results, item.opinions, strict=True)
    ]
    return {"data": {"id": item.id, "prompt": text, **data, "annotators": annotators}, "annotations": annotations}


def _ranked(opinion: Opinion, ids: list[str]) -> list[dict[str, Any]]:
    buckets = {str(rank): [ids[place] for place in tier] for rank, tier in enumerate(opinion.tiers, 1)}
    rest = [name for name in ids if not any(name in bucket for bucket in buckets.values())]
    # What is left in the list is kept under this name by the tool itself.
    value = {"ranker": {**buckets, **({"_": rest} if rest else {})}}
    return [_result("ranking", "answers", "ranker", value), *_verdict(opinion)]


def _preferred(opinion: Opinion) -> list[dict[str, Any]]:
    if len(opinion.tiers) == 2:
        side = "left" if opinion.tiers[0] == (0,) else "right"
        # The tag is its own object there.
        return [_result("preference", "preference", "pairwise", {"selected": side}), *_verdict(opinion)]
    if len(opinion.tiers) == 1 and len(opinion.tiers[0]) == 2:
        return _verdict(opinion) or [_choice(EQUAL)]
    return _verdict(opinion)


def _verdict(opinion: Opinion) -> list[dict[str, Any]]:
    return [_choice(NONE_ACCEPTABLE)] if opinion.all_bad else []


def _choice(words: str) -> dict[str, Any]:
    return _result("verdict", "prompt", "choices", {"choices": [words]})


def _result(source: str, target: str, kind: str, value: dict[str, Any]) -> dict[str, Any]:
    return {"id": f"{source}-1", "from_name": source, "to_name": target, "type": kind, "value": value}
