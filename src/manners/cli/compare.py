"""`manners compare`: trains each method with each seed, lets all answer the same held-out prompts, and shows one table and one plot.

What is done already is not done again: a comparison that was cut short goes on when the same command is given once more.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from manners.cli.data import made_from, read_split
from manners.cli.direct import run_direct
from manners.cli.evaluate import interval
from manners.cli.offline import run_offline
from manners.cli.on_policy import run_on_policy
from manners.cli.resume import reopen
from manners.cli.talk import say, table, track
from manners.config import load_config
from manners.errors import MannersError
from manners.evaluate.comparison import CompareConfig, Entry, Ground, Outcome, summarise
from manners.feedback.pairs import prompts_of
from manners.report.comparison import write_plot
from manners.runs import Run, read_json, write_json
from manners.train.grpo import GRPOConfig, train_grpo
from manners.train.ppo import PPOConfig, train_ppo

OUTCOME = "outcome.json"
SAID = ("reward", "reward_ci", "second_judge", "second_judge_ci", "kl", "seconds")


def compare_methods(config: Path | None, sets: Sequence[str], data: Path, split: str, folder: Path) -> dict[str, Any]:
    """Compare in `folder`, or go on there; prints the table and gives the numbers of the last line."""
    settings = load_config(CompareConfig, config, sets)
    if not settings.methods:
        raise MannersError("there is nothing to compare: name methods in the config, as configs/compare.yaml does")
    sources = made_from(folder, data=data, model=settings.model)
    if (folder / "lineage.json").exists():
        run, _ = reopen(folder, "comparison", settings, sources, accept_changes=False)
    else:
        run = Run.create(folder, "comparison", settings, sources)
    with run.guard():
        rows = run_comparison(settings, data, split, run)
    columns = (
        "method",
        "reward",
        "95 % interval",
        "second judge",
        "95 % interval",
        "KL",
        "length",
        "finished",
        "seconds",
    )
    prompts = f"{rows[0]['prompts']} held-out prompts, seeds {', '.join(map(str, settings.seeds))}"
    table(f"{folder}: gains on {prompts}", columns, [_line(row) for row in rows])
    short = {row["method"]: {k: row[k] for k in SAID if k in row} for row in rows}
    return {"run": str(folder), "plot": str(folder / "comparison.svg"), "methods": short}


def _line(row: Mapping[str, Any]) -> tuple[str, ...]:
    second = (f"{row['second_judge']:+.3f}", interval(row["second_judge_ci"])) if "second_judge" in row else ("", "")
    gain = (row["method"], f"{row['reward']:+.3f}", interval(row["reward_ci"]))
    return (
        *gain,
        *second,
        f"{row['kl']:.2f}",
        f"{row['length']:.1f}",
        f"{row['finished']:.2f}",
        f"{row['seconds']:.0f}",
    )


def run_comparison(config: CompareConfig, data: Path, split: str, run: Run) -> list[dict[str, Any]]:
    """Train what is not trained yet, and give the rows of the table. Leaves RUN/NAME/SEED, RUN/comparison.json and RUN/comparison.svg."""
    ground = Ground(config, prompts_of(read_split(data, split)), track)
    outcomes: dict[str, dict[int, Outcome]] = {}
    for name, entry in config.methods.items():
        for seed in config.seeds:
            folder = run.path / name / str(seed)
            if not (folder / OUTCOME).exists():
                say(f"[bold]{name}[/], seed {seed}", markup_of=name)
                folder.mkdir(parents=True, exist_ok=True)
                write_json(folder / OUTCOME, asdict(_outcome(config, entry, seed, data, folder / "run", ground)))
            outcomes.setdefault(name, {})[seed] = Outcome(**read_json(folder / OUTCOME))
    rows = summarise(outcomes)
    write_json(run.path / "comparison.json", rows)
    write_plot(run.path / "comparison.svg", rows)
    return rows


def _outcome(config: CompareConfig, entry: Entry, seed: int, data: Path, run: Path, ground: Ground) -> Outcome:
    if entry.method == "best_of_n":
        start = time.monotonic()
        return ground.of_best(entry.n, seed, lambda: time.monotonic() - start)
    made = _train(entry, _sets(config, entry, seed), data, run)
    return ground.of_run(made, made.status["seconds"])


def _train(entry: Entry, sets: Sequence[str], data: Path, run: Path) -> Run:
    """Train as the command of the method does, over a run that was cut short."""
    config = Path(entry.config) if entry.config else None
    begin: dict[str, Any] = {"run": run, "resume": None, "accept_changes": False, "replace": True}
    match entry.method:
        case "ppo":
            return run_on_policy("ppo", PPOConfig, train_ppo, config, sets, data=data, prompts="", **begin)[0]
        case "grpo":
            return run_on_policy("grpo", GRPOConfig, train_grpo, config, sets, data=data, prompts="", **begin)[0]
        case "dpo":
            return run_direct(config, sets, data=data, thumbs=None, threshold=None, **begin)[0]
        case _:
            return run_offline(config, sets, data=data, answers=None, **begin)[0]


def _sets(config: CompareConfig, entry: Entry, seed: int) -> list[str]:
    """What stands over the method's own file: all that the comparison holds equal, and then what its entry says. JSON is YAML."""
    common: dict[str, Any] = {"model": config.model, "train_layers": config.train_layers, "seed": seed}
    common |= {
        "reward": config.reward.model_dump(mode="json"),
        "second_judge": config.second_judge.model_dump(mode="json"),
    }
    common |= {} if config.max_seconds is None else {"max_seconds": config.max_seconds}
    return [f"{key}={json.dumps(value)}" for key, value in (common | entry.settings).items()]
