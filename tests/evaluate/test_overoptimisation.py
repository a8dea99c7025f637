from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import WIDTH  # noqa: F401 - one thread

from manners.config import load_config
from manners.evaluate.overoptimisation import (
    JUDGES,
    OPTIMISED,
    OveroptimisationConfig,
    Proxies,
    Setting,
    World,
    build_world,
    choose,
    label,
    measure_overoptimisation,
    summary,
)
from manners.records import Pair
from manners.report.overoptimisation import write_plot
from manners.runs import Run, read_json
from manners.train.ppo import PPOConfig
from manners.train.reward import RewardConfig

SMALL = OveroptimisationConfig(
    width=16, comparisons=24, members=2, replicates=2, other_comparisons=(12,), other_widths=(8,), prompts=3, answers=40, largest_n=32,
    reward_epochs=1, steps=4, look_every=2, batch=8, learning_rate=0.1, look_samples=8, max_tokens=6, heldout_pairs=20,
)  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return build_world(SMALL, tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run.create(tmp_path_factory.mktemp("whole") / "run", "overoptimisation", SMALL, {})
    with run.guard():
        measure_overoptimisation(SMALL, run)
    return run


@pytest.fixture(scope="module")
def result(run: Run) -> Any:
    return read_json(run.path / "overoptimisation.json")


def of_pool(opinions: torch.Tensor) -> Proxies:
    return Proxies(Path("nowhere"), Setting(24, 16, 2, 2), 0, [0.5], opinions)


def gold_of(world: World, pairs: list[Pair], seed: int) -> list[tuple[float, float]]:
    """The gold reward of both answers of each pair, found again by sampling them again."""
    from manners.evaluate.overoptimisation import answer

    prompts = [pair.prompt for pair in pairs for _ in range(2)]
    rollouts = answer(SMALL, world.base, prompts, seed)
    known = {c.id: g for c, g in zip(rollouts.completions, world.gold.score(rollouts).tolist(), strict=True)}
    return [(known[pair.chosen.id], known[pair.rejected.id]) for pair in pairs]


def test_sizes_are_powers_of_two_up_to_the_answers_there_are() -> None:
    assert SMALL.sizes == [1, 2, 4, 8, 16, 32]
    assert SMALL.model_copy(update={"answers": 20}).sizes == [1, 2, 4, 8, 16]
    assert OveroptimisationConfig().sizes[-1] == 1024


def test_the_main_setting_comes_first_and_one_thing_varies_in_each_of_the_others() -> None:
    assert [(s.comparisons, s.width) for s in SMALL.settings] == [(24, 16), (12, 16), (24, 8)]


def test_labels_follow_the_gold_reward(world: World) -> None:
    pairs = label(SMALL, world, 60, 0.0, seed=11)
    assert len(pairs) > 50
    assert all(chosen > rejected for chosen, rejected in gold_of(world, pairs, 11))


def test_the_named_share_of_labels_is_turned_round(world: World) -> None:
    clean, noisy = (label(SMALL, world, 400, noise, seed=12) for noise in (0.0, 0.25))
    turned = [one == other.swap() for one, other in zip(clean, noisy, strict=True)]
    assert all(t or one == other for t, one, other in zip(turned, clean, noisy, strict=True))
    assert sum(turned) / len(turned) == pytest.approx(0.25, abs=3 * (0.25 * 0.75 / 400) ** 0.5)


def test_a_perfect_proxy_gains_what_it_promises(world: World) -> None:
    curves = choose(SMALL, world, [of_pool(world.pool_gold[..., None].repeat(1, 1, 2))])
    for judge in JUDGES:
        (curve,) = curves[judge]
        assert torch.allclose(curve.gold, curve.proxy)
        assert bool((curve.gold.diff() > 0).all())
        assert (curve.distances[0], curve.gold[0]) == (0, 0)


def test_a_blind_proxy_gains_nothing_and_a_contrary_one_loses(world: World) -> None:
    opinions = torch.stack([-world.pool_gold, -world.pool_gold], -1)
    (curve,) = choose(SMALL, world, [of_pool(opinions)])["single"]
    assert bool((curve.gold.diff() < 0).all())
    many = replace(world, pool_gold=torch.randn(200, 400, generator=torch.Generator().manual_seed(0)))
    blind = torch.randn(200, 400, 2, generator=torch.Generator().manual_seed(1))
    (curve,) = choose(SMALL, many, [of_pool(blind)])["single"]
    assert curve.gold.abs().max() < 0.15
    assert curve.proxy[-1] == pytest.approx(2.07, abs=0.05)  # the mean of the highest of 32 normal numbers


def test_every_judge_combines_as_it_says(world: World) -> None:
    """One member likes what is good, the other one loves the opposite: only the severest judge is not misled by the loud one."""
    good = world.pool_gold
    curves = {
        judge: each[0] for judge, each in choose(SMALL, world, [of_pool(torch.stack([good, -2 * good], -1))]).items()
    }
    ends = {judge: float(curve.gold[-1]) for judge, curve in curves.items()}
    assert ends["mean"] < 0  # the mean is −gold/2
    assert ends["mean"] < ends["worst_case"]  # the lower of gold and −2·gold is highest in the middle
    assert ends["single"] == pytest.approx(float(curves["single"].gold[-1]))
    apart = SMALL.model_copy(update={"uncertainty_weight": 50.0})
    severe = choose(apart, world, [of_pool(torch.stack([good, -2 * good], -1))])["uncertainty_weighted"][0]
    assert abs(float(severe.gold[-1] + good.mean())) < abs(
        ends["mean"] + float(good.mean())
    )  # they agree only where gold is 0


def test_single_is_the_mean_over_the_members(world: World) -> None:
    opinions = torch.stack([world.pool_gold, -world.pool_gold], -1)
    (both,) = choose(SMALL, world, [of_pool(opinions)])["single"]
    (first,), (second,) = (choose(SMALL, world, [of_pool(opinions[..., [i, i]])])["single"] for i in (0, 1))
    assert torch.allclose(both.gold, (first.gold + second.gold) / 2)


def test_the_run_holds_what_it_was_made_from(run: Run) -> None:
    below = [Run(path.parent) for path in sorted(run.path.rglob("lineage.json"))]
    assert Counter(each.kind for each in below) == {"overoptimisation": 1, "reward": 6, "ppo": 6}
    assert {each.status["status"] for each in below} == {"finished"}
    assert {path.name for path in (run.path / "bases").iterdir()} == {"8", "16"}


def test_ppo_leaves_the_start_alone_at_first_and_pays_no_penalty(run: Run, result: Any) -> None:
    for judge in OPTIMISED:
        config = load_config(PPOConfig, run.path / "ppo" / judge / "1" / "config.yaml")
        assert (config.beta, config.guards, config.seed) == (0, (), 1)
        assert config.reward.combine == ("mean" if judge == "single" else judge)
        for curve in result["ppo"]["judges"][judge]["curves"]:
            assert len(curve["distances"]) == 2
            assert [curve[name][0] for name in ("distances", "gold", "proxy")] == pytest.approx([0, 0, 0], abs=2e-3)
            assert max(curve["distances"]) > 0.05
    assert config.reward.uncertainty_weight == SMALL.uncertainty_weight


def test_replicates_learn_from_labels_of_their_own_and_members_with_seeds_of_their_own(run: Run) -> None:
    path = run.path / "proxies" / "24-comparisons-width-16"
    seeds = {load_config(RewardConfig, path / number / "config.yaml").seed for number in ("0", "1")}
    assert len(seeds) == 2
    members = [each.read_bytes() for each in sorted(path.rglob("members/*/head.safetensors"))]
    assert len(members) == len(set(members)) == 4


def test_the_result_counts_up(result: Any) -> None:
    main, fewer, narrow = result["best_of_n"]
    assert [(s["comparisons"], s["width"]) for s in (main, fewer, narrow)] == [(24, 16), (12, 16), (24, 8)]
    for setting in (main, fewer, narrow):
        assert 0 <= setting["accuracy"] <= 1
        assert [len(judge["curves"]) for judge in setting["judges"].values()] == [2] * len(JUDGES)
    short = summary(result)
    assert short["ppo"]["single"]["gold"]["r2"] == pytest.approx(
        result["ppo"]["judges"]["single"]["gold"]["r2"], abs=1e-4
    )
    everything = [
        j[w]["r2"] for m in (main["judges"], result["ppo"]["judges"]) for j in m.values() for w in ("gold", "proxy")
    ]
    assert short["lowest_r2"] == pytest.approx(min(everything), abs=1e-4)


def test_gold_peaks_first_only_where_it_does_for_every_judge(result: Any) -> None:
    def with_peaks(gold: float | None, proxy: float | None, last: float | None) -> Any:
        changed = json.loads(json.dumps(result))
        for judges in (changed["best_of_n"][0]["judges"], changed["ppo"]["judges"]):
            for judge in judges.values():
                judge["gold"]["peak"], judge["proxy"]["peak"] = gold, proxy
        changed["ppo"]["judges"]["worst_case"]["gold"]["peak"] = last
        return summary(changed)["gold_peaks_first"]

    assert with_peaks(1.0, 2.0, 1.0)
    assert with_peaks(1.0, None, 1.0)
    assert not with_peaks(1.0, 2.0, 3.0)
    assert not with_peaks(1.0, 2.0, None)


def test_the_picture_shows_every_judge_and_stands_alone(result: Any, tmp_path: Path) -> None:
    text = write_plot(tmp_path / "picture.svg", result).read_text(encoding="utf-8")
    assert text.count("<svg") == 1
    assert 'xmlns="http://www.w3.org/2000/svg"' in text.partition(">")[0]
    for words in ("one reward model", "ensemble, worst case", "24 pairs, width 8", "best-of-n", "PPO"):
        assert words in text
    assert "--blue: #" in text


def test_the_same_settings_give_the_same_numbers(world: World, tmp_path: Path) -> None:
    again = build_world(SMALL, tmp_path)
    assert torch.equal(world.pool.tokens, again.pool.tokens)
    assert torch.equal(world.pool_gold, again.pool_gold)
    texts = [[(p.chosen.text, p.rejected.text) for p in label(SMALL, each, 10, 0.25, 5)] for each in (world, again)]
    assert texts[0] == texts[1]
