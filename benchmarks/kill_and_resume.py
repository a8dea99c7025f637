"""Kill a PPO run with SIGKILL at random moments, resume it each time, and compare it byte for byte with one that was left alone.

    python benchmarks/kill_and_resume.py --kills 20

A moment is drawn from what the run logs, and from the seconds of a step, so that no kill is lost on loading libraries; every second
kill waits until something is being written. The last line is one JSON object; the exit code is 1 when any file differs.
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


def begin(config: Path, sets: list[str], run: Path) -> subprocess.Popen[bytes]:
    """Start the run, or go on with it where it is there."""
    where = ["--resume", str(run)] if (run / "lineage.json").exists() else [str(config), "--run", str(run), *sets]
    command = [sys.executable, "-c", "from manners.cli import main; main()", "train", "ppo", *where]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def end(process: subprocess.Popen[bytes]) -> None:
    """Wait for the process; stop with its message where it failed by itself."""
    _, error = process.communicate()
    if process.returncode > 0:
        raise SystemExit(error.decode())


def kill(process: subprocess.Popen[bytes], run: Path, logged: float, pause: float, while_writing: bool) -> bool:
    """Kill the process `pause` seconds after the run has logged more than `logged` bytes; True if it was still alive."""
    while process.poll() is None and bytes_of(run) <= logged:
        time.sleep(0.002)
    time.sleep(pause)
    while process.poll() is None and while_writing and not any(run.glob("*/.*.part")):
        time.sleep(0.0005)
    process.kill()
    end(process)
    return process.returncode < 0


def bytes_of(run: Path) -> int:
    """How much the run has logged that another run would log as well."""
    return sum(path.stat().st_size for name in ("metrics.jsonl", "samples.jsonl") if (path := run / name).exists())


def seconds_of_a_step(run: Path) -> float:
    seconds = [json.loads(line)["seconds"] for line in (run / "timings.jsonl").read_text(encoding="utf-8").splitlines()]
    return sum(seconds) / len(seconds)


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
        end(begin(args.config, sets, whole))
        present = [name for name in COMPARED if (whole / name).exists()]
        kills, runs, differing = 0, 0, set()
        while kills < args.kills:
            run, runs, alive = Path(folder) / f"killed-{runs}", runs + 1, True
            while alive and kills < args.kills:
                now = bytes_of(run)
                moment = random.uniform(now, now + 0.7 * (bytes_of(whole) - now))
                pause = random.uniform(0, seconds_of_a_step(whole))
                alive = kill(begin(args.config, sets, run), run, moment, pause, while_writing=kills % 2 == 1)
                if alive:
                    kills += 1
                    print(f"kill {kills} after {bytes_of(run) / bytes_of(whole):.0%} of the run", file=sys.stderr)
            end(begin(args.config, sets, run))
            differing |= {name for name in present if (run / name).read_bytes() != (whole / name).read_bytes()}
    print(json.dumps({"kills": kills, "runs": runs, "files_compared": present, "files_differing": sorted(differing)}))
    sys.exit(bool(differing))


if __name__ == "__main__":
    main()
