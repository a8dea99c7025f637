"""Run the rows, ours and the peer's in turn, several times in one go, and print and save the table.

    python benchmarks/speed/bench.py [--quick] [--rows NAME,NAME] [--repeats N] [--out FOLDER]

A pair of runs counts only where both did the same work: the model, as many adapter weights, answers of about the same length. The
last line is one JSON object: a ratio per row, and `floor_worst`, the largest ratio of our seconds to the counted floor.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import floor
from environments import python_of
from rows import FULL, LAYERS, QUICK, ROWS, Row, Size

from manners.feedback.pairs import pairs_of
from manners.models.starter import starter
from manners.records import Judgement, Prompt
from manners.runs import read_json, read_jsonl, write_json
from manners.text.chat import Chat

HERE = Path(__file__).resolve().parent
THREADS = os.cpu_count() or 1


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="smaller work, one repeat: under 15 minutes on two cores")
    parser.add_argument("--rows", default=",".join(row.name for row in ROWS))
    parser.add_argument("--repeats", type=int, default=0, help="default: 1 with --quick, else 3")
    parser.add_argument("--out", type=Path, default=HERE.parent / "results")
    given = parser.parse_args()
    size, repeats = (QUICK, given.repeats or 1) if given.quick else (FULL, given.repeats or 3)
    rows = [row for row in ROWS if row.name in given.rows.split(",")]
    model = starter(lambda text: print(text, file=sys.stderr))
    done: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {}
    for row in rows:
        twin = next((r.name for r in rows if r.name in done and same_runs(r, row)), None)
        done[row.name] = done[twin] if twin else [pair(row, model, size) for _ in range(repeats)]
    operations = floor.rate()
    table = [about(row, done[row.name], model, size, operations) for row in rows]
    result = {
        "date": datetime.date.today().isoformat(),
        "machine": {"processor": processor(), "cores": THREADS, "gflops": operations / floor.GIGA, "python": platform.python_version()},
        "size": size, "repeats": repeats, "rows": table,
    }  # fmt: skip
    given.out.mkdir(parents=True, exist_ok=True)
    write_json(given.out / ("quick.json" if given.quick else "full.json"), result)
    show(table)
    shares = [line["floor"] for line in table if line["floor"] is not None]
    summary = {line["name"]: line["ratio"] for line in table} | ({"floor_worst": max(shares)} if shares else {})
    print(json.dumps(summary))


def same_runs(one: Row, other: Row) -> bool:
    """Whether two rows look at different sides of the same runs."""
    return one is not other and (one.work, one.peer, one.train_layers, one.pair_epochs) == (
        other.work, other.peer, other.train_layers, other.pair_epochs,
    )  # fmt: skip


def pair(row: Row, model: Path, size: Size) -> tuple[dict[str, Any], dict[str, Any]]:
    """Ours, then the peer's, on the same work. Raises SystemExit where it was not the same."""
    work = asdict(row) | {
        "model": str(model), "layers": LAYERS, "threads": THREADS, "size": size, "prompts": prompts(size["prompts"]),
        "pairs": pairs(size["pairs"]),
    }  # fmt: skip
    environment, script = row.peer
    ours = timed(Path(sys.executable), "ours.py", work)
    theirs = timed(python_of(environment), script, work)
    print(
        f"{row.name}: ours {ours['seconds']:.4f}, {environment} {theirs['seconds']:.4f} s per {ours['unit']}",
        file=sys.stderr,
    )
    if (ours["trainable"], ours["unit"]) != (theirs["trainable"], theirs["unit"]):
        raise SystemExit(f"{row.name}: not the same work: {ours} against {theirs}")
    if abs(ours.get("response_tokens", 1) / theirs.get("response_tokens", 1) - 1) > 0.1:
        raise SystemExit(f"{row.name}: answers of different length: {ours} against {theirs}")
    return ours, theirs


def timed(python: Path, script: str, work: dict[str, Any]) -> dict[str, Any]:
    """Run a script in a process of its own; gives what it printed last, with the peak memory of the process, MiB."""
    with tempfile.NamedTemporaryFile("w", suffix=".json", delete=False) as file:
        json.dump(work, file)
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as error:
        child = subprocess.Popen(
            [str(python), str(HERE / script), file.name], stdout=out, stderr=error, cwd=tempfile.gettempdir()
        )
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        Path(file.name).unlink()
        for stream in (out, error):
            stream.seek(0)
        if child.returncode:
            raise SystemExit(f"{script} failed:\n{error.read()[-3000:]}")
        lines = [line for line in out.read().splitlines() if line.startswith("{")]
    return dict(json.loads(lines[-1])) | {"peak_mib": usage.ru_maxrss / 1024}


def about(
    row: Row, runs: Sequence[tuple[dict[str, Any], dict[str, Any]]], model: Path, size: Size, operations: float
) -> dict[str, Any]:
    """A line of the table: medians, the ratio pair by pair, and our seconds over the counted floor."""
    if row.measure == "memory":
        ratios = [ours["peak_mib"] / theirs["peak_mib"] for ours, theirs in runs]
    else:
        ratios = [theirs["seconds"] / ours["seconds"] for ours, theirs in runs]
    ratio = statistics.median(ratios)
    least = counted(row, model, size) / operations
    seconds = statistics.median(ours["seconds"] for ours, _ in runs)
    return {
        "name": row.name, "title": row.title, "unit": runs[0][0]["unit"], "ratio": round(ratio, 3),
        "ratios": [round(r, 3) for r in ratios], "target": row.target,
        "met": ratio <= row.target if row.measure == "memory" else ratio >= row.target,
        "floor_seconds": least, "floor": None if row.measure == "memory" else round(seconds / least, 2),
        "ours": median_of([ours for ours, _ in runs]), "peer": median_of([theirs for _, theirs in runs]), "against": row.peer[0],
    }  # fmt: skip


def median_of(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    names = ("seconds", "peak_mib", "load_seconds", "first_step_seconds", "response_tokens")
    middle = {name: statistics.median(run[name] for run in runs) for name in names if name in runs[0]}
    return middle | {name: runs[0][name] for name in ("phases", "torch", "trainable") if name in runs[0]}


def counted(row: Row, model: Path, size: Size) -> float:
    """Operations that one unit of the row's work needs at least: what prompts begin with alike, once for all of them."""
    chat = Chat(tokenizer_of(model), 2048)
    count = size["prompts"]
    asked = [chat.prompt(Prompt.of(text), room=0) for text in prompts(count // 4 if row.work == "grpo" else count)]
    shape = floor.Shape.of(read_json(model / "config.json"), context=round(statistics.mean(map(len, asked))))
    if row.work == "generate":
        return floor.generation(shape, distinct(asked) / size["generated"], size["tokens"]) / size["tokens"]
    if row.work in ("ppo", "grpo"):
        epochs = size["epochs"] if row.work == "ppo" else 1
        once = distinct(asked) / count
        return floor.on_policy(shape, row.train_layers, once, size["tokens"], epochs, judge=row.work == "ppo")
    found = pairs(size["pairs"])
    batches = [found[i : i + size["pair_batch"]] for i in range(0, len(found), size["pair_batch"])]
    once = sum(distinct([chat.prompt(Prompt.of(p["prompt"]), room=0) for p in batch]) for batch in batches) / len(found)
    answers = statistics.mean(len(chat.tokenizer(p["chosen"] + p["rejected"])["input_ids"]) for p in found)
    if row.work == "dpo":
        return floor.direct(shape, row.train_layers, once, answers)
    return floor.reward(shape, row.train_layers, once, answers, row.pair_epochs) / row.pair_epochs


def distinct(rows: Sequence[Sequence[int]]) -> int:
    """How many tokens of rows have to be computed, where those behind the same tokens are the same."""
    return len({tuple(row[: end + 1]) for row in rows for end in range(len(row))})


def tokenizer_of(model: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model)


@cache
def judgements() -> list[Judgement]:
    with resources.as_file(resources.files("manners") / "starter" / "judgements.jsonl") as path:
        return [Judgement.from_json(row) for row in read_jsonl(path)]


def prompts(count: int) -> list[str]:
    return [judgement.prompt.text for judgement in judgements()[:count]]


def pairs(count: int) -> list[dict[str, str]]:
    """The best and the worst answer to each of the first prompts."""
    found = [max(pairs_of(judgement), key=lambda pair: pair.margin) for judgement in judgements()[:count]]
    return [{"prompt": p.prompt.text, "chosen": p.chosen.text, "rejected": p.rejected.text} for p in found]


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def show(table: Sequence[dict[str, Any]]) -> None:
    print(
        f"{'row':<18}{'ours':>12}{'peer':>12}  {'unit':<9}{'ratio':>7}{'target':>8}{'× floor':>9}{'MiB':>7}{'peer':>7}"
    )
    for line in table:
        share = "" if line["floor"] is None else f"{line['floor']:.2f}"
        print(
            f"{line['name']:<18}{line['ours']['seconds']:>12.4f}{line['peer']['seconds']:>12.4f}  s/{line['unit']:<7}"
            f"{line['ratio']:>7.2f}{line['target']:>8.1f}{share:>9}{line['ours']['peak_mib']:>7.0f}{line['peer']['peak_mib']:>7.0f}"
            f"{'' if line['met'] else '  missed'}"
        )


if __name__ == "__main__":
    main()
