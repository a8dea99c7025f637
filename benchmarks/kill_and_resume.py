"""Kill a PPO run with SIGKILL at random moments, resume it each time, and compare it byte for byte with one that was left alone.

    python benchmarks/kill_and_resume.py --kills 20

A moment is counted in changes of the run's folder, so that none is lost on loading libraries, and every second kill waits until
something is being written. The last line is one JSON object; the exit code is 1 when any file differs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMPARED = ("metrics.jsonl", "samples.jsonl", "checkpoints/best/adapter_model.safetensors",
            "checkpoints/best/value_head.safetensors", "checkpoints/final/adapter_model.safetensors",
            "checkpoints/final/value_head.safetensors", "checkpoints/start/adapter_model.safetensors")  # fmt: skip
ROOT = Path(__file__).resolve().parent.parent


def begin(config: Path, sets: list[str], run: Path) -> subprocess.Popen[bytes]:
    """Start the run, or go on with it where it is there."""
    where = ["--resume", str(run)] if (run / "lineage.json").exists() else [str(config), "--run", str(run), *sets]
    command = [sys.executable, "-c", "from manners.cli import main; main()", "train", "ppo", *where]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def watch(process: subprocess.Popen[bytes], run: Path, kill_after: float, while_writing: bool) -> int:
    """Kill the process once the run's folder has changed so many times; gives how often it changed until the end."""
    changes, before = -1, {Path(): 0}
    while process.poll() is None:
        now = sizes(run)
        changes, before = changes + (now != before), now
        if changes >= kill_after and (not while_writing or any(path.suffix == ".part" for path in now)):
            process.kill()
        time.sleep(0.0005)
    if process.returncode > 0:
        raise SystemExit(process.stderr.read().decode() if process.stderr else "the run failed")
    return changes


def sizes(folder: Path) -> dict[Path, int]:
    """Sizes of all that lies in the folder now; what goes while it is looked at is left out."""
    found = {}
    with contextlib.suppress(OSError):
        for path in folder.rglob("*"):
            with contextlib.suppress(OSError):
                found[path] = path.stat().st_size
    return found


def rows(run: Path) -> int:
    path = run / "metrics.jsonl"
    return len(path.read_text(encoding="utf-8").splitlines()) if path.exists() else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "tiny_ppo.yaml")
    parser.add_argument("--set", action="append", default=[], help="key=value, over the config")
    parser.add_argument("--seed", type=int, default=0, help="draws the moments")
    args = parser.parse_args()
    random.seed(args.seed)
    sets = [part for value in args.set for part in ("--set", value)]
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        changes = watch(begin(args.config, sets, whole), whole, float("inf"), while_writing=False)
        present = [name for name in COMPARED if (whole / name).exists()]
        kills, runs, differing = 0, 0, set()
        while kills < args.kills:
            run, runs = Path(folder) / f"killed-{runs}", runs + 1
            alive = True
            while alive:
                left = changes * (1 - rows(run) / rows(whole))
                moment = random.uniform(0, 0.8 * left) if kills < args.kills else float("inf")
                process = begin(args.config, sets, run)
                watch(process, run, moment, while_writing=kills % 2 == 1)
                alive = process.returncode < 0
                if alive:
                    kills += 1
                    print(f"kill {kills} after {rows(run)} rows of metrics", file=sys.stderr)
            differing |= {name for name in present if (run / name).read_bytes() != (whole / name).read_bytes()}
    print(json.dumps({"kills": kills, "runs": runs, "files_compared": present, "files_differing": sorted(differing)}))
    sys.exit(bool(differing))


if __name__ == "__main__":
    main()
