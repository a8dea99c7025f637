from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import save_tiny, tiny_model, tiny_tokenizer, tiny_trunk
from torch import Tensor

from manners.errors import MannersError
from manners.models.load import load_trunk
from manners.models.trunk import Trunk
from manners.records import Completion, Message, Prompt
from manners.runs import Run, read_json
from manners.text.chat import Chat
from manners.train.sft import ADAPTER, SFTConfig, train_sft

torch.set_num_threads(1)

Demonstration = tuple[Prompt, Completion]


def demonstration(question: str, answer: str, finished: bool = True) -> Demonstration:
    prompt = Prompt((Message("system", "Be kind."), Message("user", question)))
    return prompt, Completion(prompt.id, answer, finished)


GREETINGS = [demonstration(f"hello {i}", "good day " + "!" * (i % 4)) for i in range(24)]
HELD = [demonstration(f"hello again {i}", "good day " + "!" * (i % 3)) for i in range(6)]
FIELDS: dict[str, Any] = {"rank": 4, "alpha": 8, "learning_rate": 1e-2, "train_layers": 2, "batch": 4}


def start(folder: Path, config: SFTConfig) -> Run:
    return Run.create(folder, "sft", config, {})


def learn(
    folder: Path, given: list[Demonstration], held: list[Demonstration], trunk: Trunk, **fields: Any
) -> tuple[dict[str, Any], Run]:
    config = SFTConfig(**FIELDS | fields)
    run = start(folder, config)
    return train_sft(config, given, held, run, trunk), run


def labelled(given: Demonstration, limit: int = 10_000) -> tuple[Tensor, Tensor]:
    """ids and labels [1, T]: the conversation as text through the tokenizer, −100 on everything that is not the answer."""
    prompt, completion = given
    tokenizer = tiny_tokenizer()
    asked = tokenizer.apply_chat_template(
        [{"role": m.role, "content": m.content} for m in prompt.messages], tokenize=False, add_generation_prompt=True
    )
    prefix = tokenizer(asked, add_special_tokens=False)["input_ids"]
    answer = tokenizer(completion.text + ("<|end|>" if completion.finished else ""), add_special_tokens=False)[
        "input_ids"
    ][:limit]
    return torch.tensor([prefix + answer]), torch.tensor([[-100] * len(prefix) + answer])


@torch.no_grad()
def plain_loss(model: Any, given: list[Demonstration], limit: int = 10_000) -> float:
    """The mean over all answer tokens of transformers' own loss, one conversation at a time."""
    total, count = 0.0, 0
    for one in given:
        ids, labels = labelled(one, limit)
        tokens = int((labels[:, 1:] != -100).sum())
        total += float(model(input_ids=ids, labels=labels).loss) * tokens
        count += tokens
    return total / count


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("train_layers", [1, "all"])
def test_the_loss_of_the_first_step_is_transformers_own_on_the_answer_alone(
    tmp_path: Path, kind: str, train_layers: Any
) -> None:
    given = [demonstration("hello", "hi"), demonstration("how are you today?", "well, thanks; and you?"),
             demonstration("?", "no", finished=False)]  # fmt: skip
    _, run = learn(tmp_path / "run", given, [], tiny_trunk(kind, train_layers), train_layers=train_layers)
    (row,) = run.metrics()
    assert row["loss"] == pytest.approx(plain_loss(tiny_model(kind), given), rel=1e-5)
    assert set(row) == {"epoch", "step", "loss", "learning_rate"}


def test_an_answer_is_cut_at_its_limit(tmp_path: Path) -> None:
    given = [demonstration("hello", "a long answer")]
    _, run = learn(tmp_path / "run", given, [], tiny_trunk(train_layers=2), max_tokens=3)
    assert run.metrics()[0]["loss"] == pytest.approx(plain_loss(tiny_model(), given, limit=3), rel=1e-5)


def test_before_training_the_held_out_loss_is_that_of_the_base_and_after_it_that_of_the_trained_model(
    tmp_path: Path,
) -> None:
    trunk = tiny_trunk(train_layers=2)
    evaluation, run = learn(tmp_path / "run", GREETINGS, HELD, trunk, epochs=2)
    assert evaluation["heldout_loss_before"] == pytest.approx(plain_loss(tiny_model(), HELD), rel=1e-5)
    with trunk.adapters.using(ADAPTER):
        assert evaluation["heldout_loss"] == pytest.approx(plain_loss(trunk.model, HELD), rel=1e-5)
    assert evaluation["n_heldout"] == 6
    assert read_json(run.path / "evaluation.json") == evaluation


def test_the_loss_falls_and_what_was_shown_is_said(tmp_path: Path) -> None:
    trunk = tiny_trunk(train_layers="all")
    given = [demonstration(f"hello {i}", "good day") for i in range(16)]
    held = [demonstration(f"hello again {i}", "good day") for i in range(4)]
    evaluation, run = learn(tmp_path / "run", given, held, trunk, epochs=15, train_layers="all", learning_rate=2e-2)
    rows = run.metrics()
    # A frozen head of random rows 16 wide cannot be surer than about 1.1 nats a token; log 100 = 4.6 is knowing nothing.
    assert rows[-1]["loss"] < 1.5 < 4.0 < rows[0]["loss"]
    assert evaluation["heldout_loss"] < 1.5 < 4.0 < evaluation["heldout_loss_before"]
    chat = Chat(trunk.tokenizer, trunk.context)
    said = chat.prompt(held[0][0])
    with trunk.adapters.using(ADAPTER), torch.no_grad():
        for _ in range(9):
            said.append(int(trunk.model(input_ids=torch.tensor([said])).logits[0, -1].argmax()))
    assert chat.tokenizer.decode(said[-9:]) == "good day<|end|>"


def test_without_held_out_demonstrations_there_is_no_held_out_loss(tmp_path: Path) -> None:
    evaluation, _ = learn(tmp_path / "run", GREETINGS[:4], [], tiny_trunk(train_layers=2))
    assert evaluation == {"heldout_loss_before": None, "heldout_loss": None, "n_heldout": 0}


def adapter_of(run: Run) -> dict[str, Tensor]:
    return dict(load_file(run.checkpoint("final") / "adapter_model.safetensors"))


def test_micro_batches_change_nothing(tmp_path: Path) -> None:
    runs = []
    for micro_tokens in (1, 100, 10_000):
        # ε of Adam is 1e−8, so the sign of a gradient that is all rounding decides: few steps, small rate.
        _, run = learn(tmp_path / str(micro_tokens), GREETINGS, [], tiny_trunk(train_layers=2), micro_tokens=micro_tokens,
                       learning_rate=1e-3)  # fmt: skip
        runs.append(run)
    losses = [[row["loss"] for row in run.metrics()] for run in runs]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert losses[2] == pytest.approx(losses[0], rel=1e-4)


def test_an_epoch_sees_every_demonstration_once_and_the_rate_rises_and_falls(tmp_path: Path) -> None:
    _, run = learn(tmp_path / "run", GREETINGS[:10], [], tiny_trunk(train_layers=2), epochs=2, warmup=0.5)
    rows = run.metrics()
    assert [(row["epoch"], row["step"]) for row in rows] == [(0, 0), (0, 1), (0, 2), (1, 3), (1, 4), (1, 5)]
    assert rows[-1]["learning_rate"] == pytest.approx(0.0)


def test_the_same_seed_gives_the_same_adapter(tmp_path: Path) -> None:
    a, b, c = (
        adapter_of(learn(tmp_path / name, GREETINGS[:8], [], tiny_trunk(train_layers=2), seed=seed)[1])
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert all(torch.equal(v, b[k]) for k, v in a.items())
    assert not all(torch.equal(v, c[k]) for k, v in a.items())


def test_only_the_adapter_changes(tmp_path: Path) -> None:
    trunk = tiny_trunk(train_layers=2)
    before = {k: v.clone() for k, v in trunk.state_dict().items()}
    learn(tmp_path / "run", GREETINGS[:8], [], trunk)
    after = trunk.state_dict()
    assert [k for k, v in before.items() if not torch.equal(v, after[k])] == []


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_run_loads_as_a_model_that_says_the_same(tmp_path: Path, kind: str) -> None:
    config = SFTConfig(**FIELDS | {"model": str(save_tiny(tmp_path / "base", kind)), "epochs": 2})
    run = start(tmp_path / "run", config)
    evaluation = train_sft(config, GREETINGS, HELD, run)
    loaded = load_trunk(str(run.path))
    assert plain_loss(loaded.model, HELD) == pytest.approx(evaluation["heldout_loss"], rel=1e-4)

    trained = load_trunk(str(tmp_path / "base"), 2)
    trained.adapters.load(ADAPTER, run.checkpoint("final"))
    ids, _ = labelled(HELD[0])
    with torch.no_grad(), trained.adapters.using(ADAPTER):
        torch.testing.assert_close(
            loaded.model(input_ids=ids).logits, trained.model(input_ids=ids).logits, atol=1e-4, rtol=1e-4
        )
    assert json.loads((run.checkpoint("final") / "manners.json").read_text()) == {"role": "policy", "train_layers": 2}


def test_fine_tuning_goes_on_from_a_fine_tuned_run(tmp_path: Path) -> None:
    first = SFTConfig(**FIELDS | {"model": str(save_tiny(tmp_path / "base")), "epochs": 2})
    before = train_sft(first, GREETINGS, HELD, start(tmp_path / "first", first))
    second = SFTConfig(**FIELDS | {"model": str(tmp_path / "first")})
    run = start(tmp_path / "second", second)
    after = train_sft(second, GREETINGS, HELD, run)
    assert after["heldout_loss_before"] == pytest.approx(before["heldout_loss"], rel=1e-4)
    assert plain_loss(load_trunk(str(run.path)).model, HELD) == pytest.approx(after["heldout_loss"], rel=1e-4)


def test_a_tree_of_runs_can_be_moved(tmp_path: Path) -> None:
    config = SFTConfig(**FIELDS | {"model": str(save_tiny(tmp_path / "here" / "base"))})
    evaluation = train_sft(config, GREETINGS, HELD, start(tmp_path / "here" / "run", config))
    (tmp_path / "here").rename(tmp_path / "there")
    assert plain_loss(load_trunk(str(tmp_path / "there" / "run")).model, HELD) == pytest.approx(
        evaluation["heldout_loss"], rel=1e-4
    )


def test_without_demonstrations_there_is_nothing_to_learn(tmp_path: Path) -> None:
    with pytest.raises(MannersError, match="no demonstrations to learn from"):
        learn(tmp_path / "run", [], HELD, tiny_trunk(train_layers=2))


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_prompt_and_answer_that_together_pass_the_context_are_no_crash(tmp_path: Path, kind: str) -> None:
    trunk = tiny_trunk(kind, 2)
    with suppress(MannersError):  # to say so is fine
        learn(tmp_path / "run", [demonstration("p" * (trunk.context - 60), "a" * 80)], [], trunk)
