"""Kill a PPO run with SIGKILL at random moments, resume it each time, and compare it byte for byte with one that was left alone.

    python benchmarks/kill_and_resume.py --kills 20

Half of the kills fall at a moment drawn from the duration of a whole run, half while something is being written. The last line
is one JSON object; the exit code is 1 when any file differs.
"""

from __future__ import annotations

import argparse
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


def command(config: Path, sets: list[str], run: Path, resume: bool) -> list[str]:
    where = ["--resume", str(run)] if resume else [str(config), "--run", str(run), *sets]
    return [sys.executable, "-c", "from manners.cli import main; main()", "train", "ppo", *where]


def whole(config: Path, sets: list[str], run: Path) -> float:
    """Run without interruption; gives the seconds."""
    start = time.monotonic()
    subprocess.run(command(config, sets, run, resume=False), check=True, capture_output=True)
    return time.monotonic() - start


def kill_once(config: Path, sets: list[str], run: Path, seconds: float, while_writing: bool) -> bool:
    """Start or resume the run and kill it; True if it was still alive to be killed."""
    resume = (run / "lineage.json").exists()
    process = subprocess.Popen(command(config, sets, run, resume), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    # a run spends most of its seconds on loading libraries: those kills would prove little
    until = time.monotonic() + random.uniform(0.4, 1.0) * seconds
    while process.poll() is None:
        late = time.monotonic() > until
        if late and (not while_writing or any(run.glob("*/.*.part"))):
            process.kill()
            process.wait()
            return True
        time.sleep(0.0005)
    if process.returncode != 0:
        raise SystemExit(process.stderr.read().decode() if process.stderr else "the run failed")
    return False


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
        reference = Path(folder) / "whole"
        seconds = whole(args.config, sets, reference)
        present = [name for name in COMPARED if (reference / name).exists()]
        kills, runs, differing = 0, 0, set()
        while kills < args.kills:
            run, runs = Path(folder) / f"killed-{runs}", runs + 1
            while kills < args.kills and kill_once(args.config, sets, run, seconds, while_writing=kills % 2 == 1):
                kills += 1
                done = len((run / "metrics.jsonl").read_text().splitlines()) if (run / "metrics.jsonl").exists() else 0
                print(f"kill {kills} after {done} rows of metrics", file=sys.stderr)
            subprocess.run(
                command(args.config, sets, run, (run / "lineage.json").exists()), check=True, capture_output=True
            )
            differing |= {name for name in present if (run / name).read_bytes() != (reference / name).read_bytes()}
    print(json.dumps({"kills": kills, "runs": runs, "files_compared": present, "files_differing": sorted(differing)}))
    sys.exit(bool(differing))


if __name__ == "__main__":
    main()
