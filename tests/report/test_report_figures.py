from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import matplotlib
import pytest
from scipy.stats import binomtest

from manners.report import figures
from manners.report.curves import panels, points, running_mean
from manners.report.numerals import Interval

XYS = tuple[list[float], list[float]]


def drawn(figure: str, name: str) -> ElementTree.Element:
    """The group with the id `name`, which must be there once."""
    found = [e for e in ElementTree.fromstring(figure).iter() if e.get("id") == name]
    assert len(found) == 1, name
    return found[0]


def line(figure: str, name: str) -> XYS:
    """The corners of the line called `name`, in pixels with y upwards."""
    numbers = re.findall(r"[ML] (\S+) (\S+)", drawn(figure, name).find("path").get("d"))  # type: ignore[union-attr, arg-type]
    return [float(x) for x, _ in numbers], [-float(y) for _, y in numbers]


def marks(figure: str, name: str) -> XYS:
    uses = list(drawn(figure, name).iter("use"))
    return [float(u.get("x", "")) for u in uses], [-float(u.get("y", "")) for u in uses]


def proportions(values: list[float]) -> list[float]:
    low, high = min(values), max(values)
    return [(v - low) / (high - low) for v in values]


def test_a_curve_has_every_point_in_its_place() -> None:
    values = [math.sin(i) + i / 10 for i in range(25)]
    steps = [
        (float(3 * i), {"reward": v, "heldout_reward": v / 2 if i % 5 == 0 else None}) for i, v in enumerate(values)
    ]
    figure = figures.curve_panel(panels("ppo", steps)[0], steps)
    xs, ys = line(figure, "curve-reward-data-reward")
    assert proportions(xs) == pytest.approx([i / 24 for i in range(25)], abs=1e-3)
    assert proportions(ys) == pytest.approx(proportions(values), abs=1e-3)
    held_xs, held_ys = marks(figure, "curve-reward-data-heldout_reward")
    assert len(held_xs) == 5
    assert held_xs == pytest.approx(xs[::5], abs=1e-3)
    assert proportions(held_ys) == pytest.approx(proportions(values[::5]), abs=1e-3)


def test_a_gap_in_the_numbers_is_left_out_and_told() -> None:
    steps = [(1.0, {"entropy": 2.0}), (2.0, {"entropy": float("nan")}), (3.0, {"entropy": 1.0})]
    figure = figures.curve_panel(panels("ppo", steps)[0], steps)
    assert len(line(figure, "curve-entropy-data-entropy")[0]) == 2
    description = drawn(figure, "curve-entropy-desc").text or ""
    assert "2.00 at step 1, 1.00 at step 3, lowest 1.00, highest 2.00, 2 points" in description


def test_noise_gets_a_running_mean_and_a_straight_line_does_not() -> None:
    steps = [(float(i), {"kl": i % 2, "entropy": i / 60}) for i in range(60)]
    noisy, straight = (figures.curve_panel(panel, steps) for panel in panels("ppo", steps))
    assert len(line(noisy, "curve-kl-data-kl")[0]) == len(line(noisy, "curve-kl-mean-kl")[0]) == 60
    assert "mean-entropy" not in straight


def test_both_axes_of_a_panel_carry_their_unit_and_the_kept_step() -> None:
    steps = [(float(i), {"length": 60 + i, "finished": 0.9}) for i in range(10)]
    figure = figures.curve_panel(panels("ppo", steps)[0], steps, kept=4)
    words = {e.text for e in ElementTree.fromstring(figure).iter("text")}
    assert {"answer length, tokens", "finished answers, % of all", "step"} <= words
    length_x, _ = line(figure, "curve-length-data-length")
    for row in (0, 1):
        assert line(figure, f"curve-length-kept-{row}")[0] == pytest.approx([length_x[4]] * 2, abs=1e-3)


def test_kl_target_and_budget_are_drawn_where_they_are() -> None:
    steps = [(float(i), {"kl": float(i)}) for i in range(11)]
    figure = figures.curve_panel(panels("ppo", steps, kl_levels=((5.0, "target"), (8.0, "budget")))[0], steps)
    _, ys = line(figure, "curve-kl-data-kl")
    for place, value in enumerate((5, 8)):
        assert line(figure, f"curve-kl-level-0-{place}")[1] == pytest.approx([ys[value]] * 2, abs=1e-3)
    assert {"target", "budget"} <= {e.text for e in ElementTree.fromstring(figure).iter("text")}


def test_a_triangle_stands_where_a_guard_gave_alarm() -> None:
    steps = [(float(i), {"kl": float(i * i), "heldout_kl": 1.0}) for i in range(10)]
    figure = figures.curve_panel(panels("ppo", steps)[0], steps, alarms={"kl": [3.0, 7.0, 99.0], "entropy": [1.0]})
    xs, ys = line(figure, "curve-kl-data-kl")
    alarm_xs, alarm_ys = marks(figure, "curve-kl-alarm-kl")
    assert alarm_xs == pytest.approx([xs[3], xs[7]], abs=1e-3)
    assert alarm_ys == pytest.approx([ys[3], ys[7]], abs=1e-3)
    assert "alarm-heldout_kl" not in figure
    assert "Alarm at step 3, 7." in (drawn(figure, "curve-kl-desc").text or "")


def test_counts_have_no_running_mean() -> None:
    steps = [(float(i), {"skipped": i % 2, "gradient_norm": i % 2}) for i in range(60)]
    figure = figures.curve_panel(panels("ppo", steps)[0], steps)
    assert "mean-gradient_norm" in figure
    assert "mean-skipped" not in figure
    assert len(line(figure, "curve-checks-data-skipped")[0]) == 60


def test_a_scale_does_not_blow_up_rounding_errors_and_counts_begin_at_zero() -> None:
    values = [1.0, 1.0 + 1e-7, 1.0 - 1e-7]
    steps = [(float(i), {"first_ratio": value, "skipped": 0}) for i, value in enumerate(values)]
    figure = figures.curve_panel(panels("ppo", steps)[0], steps)
    _, ys = line(figure, "curve-checks-data-first_ratio")
    assert max(ys) - min(ys) < 0.1
    ticks = [e.text for e in ElementTree.fromstring(figure).iter("text")]
    assert ticks.count("1") == 2 + 1  # once on either axis, and step 1
    assert not [tick for tick in ticks if tick and tick.startswith("−")]


@pytest.mark.parametrize("key", ["beta", "kl"])
def test_the_caption_says_truthfully_whether_the_price_adapts(key: str) -> None:
    steps = [(float(i), {key: 1.0 + i}) for i in range(3)]
    fixed = panels("ppo", steps, kl_levels=((10.0, "budget"),))[0].lesson
    adaptive = panels("ppo", steps, kl_levels=((8.0, "target"), (10.0, "budget")))[0].lesson
    assert fixed == panels("ppo", steps)[0].lesson
    assert "target" not in fixed
    assert "its target" in adaptive
    assert ("fixed" in fixed, "adapts" in adaptive) == (key == "beta", key == "beta")


def test_a_price_that_roll_backs_raised_is_not_called_fixed_alone() -> None:
    steps: list[tuple[float, dict[str, object]]] = [(0.0, {"beta": 1.0, "kl": 1.0}), (1.0, {"beta": 1.0, "kl": 2.0})]
    assert "roll back" not in panels("ppo", steps)[1].lesson
    steps[0][1]["rolled_back_to"] = "best"
    kl, beta = panels("ppo", steps)
    assert beta.lesson.endswith("A roll back of a guard may raise the price.")
    assert "roll back" not in kl.lesson


def test_what_was_paid_is_drawn_only_where_it_differs_from_the_reward() -> None:
    same = [(float(i), {"reward": i, "score": i, "epochs": 4}) for i in range(3)]
    clipped = [(float(i), {"reward": i, "score": min(i, 1), "epochs": 4 - i // 2}) for i in range(3)]
    assert [panel.keys for panel in panels("ppo", same)] == [("reward",)]
    assert [panel.keys for panel in panels("ppo", clipped)] == [("reward", "score"), ("epochs",)]
    labels = [line.label for axis in panels("ppo", clipped)[0].axes for line in axis.lines]
    assert labels == ["training", "as paid"]


@pytest.mark.parametrize(
    ("key", "panel"),
    [
        ("second_judge", "second-judge"), ("disagreement", "disagreement"), ("repetition", "variety"), ("skipped", "checks"),
        ("reference_logp", "likelihood"), ("kl_loss", "optimiser"),
    ],
)  # fmt: skip
def test_every_number_of_a_step_has_its_place(key: str, panel: str) -> None:
    found = panels("ppo", [(1.0, {key: 1.0}), (2.0, {key: 2.0})])
    assert [(p.name, p.keys) for p in found] == [(panel, (key,))]


@pytest.mark.parametrize(
    ("span", "dot"), [((0.5, 1.5), "dot"), ((-0.5, 1.5), "hollow"), ((0.0, 1.5), "hollow"), (None, "dot")]
)
def test_a_strip_shows_gain_and_interval_on_its_scale(span: Interval | None, dot: str) -> None:
    figure = figures.interval_strip("s", "a <label> & more", 1.0, span, (-2.0, 2.0))
    xs, _ = line(figure, "s-centre")
    inside = 0.94 * figures.STRIP_WIDTH
    assert marks(figure, f"s-{dot}")[0][0] - xs[0] == pytest.approx(inside / 4, abs=1e-3)
    if span is not None:
        ends, _ = line(figure, "s-interval")
        assert ends[1] - ends[0] == pytest.approx(inside * (span[1] - span[0]) / 4, abs=1e-3)
    assert drawn(figure, "s-title").text == "a <label> & more"


def test_reliability_has_one_dot_for_each_bin_with_judgements() -> None:
    bins: list[dict[str, float | None]] = [
        {"low": 0.5, "high": 0.75, "confidence": 0.6, "accuracy": 0.6, "n": 40},
        {"low": 0.75, "high": 1.0, "confidence": 0.9, "accuracy": 0.7, "n": 10},
        {"low": 0.9, "high": 1.0, "confidence": None, "accuracy": None, "n": 0},
    ]
    figure = figures.reliability("r", bins)
    xs, ys = line(figure, "r-perfect")
    places = [(marks(figure, f"r-bin-{i}")[0][0], marks(figure, f"r-bin-{i}")[1][0]) for i in (0, 1)]
    assert "r-bin-2" not in figure
    assert {"40", "10"} <= {e.text for e in ElementTree.fromstring(figure).iter("text")}
    scale_x, scale_y = (xs[1] - xs[0]) / 0.5, (ys[1] - ys[0]) / 0.5
    for (x, y), (confidence, accuracy) in zip(places, ((0.6, 0.6), (0.9, 0.7)), strict=True):
        assert x == pytest.approx(xs[0] + scale_x * (confidence - 0.5), abs=0.01)
        assert y == pytest.approx(ys[0] + scale_y * (accuracy - 0.5), abs=0.01)


def test_phases_are_stacked_to_their_sum() -> None:
    seconds = {"sample": [4.0, 5.0, 6.0], "update": [2.0, 1.0, 2.0]}
    figure = figures.phase_bars("t", ["sample", "update"], [1.0, 2.0, 3.0], seconds)

    def height(name: str) -> tuple[float, float]:
        _, ys = line(figure, name)
        return min(ys), max(ys)

    ground, top = height("t-0-0")
    pixel = (top - ground) / 4.0
    for bar in range(3):
        low, middle = height(f"t-0-{bar}")
        start, end = height(f"t-1-{bar}")
        assert low == pytest.approx(ground, abs=1e-3)
        assert (middle - low) / pixel == pytest.approx(seconds["sample"][bar], abs=1e-2)
        assert start == pytest.approx(middle, abs=1e-3)
        assert (end - start) / pixel == pytest.approx(seconds["update"][bar], abs=1e-2)


def test_the_parts_of_a_step_are_bars_of_their_seconds_below_one_another() -> None:
    long = "a part whose name is longer than there is room"
    figure = figures.part_bars("p", {"prefill": 0.5, "decode": 2.0, "advantages": 0.0, long: 1.0})
    bars = [line(figure, f"p-part-{place}") for place in range(4)]
    wide = [max(xs) - min(xs) for xs, _ in bars]
    assert wide == pytest.approx([wide[1] / 4, wide[1], 0, wide[1] / 2], abs=1e-2)
    heights = [min(ys) for _, ys in bars]
    assert heights == sorted(heights, reverse=True)
    words = [e.text for e in ElementTree.fromstring(figure).iter("text")]
    assert "a part whose name is lo…" in words
    assert f"{long}: 1.000 seconds, 29\u00a0%." in str(drawn(figure, "p-desc").text)


def test_a_long_run_is_thinned_by_means_that_keep_the_whole() -> None:
    steps = [(float(i), {"kl": float(i)}) for i in range(1000)]
    xs, ys = points(steps, "kl", most=400)
    assert len(xs) == 334
    assert xs == ys
    assert ys[0] == 1.0
    assert ys[-1] == 999.0


def test_running_mean_by_hand() -> None:
    assert running_mean([0, 3, 6, 0], 1) == [1.5, 3, 3, 3]


@pytest.mark.parametrize(("right", "n"), [(0, 5), (3, 7), (50, 60), (12, 12)])
def test_wilson_matches_scipy(right: int, n: int) -> None:
    reference = binomtest(right, n).proportion_ci(0.95, method="wilson")
    assert figures.wilson(right / n, n) == pytest.approx((reference.low, reference.high), abs=1e-6)


def test_figures_take_nothing_from_the_page_and_leave_nothing_behind() -> None:
    steps = [(float(i), {"reward": i % 3, "heldout_reward": i}) for i in range(40)]
    panel = panels("ppo", steps)[0]
    before = dict(matplotlib.rcParams)
    one = figures.curve_panel(panel, steps)
    assert dict(matplotlib.rcParams) == before
    with matplotlib.rc_context({"font.size": 30, "lines.linewidth": 9, "svg.fonttype": "path"}):
        assert figures.curve_panel(panel, steps) == one
    assert "<style" not in one
    assert "http" not in one
    assert not re.search(r"#[0-9a-f]{6}|font-family", one)


def test_every_reference_in_a_figure_is_to_an_id_of_its_own() -> None:
    steps = [(float(i), {"reward": i, "heldout_reward": i}) for i in range(5)]
    figure = figures.curve_panel(panels("ppo", steps)[0], steps)
    ids = [e.get("id") for e in ElementTree.fromstring(figure).iter() if e.get("id")]
    wanted = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', figure)
    assert len(ids) == len(set(ids))
    assert {a or b for a, b in wanted} <= set(ids)
    assert all(i.startswith("curve-reward-") for i in ids if i)


@pytest.mark.parametrize("values", [[1.0], [0.0, 0.0], [1e-12, 2e-12], [1e9, -1e9], [0.5] * 50])
def test_odd_numbers_can_be_drawn(values: list[float]) -> None:
    steps = [(float(i), {key: v for key in ("reward", "kl", "finished", "beta")}) for i, v in enumerate(values)]
    for panel in panels("ppo", steps, kl_levels=((3.0, "target"),)):
        figure = figures.curve_panel(panel, steps, kept=0.0)
        for key in panel.keys:
            assert len(line(figure, f"curve-{panel.name}-data-{key}")[0]) == len(values)


def test_each_kind_of_run_has_its_panels_and_unplanned_metrics_one_each() -> None:
    def names(kind: str, *keys: str) -> list[str]:
        return [panel.name for panel in panels(kind, [(1.0, dict.fromkeys(keys, 1.0))])]

    assert names("reward", "loss", "accuracy", "learning_rate", "seconds", "epoch") == [
        "loss",
        "accuracy",
        "learning-rate",
    ]
    assert names("sft", "loss") == ["loss"]
    assert names("classifier", "loss", "validation_accuracy", "validation_auc/x") == ["loss", "accuracy"]
    assert names("ppo", "kl", "reward", "odd", "best", "kl_k3") == ["reward", "kl", "metric-0"]
    assert names("other", "loss", "margin") == ["metric-0", "metric-1"]
    assert names("dpo", "loss", "rewards/margins", "reward", "skipped") == ["loss", "margin", "reward", "optimiser"]
    assert names("ppo") == []
