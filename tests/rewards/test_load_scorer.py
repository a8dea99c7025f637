from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import save_tiny, shake, tiny_trunk
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from manners.batches import Rollouts
from manners.config import load_config
from manners.errors import MannersError
from manners.models.heads import ScalarHead
from manners.models.load import load_trunk
from manners.models.trunk import Trunk
from manners.records import Completion, Message, Prompt
from manners.rewards.classifier import ClassifierScorer
from manners.rewards.load import FunctionJudge, ScorerConfig, TextScorer, load_scorer
from manners.rewards.model import RewardModel
from manners.sampling.local import LocalSampler
from manners.train.ppo import PPOConfig, load_judges

torch.set_num_threads(1)

PROMPTS = [Prompt.of("one"), Prompt((Message("system", "Be kind."), Message("user", "two"))), Prompt.of("three")]
SOURCE = """
TABLE = {"a": 1}
seen = []

def length(prompts, completions):
    seen.append((prompts, completions))
    return [len(c) for c in completions]

def broken(prompts, completions):
    return [1 / 0 for _ in completions]
"""


@pytest.fixture
def trunk() -> Trunk:
    return tiny_trunk(train_layers=2)


@pytest.fixture
def rollouts(trunk: Trunk) -> Rollouts:
    return LocalSampler(trunk, None).sample(PROMPTS, max_tokens=6, temperature=1.0, seed=0)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A user's own module with functions in it, by its name."""
    (tmp_path / "my_rewards_of_this_test.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "my_rewards_of_this_test"
    sys.modules.pop("my_rewards_of_this_test", None)


# --- choosing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [{"model": "a", "classifier": "b", "positive": "good"}, {"model": "a", "function": "b:c"},
     {"classifier": "a", "positive": "good", "function": "b:c"}, {"model": "a", "classifier": "b", "positive": "c", "function": "d:e"}],
)  # fmt: skip
def test_two_judges_are_one_too_many(fields: dict[str, str]) -> None:
    with pytest.raises(MannersError, match=r"'reward'.*name only one of model, classifier and function"):
        load_config(PPOConfig, None, [f"reward.{key}={value}" for key, value in fields.items()])


def test_a_classifier_needs_its_good_class() -> None:
    with pytest.raises(MannersError, match="a classifier needs `positive`"):
        load_config(PPOConfig, None, ["reward.classifier=a"])


def test_no_judge_is_told_when_one_is_needed(trunk: Trunk) -> None:
    assert not ScorerConfig().named
    with pytest.raises(
        MannersError, match=r"no judge is named; set reward\.model, reward\.classifier or reward\.function"
    ):
        load_scorer(ScorerConfig(), trunk, "reward")


@pytest.mark.parametrize("fields", [{"model": "a"}, {"classifier": "a", "positive": "b"}, {"function": "a:b"}])
def test_one_judge_is_named(fields: dict[str, str]) -> None:
    assert ScorerConfig(**fields).named


# --- a reward model -------------------------------------------------------------------------------------------------


def save_judge(folder: Path) -> None:
    trunk = load_trunk(str(folder / "base"), 2)
    trunk.adapters.add("reward", rank=2, alpha=4, seed=0)
    shake(trunk, "reward")
    RewardModel(trunk, "reward", ScalarHead.for_reward(trunk.width, 0), "mean", 0.5, 2.0).save(folder / "judge")


def test_a_reward_model_joins_the_trunk_under_the_name_it_is_given(tmp_path: Path) -> None:
    save_tiny(tmp_path / "base")
    save_judge(tmp_path)
    trunk = load_trunk(str(tmp_path / "base"), 2)
    config = PPOConfig(
        reward=ScorerConfig(model=str(tmp_path / "judge")), second_judge=ScorerConfig(model=str(tmp_path / "judge"))
    )
    judges = load_judges(config, trunk)
    assert set(trunk.adapters.rank) == {"reward", "second judge"}
    rollouts = LocalSampler(trunk, None).sample(PROMPTS, max_tokens=6, temperature=1.0, seed=0)
    alone = RewardModel.load(tmp_path / "judge").score(rollouts)
    assert judges.second is not None
    for scorer in (judges.reward, judges.second):
        torch.testing.assert_close(scorer.score(rollouts), alone, atol=1e-4, rtol=1e-4)


def test_a_reward_model_that_is_not_there_is_told(trunk: Trunk) -> None:
    with pytest.raises(MannersError, match="holds no reward model"):
        load_scorer(ScorerConfig(model="nowhere"), trunk, "reward")


def test_a_second_judge_is_loaded_where_one_is_named_only(trunk: Trunk, module: str) -> None:
    reward = ScorerConfig(function=f"{module}:length")
    assert load_judges(PPOConfig(reward=reward), trunk).second is None
    assert load_judges(PPOConfig(reward=reward, second_judge=reward), trunk).second is not None


# --- a classifier ---------------------------------------------------------------------------------------------------


def save_classifier(folder: Path) -> Path:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghijklmnopqrstuvwxyz"]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    fields = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=64, **fields).save_pretrained(folder)
    torch.manual_seed(0)
    BertForSequenceClassification(
        BertConfig(vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
                   max_position_embeddings=64, initializer_range=0.5, id2label={0: "rude", 1: "kind"}, label2id={"rude": 0, "kind": 1})
    ).save_pretrained(folder)  # fmt: skip
    return folder


@pytest.mark.parametrize("reads", ["completion", "conversation"])
def test_a_classifier_judges_by_its_good_class(tmp_path: Path, trunk: Trunk, rollouts: Rollouts, reads: Any) -> None:
    folder = str(save_classifier(tmp_path / "classifier"))
    kind = load_scorer(ScorerConfig(classifier=folder, positive="kind", reads=reads), trunk, "reward").score(rollouts)
    own = ClassifierScorer.load(folder, "kind", reads=reads)
    texts = [c.text for c in rollouts.completions]
    expected = own.logits(texts)[:, 1] if reads == "completion" else own.score(rollouts.prompts, rollouts.completions)
    torch.testing.assert_close(kind, expected)
    rude = load_scorer(ScorerConfig(classifier=folder, positive="rude", reads=reads), trunk, "reward").score(rollouts)
    assert (kind - rude).abs().min() > 1e-3
    assert (kind.dtype, kind.shape) == (torch.float32, (3,))


def test_a_class_that_the_classifier_does_not_have_is_told(tmp_path: Path, trunk: Trunk) -> None:
    folder = str(save_classifier(tmp_path / "classifier"))
    with pytest.raises(MannersError, match="kind"):
        load_scorer(ScorerConfig(classifier=folder, positive="polite"), trunk, "reward")


# --- a function -----------------------------------------------------------------------------------------------------


def test_a_function_is_given_last_messages_and_answers_as_texts(trunk: Trunk, rollouts: Rollouts, module: str) -> None:
    scores = load_scorer(ScorerConfig(function=f"{module}:length"), trunk, "reward").score(rollouts)
    texts = [c.text for c in rollouts.completions]
    assert scores.tolist() == [float(len(text)) for text in texts]
    assert (scores.dtype, scores.device) == (torch.float32, rollouts.tokens.device)
    assert sys.modules[module].seen == [(["one", "two", "three"], texts)]


@pytest.mark.parametrize(
    "spec",
    ["no_such_module:f", "math:no_such_function", "math", ":f", "math:", "", "a b:c", ".relative:f", "math.sqrt:x"],
)
def test_a_function_that_cannot_be_imported_is_told(spec: str) -> None:
    with pytest.raises(MannersError, match="write it as module:function"):
        FunctionJudge.load(spec)


def test_a_function_in_a_file_of_the_working_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # An installed command has its own folder first on the path, not the one it is called in.
    (tmp_path / "rewards_in_the_working_folder.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", ".", str(tmp_path))])
    assert FunctionJudge.load("rewards_in_the_working_folder:length")(
        [Prompt.of("a")], [Completion("p", "abc")]
    ).tolist() == [3.0]


@pytest.mark.parametrize("name", ["TABLE", "seen"])
def test_what_is_no_function_is_told_before_anything_is_sampled(module: str, name: str) -> None:
    with pytest.raises(MannersError, match=name):
        FunctionJudge.load(f"{module}:{name}")


@pytest.mark.parametrize("given", [[], [1.0, 2.0], [1.0] * 4])
def test_another_count_of_numbers_is_told(rollouts: Rollouts, given: list[float]) -> None:
    with pytest.raises(MannersError, match=f"my:f gave {len(given)} numbers for 3 completions"):
        TextScorer(FunctionJudge(lambda _p, _c: given, "my:f")).score(rollouts)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_told(rollouts: Rollouts, bad: float) -> None:
    with pytest.raises(MannersError, match="my:f gave a number that is not finite"):
        TextScorer(FunctionJudge(lambda _p, _c: [0.0, bad, 1.0], "my:f")).score(rollouts)


@pytest.mark.parametrize("given", [[0.0, None, 1.0], [0.0, "good", 1.0], [[0.0], [1.0], [2.0, 3.0]], None, 3.0])
def test_what_is_no_number_is_told(rollouts: Rollouts, given: Any) -> None:
    with pytest.raises(MannersError, match="my:f"):
        TextScorer(FunctionJudge(lambda _p, _c: given, "my:f")).score(rollouts)


@pytest.mark.parametrize("given", [[True, False, True], (1, 0, 1), torch.tensor([1.0, 0.0, 1.0]), iter([1, 0, 1])])
def test_whatever_counts_as_numbers_is_taken(rollouts: Rollouts, given: Any) -> None:
    assert TextScorer(FunctionJudge(lambda _p, _c: given)).score(rollouts).tolist() == [1.0, 0.0, 1.0]


def test_an_error_inside_the_function_goes_on_as_it_is_so_that_its_author_sees_the_line(
    trunk: Trunk, rollouts: Rollouts, module: str
) -> None:
    scorer = load_scorer(ScorerConfig(function=f"{module}:broken"), trunk, "reward")
    with pytest.raises(ZeroDivisionError) as caught:
        scorer.score(rollouts)
    assert any(entry.path and str(entry.path).endswith(f"{module}.py") for entry in caught.traceback)
