from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
    XLNetConfig,
    XLNetForSequenceClassification,
)

from manners.errors import MannersError
from manners.records import Completion, Message, Prompt
from manners.rewards.classifier import ClassifierScorer, describe

torch.set_num_threads(1)

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "<end>", "user", "assistant"]
WORDS = ["a", "b", "c", "d", "e", "f", "g", "h"] + [f"w{i}" for i in range(40)]
VOCABULARY = {word: i for i, word in enumerate(SPECIAL + WORDS)}
TEXTS = [
    "w1",
    "w2 w3 w4 w5 w6 w7",
    "w8 w9",
    "w1 w1 w1",
    "w10 w11 w12 w13",
    "w20 w21 w22 w23 w24 w25 w26 w27 w28",
    "w30 w1",
]
NAMES = {0: "hate", 1: "not hate"}


def ids(text: str) -> list[int]:
    return [VOCABULARY[word] for word in text.split()]


def tokenizer(form: str = "encoder", **fields: Any) -> PreTrainedTokenizerFast:
    """Words between spaces. encoder: [CLS] text [SEP]; plain: the text alone; ended: the text and <end>."""
    words = Tokenizer(models.WordLevel(VOCABULARY, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    if form == "encoder":
        words.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
        )
        fields = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", **fields}
    elif form == "ended":
        words.post_processor = processors.TemplateProcessing(single="$A <end>", special_tokens=[("<end>", 4)])
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", eos_token="<end>", **fields)


SIZES: dict[str, Any] = {"vocab_size": len(VOCABULARY), "id2label": NAMES, "label2id": {"hate": 0, "not hate": 1}}
BERT: dict[str, Any] = {
    **SIZES, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "max_position_embeddings": 40, "initializer_range": 0.3,
}  # fmt: skip
LLAMA: dict[str, Any] = {**BERT, "num_key_value_heads": 2, "max_position_embeddings": 64}
GPT2: dict[str, Any] = {**SIZES, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64, "initializer_range": 0.3}


def bert(**fields: Any) -> BertForSequenceClassification:
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(**{**BERT, **fields}))


def llama(**fields: Any) -> LlamaForSequenceClassification:
    torch.manual_seed(1)
    return LlamaForSequenceClassification(LlamaConfig(**{**LLAMA, **fields}))


def gpt2(**fields: Any) -> GPT2ForSequenceClassification:
    torch.manual_seed(2)
    return GPT2ForSequenceClassification(GPT2Config(**{**GPT2, **fields}))


def saved(path: Path, model: Any, words: Any | None = None) -> str:
    model.save_pretrained(path)
    (words if words is not None else tokenizer()).save_pretrained(path)
    return str(path)


@pytest.fixture
def checkpoint(tmp_path: Path) -> str:
    return saved(tmp_path / "checkpoint", bert())


def forward(path: str, tokens: list[int], **inputs: list[int]) -> torch.Tensor:
    """The logits of one row by plain transformers: no batch, no padding."""
    model = AutoModelForSequenceClassification.from_pretrained(path).eval()
    with torch.no_grad():
        return model(torch.tensor([tokens]), **{k: torch.tensor([v]) for k, v in inputs.items()}).logits[0]


def test_the_reward_is_the_logit_that_the_checkpoint_gives_by_hand(checkpoint: str) -> None:
    scorer = ClassifierScorer.load(checkpoint, "not hate")
    by_hand = forward(checkpoint, [2, *ids("w8 w9"), 3])
    rewards = scorer.score_texts(["w1", "w8 w9"])
    assert rewards.dtype == torch.float32
    assert rewards.shape == (2,)
    assert rewards[1].item() == pytest.approx(by_hand[1].item(), abs=1e-6)
    assert ClassifierScorer.load(checkpoint, "hate").score_texts(["w8 w9"]).item() == pytest.approx(by_hand[0].item())


def test_logits_have_a_row_for_each_text_and_a_column_for_each_class(checkpoint: str) -> None:
    scorer = ClassifierScorer.load(checkpoint, "not hate")
    assert scorer.labels == ("hate", "not hate")
    logits = scorer.logits(TEXTS)
    assert logits.shape == (7, 2)
    assert logits.isfinite().all()
    assert scorer.logits([]).shape == (0, 2)
    assert scorer.score_texts([]).shape == (0,)


def test_describe_names_every_class_with_its_logit(checkpoint: str) -> None:
    by_hand = forward(checkpoint, [2, *ids("w1 w2"), 3]).tolist()
    told = describe(ClassifierScorer.load(checkpoint, "not hate"), "w1 w2")
    assert [name for name, _ in told] == ["hate", "not hate"]
    assert [logit for _, logit in told] == pytest.approx(by_hand, abs=1e-6)


@pytest.mark.parametrize("batch", [1, 2, 3, 32])
def test_batch_size_and_order_do_not_matter(checkpoint: str, batch: int) -> None:
    expected = torch.stack([forward(checkpoint, [2, *ids(text), 3]) for text in TEXTS])
    scorer = ClassifierScorer.load(checkpoint, "not hate", batch=batch)
    assert scorer.batch == batch
    torch.testing.assert_close(scorer.logits(TEXTS), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(scorer.logits(TEXTS[::-1]), expected.flip(0), rtol=0, atol=1e-5)


def test_rewards_can_be_used_in_arithmetic_that_needs_gradients(checkpoint: str) -> None:
    weight = torch.ones(1, requires_grad=True)
    rewards = ClassifierScorer.load(checkpoint, 1).score_texts(TEXTS)
    (weight * rewards).sum().backward()
    assert weight.grad is not None
    assert weight.grad.item() == pytest.approx(rewards.sum().item(), abs=1e-6)


@pytest.mark.parametrize("make", [llama, gpt2])
@pytest.mark.parametrize(
    ("pad_of_model", "words", "batched"),
    [
        (None, {}, False),  # nobody knows a pad token: rows must go alone
        (None, {"pad_token": "[PAD]"}, True),
        (None, {"pad_token": "<end>", "form": "ended"}, False),  # the pad token ends every text: pooling would miss it
        (-1, {}, False),  # a pad token that does not exist is none
        (-1, {"pad_token": "[PAD]"}, True),
        (0, {"pad_token": "<end>"}, True),  # the two disagree, and the model finds the end of a row by its own
        (0, {}, True),
        (4, {"pad_token": "<end>", "form": "ended"}, True),  # the checkpoint itself passes over <end>
    ],
)
def test_decoders_pool_the_same_position_in_a_batch_as_alone(
    tmp_path: Path, make: Callable[..., Any], pad_of_model: int | None, words: dict[str, Any], batched: bool
) -> None:
    ended = words.get("form") == "ended"
    made = tokenizer(**({"form": "plain"} | words))
    path = saved(tmp_path / "decoder", make(pad_token_id=pad_of_model), made)
    scorer = ClassifierScorer.load(path, "not hate", batch=4)
    assert scorer.batch == (4 if batched else 1)
    expected = torch.stack([forward(path, ids(text) + [4] * ended) for text in TEXTS])
    torch.testing.assert_close(scorer.logits(TEXTS), expected, rtol=0, atol=1e-5)


def test_models_that_look_at_padding_are_given_rows_alone(tmp_path: Path) -> None:
    torch.manual_seed(3)
    config = XLNetConfig(**SIZES, d_model=16, n_layer=2, n_head=2, d_inner=32, initializer_range=0.3, pad_token_id=0)
    path = saved(tmp_path / "xlnet", XLNetForSequenceClassification(config))
    scorer = ClassifierScorer.load(path, "not hate")
    assert scorer.batch == 1
    expected = torch.stack([forward(path, [2, *ids(text), 3]) for text in TEXTS])
    torch.testing.assert_close(scorer.logits(TEXTS), expected, rtol=0, atol=1e-5)


def test_an_empty_text_has_a_reward_and_leaves_its_neighbours_alone(tmp_path: Path) -> None:
    path = saved(tmp_path / "gpt2", gpt2(pad_token_id=0), tokenizer("plain"))
    scorer = ClassifierScorer.load(path, "not hate")
    expected = torch.stack([forward(path, [VOCABULARY["<end>"]]), forward(path, ids("w1 w2"))])
    torch.testing.assert_close(scorer.logits(["", "w1 w2"]), expected, rtol=0, atol=1e-5)


def test_special_tokens_written_in_a_text_are_only_letters(checkpoint: str) -> None:
    scorer = ClassifierScorer.load(checkpoint, "not hate")
    assert scorer.encode(["w1 [SEP] w2"])[0]["input_ids"] == [2, *ids("w1"), 1, 1, 1, *ids("w2"), 3]


# What is judged.


def prompt(text: str) -> Prompt:
    return Prompt((Message("system", "w30"), Message("user", text)))


def answer(text: str) -> Completion:
    return Completion("p", text)


def test_the_completion_alone_is_judged_unless_asked_otherwise(checkpoint: str) -> None:
    scorer = ClassifierScorer.load(checkpoint, "not hate")
    rewards = scorer.score([prompt("w1"), prompt("w2")], [answer("w3"), answer("w3")])
    assert rewards[0] == rewards[1]
    assert rewards[0].item() == pytest.approx(forward(checkpoint, [2, *ids("w3"), 3])[1].item(), abs=1e-6)


def test_a_conversation_is_a_pair_for_an_encoder(tmp_path: Path) -> None:
    path = saved(tmp_path / "c", bert(), tokenizer(model_input_names=["input_ids", "token_type_ids", "attention_mask"]))
    scorer = ClassifierScorer.load(path, "not hate", reads="conversation")
    rewards = scorer.score([prompt("w1 w2"), prompt("w9")], [answer("w3"), answer("w4 w5")])
    pair = [2, *ids("w30 w1 w2"), 3, *ids("w3"), 3]
    by_hand = forward(path, pair, token_type_ids=[0, 0, 0, 0, 0, 1, 1])
    assert rewards[0].item() == pytest.approx(by_hand[1].item(), abs=1e-5)
    assert abs(by_hand[1].item() - forward(path, pair)[1].item()) > 1e-3  # the types are not for nothing


TEMPLATE = (
    "{% for m in messages %}{{ m.role }} {{ m.content }} <end> {% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)


def test_a_conversation_goes_through_the_chat_template_where_there_is_one(tmp_path: Path) -> None:
    path = saved(
        tmp_path / "c",
        llama(pad_token_id=0, vocab_size=80),
        tokenizer("plain", chat_template=TEMPLATE, pad_token="[PAD]"),
    )
    scorer = ClassifierScorer.load(path, "not hate", reads="conversation")
    written = ids("user w1 w2 <end> assistant w3 <end>")
    assert written[0] == 5
    got = scorer.score([Prompt.of("w1 w2"), Prompt.of("w1")], [answer("w3"), answer("w4 w5 w6 w7")])
    assert got[0].item() == pytest.approx(forward(path, written)[1].item(), abs=1e-5)


def test_a_template_that_refuses_a_conversation_is_told_in_a_line(tmp_path: Path) -> None:
    template = "{{ raise_exception('no system role') }}"
    path = saved(tmp_path / "c", llama(pad_token_id=0), tokenizer("plain", chat_template=template))
    scorer = ClassifierScorer.load(path, "not hate", reads="conversation")
    with pytest.raises(MannersError, match="refuses a conversation: no system role; judge completions alone"):
        scorer.score([Prompt.of("w1")], [answer("w2")])


# Length.


def test_a_text_that_is_too_long_loses_its_end_and_is_counted(checkpoint: str) -> None:
    scorer = ClassifierScorer.load(checkpoint, "not hate", max_length=6)
    rewards = scorer.score_texts(["w1 w2 w3 w4 w5 w6 w7", "w1 w2 w3 w4", "w8"])
    assert scorer.truncated == 1
    assert rewards[0] == rewards[1]
    scorer.score_texts(["w1 w2 w3 w4 w5"])
    assert scorer.truncated == 2


@pytest.mark.parametrize(
    ("question", "said", "expected"),
    [
        ("w1 w2 w3", "w4 w5", [2, *ids("w3"), 3, *ids("w4 w5"), 3]),
        ("w1 w2 w3", "w4", [2, *ids("w2 w3"), 3, *ids("w4"), 3]),
        ("w1", "w4 w5 w6 w7 w8", [2, 3, *ids("w4 w5 w6"), 3]),
    ],
)
def test_a_long_pair_loses_the_beginning_of_the_prompt_and_only_then_the_end_of_the_answer(
    checkpoint: str, question: str, said: str, expected: list[int]
) -> None:
    scorer = ClassifierScorer.load(checkpoint, "not hate", max_length=6, reads="conversation")
    reward = scorer.score([Prompt.of(question)], [answer(said)])
    assert reward.item() == pytest.approx(forward(checkpoint, expected)[1].item(), abs=1e-6)
    assert scorer.truncated == 1
    assert scorer.encode(["w1 w2 w3 w4 w5 w6"])[0]["input_ids"] == [
        2,
        *ids("w1 w2 w3 w4"),
        3,
    ]  # texts still lose the end


@pytest.mark.parametrize(
    ("question", "said", "expected"),
    [
        ("w1 w2 w3", "w4 w5", "<end> w3 <end> assistant w4 w5 <end>"),
        ("w1 w2", "w4 w5 w6 w7 w8 w9", "<end> w4 w5 w6 w7 w8 w9"),
    ],
)
def test_a_long_chat_keeps_its_first_token_and_the_answer(
    tmp_path: Path, question: str, said: str, expected: str
) -> None:
    words = tokenizer("plain", chat_template="<end> " + TEMPLATE, bos_token="<end>")
    path = saved(tmp_path / "c", llama(pad_token_id=0), words)
    scorer = ClassifierScorer.load(path, "not hate", max_length=7, reads="conversation")
    reward = scorer.score([Prompt.of(question)], [answer(said)])
    assert reward.item() == pytest.approx(forward(path, ids(expected))[1].item(), abs=1e-6)
    assert scorer.truncated == 1


def test_texts_are_cut_to_what_the_model_has_positions_for(checkpoint: str, tmp_path: Path) -> None:
    long = " ".join(WORDS * 3)
    scorer = ClassifierScorer.load(checkpoint, "not hate")
    assert scorer.max_length == 40
    assert math.isfinite(scorer.score_texts([long]).item())
    torch.manual_seed(0)
    # Positions of this family begin behind the pad token's: of 42 there are 40 for text.
    roberta = RobertaForSequenceClassification(
        RobertaConfig(**{**BERT, "max_position_embeddings": 42, "pad_token_id": 1})
    )
    scorer = ClassifierScorer.load(saved(tmp_path / "roberta", roberta), "not hate", max_length=100)
    assert scorer.max_length == 40
    assert math.isfinite(scorer.score_texts([long]).item())


# Classes.


def test_a_class_is_named_in_any_case_or_by_number(checkpoint: str) -> None:
    for positive in ("not hate", "NOT HATE", 1, "1"):
        assert ClassifierScorer.load(checkpoint, positive).positive == "not hate"


@pytest.mark.parametrize("positive", ["kind", 2, -1, "2"])
def test_a_class_that_is_not_there_is_an_error_that_lists_the_classes(checkpoint: str, positive: str | int) -> None:
    with pytest.raises(MannersError) as error:
        ClassifierScorer.load(checkpoint, positive)
    assert str(error.value) == (
        f"{checkpoint} has no single class {positive!r}; it has 0 'hate', 1 'not hate';"
        " give one of these names or numbers"
    )


def test_an_ambiguous_name_must_be_spelled_out(tmp_path: Path) -> None:
    path = saved(tmp_path / "c", bert(id2label={0: "Hate", 1: "hate"}))
    assert ClassifierScorer.load(path, "hate").score_texts(["w1"]) == ClassifierScorer.load(path, 1).score_texts(["w1"])
    with pytest.raises(MannersError, match="no single class 'HATE'"):
        ClassifierScorer.load(path, "HATE")


def test_a_single_logit_is_its_class_and_its_negative_the_opposite(tmp_path: Path) -> None:
    path = saved(tmp_path / "c", bert(id2label={0: "toxic"}))
    z = forward(path, [2, *ids("w1 w2"), 3]).item()
    assert ClassifierScorer.load(path, "toxic").score_texts(["w1 w2"]).item() == pytest.approx(z, abs=1e-6)
    opposite = ClassifierScorer.load(path, "not toxic")
    assert opposite.positive == "not toxic"
    assert opposite.score_texts(["w1 w2"]).item() == pytest.approx(-z, abs=1e-6)
    assert opposite.logits(["w1 w2"]).shape == (1, 1)
    with pytest.raises(MannersError, match="it has 0 'toxic' and its opposite 'not toxic'"):
        ClassifierScorer.load(path, "kind")


# What is refused.


def refused(path: str | Path, **options: Any) -> str:
    with pytest.raises(MannersError) as error:
        ClassifierScorer.load(str(path), "not hate", **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_places_without_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "does not exist; give a folder, or a Hub id" in refused(tmp_path / "nothing")
    assert "is no folder here and cannot be fetched from the Hugging Face Hub" in refused(
        "nobody-known/not-a-model-xyz"
    )
    assert "there is no config.json in it" in refused(tmp_path)


def test_pickled_weights_are_refused(checkpoint: str) -> None:
    folder = Path(checkpoint)
    torch.save(bert().state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert "has no weights in safetensors" in refused(folder)


def test_broken_weights_are_refused(checkpoint: str) -> None:
    weights = Path(checkpoint) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert "cannot be loaded" in refused(checkpoint)


def test_a_language_model_is_refused_by_its_name_and_by_its_missing_head(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = saved(tmp_path / "lm", LlamaForCausalLM(LlamaConfig(**LLAMA)))
    assert "is a LlamaForCausalLM and no sequence classifier" in refused(path)
    config = tmp_path / "lm" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"architectures": None}))
    assert "1 of its weights are missing, among them score.weight" in refused(path)


def test_code_of_the_checkpoint_is_never_run(checkpoint: str, tmp_path: Path) -> None:
    folder, trace = Path(checkpoint), tmp_path / "it ran"
    (folder / "own.py").write_text(f"open({str(trace)!r}, 'w')\n")
    config = json.loads((folder / "config.json").read_text())
    own = {"AutoConfig": "own.C", "AutoModelForSequenceClassification": "own.M"}
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "own-kind", "auto_map": own}))
    assert "cannot be loaded" in refused(folder)
    assert not trace.exists()


def test_a_checkpoint_without_its_tokenizer_is_refused(tmp_path: Path) -> None:
    bert().save_pretrained(tmp_path / "c")
    assert "holds no tokenizer" in refused(tmp_path / "c")


def test_the_tokenizer_of_another_model_is_noticed(tmp_path: Path) -> None:
    path = saved(tmp_path / "c", bert(vocab_size=20))
    scorer = ClassifierScorer.load(path, "not hate", batch=1)
    with pytest.raises(MannersError, match="gives token 54, but the model has 20 tokens"):
        scorer.score_texts(["w39"])


def test_a_logit_that_is_not_a_number_is_no_reward(tmp_path: Path) -> None:
    model = bert()
    with torch.no_grad():
        model.classifier.bias[0] = float("nan")
    scorer = ClassifierScorer.load(saved(tmp_path / "c", model), "not hate")
    with pytest.raises(MannersError, match="not finite"):
        scorer.score_texts(["w1"])


def test_settings_that_cannot_work(checkpoint: str) -> None:
    assert "batch must be at least 1" in refused(checkpoint, batch=0)
    assert "max_length 3 leaves no room for text" in refused(checkpoint, max_length=3)
    assert "cannot be put on device 'nowhere'" in refused(checkpoint, device="nowhere")


def test_the_saved_tokenizer_is_the_one_that_reads(checkpoint: str) -> None:
    scorer = ClassifierScorer.load(checkpoint, "not hate")
    plain = AutoTokenizer.from_pretrained(checkpoint)
    assert [row["input_ids"] for row in scorer.encode(TEXTS)] == plain(TEXTS)["input_ids"]
