"""The picture of over-optimisation: gold and proxy reward over the distance from the start, as measured and as the law has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from manners.ops.scaling_law import BestOfNLaw, Law, PolicyLaw
from manners.report.svg import COLOURS, alone, drawing, svg
from manners.runs import write_text

WIDTH, HIGH = 980, 540
JUDGES: Mapping[str, tuple[str, str]] = {
    "single": ("orange", "one reward model"),
    "mean": ("sand", "ensemble, mean"),
    "worst_case": ("blue", "ensemble, worst case"),
    "uncertainty_weighted": ("green", "ensemble, mean − variance"),
}
_OTHER_COLOURS = ("orange", "purple", "blue", "green", "sand", "grey")

Fitted = Mapping[str, Any]  # one judge of overoptimisation.json: laws "gold" and "proxy", and "curves"


def write_plot(path: Path, result: Mapping[str, Any]) -> Path:
    """Write the picture of what overoptimisation.json holds as an SVG file that stands alone, in light and in dark; gives `path`."""
    with drawing():
        figure = Figure(figsize=(WIDTH / 72, HIGH / 72))
        grid = figure.subplots(2, 3, sharex="col")
        main, *others = result["best_of_n"]
        _column(grid[:, 0], "best-of-n", _judges(main["judges"]), BestOfNLaw)
        _column(grid[:, 1], "PPO without a penalty", _judges(result["ppo"]["judges"]), PolicyLaw)
        _column(grid[:, 2], "best-of-n, one reward model", _settings([main, *others]), BestOfNLaw)
        grid[0, 0].set_ylabel("gold reward, deviations")
        grid[1, 0].set_ylabel("proxy reward, deviations")
        for axes in grid[1]:
            axes.set_xlabel("distance from the start, √(KL in nats)")
        figure.subplots_adjust(left=0.06, right=0.99, bottom=0.09, top=0.83, hspace=0.12, wspace=0.16)
        told = (
            "Gold reward rises, peaks and falls while the proxy reward goes on rising. "
            "Dots are measured, lines are the fitted law, rings its peak."
        )
        drawn = svg(figure, "overoptimisation", "The law of over-optimisation", told)
    write_text(path, alone(str(drawn), WIDTH, HIGH))
    return path


def _judges(judges: Mapping[str, Fitted]) -> list[tuple[str, str, Fitted]]:
    return [(*JUDGES[name], fitted) for name, fitted in judges.items()]


def _settings(settings: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, Fitted]]:
    return [
        (colour, f"{setting['comparisons']} pairs, width {setting['width']}", setting["judges"]["single"])
        for colour, setting in zip(_OTHER_COLOURS, settings, strict=False)
    ]


def _column(grid: Sequence[Any], title: str, lines: Sequence[tuple[str, str, Fitted]], kind: type[Law]) -> None:
    """Gold above, proxy below: dots for every replicate, a line for the law, a ring at its peak where that is in the picture."""
    for axes, what in zip(grid, ("gold", "proxy"), strict=True):
        axes.axhline(0, color=COLOURS["muted"], linewidth=0.8)
        for colour, label, fitted in lines:
            look = {"color": COLOURS[colour]}
            for curve in fitted["curves"]:
                axes.plot(curve["distances"], curve[what], "o", markersize=2.6, alpha=0.5, markeredgewidth=0, **look)
            furthest = max(max(curve["distances"]) for curve in fitted["curves"])
            law = kind(fitted[what]["alpha"], fitted[what]["beta"])
            along = torch.linspace(0, furthest, 120)
            axes.plot(along.tolist(), law.at(along).tolist(), linewidth=1.8, label=label, **look)
            if 0 < law.peak < furthest:
                axes.plot(
                    [law.peak], [law.height], "o", markersize=8, markerfacecolor="none", markeredgewidth=1.8, **look
                )
    legend = {"frameon": False, "fontsize": 9.5, "handlelength": 1.4, "borderpad": 0, "labelcolor": COLOURS["ink"]}
    grid[0].legend(loc="lower left", bbox_to_anchor=(0, 1.02), ncols=2, columnspacing=1, **legend)
    grid[0].set_title(title, loc="left", fontsize=12, color=COLOURS["ink"], pad=58)
