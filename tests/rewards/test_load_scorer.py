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
from manners.config import dump_config, load_config
from manners.errors import MannersError
from manners.models.heads import ScalarHead
from manners.models.load import load_trunk
from manners.models.trunk import Trunk
from manners.protocols import Committee
from manners.records import Completion, Message, Prompt
from manners.rewards.classifier import ClassifierScorer
from manners.rewards.ensemble import RewardEnsemble
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
    ("fields", "named"),
    [({"model": "a", "classifier": "b", "positive": "good"}, "model, classifier"), ({"model": "a", "function": "b:c"}, "model, function"),
     ({"classifier": "a", "positive": "good", "function": "b:c"}, "classifier, function"),
     ({"model": "a", "members": "[b]"}, "model, members"), ({"model": "a", "parts": "[{model: b}]"}, "model, parts"),
     ({"model": "a", "classifier": "b", "positive": "c", "function": "d:e"}, "model, classifier, function")],
)  # fmt: skip
def test_two_judges_are_one_too_many(fields: dict[str, str], named: str) -> None:
    with pytest.raises(MannersError, match=rf"'reward'.*name only one of {named} \("):
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


@pytest.mark.parametrize(
    ("fields", "sources"),
    [
        ({"model": "a"}, ("a",)), ({"members": ["a", "b"]}, ("a", "b")), ({"classifier": "a", "positive": "b"}, ("a",)),
        ({"function": "a:b"}, ()),
        ({"parts": [{"model": "a"}, {"function": "m:f"}, {"members": ["b", "c"]}, {"classifier": "d", "positive": "e"}]}, tuple("abcd")),
    ],
)  # fmt: skip
def test_one_judge_is_named(fields: dict[str, Any], sources: tuple[str, ...]) -> None:
    assert ScorerConfig(**fields).named
    assert ScorerConfig(**fields).sources == sources


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ("reward.parts=[{model: a}, {weight: 2}]", "every part names a judge"),
        ("reward.parts=[{model: a, function: b:c}]", "name only one of model, function"),
        ("reward.parts=[{model: a}, {classifier: b, floor: 1}]", "a classifier needs `positive`"),
        ("reward.parts=[{model: a}, {function: b:c, floor: 1, weight: 0}]", "price of falling short"),
        ("reward.parts=[{model: a}, {function: b:c, floor: 1, weight: -2}]", "price of falling short"),
        ("reward.parts=[{model: a, floor: 0}, {function: b:c, floor: 1}]", "nothing can be gained"),
        ("reward.parts=[{model: a, weight: .inf}]", "finite number"),
        ("reward.parts=[{model: a}, {function: b:c, floor: .nan}]", "finite number"),
        ("reward.parts=[{parts: [{model: a}]}]", "parts"),
        ("reward.members=[a, 3]", "valid string"),
        ("reward.combine=worst_case", "`combine` is for an ensemble"),
        ("reward.combine=median", "'mean', 'worst_case', 'uncertainty_weighted' or 'weight_average'"),
        ("reward.uncertainty_weight=-1", "greater than or equal to 0"),
    ],
)
def test_what_makes_no_sense_is_told_in_one_line(setting: str, problem: str) -> None:
    with pytest.raises(MannersError, match=r"^config key|^unknown config key") as told:
        load_config(PPOConfig, None, [setting])
    assert problem in str(told.value)
    assert "\n" not in str(told.value)


def test_a_combination_is_read_back_as_it_was_written_down(tmp_path: Path) -> None:
    parts = "[{members: [a, b], combine: worst_case}, {function: m:f, weight: 1e-2}, {classifier: c, positive: kind, floor: -0.5}]"
    config = load_config(PPOConfig, None, [f"reward.parts={parts}", "second_judge.members=[d, e]"])
    (tmp_path / "config.yaml").write_text(dump_config(config))
    assert load_config(PPOConfig, tmp_path / "config.yaml") == config
    assert [(part.weight, part.floor) for part in config.reward.parts] == [(1.0, None), (0.01, None), (1.0, -0.5)]
    assert (config.reward.parts[0].members, config.second_judge.members) == (("a", "b"), ("d", "e"))


def test_the_example_of_the_documentation_is_a_combination(tmp_path: Path) -> None:
    page = Path(__file__).parents[2] / "docs" / "howto" / "combine-rewards.md"
    example = page.read_text(encoding="utf-8").split("```yaml\n")[1].split("```")[0]
    (tmp_path / "config.yaml").write_text(example, encoding="utf-8")
    parts = load_config(PPOConfig, tmp_path / "config.yaml").reward.parts
    assert [(p.model, p.classifier, p.positive, p.function, p.floor, p.weight) for p in parts] == [
        ("runs/helpful", "", "", "", None, 1.0),
        ("", "runs/not-hate", "not hate", "", 1.0, 2.0),
        ("", "", "", "manners.rewards.rules:brevity", -60.0, 0.1),
    ]


# --- a reward model -------------------------------------------------------------------------------------------------


def save_judge(folder: Path, name: str = "judge", seed: int = 0) -> str:
    trunk = load_trunk(str(folder / "base"), 2)
    trunk.adapters.add("reward", rank=2, alpha=4, seed=0)
    shake(trunk, "reward", seed=seed)
    RewardModel(trunk, "reward", ScalarHead.for_reward(trunk.width, seed), "mean", 0.5, 2.0).save(folder / name)
    return str(folder / name)


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


# --- an ensemble of reward models -----------------------------------------------------------------------------------


@pytest.fixture
def two(tmp_path: Path) -> list[str]:
    """Two reward models on the base beside them."""
    save_tiny(tmp_path / "base")
    return [save_judge(tmp_path, "first", 1), save_judge(tmp_path, "second", 2)]


@pytest.mark.parametrize("together", [True, False])
def test_an_ensemble_says_what_its_config_asks_for(tmp_path: Path, two: list[str], together: bool) -> None:
    trunk = load_trunk(str(tmp_path / "base"), 2)
    rollouts = LocalSampler(trunk, None).sample(PROMPTS, max_tokens=6, temperature=1.0, seed=0)
    if together:
        RewardEnsemble.gather([Path(folder) for folder in two], None, "reward").save(tmp_path / "both")
        named: dict[str, Any] = {"model": str(tmp_path / "both")}
    else:
        named = {"members": two}
    said = {
        combine: load_scorer(ScorerConfig(**named, combine=combine, uncertainty_weight=2.0), trunk, combine).score(rollouts).tolist()
        for combine in ("mean", "worst_case", "uncertainty_weighted")
    }  # fmt: skip
    first, second = (RewardModel.load(Path(folder), trunk, "alone").score(rollouts).tolist() for folder in two)
    for i, (a, b) in enumerate(zip(first, second, strict=True)):
        assert said["mean"][i] == pytest.approx((a + b) / 2, abs=1e-5)
        assert said["worst_case"][i] == pytest.approx(min(a, b), abs=1e-5)
        assert said["uncertainty_weighted"][i] == pytest.approx((a + b) / 2 - 2 * ((a - b) / 2) ** 2, abs=1e-4)
        assert abs(a - b) > 1e-2


def test_the_average_of_weights_is_a_single_judge_under_the_name_it_is_given(tmp_path: Path, two: list[str]) -> None:
    trunk = load_trunk(str(tmp_path / "base"), 2)
    scorer = load_scorer(ScorerConfig(members=tuple(two), combine="weight_average"), trunk, "reward")
    assert isinstance(scorer, RewardModel)
    assert (scorer.trunk, scorer.adapter) == (trunk, "reward")
    for layer in trunk.adapters.layers.values():
        torch.testing.assert_close(layer.delta("reward"), (layer.delta("reward-0") + layer.delta("reward-1")) / 2)


def test_a_single_model_has_nothing_to_combine(tmp_path: Path, two: list[str]) -> None:
    trunk = load_trunk(str(tmp_path / "base"), 2)
    with pytest.raises(MannersError, match="first is no ensemble, so that combine: worst_case says nothing"):
        load_scorer(ScorerConfig(model=two[0], combine="worst_case"), trunk, "reward")


def test_two_ensembles_share_a_trunk_under_different_names(tmp_path: Path, two: list[str]) -> None:
    trunk = load_trunk(str(tmp_path / "base"), 2)
    both = ScorerConfig(members=tuple(two))
    judges = load_judges(PPOConfig(reward=both, second_judge=both), trunk)
    assert set(trunk.adapters.rank) == {"reward-0", "reward-1", "second judge-0", "second judge-1"}
    assert isinstance(judges.reward, Committee)


# --- a combination of judges ----------------------------------------------------------------------------------------


def test_judges_of_all_kinds_are_one_reward(tmp_path: Path, two: list[str], module: str) -> None:
    folder = str(save_classifier(tmp_path / "classifier"))
    trunk = load_trunk(str(tmp_path / "base"), 2)
    rollouts = LocalSampler(trunk, None).sample(PROMPTS, max_tokens=6, temperature=1.0, seed=0)
    kind = ClassifierScorer.load(folder, "kind").score(rollouts.prompts, rollouts.completions).tolist()
    floor = (min(kind) + max(kind)) / 2
    parts = [
        {"model": two[0]},
        {"model": two[1], "weight": -0.2},
        {"members": two, "combine": "worst_case", "weight": 0.5},
        {"function": f"{module}:length", "weight": 0.3},
        {"classifier": folder, "positive": "kind", "floor": floor, "weight": 2.0},
    ]
    scores = load_scorer(ScorerConfig.model_validate({"parts": parts}), trunk, "reward").score(rollouts).tolist()
    first, second = (RewardModel.load(Path(judge), trunk, "alone").score(rollouts).tolist() for judge in two)
    for i, completion in enumerate(rollouts.completions):
        useful = first[i] - 0.2 * second[i] + 0.5 * min(first[i], second[i]) + 0.3 * len(completion.text)
        lacking = 2 * max(0.0, floor - kind[i])
        expected = useful - lacking if useful < 0 else useful * max(0.0, 1 - lacking) - lacking
        assert scores[i] == pytest.approx(expected, abs=1e-4)


def test_a_part_that_fails_is_told_by_its_place_and_name(trunk: Trunk, rollouts: Rollouts, module: str) -> None:
    config = ScorerConfig.model_validate(
        {"parts": [{"function": f"{module}:length"}, {"function": f"{module}:broken"}]}
    )
    with pytest.raises(MannersError, match=rf"reward function {module}:broken failed: ZeroDivisionError"):
        load_scorer(config, trunk, "reward").score(rollouts)


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


def test_an_error_inside_the_function_is_one_line_that_says_where(
    trunk: Trunk, rollouts: Rollouts, module: str
) -> None:
    scorer = load_scorer(ScorerConfig(function=f"{module}:broken"), trunk, "reward")
    line = SOURCE.splitlines().index("    return [1 / 0 for _ in completions]") + 1
    with pytest.raises(MannersError) as told:
        scorer.score(rollouts)
    place = f"({module}.py line {line})"
    assert str(told.value) == f"reward function {module}:broken failed: ZeroDivisionError: division by zero {place}"
    assert isinstance(told.value.__cause__, ZeroDivisionError)


def raises(error: Exception) -> Any:
    def function(_prompts: list[str], _completions: list[str]) -> list[float]:
        raise error

    return function


@pytest.mark.parametrize(
    ("error", "told"),
    [(ValueError("two\nlines"), "ValueError: two lines"), (KeyError("a"), "KeyError: 'a'"), (MannersError("no"), "MannersError: no")],
)  # fmt: skip
def test_whatever_the_function_raises_is_one_line(rollouts: Rollouts, error: Exception, told: str) -> None:
    with pytest.raises(MannersError) as caught:
        TextScorer(FunctionJudge(raises(error), "my:f")).score(rollouts)
    assert str(caught.value).startswith(f"reward function my:f failed: {told} (")
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is error


def test_a_function_that_takes_something_else_is_told(rollouts: Rollouts) -> None:
    one_argument: Any = lambda completions: [0.0] * len(completions)  # noqa: E731
    with pytest.raises(MannersError, match=r"my:f failed: TypeError: .*positional argument.*given$"):
        TextScorer(FunctionJudge(one_argument, "my:f")).score(rollouts)


def test_an_error_inside_a_generator_is_told(rollouts: Rollouts) -> None:
    def function(_prompts: list[str], completions: list[str]) -> Any:
        yield 1.0
        raise LookupError(f"no score for {len(completions)}")

    with pytest.raises(
        MannersError, match=r"my:f gave .*LookupError: no score for 3 \(test_load_scorer\.py line \d+\)"
    ):
        TextScorer(FunctionJudge(function, "my:f")).score(rollouts)


def test_a_number_too_large_for_any_float_is_told(rollouts: Rollouts) -> None:
    with pytest.raises(MannersError, match="my:f gave something that is no list of numbers: OverflowError"):
        TextScorer(FunctionJudge(lambda _p, _c: [10**400, 0, 0], "my:f")).score(rollouts)
    with pytest.raises(MannersError, match="my:f gave a number that is not finite"):
        TextScorer(FunctionJudge(lambda _p, _c: [1e300, 0, 0], "my:f")).score(rollouts)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_stopping_is_no_error_of_the_function(rollouts: Rollouts, stop: Any) -> None:
    with pytest.raises(stop):
        TextScorer(FunctionJudge(raises(stop()), "my:f")).score(rollouts)
