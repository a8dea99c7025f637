"""Draws runs side by side, for docs/howto/reward-hacking.md:

python runs/hacking_curves.py docs/pictures/reward-hacking.svg hacking/unguarded hacking/guarded
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot
from matplotlib.ticker import MaxNLocator

from manners.runs import Run

PANELS = {
    "reward": "the judge that is optimised\ncourteous words per answer",
    "second_judge": "the second judge\nshare of the question's words",
    "distinct_2": "distinct word pairs\nshare of all in the batch",
    "kl": "KL to the reference\nnats per sequence",
}
COLOURS = ("#c8553d", "#2f6690", "#3a7d44")
ACTED = ("stop", "roll_back")


def draw(picture: Path, folders: list[Path]) -> None:
    """One panel for each number, one line for each run. Hollow ring: a guard warned; full dot: it stopped or rolled back."""
    with pyplot.rc_context({"svg.hashsalt": "manners", "svg.fonttype": "none", "font.size": 10}):
        figure, grid = pyplot.subplots(2, 2, figsize=(9, 5.4), sharex=True, layout="constrained")
        for axes, (key, title) in zip(grid.flat, PANELS.items(), strict=True):
            for folder, colour in zip(folders, COLOURS, strict=False):
                _line(axes, key, folder.name, Run.open(folder).metrics(), colour)
            axes.set_title(title, fontsize=10, loc="left")
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(alpha=0.3)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        grid[0, 0].legend(frameon=False)
        for axes in grid[1]:
            axes.set_xlabel("step")
        figure.savefig(picture, metadata={"Date": None})


def _line(axes: Any, key: str, name: str, rows: list[dict[str, Any]], colour: str) -> None:
    axes.plot([row["step"] for row in rows], [row[key] for row in rows], color=colour, linewidth=2, label=name)
    for row in rows:
        if actions := {alarm["action"] for alarm in row["alarms"]}:
            full = colour if actions & set(ACTED) else "white"
            axes.plot(row["step"], row[key], "o", color=colour, markerfacecolor=full, markersize=8, zorder=3)


if __name__ == "__main__":
    draw(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
