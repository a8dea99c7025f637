"""The figures of a report: curves over steps, gains with their intervals, reliability, time by phase."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from manners.report.curves import Axis, Colour, Line, Panel, Steps, points, running_mean
from manners.report.markup import Html, tag
from manners.report.numerals import Interval, number, percent, plain, short
from manners.report.svg import COLOURS, drawing, svg

# Sizes in pixels of the page at its natural width; a figure grows and shrinks with its column.
WIDTH, ONE_HIGH, EACH_HIGH, LEFT, RIGHT = 420, 240, 158, 44, 12
PART_LEFT, PART_HIGH, LONGEST_PART = 148, 20, 24
STRIP_WIDTH, STRIP_HIGH = 170, 24
MOST_BARS = 48

_PHASE_COLOURS = ("blue", "orange", "green", "sand", "purple", "grey")
_DASHES, _DOTS = (0, (4, 3)), (0, (2, 3))
_SMALL: Mapping[str, Any] = {"fontsize": 9.5, "color": COLOURS["muted"]}


def curve_panel(
    panel: Panel, steps: Steps, kept: float | None = None, alarms: Mapping[str, Sequence[float]] | None = None
) -> Html:
    """One panel of curves over steps: every number, and a running mean where they are many and noisy.

    `kept` marks the step whose weights were kept, a triangle each of the steps in `alarms` of a metric. Line of metric
    KEY: id curve-PANEL-data-KEY; its triangles: curve-PANEL-alarm-KEY.
    """
    rows = len(panel.axes)
    high = ONE_HIGH if rows == 1 else 40 + EACH_HIGH * rows
    with drawing():
        figure = _canvas(WIDTH, high)
        grid = figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0]
        told = []
        for row, (axes, axis) in enumerate(zip(grid, panel.axes, strict=True)):
            told += [_curve(axes, steps, line, axis.share) for line in axis.lines]
            told += [
                words for line in axis.lines if (words := _alarms(axes, steps, line, (alarms or {}).get(line.key)))
            ]
            _levels(axes, axis, steps, row)
            if kept is not None:
                axes.axvline(kept, color=COLOURS["muted"], linewidth=1, linestyle=_DOTS, gid=f"kept-{row}")
            _open_up(axes, counted=any(line.counted for line in axis.lines))
            _dress(axes, axis.unit, axis.share)
            if len(axis.lines) > 1:
                _legend(axes, len(axis.lines))
        _count_steps(grid[-1])
        _margins(figure, high, rows)
        return svg(figure, f"curve-{panel.name}", f"{panel.title} over steps", " ".join(told))


def interval_strip(
    name: str,
    label: str,
    gain: float,
    span: Interval | None,
    limits: Interval,
    colour: Colour = "blue",
    centre: float = 0,
) -> Html:
    """A dot with its 95 % interval on a scale from `limits[0]` to `limits[1]`: one cell of a table.

    The thin upright line stands at `centre`; the dot is hollow where the interval includes it.
    """
    with drawing():
        figure, axes = _strip(limits)
        axes.axvline(centre, color=COLOURS["muted"], linewidth=1, gid="centre")
        axes.plot(limits, [0, 0], color=COLOURS["grid"], linewidth=1)
        if span is not None:
            axes.plot(span, [0, 0], color=COLOURS[colour], linewidth=2.6, gid="interval")
        sure = span is None or not span[0] <= centre <= span[1]
        fill = COLOURS[colour] if sure else COLOURS["paper"]
        axes.plot([gain], [0], "o", color=COLOURS[colour], markerfacecolor=fill, markersize=7.5, markeredgewidth=1.6,
                  gid="dot" if sure else "hollow")  # fmt: skip
        within = f"95 % interval {plain(span[0])} to {plain(span[1])}" if span else "no interval"
        return svg(figure, name, label, f"{plain(gain)}, {within}")


def strip_scale(name: str, limits: Interval, unit: str, share: bool = False) -> Html:
    """The scale that belongs above a column of strips."""
    with drawing():
        figure, axes = _strip(limits)
        for value in MaxNLocator(nbins=4, steps=[1, 2, 5, 10]).tick_values(*limits):
            if limits[0] <= value <= limits[1]:
                words = percent(value) if share else short(round(float(value), 9))
                axes.text(value, 0, words, ha="center", va="center", fontsize=10, color=COLOURS["muted"])
        return svg(figure, name, "Scale", f"from {plain(limits[0])} to {plain(limits[1])}, {unit}")


def reliability(name: str, bins: Sequence[Mapping[str, Any]]) -> Html:
    """Confidence against how often it was right: a dot for each bin with its 95 % interval, id NAME-bin-I.

    On the diagonal, words can be taken at face value. Bins without judgements are left out.
    """
    dots = [dot for b in bins if (dot := _bin(b)) is not None]
    lows = [low for b in bins if (low := number(b.get("low"))) is not None]
    left, high = min([0.5, *lows, *(c for c, _, _ in dots)]), 300
    with drawing():
        figure = _canvas(WIDTH, high)
        axes = figure.subplots()
        axes.plot([left, 1], [left, 1], color=COLOURS["muted"], linewidth=1, linestyle=_DASHES, gid="perfect")
        most = max((n for _, _, n in dots), default=1)
        for place, (sure, right, n) in enumerate(dots):
            axes.plot([sure, sure], wilson(right, n), color=COLOURS["blue"], linewidth=1.6, alpha=0.55)
            axes.plot([sure], [right], "o", markersize=5 + 9 * (n / most) ** 0.5, color=COLOURS["blue"],
                      markeredgecolor=COLOURS["paper"], markeredgewidth=1, gid=f"bin-{place}")  # fmt: skip
            beside = 5 + 4.5 * (n / most) ** 0.5
            axes.annotate(f"{n:g}", (sure, right), xytext=(beside, -9), textcoords="offset points", **_SMALL)
        axes.set_xlim(left - 0.02, 1.04)
        for words, x, y, side in (
            ("less sure than right", 0.03, 0.86, "left"),
            ("surer than right", 0.98, 0.05, "right"),
        ):
            axes.text(x, y, words, transform=axes.transAxes, ha=side, **_SMALL)
        _dress(axes, "how often it is right, % of judgements", share=True)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:.0f}"))
        axes.set_xlabel("how sure it says it is, %")
        _margins(figure, high, 1)
        told = " ".join(f"Says {percent(c)}, is right in {percent(a)} of {n:g}." for c, a, n in dots)
        return svg(figure, name, "Confidence against accuracy", told)


def phase_bars(
    name: str, phases: Sequence[str], steps: Sequence[float], seconds: Mapping[str, Sequence[float]]
) -> Html:
    """Seconds a step, stacked by phase; in a long run some steps share a bar of their mean. Id NAME-PHASE-BAR."""
    size = -(-len(steps) // MOST_BARS) or 1
    starts = range(0, len(steps), size)
    centres = [_mean(steps[i : i + size]) for i in starts]
    width = 0.86 * min((b - a for a, b in pairwise(centres)), default=1.0)
    with drawing():
        figure = _canvas(WIDTH, ONE_HIGH)
        axes = figure.subplots()
        base = [0.0] * len(centres)
        for place, phase in enumerate(phases):
            heights = [_mean(seconds[phase][i : i + size]) for i in starts]
            colour = COLOURS[_phase_colour(place)]
            bars = axes.bar(
                centres, heights, width, bottom=base, color=colour, edgecolor=COLOURS["paper"], linewidth=0.6
            )
            for count, bar in enumerate(bars):
                bar.set_gid(f"{place}-{count}")
            base = [low + height for low, height in zip(base, heights, strict=True)]
        _dress(axes, "time, seconds per step")
        axes.set_ylim(bottom=0)
        _count_steps(axes)
        _margins(figure, ONE_HIGH, 1)
        total = sum(sum(seconds[phase]) for phase in phases) or 1.0
        told = " ".join(f"{phase}: {percent(sum(seconds[phase]) / total)} of the time." for phase in phases)
        return svg(figure, name, "Time by phase", told)


def part_bars(name: str, seconds: Mapping[str, float]) -> Html:
    """Mean seconds of each part of a step, a horizontal bar each, in the order given. Id NAME-PART-I."""
    high = 68 + PART_HIGH * len(seconds)
    with drawing():
        figure = _canvas(WIDTH, high)
        axes = figure.subplots()
        bars = axes.barh(range(len(seconds)), list(seconds.values()), 0.72, color=COLOURS["blue"])
        for place, bar in enumerate(bars):
            bar.set_gid(f"part-{place}")
        axes.set_yticks(
            range(len(seconds)), [p if len(p) <= LONGEST_PART else f"{p[: LONGEST_PART - 1]}…" for p in seconds]
        )
        axes.tick_params(axis="y", labelsize=10.5, labelcolor=COLOURS["ink"])
        axes.set_ylim(len(seconds) - 0.5, -0.5)  # the first part is on top
        axes.grid(visible=False, axis="y")
        axes.grid(visible=True, axis="x")
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: short(x)))
        axes.set_xlabel("mean time, seconds per step")
        figure.subplots_adjust(left=PART_LEFT / WIDTH, right=1 - RIGHT / WIDTH, bottom=44 / high, top=1 - 8 / high)
        total = sum(seconds.values()) or 1.0
        told = " ".join(
            f"{part}: {plain(value, 3)} seconds, {percent(value / total)}." for part, value in seconds.items()
        )
        return svg(figure, name, "Time by part of a step", told)


def phase_swatch(place: int) -> Html:
    """The little square that ties a row of a table to its colour in `phase_bars`."""
    return tag("span", class_=f"swatch {_phase_colour(place)}", aria_hidden="true")


def wilson(share: float, n: float, z: float = 1.959964) -> Interval:
    """The 95 % score interval of a share seen in n cases (Wilson 1927)."""
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5
    return max(0.0, middle - half), min(1.0, middle + half)


def common_limits(values: Sequence[float | None]) -> Interval:
    """One scale for several numbers, with some room at both ends."""
    found = [v for v in values if v is not None]
    low, high = min(found), max(found)
    room = 0.06 * (high - low) or 1.0
    return low - room, high + room


def _phase_colour(place: int) -> str:
    return _PHASE_COLOURS[place % len(_PHASE_COLOURS)]


def _bin(values: Mapping[str, Any]) -> tuple[float, float, float] | None:
    sure, right, n = number(values.get("confidence")), number(values.get("accuracy")), number(values.get("n"))
    if sure is None or right is None or not 0 <= right <= 1 or n is None or n <= 0:
        return None
    return sure, right, n


def _curve(axes: Any, steps: Steps, line: Line, share: bool) -> str:
    """Draw one line and say in words what it shows."""
    xs, ys = points(steps, line.key)
    look: dict[str, Any] = {"color": COLOURS[line.colour]}
    if line.dots:
        axes.plot(xs, ys, linewidth=1.4, alpha=0.55, **look)
        axes.plot(xs, ys, "s", markersize=5.5, markeredgecolor=COLOURS["paper"], markeredgewidth=0.8,
                  gid=f"data-{_id(line)}", label=line.label, **look)  # fmt: skip
    elif not line.counted and _is_noisy(ys):
        axes.plot(xs, ys, linewidth=1, alpha=0.4, gid=f"data-{_id(line)}", **look)
        axes.plot(xs, _smooth(ys), linewidth=2.2, gid=f"mean-{_id(line)}", label=line.label, **look)
    else:
        marker = "o" if len(ys) < 15 else ""
        axes.plot(
            xs, ys, linewidth=1.8, marker=marker, markersize=3.5, gid=f"data-{_id(line)}", label=line.label, **look
        )
    first, last, low, high = (percent(y, 1) if share else plain(y) for y in (ys[0], ys[-1], min(ys), max(ys)))
    ends = f"{first} at step {xs[0]:g}, {last} at step {xs[-1]:g}"
    return f"{line.label}: {ends}, lowest {low}, highest {high}, {len(ys)} points."


def _id(line: Line) -> str:
    return re.sub(r"[^\w-]", "-", line.key)


def _alarms(axes: Any, steps: Steps, line: Line, alarms: Sequence[float] | None) -> str | None:
    """A triangle above the curve at each step at which a guard gave alarm."""
    found = [(x, y) for x, row in steps if x in (alarms or ()) and (y := number(row.get(line.key))) is not None]
    if not found:
        return None
    xs, ys = [x for x, _ in found], [y for _, y in found]
    axes.plot(xs, ys, "v", markersize=8, color=COLOURS["ink"], markeredgecolor=COLOURS["paper"], markeredgewidth=1,
              gid=f"alarm-{_id(line)}")  # fmt: skip
    return f"Alarm at step {', '.join(f'{x:g}' for x in xs)}."


def _smooth(values: Sequence[float]) -> list[float]:
    return running_mean(values, max(2, len(values) // 24))


def _is_noisy(values: Sequence[float]) -> bool:
    """Whether a running mean shows more than the line itself: many points that stray from it by much of their range."""
    stray = _mean([abs(y - s) for y, s in zip(values, _smooth(values), strict=True)])
    return len(values) >= 30 and stray > 0.015 * (max(values) - min(values))


def _levels(axes: Any, axis: Axis, steps: Steps, row: int) -> None:
    """Dashed lines at values worth comparing with, named where the curve is furthest and inside the figure."""
    for place, (value, _) in enumerate(axis.levels):
        axes.axhline(value, color=COLOURS["muted"], linewidth=1, linestyle=_DASHES, gid=f"level-{row}-{place}")
    _, ys = points(steps, axis.lines[0].key)
    for value, name in axis.levels:
        right = abs(ys[-1] - value) >= abs(ys[0] - value)
        above = value < sum(axes.get_ylim()) / 2
        axes.annotate(
            name,
            (1.0 if right else 0.0, value),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            xytext=(-2 if right else 3, 3 if above else -3),
            ha="right" if right else "left",
            va="bottom" if above else "top",
            **_SMALL,
        )


def _legend(axes: Any, lines: int) -> None:
    axes.legend(
        loc="lower right",
        bbox_to_anchor=(1.01, 0.98),
        ncols=lines,
        frameon=False,
        fontsize=10.5,
        handlelength=1.4,
        handletextpad=0.5,
        columnspacing=1.1,
        borderpad=0.2,
        labelcolor=COLOURS["ink"],
    )


def _open_up(axes: Any, counted: bool) -> None:
    """No scale so fine that it shows rounding errors only; one of counts begins at 0 and reaches 1."""
    low, high = axes.get_ylim()
    middle = abs(low + high) / 2
    if counted:
        axes.set_ylim(0, max(high, 1.05))
    elif high - low < 1e-4 * middle:
        axes.set_ylim(low - 0.01 * middle, high + 0.01 * middle)


def _dress(axes: Any, unit: str, share: bool = False) -> None:
    """The unit above the axis, where it can be read without turning the head, and ticks at round numbers."""
    left = -LEFT / (WIDTH - LEFT - RIGHT)
    axes.set_title(unit, loc="left", x=left, fontsize=10.5, color=COLOURS["muted"], pad=7)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:g}" if share else short(y)))
    low, high = axes.get_ylim()
    if share and low >= -0.2 and high <= 1.2:
        axes.set_ylim(max(low, -0.02), min(high, 1.03))


def _count_steps(axes: Any) -> None:
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))


def _canvas(width: float, high: float) -> Figure:
    return Figure(figsize=(width / 72, high / 72))


def _margins(figure: Figure, high: float, rows: int) -> None:
    figure.subplots_adjust(
        left=LEFT / WIDTH, right=1 - RIGHT / WIDTH, bottom=40 / high, top=1 - 28 / high, hspace=0.34 if rows > 1 else 0
    )


def _strip(limits: Interval) -> tuple[Figure, Any]:
    figure = _canvas(STRIP_WIDTH, STRIP_HIGH)
    axes = figure.add_axes((0.03, 0, 0.94, 1))
    axes.set_xlim(*limits)
    axes.set_ylim(-1, 1)
    axes.set_axis_off()
    return figure, axes


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
