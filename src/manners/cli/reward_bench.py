"""`manners evaluate reward`: judges on preference sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from manners.cli.options import Json
from manners.cli.talk import give, say, table, track
from manners.config import load_config
from manners.errors import MannersError
from manners.runs import file_hash, write_json

Scorers = Annotated[
    list[str],
    typer.Argument(
        help="a run or checkpoint of a reward model; toxicity, aggression or hate; CLASSIFIER#its good class; module:function;"
        " or a YAML file like the `reward` section of configs/ppo.yaml"
    ),
]
Files = Annotated[
    Optional[list[Path]],  # noqa: UP045
    typer.Option(
        "--data", help="a preference set: JSON lines, JSON or CSV; may be repeated [default: pairs/test.jsonl]"
    ),
]
Out = Annotated[Optional[Path], typer.Option("--out", help="write all numbers to this JSON file")]  # noqa: UP045
Row = tuple[str, dict[str, Any]]


def reward(scorers: Scorers, files: Files = None, out: Out = None, as_json: Json = False) -> None:
    """How good judges are on preference sets: by subset, best of n, ties, styles, length, calibration; with 95 % intervals."""
    from manners.evaluate.preferences import read_preferences
    from manners.evaluate.reward_bench import difference, evaluate_judge
    from manners.evaluate.scores import Scored, log_odds_per_unit, score_preferences
    from manners.rewards.load import load_scorer

    sets = [read_preferences(path) for path in files or [Path("pairs/test.jsonl")]]
    for one in sets:
        if one.left_out:
            reject = one.left_out[0]
            told = f"{one.path}: {len(one.left_out)} rows left out; the first, line {reject.line}: {reject.reason}"
            say(told, markup_of=told)
    preferences = [preference for one in sets for preference in one.preferences]
    judges: list[dict[str, Any]] = []
    first: list[Scored] = []
    for named in scorers:
        judge = load_scorer(scorer_named(named), None, "reward")
        scored = score_preferences(judge, preferences, track)
        found = {"scorer": named, **evaluate_judge(scored, log_odds_per_unit(judge))}
        judges.append(found | ({"difference": difference(scored, first)} if first else {}))
        first = first or scored
    data = [
        {
            "path": str(one.path),
            "hash": file_hash(one.path),
            "rows": len(one.preferences),
            "left_out": len(one.left_out),
        }
        for one in sets
    ]
    report = {"judges": judges, "data": data}
    if out:
        write_json(out, report)
    if as_json:
        give(report)
    else:
        _show(judges)


def scorer_named(named: str) -> Any:
    """The config of the judge that an argument names; see `Scorers`. Raises MannersError for a word that names none."""
    from manners.rewards.load import ScorerConfig
    from manners.rewards.toxicity import FAULTS

    if named in FAULTS:
        return ScorerConfig(toxicity=named)
    if named.endswith((".yaml", ".yml")):
        return load_config(ScorerConfig, Path(named))
    if "#" in named:
        classifier, _, positive = named.rpartition("#")
        return load_config(ScorerConfig, None, [f"classifier={classifier}", f"positive={positive}"])
    if Path(named).exists():
        return ScorerConfig(model=named)
    if ":" in named:
        return ScorerConfig(function=named)
    raise MannersError(
        f"{named!r} names no judge: give a run of a reward model, toxicity, aggression, hate, CLASSIFIER#class, module:function or a"
        " YAML file"
    )


def _show(judges: Sequence[dict[str, Any]]) -> None:
    rows = [list(_rows(judge)) for judge in judges]
    names = [judge["scorer"] for judge in judges]
    title = f"{judges[0]['rows']} rows, {judges[0]['prompts']} prompts"
    table(
        title,
        ("", "n", *names),
        [
            (lines[0][0], str(lines[0][1]["n"]), *(_number(one) for _, one in lines))
            for lines in zip(*rows, strict=True)
        ],
    )
    for judge in judges[1:]:
        if gap := judge["difference"]:
            told = f"{judge['scorer']} against {names[0]}: right in {_number({**gap, 'value': gap['mean']})} more of the rows"
            say(f"{told}, p = {gap['p']:.3g} ({gap['test']})", markup_of=told)


def _rows(judge: dict[str, Any]) -> Sequence[Row]:
    """What a table shows, in its order."""
    rows: list[Row] = []
    if pairs := judge.get("pairs"):
        rows += [("accuracy", pairs["accuracy"]), ("margin (score)", pairs["margin"])]
        rows += [("log-loss (nats)", pairs["log_loss"]), ("calibration error", pairs["ece"])]
        length = pairs["length"]
        rows += [(name.replace("_", " "), length[name]) for name in length]
        rows += [(f"section {name}", score) for name, score in pairs.get("sections", {}).items()]
        if "mean_of_sections" in pairs:
            rows.append(("mean of sections", pairs["mean_of_sections"]))
    if "best_of" in judge:
        rows.append((f"best of several (chance {judge['best_of']['chance']:.2f})", judge["best_of"]))
    if "ties" in judge:
        rows.append(("ties", judge["ties"]))
    if styles := judge.get("styles"):
        rows += [(f"styles, {name}", styles[name]) for name in ("hard", "normal", "easy", "average")]
    rows += [(f"{subset['name']} ({subset['kind']})", subset) for subset in judge.get("subsets", ())]
    if "mean_of_subsets" in judge:
        rows.append(("mean of subsets", judge["mean_of_subsets"]))
    return rows


def _number(found: dict[str, Any]) -> str:
    if found["value"] is None:
        return "–"
    low, high = found["ci"]
    return f"{found['value']:.3f}" + ("" if low is None or high is None else f" [{low:.3f}, {high:.3f}]")
