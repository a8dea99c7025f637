from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import save_tiny, shake, tiny_trunk
from toy_judgements import fresh_model, judged, ranked, rewards_of, toy_pairs

from manners.config import load_config
from manners.errors import MannersError
from manners.losses.preference import davidson
from manners.models.trunk import Trunk
from manners.ops.probe import fit_probe
from manners.records import Judgement, Pair, Prompt
from manners.rewards.ensemble import RewardEnsemble
from manners.rewards.evaluation import evaluate_reward
from manners.rewards.groups import GroupStates
from manners.rewards.model import RewardModel
from manners.runs import Run, read_json
from manners.sampling.local import LocalSampler
from manners.train.reward import RewardConfig, train_reward

torch.set_num_threads(1)

FIELDS: dict[str, Any] = {"train_layers": 2, "rank": 8, "alpha": 16, "epochs": 6, "learning_rate": 1e-2}
TRAIN, HELD = toy_pairs(64, 0), toy_pairs(16, 1)


def start(folder: Path, config: RewardConfig) -> Run:
    return Run.create(folder, "reward", config, {})


def learn(folder: Path, trunk: Trunk | None = None, **fields: Any) -> tuple[dict[str, Any], Run, RewardConfig]:
    config = RewardConfig(**FIELDS | fields)
    run = start(folder, config)
    return train_reward(config, TRAIN, HELD, run, trunk or tiny_trunk(train_layers=config.train_layers)), run, config


def softplus(x: float) -> float:
    return math.log1p(math.exp(-abs(x))) + max(x, 0)


def test_without_pairs_there_is_nothing_to_learn(tmp_path: Path) -> None:
    with pytest.raises(MannersError, match="no pairs to learn from"):
        train_reward(
            RewardConfig(**FIELDS), [], HELD, start(tmp_path / "run", RewardConfig()), tiny_trunk(train_layers=2)
        )


# --- the loss -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("read", ["last", "mean"])
@pytest.mark.parametrize(
    "fields",
    [{"centring": 0.0}, {"centring": 0.3}, {"margin": 0.7, "centring": 0.0}, {"label_smoothing": 0.2, "centring": 0.0}],
)
def test_the_loss_of_the_first_step_by_hand_and_a_ranking_of_four_counts_as_much_as_a_pair(
    tmp_path: Path, read: Any, fields: dict[str, Any]
) -> None:
    one, two, three = Prompt.of("one"), Prompt.of("two"), Prompt.of("three")
    four, couple, tied = ["tea", "rain rain", "soup", "ink and maps"], ["dogs", "cats"], ["x", "yy", "zzz"]
    model = fresh_model(read)
    losses: dict[int, list[float]] = {}
    hits: dict[int, list[float]] = {}
    for prompt, texts in ((one, four), (two, couple), (three, tied)):
        r = rewards_of(model, prompt, texts)
        pairs = [(j, k) for j in range(len(r)) for k in range(j + 1, len(r))]
        if texts is tied:
            pairs, apart = [(0, 1), (0, 2)], [1, 1]  # the other two are as good as each other
        else:
            apart = [k - j for j, k in pairs]
        for (j, k), tiers in zip(pairs, apart, strict=True):
            x = r[j] - r[k] - fields.get("margin", 0) * tiers
            smooth = fields.get("label_smoothing", 0)
            loss = (1 - smooth) * softplus(-x) + smooth * softplus(x) + fields["centring"] * (r[j] + r[k]) ** 2
            losses.setdefault(len(texts), []).append(loss)
            hits.setdefault(len(texts), []).append(r[j] > r[k])

    def mean(found: dict[int, list[float]]) -> float:
        # six pairs of a ranking count a sixth each, the single pair of another counts as one, the two of three a third each
        return float((sum(found[4]) / 6 + found[2][0] + sum(found[3]) / 3) / (1 + 1 + 2 / 3))

    assert [len(losses[k]) for k in (4, 2, 3)] == [6, 1, 2]
    ties = [replace(p, margin=1.0) for p in ranked(three, tied)[:2]]
    config = RewardConfig(**FIELDS | {"epochs": 1, "read": read} | fields)
    run = start(tmp_path / "run", config)
    train_reward(config, [*ranked(one, four), *ranked(two, couple), *ties], [], run, tiny_trunk(train_layers=2))
    (row,) = run.metrics()
    assert row["loss"] == pytest.approx(mean(losses), rel=1e-4)
    assert row["accuracy"] == pytest.approx(mean(hits))
    assert set(row) == {"epoch", "step", "loss", "accuracy", "learning_rate"}


def test_micro_batches_change_nothing(tmp_path: Path) -> None:
    prompt = Prompt.of("many")
    pairs = TRAIN[:10] + ranked(prompt, ["a", "bb", "ccc", "dddd"])
    scores = []
    for micro_tokens in (1, 100, 10_000):
        config = RewardConfig(**FIELDS | {"epochs": 2, "micro_tokens": micro_tokens, "learning_rate": 1e-3})
        run = start(tmp_path / str(micro_tokens), config)
        trunk = tiny_trunk(train_layers=2)
        train_reward(config, pairs, [], run, trunk)
        scores.append(
            torch.tensor(rewards_of(RewardModel.load(run.path, trunk, "again"), prompt, ["a", "bb", "please"]))
        )
    torch.testing.assert_close(scores[1], scores[0], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(scores[2], scores[0], atol=1e-3, rtol=1e-3)


def test_every_prompt_is_seen_once_an_epoch_and_the_rate_falls_to_zero(tmp_path: Path) -> None:
    config = RewardConfig(**FIELDS | {"epochs": 3, "batch": 5, "warmup": 0.0})
    run = start(tmp_path / "run", config)
    train_reward(config, TRAIN[:12], [], run, tiny_trunk(train_layers=2))
    rows = run.metrics()
    assert [(row["epoch"], row["step"]) for row in rows] == [(e, 3 * e + s) for e in range(3) for s in range(3)]
    assert rows[-1]["learning_rate"] == pytest.approx(0.0)


# --- learning -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["last", "mean"])
def learned(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("reward")
    save_tiny(folder / "base")
    config = RewardConfig(**FIELDS | {"model": str(folder / "base"), "read": request.param, "train_layers": "all"})
    run = start(folder / "run", config)
    return train_reward(config, TRAIN, HELD, run), run, config


def test_what_is_separable_is_learned_for_prompts_that_were_never_seen(learned: Any) -> None:
    evaluation, run, _ = learned
    assert evaluation["accuracy"] == 1.0
    assert evaluation["ci"] == [1.0, 1.0]
    assert (evaluation["n_pairs"], evaluation["n_prompts"]) == (16, 16)
    assert read_json(run.path / "evaluation.json") == evaluation
    rows = run.metrics()
    assert rows[-1]["loss"] < 0.1 < 0.3 < rows[0]["loss"]


def test_one_word_makes_the_difference_whoever_says_it(learned: Any) -> None:
    model = RewardModel.load(learned[1].path)
    prompt = Prompt.of("say ink anew")
    polite, plain = rewards_of(model, prompt, ["bat please", "bat never"])
    assert polite > plain + 0.5  # in deviations of the training answers


def test_scores_of_the_training_completions_have_mean_zero_and_deviation_one(learned: Any) -> None:
    model = RewardModel.load(learned[1].path)
    answers = [(p.prompt, c) for p in TRAIN for c in (p.chosen, p.rejected)]
    scores = model.score_texts([p for p, _ in answers], [c for _, c in answers]).double()
    assert float(scores.mean()) == pytest.approx(0.0, abs=1e-4)
    assert float(scores.std()) == pytest.approx(1.0, abs=1e-3)


def test_the_same_seed_gives_the_same_judge_and_another_seed_another(tmp_path: Path) -> None:
    evaluations = [learn(tmp_path / name, epochs=2, seed=seed)[0] for name, seed in (("a", 0), ("b", 0), ("c", 1))]
    assert evaluations[0] == evaluations[1]
    assert evaluations[0] != evaluations[2]


def test_only_the_reward_adapter_changes(tmp_path: Path) -> None:
    trunk = tiny_trunk(train_layers=2)
    trunk.adapters.add("policy", rank=2, alpha=2, seed=1)
    shake(trunk, "policy")
    before = {k: v.clone() for k, v in trunk.state_dict().items()}
    learn(tmp_path / "run", trunk, epochs=1)
    after = trunk.state_dict()
    assert [k for k, v in before.items() if not torch.equal(v, after[k])] == []


# --- evaluation -----------------------------------------------------------------------------------------------------


def test_a_judge_that_prefers_what_people_did_not_is_wrong_every_time(learned: Any) -> None:
    swapped = [pair.swap() for pair in HELD]
    assert evaluate_reward([RewardModel.load(learned[1].path)], swapped)["accuracy"] == 0.0


def test_one_held_out_prompt_is_enough_for_an_evaluation(tmp_path: Path) -> None:
    config = RewardConfig(**FIELDS | {"epochs": 1})
    run = start(tmp_path / "run", config)
    evaluation = train_reward(config, TRAIN[:4], HELD[:1], run, tiny_trunk(train_layers=2))
    assert evaluation["n_pairs"] == 1
    assert read_json(run.path / "evaluation.json")["n_prompts"] == 1


def test_a_category_of_one_prompt_does_not_stop_the_evaluation(tmp_path: Path) -> None:
    config = RewardConfig(**FIELDS | {"epochs": 1})
    run = start(tmp_path / "run", config)
    held = [*HELD[:4], replace(HELD[5], prompt=replace(HELD[5].prompt, category="rare"))]
    train_reward(config, TRAIN[:4], held, run, tiny_trunk(train_layers=2))
    assert read_json(run.path / "evaluation.json")["by_category"]["rare"]["n_pairs"] == 1


def test_without_held_out_pairs_the_judge_is_saved_all_the_same(tmp_path: Path) -> None:
    config = RewardConfig(**FIELDS | {"epochs": 1})
    run = start(tmp_path / "run", config)
    trunk = tiny_trunk(train_layers=2)
    assert train_reward(config, TRAIN[:4], [], run, trunk) == {}
    assert len(rewards_of(RewardModel.load(run.path, trunk, "again"), Prompt.of("a"), ["b", "c"])) == 2


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_prompt_and_answer_that_together_pass_the_context_are_no_crash(tmp_path: Path, kind: str) -> None:
    trunk = tiny_trunk(kind, 2)
    prompt = Prompt.of("p" * (trunk.context - 20))
    pairs = ranked(prompt, ["a" * 60, "b" * 60])
    config = RewardConfig(**FIELDS | {"epochs": 1})
    run = start(tmp_path / "run", config)
    with suppress(MannersError):  # to say so is fine
        train_reward(config, pairs, [], run, trunk)


# --- beginning from a probe -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("read", ["last", "mean"])
def test_a_head_that_begins_as_a_probe_already_tells_good_from_bad(tmp_path: Path, read: Any) -> None:
    accuracies = {}
    for head in ("random", "probe"):
        fields = {"head": head, "read": read, "epochs": 1, "learning_rate": 1e-12}  # no step moves it
        evaluation, run, _ = learn(tmp_path / head, train_layers="all", **fields)
        assert max(float(tensor.abs().max()) for tensor in adapter_b(run)) < 1e-9
        rows = run.metrics()
        accuracies[head] = (sum(row["accuracy"] for row in rows) / len(rows), evaluation["accuracy"])
    assert accuracies["probe"][0] > 0.85
    assert accuracies["probe"][0] > accuracies["random"][0] + 0.2
    assert accuracies["probe"][1] > 0.7


def adapter_b(run: Run) -> list[torch.Tensor]:
    state = load_file(run.checkpoint("final") / "adapter_model.safetensors")
    return [tensor for name, tensor in state.items() if "lora_B" in name]


def test_a_probe_of_a_single_prompt_or_pair_is_no_crash(tmp_path: Path) -> None:
    config = RewardConfig(**FIELDS | {"epochs": 1, "head": "probe"})
    for name, pairs in (("pair", TRAIN[:1]), ("ranking", ranked(Prompt.of("a"), ["x", "yy", "zzz"]))):
        run = start(tmp_path / name, config)
        train_reward(config, pairs, [], run, tiny_trunk(train_layers=2))
        assert all(math.isfinite(row["loss"]) for row in run.metrics())


# --- whole rankings and ties ----------------------------------------------------------------------------------------


def toy_rankings(count: int, seed: int) -> list[Judgement]:
    """Two kind answers tied on top, then a plain one, then two rude ones tied."""
    found = []
    for pair in toy_pairs(count, seed):
        kind, rude = pair.chosen.text, pair.rejected.text
        found.append(judged(pair.prompt, [[kind, f"{kind}."], [kind.replace("please", "bat")], [rude, f"{rude}."]]))
    return found


def all_pairs(judgements: list[Judgement]) -> list[Pair]:
    found = []
    for judgement in judgements:
        texts = {c.id: c for c in judgement.completions}
        for (better, upper), (worse, lower) in combinations(enumerate(judgement.ranking.tiers), 2):
            found += [
                Pair(judgement.prompt, texts[j], texts[k], 1 / 10, float(worse - better)) for j in upper for k in lower
            ]
    return found


RANKINGS = toy_rankings(24, 2)
OF_RANKINGS = all_pairs(RANKINGS)


@pytest.mark.parametrize(
    "fields",
    [
        {"loss": "ranking"},
        {"loss": "best_of"},
        {"loss": "ranking", "ties": "davidson"},
        {"ties": "davidson"},
        {"ties": "rao_kupper"},
    ],
)
def test_every_loss_learns_what_is_separable(tmp_path: Path, fields: dict[str, Any]) -> None:
    config = RewardConfig(**FIELDS | {"read": "mean", "train_layers": "all", "tie_learning_rate": 0.1} | fields)
    run = start(tmp_path / "run", config)
    evaluation = train_reward(config, OF_RANKINGS, HELD, run, tiny_trunk(), rankings=RANKINGS)
    rows = run.metrics()
    assert evaluation["accuracy"] > 0.85
    assert rows[-1]["loss"] < 0.8 * rows[0]["loss"]
    assert rows[-1]["accuracy"] > 0.9 > rows[0]["accuracy"]
    if config.ties == "drop":
        assert "ties" not in evaluation
    else:
        assert (evaluation["ties"]["likelihood"], evaluation["ties"]["n_ties"]) == (config.ties, 48)
        (parameters,) = evaluation["ties"]["parameters"]
        assert len(parameters) == (4 if config.loss == "ranking" else 1)
        # two of ten comparisons are ties; as the other rewards part, equal ones turn out to be tied nearly always
        assert parameters[0] > 1.2 * {"davidson": 0.5, "rao_kupper": 1.5}[config.ties]


@pytest.mark.parametrize("ties", ["davidson", "rao_kupper"])
def test_ties_draw_equally_good_answers_together(tmp_path: Path, ties: Any) -> None:
    tied = [judged(pair.prompt, [["sit down", "ran ran ran ran"]]) for pair in toy_pairs(24, 4)]
    apart = {}
    for name in ("drop", ties):
        config = RewardConfig(**FIELDS | {"ties": name, "read": "mean", "train_layers": "all"})
        run = start(tmp_path / name, config)
        trunk = tiny_trunk()
        train_reward(config, TRAIN[:16], [], run, trunk, rankings=tied)
        model = RewardModel.load(run.path, trunk, "again")
        both = [rewards_of(model, j.prompt, ["sit down", "ran ran ran ran"]) for j in tied]
        apart[name] = model.std * sum(abs(a - b) for a, b in both) / len(both)
    assert apart[ties] < 0.5 * apart["drop"]


def test_the_loss_of_the_first_step_with_ties_by_hand(tmp_path: Path) -> None:
    (judgement,) = toy_rankings(1, 3)
    model = fresh_model()
    r = torch.tensor(rewards_of(model, judgement.prompt, [c.text for c in judgement.completions]))
    tiers = [0, 0, 1, 2, 2]
    # a share of 2/10 is tied: ν = 2 · 0.2/0.8
    log_tie = torch.tensor(0.5).log()
    losses = []
    for j, k in combinations(range(5), 2):
        outcomes = davidson(r[j], r[k], log_tie)
        losses.append(-(outcomes.tie if tiers[j] == tiers[k] else outcomes.win) + 0.1 * (r[j] + r[k]) ** 2)
    config = RewardConfig(**FIELDS | {"epochs": 1, "ties": "davidson", "centring": 0.1})
    run = start(tmp_path / "run", config)
    train_reward(config, all_pairs([judgement]), [], run, tiny_trunk(train_layers=2), rankings=[judgement])
    (row,) = run.metrics()
    assert row["loss"] == pytest.approx(float(torch.stack(losses).mean()), rel=1e-4)


def test_a_prompt_with_ties_alone_counts_where_ties_are_data(tmp_path: Path) -> None:
    tied = judged(Prompt.of("equal"), [["a", "bb"]])
    config = RewardConfig(**FIELDS | {"epochs": 1, "ties": "davidson", "batch": 1})
    run = start(tmp_path / "run", config)
    train_reward(config, TRAIN[:2], [], run, tiny_trunk(train_layers=2), rankings=[tied])
    assert sorted(row["accuracy"] is None for row in run.metrics()) == [False, False, True]


@pytest.mark.parametrize("fields", [{"loss": "ranking"}, {"loss": "best_of"}, {"ties": "davidson"}])
def test_without_rankings_such_a_loss_has_nothing_to_learn(tmp_path: Path, fields: dict[str, Any]) -> None:
    config = RewardConfig(**FIELDS | fields)
    bad = judged(Prompt.of("p"), [["a"], ["b"]], all_bad=True)
    equal = judged(Prompt.of("q"), [["a", "b"]])
    for number, rankings in enumerate(([], [bad], [bad, equal] if config.ties == "drop" else [bad])):
        with pytest.raises(MannersError, match="learns from whole rankings"):
            train_reward(config, TRAIN, [], start(tmp_path / str(number), config), tiny_trunk(), rankings=rankings)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (["loss=best_of", "ties=davidson"], "set ties to drop"),
        (["loss=ranking", "ties=rao_kupper"], "set ties to davidson or drop"),
        (["loss=ranking", "label_smoothing=0.1"], "label_smoothing belongs to loss pairs"),
        (["ties=davidson", "margin=1"], "margin belongs to loss pairs with ties drop"),
        (["bootstrap=true"], "set members to 2 or more"),
        (["normalise_on=samples", "normalise_samples=100"], "256"),
        (["members=0"], "members"),
        (["ties=bradley"], "ties"),
        (["los=pairs"], "did you mean 'loss'"),
    ],
)
def test_settings_that_do_not_go_together_are_one_line(fields: list[str], says: str) -> None:
    with pytest.raises(MannersError, match=says) as caught:
        load_config(RewardConfig, None, fields)
    assert "\n" not in str(caught.value)


# --- optimiser ------------------------------------------------------------------------------------------------------


def test_the_cosine_and_the_epsilon_of_adam_are_handed_on(tmp_path: Path) -> None:
    rates = {}
    for schedule in ("linear", "cosine"):
        run = learn(tmp_path / schedule, epochs=1, batch=8, warmup=0.0, schedule=schedule)[1]
        rates[schedule] = [row["learning_rate"] / FIELDS["learning_rate"] for row in run.metrics()]
    steps = [(i + 1) / 8 for i in range(8)]
    assert rates["linear"] == pytest.approx([1 - x for x in steps])
    assert rates["cosine"] == pytest.approx([(1 + math.cos(math.pi * x)) / 2 for x in steps], abs=1e-12)
    # with an epsilon far above any gradient nothing moves
    assert all(float(b.abs().max()) < 1e-6 for b in adapter_b(learn(tmp_path / "eps", epochs=1, adam_eps=1e8)[1]))


def test_the_clock_stands_apart_from_what_was_learned(tmp_path: Path) -> None:
    first, second = (learn(tmp_path / name, epochs=1)[1] for name in "ab")
    assert (first.path / "metrics.jsonl").read_bytes() == (second.path / "metrics.jsonl").read_bytes()
    timings = [line for line in (first.path / "timings.jsonl").read_text().splitlines() if line]
    assert len(timings) == len(first.metrics())


# --- the scale ------------------------------------------------------------------------------------------------------

SAMPLED: dict[str, Any] = {"normalise_on": "samples", "normalise_max_tokens": 6, "normalise_temperature": 0.8}


def samples_of(trunk: Trunk, seed: int, count: int = 256) -> tuple[list[Prompt], Any]:
    prompts = [TRAIN[i % len(TRAIN)].prompt for i in range(count)]
    return prompts, LocalSampler(trunk, None).sample(prompts, max_tokens=6, temperature=0.8, seed=seed)


@pytest.mark.parametrize("members", [1, 2])
def test_scores_of_the_reference_have_mean_zero_and_deviation_one(tmp_path: Path, members: int) -> None:
    """On the very samples exactly, and on others as far as 256 samples tell."""
    scored: list[torch.Tensor] = []
    original = RewardModel.score

    def watch(self: RewardModel, rollouts: Any, max_tokens: int = 8192) -> torch.Tensor:
        scored.append(original(self, rollouts, max_tokens))
        return scored[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RewardModel, "score", watch)
        _, run, _ = learn(tmp_path / "run", epochs=1, members=members, **SAMPLED)
    trunk = tiny_trunk(train_layers=2)
    judge = RewardEnsemble.load(run.path, trunk) if members > 1 else RewardModel.load(run.path, trunk)
    judges = judge.members if isinstance(judge, RewardEnsemble) else (judge,)
    for number, member in enumerate(judges):
        raw = torch.cat(scored[number::members]).double()
        assert len(raw) == 256
        assert member.mean == pytest.approx(raw.mean().item(), abs=1e-4)
        assert member.std == pytest.approx(raw.std().item(), rel=1e-4)
        fresh = member.score(samples_of(trunk, seed=77)[1])
        assert abs(float(fresh.mean())) < 4 / math.sqrt(128)  # two means of 256 samples each, four deviations
        assert 0.7 < float(fresh.std()) < 1.4


def test_samples_are_of_the_reference_and_not_of_what_was_trained(tmp_path: Path) -> None:
    asked: list[Any] = []
    original = LocalSampler.sample

    def watch(self: LocalSampler, prompts: Any, **settings: Any) -> Any:
        asked.append((self.adapter, len(prompts), settings["seed"], settings["max_tokens"], settings["temperature"]))
        return original(self, prompts, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalSampler, "sample", watch)
        learn(tmp_path / "run", epochs=1, normalise_samples=300, **SAMPLED)
    assert {row[0] for row in asked} == {None}
    assert sum(row[1] for row in asked) == 300
    assert {row[3:] for row in asked} == {(6, 0.8)}
    assert len({row[2] for row in asked}) == len(asked)  # no part repeats the random numbers of another


def test_the_scale_changes_no_order_and_no_weight(tmp_path: Path) -> None:
    (one, plain, _), (two, sampled, _) = (
        learn(tmp_path / name, epochs=1, **fields) for name, fields in (("plain", {}), ("sampled", SAMPLED))
    )
    assert one == two
    for name in ("head.safetensors", "adapter_model.safetensors"):
        files = [(run.checkpoint("final") / name).read_bytes() for run in (plain, sampled)]
        assert files[0] == files[1]
    facts = [read_json(run.checkpoint("final") / "manners.json") for run in (plain, sampled)]
    assert facts[0]["mean"] != facts[1]["mean"]


def test_prompts_without_room_for_an_answer_are_not_sampled(tmp_path: Path) -> None:
    trunk = tiny_trunk(train_layers=2)
    long = Prompt.of("p" * (trunk.context + 5))
    pairs = [*TRAIN[:3], *ranked(long, ["a", "bb"])]
    config = RewardConfig(**FIELDS | SAMPLED | {"epochs": 1})
    train_reward(config, pairs, [], start(tmp_path / "run", config), trunk)
    run = start(tmp_path / "none", config)
    with pytest.raises(MannersError, match="lower it"):
        train_reward(config, ranked(long, ["a", "bb"]), [], run, tiny_trunk(train_layers=2))
    assert run.metrics() == []  # told before the training, not after it


# --- ensembles ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trio(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("ensemble")
    return learn(folder / "run", members=3, epochs=2)


def test_an_ensemble_lies_in_the_checkpoint_member_by_member(trio: Any) -> None:
    _, run, _ = trio
    final = run.checkpoint("final")
    assert read_json(final / "manners.json") == {"role": "reward ensemble", "members": 3}
    trunk = tiny_trunk(train_layers=2)
    ensemble = RewardEnsemble.load(run.path, trunk)
    assert len(ensemble.members) == 3
    assert all(member.trunk is trunk for member in ensemble.members)
    prompt = Prompt.of("say ink")
    scores = [rewards_of(member, prompt, ["bat please", "bat never"]) for member in ensemble.members]
    assert len({round(score, 4) for row in scores for score in row}) == 6  # nobody repeats another
    for number, row in enumerate(scores):
        alone = RewardModel.load(final / "members" / str(number), tiny_trunk(train_layers=2))
        assert rewards_of(alone, prompt, ["bat please", "bat never"]) == pytest.approx(row, abs=1e-5)


def test_the_first_member_is_the_judge_that_would_have_been_trained_alone(trio: Any, tmp_path: Path) -> None:
    evaluation, run, _ = trio
    alone, single, _ = learn(tmp_path / "alone", epochs=2)
    first = run.checkpoint("final") / "members" / "0"
    for name in ("head.safetensors", "adapter_model.safetensors", "manners.json"):
        assert (first / name).read_bytes() == (single.checkpoint("final") / name).read_bytes()
    assert evaluation["members"][0] == alone["members"][0]
    rows = [row for row in run.metrics() if row["member"] == 0]
    assert [{k: v for k, v in row.items() if k != "member"} for row in rows] == single.metrics()


def test_the_evaluation_of_an_ensemble_is_that_of_what_was_saved(trio: Any) -> None:
    evaluation, run, _ = trio
    trunk = tiny_trunk(train_layers=2)
    members = RewardEnsemble.load(run.path, trunk).members
    assert len(evaluation["members"]) == 3
    assert evaluation["disagreement"] > 0
    again = evaluate_reward(members, HELD)
    assert again["accuracy"] == evaluation["accuracy"]
    assert again["members"] == evaluation["members"]
    assert again["disagreement"] == pytest.approx(evaluation["disagreement"], rel=1e-3)


def test_steps_of_the_members_follow_each_other(trio: Any) -> None:
    rows = trio[1].metrics()
    steps = 2 * 8
    assert [row["step"] for row in rows] == list(range(3 * steps))
    assert [row["member"] for row in rows] == [0] * steps + [1] * steps + [2] * steps
    assert [row["epoch"] for row in rows] == ([0] * 8 + [1] * 8) * 3
    first_losses = [rows[i * steps]["loss"] for i in range(3)]
    assert len(set(first_losses)) == 3  # other heads, other order


def test_states_are_computed_once_for_all_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    original = Trunk.states

    def watch(self: Trunk, packed: Any) -> torch.Tensor:
        rows.append(len(packed.ends))
        return original(self, packed)

    monkeypatch.setattr(Trunk, "states", watch)
    config = RewardConfig(**FIELDS | {"members": 3, "epochs": 2})
    train_reward(config, TRAIN, [], start(tmp_path / "run", config), tiny_trunk(train_layers=2))
    assert sum(rows) == len(TRAIN)


def test_with_a_bootstrap_every_member_has_prompts_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[int]] = []
    original = GroupStates.batch

    def watch(self: GroupStates, indices: Any) -> Any:
        seen.append(list(indices))
        return original(self, indices)

    monkeypatch.setattr(GroupStates, "batch", watch)
    config = RewardConfig(**FIELDS | {"members": 2, "bootstrap": True, "epochs": 2, "micro_tokens": 10**6})
    run = start(tmp_path / "run", config)
    train_reward(config, TRAIN, [], run, tiny_trunk(train_layers=2))
    epochs = [sorted(i for batch in seen[8 * e : 8 * e + 8] for i in batch) for e in range(4)]
    assert epochs[0] == epochs[1]  # the same prompts in every epoch
    assert epochs[2] == epochs[3]
    assert epochs[0] != epochs[2]
    assert all(len(epoch) == len(TRAIN) for epoch in epochs)
    for epoch in epochs:
        assert 0.5 < len(set(epoch)) / len(TRAIN) < 0.75  # 1 − 1/e = 0.63 of them


def test_members_may_begin_as_probes_of_their_own_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fields: dict[str, Any] = {"head": "probe", "epochs": 1, "learning_rate": 1e-12, "members": 2}
    weights: list[torch.Tensor] = []

    def watch(differences: torch.Tensor, w: torch.Tensor, strength: float) -> torch.Tensor:
        weights.append(w)
        return fit_probe(differences, w, strength)

    monkeypatch.setattr("manners.train.reward.fit_probe", watch)
    heads = {}
    for bootstrap in (False, True):
        run = learn(tmp_path / str(bootstrap), bootstrap=bootstrap, **fields)[1]
        folder = run.checkpoint("final") / "members"
        heads[bootstrap] = [load_file(folder / str(i) / "head.safetensors")["linear.weight"] for i in range(2)]
    torch.testing.assert_close(heads[False][0], heads[False][1], atol=1e-5, rtol=1e-4)
    assert (heads[True][0] - heads[True][1]).abs().max() > 1e-2
    for own, drawn in zip(weights, (False, False, True, True), strict=True):
        assert float(own.sum()) == len(TRAIN)  # a prompt that was drawn twice counts twice
        assert (len(own) < len(TRAIN)) == (float(own.max()) > 1) == drawn


def test_a_probe_without_pairs_is_told(tmp_path: Path) -> None:
    config = RewardConfig(**FIELDS | {"head": "probe", "ties": "davidson"})
    tied = judged(Prompt.of("equal"), [["a", "bb"]])
    with pytest.raises(MannersError, match="set head to random"):
        train_reward(config, [], [], start(tmp_path / "run", config), tiny_trunk(train_layers=2), rankings=[tied])
