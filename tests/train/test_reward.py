from __future__ import annotations

import math
import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny import save_tiny, shake, tiny_trunk

from manners.errors import MannersError
from manners.models.heads import ScalarHead
from manners.models.trunk import Trunk
from manners.records import Completion, Message, Pair, Prompt
from manners.rewards.model import RewardModel
from manners.runs import Run, read_json
from manners.text.chat import Chat
from manners.train.reward import ADAPTER, RewardConfig, _Groups, evaluate_reward, group_pairs, train_reward

torch.set_num_threads(1)

WORDS = ["sit", "bat", "ran", "dog", "ink", "cow"]
FIELDS: dict[str, Any] = {"train_layers": 2, "rank": 8, "alpha": 16, "epochs": 6, "learning_rate": 1e-2}


def toy_pairs(count: int, seed: int) -> list[Pair]:
    """Answers with the word "please" in them win over answers with the word "never"."""
    draw, pairs = random.Random(seed), []
    for i in range(count):
        prompt = Prompt.of(f"say {draw.choice(WORDS)} {seed} {i}", category=["odd", "even"][i % 2])
        answers = []
        for word in ("please", "never"):
            words = [draw.choice(WORDS)]
            words.insert(draw.randint(0, 1), word)
            answers.append(Completion(prompt.id, " ".join(words)))
        pairs.append(Pair(prompt, answers[0], answers[1]))
    return pairs


TRAIN, HELD = toy_pairs(64, 0), toy_pairs(16, 1)


def start(folder: Path, config: RewardConfig) -> Run:
    return Run.create(folder, "reward", config, {})


def learn(folder: Path, trunk: Trunk | None = None, **fields: Any) -> tuple[dict[str, Any], Run, RewardConfig]:
    config = RewardConfig(**FIELDS | fields)
    run = start(folder, config)
    return train_reward(config, TRAIN, HELD, run, trunk or tiny_trunk(train_layers=config.train_layers)), run, config


def ranked(prompt: Prompt, texts: Sequence[str]) -> list[Pair]:
    """The C(K, 2) pairs of a ranking, best text first."""
    answers = [Completion(prompt.id, text) for text in texts]
    weight = 2 / (len(texts) * (len(texts) - 1))
    return [Pair(prompt, answers[i], answers[j], weight, float(j - i))
            for i in range(len(texts)) for j in range(i + 1, len(texts))]  # fmt: skip


def fresh_model(read: Any = "last", layers: Any = 2, seed: int = 0) -> RewardModel:
    """The reward model before its first step."""
    trunk = tiny_trunk(train_layers=layers)
    trunk.adapters.add(ADAPTER, rank=8, alpha=16, seed=seed)
    return RewardModel(trunk, ADAPTER, ScalarHead.for_reward(trunk.width, seed), read)


def rewards_of(model: RewardModel, prompt: Prompt, texts: Sequence[str]) -> list[float]:
    found: list[float] = model.score_texts([prompt] * len(texts), [Completion(prompt.id, t) for t in texts]).tolist()
    return found


def softplus(x: float) -> float:
    return math.log1p(math.exp(-abs(x))) + max(x, 0)


# --- grouping -------------------------------------------------------------------------------------------------------


def chat() -> Chat:
    trunk = tiny_trunk()
    return Chat(trunk.tokenizer, trunk.context)


def test_pairs_of_a_prompt_come_together_and_point_at_their_texts() -> None:
    first, second = Prompt.of("one", category="sums"), Prompt((Message("system", "Be kind."), Message("user", "two")))
    pairs = [*ranked(first, ["a", "bb", "ccc", "dddd"]), *ranked(second, ["x", "y"]), *ranked(first, ["eeeee", "a"])]
    random.Random(0).shuffle(pairs)
    talk = chat()
    groups = {g.prompt_id: g for g in group_pairs(pairs, talk, 100, 100)}
    assert set(groups) == {first.id, second.id}
    assert [len(g.completions) for g in (groups[first.id], groups[second.id])] == [5, 2]  # each answer once
    assert (groups[first.id].category, groups[second.id].category) == ("sums", "")
    for prompt in (first, second):
        group = groups[prompt.id]
        assert group.prompt == talk.prompt(prompt)
        texts = [talk.text(tokens) for tokens in group.completions]
        assert all(tokens[-1] == talk.end for tokens in group.completions)
        named = [(texts[j], texts[k], weight, apart) for j, k, weight, apart in group.pairs]
        given = [(p.chosen.text, p.rejected.text, p.weight, p.margin) for p in pairs if p.prompt == prompt]
        assert named == given
        assert group.length == len(group.prompt) + sum(map(len, group.completions))


def test_an_answer_that_was_cut_off_has_no_end_token_and_a_long_one_is_cut() -> None:
    prompt, talk = Prompt.of("one"), chat()
    pair = Pair(prompt, Completion(prompt.id, "abc", finished=False), Completion(prompt.id, "defgh"))
    (group,) = group_pairs([pair], talk, 100, 4)
    assert [talk.tokenizer.decode(tokens) for tokens in group.completions] == ["abc", "defg"]


def test_a_long_prompt_loses_its_beginning() -> None:
    prompt, talk = Prompt.of("0123456789"), chat()
    pair = Pair(prompt, Completion(prompt.id, "a"), Completion(prompt.id, "b"))
    (group,) = group_pairs([pair], talk, 5, 100)
    assert group.prompt == talk.prompt(prompt)[-5:]


def test_without_pairs_there_is_nothing_to_learn(tmp_path: Path) -> None:
    with pytest.raises(MannersError, match="no pairs to learn from"):
        group_pairs([], chat(), 100, 100)
    with pytest.raises(MannersError, match="no pairs to learn from"):
        train_reward(
            RewardConfig(**FIELDS), [], HELD, start(tmp_path / "run", RewardConfig()), tiny_trunk(train_layers=2)
        )


def test_states_that_do_not_fit_into_memory_are_computed_anew_and_are_the_same() -> None:
    trunk = tiny_trunk(train_layers=2)
    groups = group_pairs(TRAIN[:6], chat(), 100, 100)
    kept, anew = _Groups(trunk, groups), _Groups(trunk, groups, limit=0)
    assert (kept.keep, anew.keep) == (True, False)
    for indices in ([0, 3, 5], [5, 0], [1, 2, 3, 4]):  # the second time partly or wholly from memory
        (packed, states), (packed_anew, states_anew) = kept.batch(indices), anew.batch(indices)
        assert torch.equal(packed.tokens, packed_anew.tokens)
        real = packed.segments >= 0
        torch.testing.assert_close(states[real], states_anew[real], atol=1e-6, rtol=1e-5)
    assert set(kept.states) == {0, 1, 2, 3, 4, 5}
    assert not anew.states


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
    assert set(row) == {"epoch", "step", "loss", "accuracy", "learning_rate", "seconds"}


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


def test_accuracy_and_the_length_baseline_are_those_of_a_naive_count() -> None:
    draw = random.Random(5)
    pairs = []
    for i in range(12):
        texts = ["".join(draw.choices("abcdefg", k=draw.randint(1, 9))) for _ in range(draw.randint(2, 4))]
        pairs += ranked(Prompt.of(f"question {i}", category=["odd", "even", ""][i % 3]), list(dict.fromkeys(texts)))
    model = fresh_model("mean")
    shake(model.trunk, ADAPTER)
    model.mean, model.std = 5.0, 0.25  # the scale of the scores is nothing to accuracy and calibration
    found = evaluate_reward(model, pairs, RewardConfig())
    differences = []
    for pair in pairs:
        scores = [rewards_of(model, pair.prompt, [c.text])[0] for c in (pair.chosen, pair.rejected)]
        differences.append((scores[0] - scores[1]) * 0.25)
    right = [d > 0 for d in differences]
    longer = [
        (len(p.chosen.text) > len(p.rejected.text)) + 0.5 * (len(p.chosen.text) == len(p.rejected.text)) for p in pairs
    ]
    assert 0.2 < np.mean(right) < 0.8
    assert 0.5 in longer
    assert found["accuracy"] == pytest.approx(np.mean(right))
    assert found["length_baseline"] == pytest.approx(np.mean(longer))
    assert (found["n_pairs"], found["n_prompts"]) == (len(pairs), len({p.prompt.id for p in pairs}))
    assert found["ci"][0] < found["accuracy"] < found["ci"][1]
    assert set(found["by_category"]) == {"odd", "even"}
    for name, row in found["by_category"].items():
        inside = [hit for hit, pair in zip(right, pairs, strict=True) if pair.prompt.category == name]
        assert row["accuracy"] == pytest.approx(np.mean(inside))
        assert row["n_pairs"] == len(inside)

    p = 1 / (1 + np.exp(-np.array(differences)))
    confidence = np.maximum(p, 1 - p)
    bins = np.minimum(((confidence - 0.5) * 10).astype(int), 4)
    error = sum(
        abs((p[bins == b] > 0.5).mean() - confidence[bins == b].mean()) * (bins == b).sum() for b in set(bins)
    ) / len(p)
    assert found["ece"] == pytest.approx(error, abs=1e-5)

    answers = list({c.id: (p.prompt, c) for p in pairs for c in (p.chosen, p.rejected)}.values())
    scores = [rewards_of(model, prompt, [c.text])[0] for prompt, c in answers]
    lengths = [len(c.text) for _, c in answers]
    assert found["length_correlation"] == pytest.approx(np.corrcoef(lengths, scores)[0, 1], abs=1e-4)


def test_a_judge_that_prefers_what_people_did_not_is_wrong_every_time(learned: Any) -> None:
    _, run, config = learned
    swapped = [pair.swap() for pair in HELD]
    assert evaluate_reward(RewardModel.load(run.path), swapped, config)["accuracy"] == 0.0


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
