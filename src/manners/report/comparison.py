"""The picture of a comparison: what each method gained over what it cost, by both judges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from manners.report.svg import COLOURS, alone, drawing, svg
from manners.runs import write_text

WIDTH, HIGH = 980, 640
PALETTE = ("orange", "blue", "green", "purple", "sand", "grey", "ink")
MARKERS = ("o", "s", "^", "D")
JUDGES = {"reward": "gain by the judge that is optimised", "second_judge": "gain by the second judge"}


def write_plot(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write the rows of a comparison as an SVG file that stands alone, in light and in dark; gives `path`."""
    judges = [judge for judge in JUDGES if all(judge in row for row in rows)]
    with drawing():
        figure = Figure(figsize=(WIDTH / 72, HIGH / 72))
        grid = figure.subplots(len(judges), 2, squeeze=False)
        for (left, right), judge in zip(grid, judges, strict=True):
            for place, row in enumerate(rows):
                look = {
                    "color": COLOURS[PALETTE[place % len(PALETTE)]],
                    "marker": MARKERS[place // len(PALETTE) % len(MARKERS)],
                }
                _at(left, row, judge, "kl", look)
                _at(right, row, judge, "seconds", look)
            left.set_ylabel(JUDGES[judge])
        grid[0, 0].set_title("over the distance from the start", loc="left", fontsize=12, color=COLOURS["ink"], pad=12)
        grid[0, 1].set_title("over the time it took", loc="left", fontsize=12, color=COLOURS["ink"], pad=12)
        grid[-1, 0].set_xlabel("KL to where all began, nats per sequence")
        grid[-1, 1].set_xlabel("seconds of training")
        lines, labels = grid[0, 0].get_legend_handles_labels()
        figure.legend(
            lines, labels, loc="upper center", ncols=min(5, len(rows)), frameon=False, labelcolor=COLOURS["ink"]
        )
        figure.subplots_adjust(left=0.07, right=0.98, bottom=0.08, top=0.83, hspace=0.16, wspace=0.14)
        told = "Each method at its gain and its cost; bars are 95 % intervals."
        drawn = svg(figure, "comparison", "Methods compared", told)
    write_text(path, alone(str(drawn), WIDTH, HIGH))
    return path


def _at(axes: Any, row: Mapping[str, Any], judge: str, over: str, look: Mapping[str, Any]) -> None:
    """One method: its gain, with the interval."""
    low, high = (row[judge] if end is None else end for end in row[f"{judge}_ci"])
    x, y = row[over], row[judge]
    axes.axhline(0, color=COLOURS["muted"], linewidth=0.8)
    axes.errorbar(
        [x], [y], yerr=[[y - low], [high - y]], markersize=7, capsize=3, linewidth=1.6, label=row["method"], **look
    )
