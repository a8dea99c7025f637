"""Draw a saved table: `python picture.py [RESULT.json] [--out FOLDER]` writes speed.svg and phases.svg.

speed.svg: for every row how many times the peer's speed ours has, beside its target, on a logarithmic axis. phases.svg: the seconds of
one PPO episode by part, for each number of layers that learn.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from manners.report.svg import COLOURS, alone, drawing, svg

ROOT = Path(__file__).resolve().parents[2]
WIDTH, TALL, SHORT = 560, 330, 190
PALETTE = ("blue", "orange", "green", "purple", "sand", "grey")


def speeds(rows: Sequence[Mapping[str, Any]]) -> str:
    """Ratios to the peer as dots, targets as strokes, one line per row: an SVG file."""
    timed = [row for row in reversed(rows) if row["floor"] is not None]
    places = range(len(timed))
    with drawing():
        drawn = Figure(figsize=(WIDTH / 72, TALL / 72))
        axes = drawn.subplots()
        axes.axvline(1, color=COLOURS["muted"], linewidth=1)
        axes.plot(
            [r["ratio"] for r in timed], places, "o", color=COLOURS["blue"], label="measured", gid="ratios", zorder=3
        )
        axes.plot(
            [r["target"] for r in timed], places, "|", color=COLOURS["orange"], markersize=14, markeredgewidth=2.5,
            label="target", gid="targets",
        )  # fmt: skip
        axes.set(xscale="log", xlabel="times the peer's speed")
        axes.set_xticks([0.5, 1, 2, 4, 8], ["0.5", "1", "2", "4", "8"])
        axes.xaxis.set_minor_locator(axes.xaxis.get_major_locator())
        axes.set_yticks(list(places), [row["title"] for row in timed])
        axes.grid(True, axis="x")
        axes.grid(False, axis="y")
        axes.legend(frameon=False, fontsize=9, loc="lower right")
        drawn.tight_layout()
        told = "; ".join(f"{row['title']} {row['ratio']:.2f}, target {row['target']:g}" for row in reversed(timed))
        return alone(svg(drawn, "speed", "How many times the peer's speed", told), WIDTH, TALL)


def phases(rows: Sequence[Mapping[str, Any]]) -> str:
    """Seconds of one PPO episode by part, stacked, a bar for each number of layers that learn: an SVG file."""
    named = {"ppo_all": "all layers", "ppo_top8": "top 8", "ppo_top4": "top 4"}
    bars = [row for row in reversed(rows) if row["name"] in named]
    parts = list(bars[-1]["ours"]["phases"])
    with drawing():
        drawn = Figure(figsize=(WIDTH / 72, SHORT / 72))
        axes = drawn.subplots()
        ends = [0.0] * len(bars)
        for part, colour in zip(parts, PALETTE, strict=False):
            found = [share(row, part) for row in bars]
            axes.barh(range(len(bars)), found, left=ends, height=0.55, color=COLOURS[colour], label=part, gid=part)
            ends = [end + seconds for end, seconds in zip(ends, found, strict=True)]
        axes.set_yticks(range(len(bars)), [named[row["name"]] for row in bars])
        axes.set(xlabel="seconds per episode")
        axes.grid(True, axis="x")
        axes.grid(False, axis="y")
        axes.legend(frameon=False, fontsize=9, ncols=len(parts), loc="lower center", bbox_to_anchor=(0.5, 1))
        drawn.tight_layout()
        told = "; ".join(
            f"{named[row['name']]}: " + ", ".join(f"{part} {share(row, part):.3f}" for part in parts)
            for row in reversed(bars)
        )
        return alone(svg(drawn, "phases", "Where the time of a PPO episode goes", told), WIDTH, SHORT)


def share(row: Mapping[str, Any], part: str) -> float:
    """Seconds of an episode that a part takes: its share of the phases, of the measured seconds."""
    found = row["ours"]["phases"]
    return float(row["ours"]["seconds"] * found.get(part, 0.0) / sum(found.values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("result", type=Path, nargs="?", default=ROOT / "benchmarks" / "results" / "quick.json")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "pictures")
    given = parser.parse_args()
    rows = json.loads(given.result.read_text(encoding="utf-8"))["rows"]
    given.out.mkdir(parents=True, exist_ok=True)
    for name, figure in (("speed", speeds(rows)), ("phases", phases(rows))):
        (given.out / f"{name}.svg").write_text(figure, encoding="utf-8")


if __name__ == "__main__":
    main()
