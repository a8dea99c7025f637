from __future__ import annotations

import errno
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import save_tiny, shake, tiny_trunk
from torch import Tensor

from manners.batches import Rollouts
from manners.errors import MannersError
from manners.models.heads import ScalarHead
from manners.models.load import load_trunk
from manners.models.packing import pack_rows
from manners.models.trunk import TrainLayers, Trunk
from manners.records import Completion, Message, Prompt
from manners.rewards.model import RewardModel
from manners.sampling.local import LocalSampler

torch.set_num_threads(1)

PROMPTS = [Prompt.of("Question " + "?" * (3 * i % 7)) for i in range(6)]
TEXTS = ["no", "yes, of course", "", "well, it depends on many things", "?", "a b c"]
KINDS: list[tuple[str, TrainLayers]] = [("llama", 2), ("llama", "all"), ("gpt2", 1), ("gemma", 2)]


def judge(trunk: Trunk, read: Any = "last", name: str = "reward") -> RewardModel:
    """A reward model that says something, with a scale of its own."""
    trunk.adapters.add(name, rank=4, alpha=8, seed=0)
    shake(trunk, name, std=0.15, seed=1)
    return RewardModel(trunk, name, ScalarHead.for_reward(trunk.width, 2), read, mean=0.3, std=2.5)


def answers(texts: list[str] = TEXTS, finished: bool = True) -> list[Completion]:
    return [Completion(p.id, text, finished) for p, text in zip(PROMPTS, texts, strict=True)]


def policy_rollouts(trunk: Trunk, seed: int = 0) -> Rollouts:
    """Answers of a policy whose adapter is on the trunk while it samples."""
    trunk.adapters.add("policy", rank=4, alpha=8, seed=3)
    shake(trunk, "policy", std=0.15, seed=4)
    return LocalSampler(trunk, "policy").sample(PROMPTS, max_tokens=12, temperature=1.0, seed=seed)


@torch.no_grad()
def by_hand(model: RewardModel, ids: list[int], prompt_length: int) -> float:
    """The score of one conversation from the whole model's last hidden states."""
    with model.trunk.adapters.using(model.adapter):
        hidden = model.trunk.model.base_model(input_ids=torch.tensor([ids])).last_hidden_state[0]
    read = hidden[-1] if model.read == "last" else hidden[prompt_length:].mean(0)
    weight, bias = model.head.linear.weight[0], model.head.linear.bias[0]
    return float(((read @ weight + bias) - 0.3) / 2.5)


# --- scores ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("read", ["last", "mean"])
@pytest.mark.parametrize(("kind", "train_layers"), KINDS)
def test_scores_of_texts_are_the_head_on_the_whole_model(kind: str, train_layers: TrainLayers, read: Any) -> None:
    model = judge(tiny_trunk(kind, train_layers), read)
    expected = []
    for prompt, completion in zip(PROMPTS, answers(), strict=True):
        asked = model.chat.prompt(prompt)
        expected.append(by_hand(model, asked + model.chat.completion(completion), len(asked)))
    scores = model.score_texts(PROMPTS, answers())
    assert scores.tolist() == pytest.approx(expected, abs=2e-5)
    assert scores.dtype == torch.float32
    assert scores.std() > 0.01


@pytest.mark.parametrize("read", ["last", "mean"])
@pytest.mark.parametrize(("kind", "train_layers"), KINDS)
def test_rollouts_of_the_same_trunk_score_as_their_texts(kind: str, train_layers: TrainLayers, read: Any) -> None:
    trunk = tiny_trunk(kind, train_layers)
    model, rollouts = judge(trunk, read), policy_rollouts(trunk)
    assert rollouts.trunk is trunk
    scores = model.score(rollouts)
    torch.testing.assert_close(scores, model.score_texts(rollouts.prompts, rollouts.completions), atol=1e-4, rtol=1e-4)
    assert scores.shape == (6,)
    assert scores.std() > 0.01


def test_the_score_is_of_the_very_tokens_and_not_of_a_second_reading_of_the_text() -> None:
    trunk = tiny_trunk(train_layers=2)
    model, rollouts = judge(trunk), policy_rollouts(trunk)
    told = replace(rollouts, completions=tuple(replace(c, text="something else") for c in rollouts.completions))
    assert torch.equal(model.score(told), model.score(rollouts))


def test_rollouts_of_another_trunk_are_read_as_texts() -> None:
    model, rollouts = judge(tiny_trunk(train_layers=2)), policy_rollouts(tiny_trunk(train_layers=2, seed=5))
    assert torch.equal(model.score(rollouts), model.score_texts(rollouts.prompts, rollouts.completions))
    for torn in (replace(rollouts, trunk=None), replace(rollouts, states=rollouts.states[..., :0], trunk=None)):
        assert torch.equal(model.score(torn), model.score(rollouts))


@pytest.mark.parametrize("read", ["last", "mean"])
def test_micro_batches_and_neighbours_change_nothing(read: Any) -> None:
    trunk = tiny_trunk(train_layers=2)
    model, rollouts = judge(trunk, read), policy_rollouts(trunk)
    torch.testing.assert_close(model.score(rollouts, max_tokens=1), model.score(rollouts), atol=1e-5, rtol=1e-5)
    together = model.score_texts(PROMPTS, answers())
    torch.testing.assert_close(model.score_texts(PROMPTS, answers(), max_tokens=1), together, atol=1e-5, rtol=1e-5)
    order = [3, 0, 5, 1, 4, 2]
    shuffled = model.score_texts([PROMPTS[i] for i in order], [answers()[i] for i in order])
    torch.testing.assert_close(shuffled, together[order], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("read", ["last", "mean"])
def test_answers_that_share_a_row_do_not_see_each_other(read: Any) -> None:
    model = judge(tiny_trunk(train_layers=2), read)
    chat, prompt = model.chat, PROMPTS[1]
    responses = [chat.completion(Completion(prompt.id, text)) for text in TEXTS]
    packed = pack_rows([(chat.prompt(prompt), responses), (chat.prompt(PROMPTS[2]), responses[:2])])
    with torch.no_grad():
        raw = model.raw(packed, model.trunk.states(packed))
    assert raw.shape == (2, 6)
    alone = model.score_texts([prompt] * 6, [Completion(prompt.id, text) for text in TEXTS])
    torch.testing.assert_close((raw[0] - 0.3) / 2.5, alone, atol=2e-5, rtol=1e-4)
    fewer = model.score_texts([PROMPTS[2]] * 2, [Completion(PROMPTS[2].id, text) for text in TEXTS[:2]])
    torch.testing.assert_close((raw[1, :2] - 0.3) / 2.5, fewer, atol=2e-5, rtol=1e-4)


def test_whether_an_answer_came_to_its_end_is_seen() -> None:
    model = judge(tiny_trunk(train_layers=2))
    texts = [t or "x" for t in TEXTS]
    ended, cut = model.score_texts(PROMPTS, answers(texts)), model.score_texts(PROMPTS, answers(texts, finished=False))
    assert (ended - cut).abs().min() > 1e-4


def test_the_prompt_counts_system_message_and_all() -> None:
    model = judge(tiny_trunk(train_layers=2))
    asked = [Prompt.of("hello"), Prompt((Message("system", "Be kind."), Message("user", "hello"))), Prompt.of("bye")]
    scores = model.score_texts(asked, [Completion(p.id, "good day") for p in asked])
    assert len(set(scores.tolist())) == 3


def test_an_adapter_that_is_on_elsewhere_does_not_matter_and_stays_on() -> None:
    trunk = tiny_trunk(train_layers=2)
    model, rollouts = judge(trunk), policy_rollouts(trunk)
    quiet = model.score(rollouts), model.score_texts(PROMPTS, answers())
    with trunk.adapters.using("policy"):
        assert torch.equal(model.score(rollouts), quiet[0])
        assert torch.equal(model.score_texts(PROMPTS, answers()), quiet[1])
        assert {layer.active for layer in trunk.adapters.layers.values()} == {"policy"}


def test_prompts_and_answers_must_be_as_many() -> None:
    with pytest.raises(ValueError, match="shorter"):
        judge(tiny_trunk(train_layers=2)).score_texts(PROMPTS, answers()[:3])


# --- saving and loading ---------------------------------------------------------------------------------------------


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "base")


def saved(base: Path, read: Any = "mean", train_layers: TrainLayers = 2) -> tuple[Path, Tensor]:
    """A judge on the base in a folder beside it, and what it says of the answers."""
    model = judge(load_trunk(str(base), train_layers), read)
    folder = base.parent / "judge"
    model.save(folder)
    return folder, model.score_texts(PROMPTS, answers())


@pytest.mark.parametrize("read", ["last", "mean"])
@pytest.mark.parametrize("train_layers", [1, "all"])
def test_a_saved_judge_says_the_same_on_its_own_trunk_and_on_a_shared_one(
    base: Path, read: Any, train_layers: Any
) -> None:
    folder, scores = saved(base, read, train_layers)
    alone = RewardModel.load(folder)
    assert (alone.read, alone.mean, alone.std, alone.trunk.train_layers) == (read, 0.3, 2.5, train_layers)
    assert torch.equal(alone.score_texts(PROMPTS, answers()), scores)

    shared_trunk = load_trunk(str(base), train_layers)
    rollouts = policy_rollouts(shared_trunk)
    shared = RewardModel.load(folder, shared_trunk, "first judge")
    second = RewardModel.load(folder, shared_trunk, "second judge")
    assert shared.trunk is second.trunk is shared_trunk
    for model in (shared, second):
        assert torch.equal(model.score_texts(PROMPTS, answers()), scores)
        torch.testing.assert_close(model.score(rollouts), alone.score(rollouts), atol=1e-4, rtol=1e-4)


def test_a_judge_can_join_a_trunk_that_carries_and_trains_other_adapters(base: Path) -> None:
    folder, scores = saved(base)
    trunk = load_trunk(str(base), 2)
    trunk.adapters.add("policy", rank=2, alpha=2, seed=0)
    shake(trunk, "policy")
    model = RewardModel.load(folder, trunk)
    assert model.trunk is trunk
    assert torch.equal(model.score_texts(PROMPTS, answers()), scores)


@pytest.mark.parametrize("read", ["last", "mean"])
@pytest.mark.parametrize("own", [1, 2])
def test_a_judge_joins_a_trunk_with_adapters_on_more_layers_and_says_the_same(base: Path, own: int, read: Any) -> None:
    folder, scores = saved(base, read, own)
    alone = RewardModel.load(folder)
    for more in (own + 1, "all"):
        trunk = load_trunk(str(base), more)
        rollouts = policy_rollouts(trunk)
        model = RewardModel.load(folder, trunk)
        assert model.trunk is trunk
        torch.testing.assert_close(model.score_texts(PROMPTS, answers()), scores, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(model.score(rollouts), alone.score(rollouts), atol=1e-4, rtol=1e-4)


def test_on_a_trunk_with_fewer_layers_or_other_weights_the_judge_takes_a_trunk_of_its_own(base: Path) -> None:
    folder, scores = saved(base)
    others = [load_trunk(str(base), 1), tiny_trunk(train_layers=2, seed=5), tiny_trunk("gpt2", 2)]
    for other in others:
        before = set(other.adapters.rank)
        model = RewardModel.load(folder, other)
        assert model.trunk is not other
        assert torch.equal(model.score_texts(PROMPTS, answers()), scores)
        assert set(other.adapters.rank) == before


def test_a_base_that_is_not_what_it_was_is_refused(base: Path) -> None:
    folder, _ = saved(base)
    save_tiny(base, seed=7)
    with pytest.raises(MannersError, match=r"was trained on other weights than .* now has; train it again"):
        RewardModel.load(folder)


def test_one_changed_weight_is_another_base(base: Path) -> None:
    folder, _ = saved(base)
    trunk = load_trunk(str(base), 2)
    with torch.no_grad():
        trunk.model.base_model.layers[0].mlp.up_proj.weight[0, 0] += 1e-3
    assert RewardModel.load(folder, trunk).trunk is not trunk


def test_two_rows_that_changed_places_are_another_base(base: Path) -> None:
    folder, _ = saved(base)
    trunk = load_trunk(str(base), 2)
    with torch.no_grad():
        weight = trunk.model.base_model.layers[0].mlp.up_proj.weight
        weight[[0, 1]] = weight[[1, 0]].clone()
    assert RewardModel.load(folder, trunk).trunk is not trunk


def test_the_base_is_known_again_however_many_threads_there_are() -> None:
    table = 0.02 * torch.randn(3_000_000, generator=torch.Generator().manual_seed(0))  # of the size of real embeddings
    prints = set()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            trunk = tiny_trunk()
            trunk.model.register_buffer("table", table)
            prints.add(trunk.fingerprint)
    finally:
        torch.set_num_threads(1)
    assert len(prints) == 1


def test_a_judge_travels_with_its_base(base: Path) -> None:
    folder, scores = saved(base)
    there = base.parent.with_name(base.parent.name + "-moved")
    base.parent.rename(there)
    assert torch.equal(RewardModel.load(there / folder.name).score_texts(PROMPTS, answers()), scores)


def test_a_run_is_read_at_its_final_checkpoint(base: Path) -> None:
    folder, scores = saved(base)
    run = base.parent / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "lineage.json").write_text(json.dumps({"kind": "reward"}))
    trunk = load_trunk(str(base), 2)
    model = RewardModel.load(folder, trunk)
    model.save(run / "checkpoints" / "final")
    assert torch.equal(RewardModel.load(run).score_texts(PROMPTS, answers()), scores)


def test_what_is_no_judge_is_told(base: Path) -> None:
    for folder in (base, base.parent / "nowhere"):
        with pytest.raises(MannersError, match="holds no reward model; train one with `manners train reward`"):
            RewardModel.load(folder)


@pytest.mark.parametrize("name", ["head.safetensors", "adapter_model.safetensors"])
def test_a_broken_file_is_told(base: Path, name: str) -> None:
    folder, _ = saved(base)
    (folder / name).write_bytes((folder / name).read_bytes()[:-20])
    with pytest.raises(MannersError, match=f"{name} is not a whole safetensors file"):
        RewardModel.load(folder)


def test_a_checkpoint_without_its_facts_is_told(base: Path) -> None:
    folder, _ = saved(base)
    (folder / "manners.json").unlink()
    with pytest.raises(MannersError, match=r"manners\.json does not exist"):
        RewardModel.load(folder)


def test_a_checkpoint_holds_adapter_and_head_alone(base: Path) -> None:
    folder, _ = saved(base)
    assert sorted(p.name for p in folder.iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "head.safetensors", "manners.json",
    ]  # fmt: skip
    assert set(load_file(folder / "head.safetensors")) == {"linear.weight", "linear.bias"}
    assert {k.split(".")[-2] for k in load_file(folder / "adapter_model.safetensors")} == {"lora_A", "lora_B"}
    facts = json.loads((folder / "manners.json").read_text())
    assert (facts["role"], facts["read"], facts["train_layers"]) == ("reward", "mean", 2)


def test_a_full_disk_leaves_the_judge_that_was_there(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, scores = saved(base)
    model = judge(load_trunk(str(base), 2), name="other")

    def full_disk(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("manners.rewards.model.save_file", full_disk)
    with pytest.raises(MannersError, match="the disk is full"):
        model.save(folder)
    assert torch.equal(RewardModel.load(folder).score_texts(PROMPTS, answers()), scores)
    assert sorted(p.name for p in folder.parent.iterdir()) == ["base", "judge"]
