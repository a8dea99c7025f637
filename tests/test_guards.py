"""Guards: what each compares, by hand-made rows; patience; and that rows alone restore everything."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import pytest

from manners.config import Config, dump_config, load_config, parse_yaml
from manners.errors import MannersError
from manners.guards import DEFAULTS, Action, Guard, Guards, Signal
from manners.records import Completion, Prompt
from manners.rewards.load import FunctionJudge
from manners.runs import Run
from manners.train.ppo import PPOConfig

INF, NAN = float("inf"), float("nan")
ROOT = Path(__file__).parent.parent


def column(name: str, *values: Any) -> list[dict[str, Any]]:
    return [{name: value} for value in values]


def judged(reward: Sequence[float], second: Sequence[float], stds: tuple[float, float]) -> list[dict[str, Any]]:
    """Rows of two judges; the spread stays as it is."""
    return [
        {"reward": r, "reward_std": stds[0], "second_judge": s, "second_judge_std": stds[1]}
        for r, s in zip(reward, second, strict=True)
    ]


def heard(guards: Guards, rows: Sequence[dict[str, Any]]) -> list[tuple[int, str, float]]:
    """Step, signal and number of every alarm."""
    return [(step, alarm.guard, alarm.value) for step, row in enumerate(rows) for alarm in guards.look(row)]


# What lies exactly at the limit is within it. Numbers are such as binary fractions hold exactly, where that matters.
CASES: list[tuple[Signal, float, list[dict[str, Any]], int, float, tuple[str, ...]]] = [
    ("kl", 8, column("kl", 0.0, 8.0, 8.5), 2, 8.5, ("8.50", "8")),
    ("negative_kl", -1, column("kl", 0.0, -1.0, -1.25), 2, -1.25, ("-1.25",)),
    ("entropy", 0.5, column("entropy", 1.25, 0.5, 0.375), 2, 0.375, ("0.38", "1.25", "0.5")),
    ("repetition", 0.5, column("repetition", 0.125, 0.5, 0.75), 2, 0.75, ("75%", "12%", "50%")),
    ("length", 2, column("length", 20.0, 40.0, 42.0), 2, 2.1, ("42.0", "20.0", "2.10")),
    ("length", 2, column("length", 20.0, 10.0, 9.0), 2, 0.45, ("9.0", "20.0", "0.45")),
    ("distinct_2", 0.5, column("distinct_2", 0.8, 0.4, 0.2), 2, 0.25, ("0.20", "0.80", "0.25")),
    ("reference_logp", 0.5, column("reference_logp", -1.25, -1.75, -2.0), 2, 0.75, ("0.75", "-2.00", "-1.25")),
    # gains 0.5/0.5 = 1 and 0.25/0.25 = 1; then 1.5/0.5 = 3 and 0.5/0.25 = 2, which is at the limit; then 4 and 0.5/0.25
    ("second_judge", 1, judged([0, 0.5, 1.5, 2], [1, 1.25, 1.5, 1.5], (0.5, 0.25)), 3, 2.0, ("0.00 to 2.00", "1.00 to 1.50", "2.0")),
    ("disagreement", 2, column("disagreement", 0.25, 0.5, 0.625), 2, 2.5, ("0.62", "2.5")),
    # medians of what came before: of 1 4 2 is 2, and of 1 4 2 20 is 3
    ("value_loss", 10, column("value_loss", 1.0, 4.0, 2.0, 20.0, 33.0), 4, 11.0, ("33", "11.0")),
    ("clip_fraction", 0.5, column("clip_fraction", 0.25, 0.5, 0.625), 2, 0.625, ("62%", "50%")),
]  # fmt: skip


@pytest.mark.parametrize(("signal", "limit", "rows", "step", "value", "numbers"), CASES)
def test_number_by_hand(
    signal: Signal, limit: float, rows: list[dict[str, Any]], step: int, value: float, numbers: tuple[str, ...]
) -> None:
    guards = Guards([Guard(signal=signal, limit=limit)])
    for row in rows[:step]:
        assert guards.look(row) == []
    (alarm,) = guards.look(rows[step])
    assert (alarm.guard, alarm.action, alarm.limit) == (signal, "warn", limit)
    assert alarm.value == pytest.approx(value, abs=1e-12)
    for number in numbers:
        assert number in alarm.says
    assert json.loads(json.dumps(alarm.to_json(), allow_nan=False)) == {
        "guard": signal, "action": "warn", "says": alarm.says, "value": alarm.value, "limit": limit
    }  # fmt: skip


def test_every_signal_is_proved_and_explained() -> None:
    signals = set(get_args(Signal))
    assert {case[0] for case in CASES} == signals
    assert {name for name in signals if f"| `{name}` |" in (Guard.__doc__ or "")} == signals


@pytest.mark.parametrize("signal", ["length", "distinct_2", "disagreement", "value_loss"])
def test_ratios_know_no_unit(signal: Signal) -> None:
    draw = random.Random(1)
    values = [0.2 + draw.random() for _ in range(30)]
    guard = Guard(signal=signal, limit=0.9 if signal == "distinct_2" else 1.1)
    plain, scaled = (heard(Guards([guard]), column(signal, *(c * v for v in values))) for c in (1, 64))
    assert plain
    assert scaled == plain  # 64 is a power of two: exact


def test_gap_of_gains_knows_neither_unit_nor_zero_of_a_judge() -> None:
    draw = random.Random(2)
    reward, second = ([draw.gauss(i / 4, 1) for i in range(20)] for _ in range(2))
    guard = Guard(signal="second_judge", limit=0.25)
    plain = heard(Guards([guard]), judged(reward, second, (1.0, 1.0)))
    moved = heard(Guards([guard]), judged([8 * r - 5 for r in reward], [3 + s / 4 for s in second], (8.0, 0.25)))
    assert plain
    assert [step for step, *_ in moved] == [step for step, *_ in plain]
    assert [value for *_, value in moved] == pytest.approx([value for *_, value in plain])


@pytest.mark.parametrize(
    ("reward", "second"),
    [([1, 3], [1, 3]), ([1, 0.5], [1, -5]), ([1, 1], [1, -5])],
    ids=["both rise", "both fall", "only the second falls"],
)
def test_no_gap_without_a_gain_of_the_optimised_judge_alone(reward: list[float], second: list[float]) -> None:
    assert heard(Guards([Guard(signal="second_judge", limit=0.5)]), judged(reward, second, (1.0, 1.0))) == []


def test_judge_that_first_gives_all_the_same_is_measured_by_its_first_spread() -> None:
    rows = judged([0, 1], [0, 0], (0.0, 1.0)) + judged([1, 3], [0, 0], (2.0, 1.0))
    assert heard(Guards([Guard(signal="second_judge", limit=1)]), rows) == [(3, "second_judge", 1.5)]


def test_spread_of_the_first_step_is_the_unit_for_good() -> None:
    rows = judged([0], [0], (0.5, 1.0)) + judged([1], [0], (4.0, 8.0))
    assert heard(Guards([Guard(signal="second_judge", limit=1)]), rows) == [(1, "second_judge", 2.0)]


def test_second_judge_that_never_moves_is_no_gain() -> None:
    rows = judged([0, 3], [7, 7], (1.0, 0.0))
    assert heard(Guards([Guard(signal="second_judge", limit=1)]), rows) == [(1, "second_judge", 3.0)]


def test_value_loss_waits_for_three_steps() -> None:
    assert heard(Guards([Guard(signal="value_loss", limit=2)]), column("value_loss", 1, 100, 10_000)) == []


@pytest.mark.parametrize("signal", ["length", "distinct_2", "disagreement"])
def test_a_start_at_zero_has_no_ratio(signal: Signal) -> None:
    guard = Guard(signal=signal, limit=0.5 if signal == "distinct_2" else 2)
    assert heard(Guards([guard]), column(signal, 0.0, 5.0, 0.0)) == []


def steps(patience: int, values: Sequence[float], action: Action = "warn") -> list[int]:
    guards = Guards([Guard(signal="kl", limit=1, patience=patience, action=action)])
    return [step for step, *_ in heard(guards, column("kl", *values))]


def test_patience_counts_steps_in_a_row() -> None:
    assert steps(1, [0, 2, 0]) == [1]
    assert steps(2, [0, 2, 0, 2, 2, 0]) == [4]
    assert steps(3, [2, 2, 0, 2, 2]) == []


def test_says_it_once_and_again_after_it_was_within_the_limit() -> None:
    assert steps(1, [2, 2, 2, 0, 2, 2]) == [0, 4]


def test_row_without_the_number_neither_counts_nor_ends_the_row() -> None:
    guards = Guards([Guard(signal="kl", limit=1, patience=2)])
    rows: list[dict[str, Any]] = [{"kl": 2.0}, {}, {"kl": None}, {"kl": NAN}, {"kl": INF}, {"kl": 2.0}]
    assert heard(guards, rows) == [(5, "kl", 2.0)]


def test_patience_starts_anew_after_a_roll_back() -> None:
    assert steps(2, [2] * 6, "roll_back") == [1, 3, 5]
    assert steps(2, [2] * 6, "stop") == [1]
    others = Guards([Guard(signal="kl", limit=1, patience=3), Guard(signal="entropy", limit=1, action="roll_back")])
    rows = [{"kl": 2.0, "entropy": e} for e in (2.0, 0.5, 2.0, 2.0, 2.0)]
    assert heard(others, rows) == [(1, "entropy", 0.5), (4, "kl", 2.0)]


def test_baseline_stays_the_first_step_after_a_roll_back() -> None:
    guards = Guards([Guard(signal="distinct_2", limit=0.5, action="roll_back")])
    assert heard(guards, column("distinct_2", 0.8, 0.3, 0.5, 0.3)) == [
        (1, "distinct_2", pytest.approx(0.375)), (3, "distinct_2", pytest.approx(0.375)),
    ]  # fmt: skip


class Empty(Config):
    """Settings of nothing."""


ALL = (
    *DEFAULTS,
    *(Guard(signal=signal, limit=limit) for signal, limit, *_ in CASES),
    Guard(signal="kl", limit=15, action="roll_back"),
)


def random_rows(seed: int, count: int) -> list[dict[str, Any]]:
    """Rows in which every number wanders far, and is missing, None or not finite now and then."""
    draw = random.Random(seed)
    names = ("kl", "entropy", "repetition", "length", "distinct_2", "reference_logp", "reward", "second_judge", "disagreement",
             "value_loss", "clip_fraction", "reward_std", "second_judge_std")  # fmt: skip
    rows = []
    for _ in range(count):
        row: dict[str, Any] = {name: draw.choice((0.1, 1, 1, 1, 20)) * draw.random() for name in names}
        row["kl"] -= 2 * draw.random()
        for name in draw.sample(names, 2):
            row[name] = draw.choice((None, NAN, INF, -INF))
        row.pop(draw.choice(names), None)
        rows.append(row)
    return rows


@pytest.mark.parametrize("seed", range(5))
def test_rows_of_the_file_restore_the_guards_at_any_step(seed: int, tmp_path: Path) -> None:
    rows = random_rows(seed, 60)
    straight, run = Guards(ALL), Run.create(tmp_path / "run", "ppo", Empty(), {})
    wanted = []
    for step, row in enumerate(rows):
        wanted.append([alarm.to_json() for alarm in straight.look(row)])
        run.log(step=step, **row, alarms=wanted[-1])
    kept = run.metrics()
    assert [row["alarms"] for row in kept] == wanted
    assert len({alarm["guard"] for alarms in wanted for alarm in alarms}) > 5
    for cut in range(len(rows) + 1):
        again = Guards(ALL).replay(kept[:cut])
        assert [[alarm.to_json() for alarm in again.look(row)] for row in rows[cut:]] == wanted[cut:]


def test_says_which_guards_watch_nothing_and_how_to_mend_it() -> None:
    guards = Guards(
        [Guard(signal="kl", limit=1), Guard(signal="second_judge", limit=1), Guard(signal="disagreement", limit=2)]
    )
    row = {"kl": 0.0, "reward": 1.0, "reward_std": 1.0, "second_judge": None}
    second, disagreement = guards.unwatched(row)
    assert second == (
        "the guard second_judge watches nothing: no second_judge, second_judge_std is measured; name a second_judge in the config"
    )
    assert disagreement.startswith("the guard disagreement watches nothing")
    assert guards.unwatched(row | {"second_judge": 1.0, "second_judge_std": 1.0, "disagreement": 0.1}) == []
    assert heard(guards, [row] * 9) == []


# Three whole demo runs: seed 2 without a tight KL budget ends in one phrase for every prompt, seeds 0 and 1 are well.
DISTINCT_2 = {
    0: (0.85, 0.85, 0.86, 0.84, 0.85, 0.85, 0.86, 0.85, 0.89, 0.87),
    1: (0.88, 0.86, 0.89, 0.85, 0.85, 0.89, 0.87, 0.86, 0.88, 0.87),
    2: (0.83, 0.86, 0.82, 0.78, 0.77, 0.69, 0.65, 0.44, 0.51, 0.43),
}
KL_BUDGET_STEP = 7  # where a budget of 10 nats per sequence would end seed 2


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_defaults_tell_the_demo_run_that_collapses_from_those_that_do_not(seed: int) -> None:
    guards = Guards(DEFAULTS)
    found = [
        (step, a.action) for step, row in enumerate(column("distinct_2", *DISTINCT_2[seed])) for a in guards.look(row)
    ]
    if seed < 2:
        assert found == []
    else:
        assert found[0] == (6, "roll_back")
        assert found[0][0] < KL_BUDGET_STEP


# configs/hacking.yaml without guards, step by step: reward, its spread, second judge, its spread, distinct word pairs.
HACKED = (
    (0.188, 0.471, 0.267, 0.245, 0.896), (0.469, 0.879, 0.267, 0.299, 0.886),
    (0.312, 0.471, 0.280, 0.274, 0.893), (0.625, 0.833, 0.228, 0.242, 0.893),
    (0.781, 0.792, 0.243, 0.315, 0.784), (1.375, 1.070, 0.221, 0.269, 0.660),
    (2.562, 1.722, 0.165, 0.215, 0.541), (3.062, 1.917, 0.117, 0.207, 0.495),
    (3.344, 1.335, 0.069, 0.176, 0.483), (3.781, 0.870, 0.132, 0.232, 0.456),
)  # fmt: skip


def test_run_that_hacks_is_caught_as_its_page_says() -> None:
    names = ("reward", "reward_std", "second_judge", "second_judge_std", "distinct_2")
    guards = Guards(load_config(PPOConfig, ROOT / "configs" / "hacking.yaml").guards)
    alarms = [(step, a) for step, row in enumerate(HACKED) for a in guards.look(dict(zip(names, row, strict=True)))]
    assert [(step, a.guard, a.action) for step, a in alarms] == [(4, "second_judge", "warn"), (5, "distinct_2", "stop")]
    page = (ROOT / "docs" / "howto" / "reward-hacking.md").read_text(encoding="utf-8")
    for _, alarm in alarms:
        assert alarm.says in " ".join(page.split())


def test_judges_of_the_run_that_hacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    config = load_config(PPOConfig, ROOT / "configs" / "hacking.yaml")
    prompt = Prompt.of("How do I boil an egg?")  # "boil" alone has four letters
    texts = ("Boil it for six minutes.", "I'm SORRY, so sorry! Thank you!", "Kindness; sorrow; boiled.", "")
    answers = [Completion(prompt.id, text) for text in texts]
    for spec, wanted in ((config.reward.function, [0, 5, 0, 0]), (config.second_judge.function, [1, 0, 0, 0])):
        assert FunctionJudge.load(spec)([prompt] * 4, answers).tolist() == wanted
    (nothing_asked,) = FunctionJudge.load(config.second_judge.function)([Prompt.of("Why?")], answers[:1]).tolist()
    assert nothing_asked == 0


class Settings(Config):
    """A config that holds guards, as that of a method does."""

    guards: tuple[Guard, ...] = DEFAULTS


def test_guards_in_yaml_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(Settings()), encoding="utf-8")
    assert load_config(Settings, path) == Settings()
    assert load_config(Settings, path, ["guards=[]"]).guards == ()
    one = load_config(Settings, None, ["guards=[{signal: kl, limit: 1e1, patience: 2, action: stop}]"])
    assert one.guards == (Guard(signal="kl", limit=10, patience=2, action="stop"),)


@pytest.mark.parametrize(
    "broken",
    [
        "{signal: length, limit: 1}", "{signal: length, limit: 0.5}", "{signal: distinct_2, limit: 1}",
        "{signal: distinct_2, limit: 0}", "{signal: negative_kl, limit: 0.5}", "{signal: kl, limit: .inf}",
        "{signal: kl, limit: .nan}", "{signal: kl, limit: 1, patience: 0}", "{signal: kl, limit: 1, action: shout}",
        "{signal: karma, limit: 1}", "{signal: kl}", "{signal: kl, limit: 1, patince: 2}",
    ],
)  # fmt: skip
def test_impossible_guards_are_refused(broken: str) -> None:
    assert isinstance(parse_yaml(broken), dict)
    with pytest.raises(MannersError, match="guards"):
        load_config(Settings, None, [f"guards=[{broken}]"])
