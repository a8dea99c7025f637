from __future__ import annotations

import csv
import errno
import json
import math
import os
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from sklearn.metrics import log_loss, precision_recall_fscore_support, roc_auc_score
from sklearn.utils.class_weight import compute_class_weight
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from manners.config import load_config
from manners.errors import MannersError
from manners.models import recompute
from manners.records import Completion, Prompt
from manners.rewards.classifier import ClassifierScorer
from manners.runs import Run, read_json
from manners.train.classifier import (
    ClassifierConfig,
    LabelledText,
    calibration_error,
    class_weights,
    is_held_out,
    read_labelled,
    roc_auc,
    schedule,
    train_classifier,
    wilson,
)

torch.set_num_threads(1)

KIND, RUDE, PLAIN = ["thanks", "please", "welcome"], ["idiot", "stupid", "fool"], [f"word{i}" for i in range(12)]


def toy_texts(count: int = 240, seed: int = 0) -> list[LabelledText]:
    """Texts whose class is told by one word among neutral ones."""
    draw = random.Random(seed)
    texts = []
    for i in range(count):
        words = draw.sample(PLAIN, draw.randint(2, 6))
        words.insert(draw.randint(0, len(words)), draw.choice(KIND if i % 2 else RUDE))
        texts.append(LabelledText(" ".join(words), "kind" if i % 2 else "rude"))
    return texts


def words_tokenizer(words: list[str], encoder: bool = True, ended: bool = False) -> PreTrainedTokenizerFast:
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    if ended:
        backend.post_processor = processors.TemplateProcessing(single="$A [SEP]", special_tokens=[("[SEP]", 3)])
    if not encoder:
        return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", eos_token="[SEP]")
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    fields = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **fields)


def sizes(tokenizer: Any) -> dict[str, Any]:
    return {"vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
            "intermediate_size": 64, "max_position_embeddings": 64}  # fmt: skip


def base(path: Path, words: list[str] | None = None) -> str:
    """An encoder pretrained on words alone (with random weights): no pooler, no head."""
    tokenizer = words_tokenizer(words or KIND + RUDE + PLAIN)
    torch.manual_seed(0)
    BertForMaskedLM(BertConfig(**sizes(tokenizer), hidden_dropout_prob=0.3)).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


def decoder(path: Path, pad_of_model: int | None = None, pad_token: str | None = None, ended: bool = False) -> str:
    """A decoder; unless told otherwise, neither its configuration nor its tokenizer knows a pad token."""
    tokenizer = words_tokenizer(KIND + RUDE + PLAIN, encoder=False, ended=ended)
    tokenizer.pad_token = pad_token
    torch.manual_seed(0)
    fields = {"num_key_value_heads": 2, "pad_token_id": pad_of_model, "bos_token_id": 2, "eos_token_id": 3}
    LlamaForCausalLM(LlamaConfig(**sizes(tokenizer), **fields)).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


def ended_decoder(path: Path) -> str:
    """The token that ends every text is the only one that could pad."""
    return decoder(path, ended=True, pad_token="[SEP]")


def torn_decoder(path: Path) -> str:
    """The model pads with one token and its tokenizer with another."""
    return decoder(path, pad_of_model=0, pad_token="[SEP]")


def config(model: str, **fields: Any) -> ClassifierConfig:
    quick = {"epochs": 4, "learning_rate": 3e-3, "batch": 16, "validation": 0.2, "device": "cpu"}
    return ClassifierConfig(model=model, **{**quick, **fields})


def start(path: Path, settings: ClassifierConfig) -> Run:
    return Run.create(path, "classifier", settings, {})


@pytest.mark.parametrize(("make", "least"), [(base, 1.0), (decoder, 0.97)])
def test_a_separable_set_is_learned_and_its_logit_is_a_reward(tmp_path: Path, make: Any, least: float) -> None:
    settings = config(make(tmp_path / "base"), epochs=8, labels={"rude": "rude", "kind": "not rude"})
    run = start(tmp_path / "run", settings)
    found = train_classifier(settings, toy_texts(600), run)
    assert found["accuracy"] >= least
    assert found["texts"] >= 100
    assert found["accuracy_95"][0] < 1.0
    assert all(found["classes"][name]["auc"] >= least for name in ("rude", "not rude"))
    assert found["texts"] + found["training"]["texts"] == 600

    scorer = ClassifierScorer.load(str(run.checkpoint("final")), "not rude")
    assert scorer.labels == ("rude", "not rude")
    kind, rude = scorer.score_texts(["thanks word1 word2 word3", "word1 idiot"]).tolist()
    assert kind > 0 > rude
    prompt = Prompt.of("word1 word2")
    rewards = scorer.score([prompt, prompt], [Completion(prompt.id, "word3 fool"), Completion(prompt.id, "welcome")])
    assert rewards[1] > rewards[0]
    again = ClassifierScorer.load(str(run.path), "not rude").score_texts(["thanks word1 word2 word3"])
    assert again.item() == pytest.approx(kind, abs=1e-5)


@pytest.mark.parametrize("make", [base, decoder, ended_decoder, torn_decoder])
def test_plain_transformers_reads_the_checkpoint_and_agrees(tmp_path: Path, make: Any) -> None:
    settings = config(make(tmp_path / "base"), epochs=1)
    run = start(tmp_path / "run", settings)
    train_classifier(settings, toy_texts(), run)
    folder = run.checkpoint("final")
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {p.name for p in folder.iterdir()}
    assert not [p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pkl")]
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.config.id2label == {0: "kind", 1: "rude"}
    texts = [t.text for t in toy_texts(8, seed=5)]
    with torch.no_grad():
        batched = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits
    torch.testing.assert_close(ClassifierScorer.load(str(folder), "kind").logits(texts), batched, rtol=0, atol=1e-5)


def test_the_run_holds_the_evaluation_and_a_row_for_each_step(tmp_path: Path) -> None:
    settings = config(base(tmp_path / "base"), epochs=2, warmup=0.5)
    run = start(tmp_path / "run", settings)
    told: list[tuple[int, int]] = []
    found = train_classifier(settings, toy_texts(), run, progress=lambda done, of: told.append((done, of)))
    assert read_json(run.path / "evaluation.json") == found
    steps = found["training"]["steps"]
    assert steps == 2 * math.ceil(found["training"]["texts"] / 16)
    assert told == [(i + 1, steps) for i in range(steps)]
    rows = [row for row in run.metrics() if "loss" in row]
    assert [row["step"] for row in rows] == list(range(1, steps + 1))
    assert all(math.isfinite(value) for row in run.metrics() for value in row.values())
    assert max(row["learning_rate"] for row in rows) == pytest.approx(3e-3)
    measured = [row for row in run.metrics() if "validation_accuracy" in row]
    assert [row["epoch"] for row in measured] == [1, 2]
    assert measured[-1]["validation_accuracy"] == found["accuracy"]
    assert measured[-1]["validation_auc/kind"] == found["classes"]["kind"]["auc"]


def test_the_numbers_are_those_of_scikit_learn_on_the_saved_model(tmp_path: Path) -> None:
    settings = config(base(tmp_path / "base"), epochs=12, validation=0.5)
    run = start(tmp_path / "run", settings)
    texts = toy_texts()
    texts = [LabelledText(t.text, "rude" if i % 7 == 0 else t.label) for i, t in enumerate(texts)]  # some noise
    found = train_classifier(settings, texts, run)
    assert 0.5 < found["accuracy"] < 1.0
    scorer = ClassifierScorer.load(str(run.checkpoint("final")), "kind")
    measured = [t for t in texts if is_held_out(t.text, 0.5)]
    logits = scorer.logits([t.text for t in measured])
    truth = [0 if t.label == "kind" else 1 for t in measured]
    assert found["texts"] == len(measured)
    assert found["training"]["classes"]["kind"] == sum(t.label == "kind" for t in texts if t not in measured)
    assert found["accuracy"] == pytest.approx((logits.argmax(1) == torch.tensor(truth)).float().mean().item())
    assert found["loss"] == pytest.approx(log_loss(truth, logits.double().softmax(1).numpy()), abs=1e-5)
    precision, recall, _, count = precision_recall_fscore_support(truth, logits.argmax(1), labels=[0, 1])
    for i, name in enumerate(["kind", "rude"]):
        facts = found["classes"][name]
        assert facts["auc"] == pytest.approx(roc_auc_score([t == i for t in truth], logits[:, i]))
        assert [facts["precision"], facts["recall"], facts["texts"]] == pytest.approx(
            [precision[i], recall[i], count[i]]
        )


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path: Path) -> None:
    model = base(tmp_path / "base")

    def weights(name: str, **fields: Any) -> bytes:
        settings = config(model, epochs=1, **fields)
        run = start(tmp_path / name, settings)
        train_classifier(settings, toy_texts(60), run)
        return (run.checkpoint("final") / "model.safetensors").read_bytes()

    first = weights("one", dropout=True)
    torch.manual_seed(1234)
    assert weights("two", dropout=True) == first
    assert weights("three", dropout=True, seed=1) != first
    # The order of the texts comes from the seed too: here no head is new and nothing drops out.
    model = str(tmp_path / "one")
    assert weights("four", seed=0) != weights("five", seed=1)


def test_dropout_is_off_unless_asked_for(tmp_path: Path) -> None:
    losses = []
    for name, fields in (("off", {}), ("on", {"dropout": True})):
        settings = config(base(tmp_path / f"base {name}"), epochs=1, batch=400, **fields)
        run = start(tmp_path / name, settings)
        train_classifier(settings, toy_texts(), run)
        losses.append(run.metrics()[0]["loss"])
    # With one step, the loss is that of the untouched base: without dropout that of the forward pass in eval mode.
    assert abs(losses[0] - math.log(2)) < 0.1
    assert abs(losses[0] - losses[1]) > 1e-4


@pytest.mark.parametrize("dropout", [False, True])
def test_layers_computed_again_give_the_same_run(
    dropout: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[Any] = []
    real = recompute.checkpoint

    def watched(*args: Any, **kwargs: Any) -> Any:
        computed.append(args[0])
        return real(*args, **kwargs)

    monkeypatch.setattr(recompute, "checkpoint", watched)
    found = []
    for again in (False, True):
        settings = config(base(tmp_path / f"base {again}"), epochs=1, gradient_checkpointing=again, dropout=dropout)
        run = start(tmp_path / f"run {again}", settings)
        train_classifier(settings, toy_texts(40), run)
        found.append([row["loss"] for row in run.metrics() if "loss" in row])
        assert bool(computed) is again
    assert found[1] == pytest.approx(found[0], rel=1e-4)


def test_the_first_loss_is_the_weighted_mean_over_the_texts(tmp_path: Path) -> None:
    texts = [t for i, t in enumerate(toy_texts()) if t.label == "rude" or i % 5 == 0]
    losses = {}
    for how in ("plain", "balanced"):
        # A step too small to change anything leaves the model that the loss was computed with.
        settings = config(base(tmp_path / f"base {how}"), epochs=1, batch=400, learning_rate=1e-30, class_weights=how)
        run = start(tmp_path / how, settings)
        train_classifier(settings, texts, run)
        losses[how] = run.metrics()[0]["loss"]
        train = [t for t in texts if not is_held_out(t.text, 0.2)]
        scorer = ClassifierScorer.load(str(run.checkpoint("final")), 0)
        truth = [0 if t.label == "kind" else 1 for t in train]
        chances = scorer.logits([t.text for t in train]).double().softmax(1).numpy()
        weights = compute_class_weight("balanced", classes=np.array([0, 1]), y=truth)
        sample_weight = None if how == "plain" else [weights[t] for t in truth]
        assert losses[how] == pytest.approx(log_loss(truth, chances, sample_weight=sample_weight), abs=1e-5)
    assert abs(losses["plain"] - losses["balanced"]) > 1e-4


def test_the_weights_of_a_batch_are_shared_among_its_texts(tmp_path: Path) -> None:
    texts = [t for i, t in enumerate(toy_texts(60)) if t.label == "rude" or i % 5 == 0]
    settings = config(base(tmp_path / "base"), epochs=1, batch=1, learning_rate=1e-30, class_weights="balanced")
    run = start(tmp_path / "run", settings)
    train_classifier(settings, texts, run)
    train = [t for t in texts if not is_held_out(t.text, 0.2)]
    chances = ClassifierScorer.load(str(run.path), 0).logits([t.text for t in train]).double().softmax(1)
    # In a batch of one text any weight is the whole of the denominator, and the loss is the text's own.
    alone = [-math.log(p[0 if t.label == "kind" else 1]) for p, t in zip(chances, train, strict=True)]
    assert sorted(row["loss"] for row in run.metrics() if "loss" in row) == pytest.approx(sorted(alone), abs=1e-5)


# The saved artefact.


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"),
                                     SafetensorError("I/O error: No space left on device (os error 28)")])  # fmt: skip
def test_a_full_disk_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    settings = config(base(tmp_path / "base"), epochs=1)
    run = start(tmp_path / "run", settings)

    def full(_: Any, folder: Path, **__: Any) -> None:
        Path(folder).mkdir(parents=True)
        (Path(folder) / "model.safetensors").write_bytes(b"half of it")
        raise failure

    monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", full)
    with pytest.raises(MannersError, match="the disk is full"):
        train_classifier(settings, toy_texts(60), run)
    assert list((run.path / "checkpoints").iterdir()) == []
    assert not (run.path / "evaluation.json").exists()


# The base.


def test_bases_that_cannot_be_used(tmp_path: Path) -> None:
    def refused(model: Path, **fields: Any) -> str:
        settings = config(str(model), **fields)
        with pytest.raises(MannersError) as error:
            train_classifier(
                settings, toy_texts(60), start(tmp_path / f"run {len(list(tmp_path.iterdir()))}", settings)
            )
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "does not exist" in refused(tmp_path / "nothing")
    base(tmp_path / "pickled")
    (tmp_path / "pickled" / "model.safetensors").rename(tmp_path / "pickled" / "pytorch_model.bin")
    assert "no weights in safetensors" in refused(tmp_path / "pickled")
    base(tmp_path / "other depth")
    changed = tmp_path / "other depth" / "config.json"
    changed.write_text(json.dumps(json.loads(changed.read_text()) | {"num_hidden_layers": 3}))
    assert "is not whole: weights such as bert.encoder.layer.2" in refused(tmp_path / "other depth")
    decoder(tmp_path / "padless")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "padless")
    tokenizer.eos_token = None
    tokenizer.unk_token = None
    tokenizer.save_pretrained(tmp_path / "padless")
    assert "no token to pad with" in refused(tmp_path / "padless")
    base(tmp_path / "fine")
    assert "the loss is not finite at step" in refused(tmp_path / "fine", learning_rate=1e30, max_grad_norm=1e30)


def test_a_classifier_of_other_classes_can_be_the_base(tmp_path: Path) -> None:
    settings = config(base(tmp_path / "base"), epochs=1)
    first = start(tmp_path / "first", settings)
    train_classifier(settings, toy_texts(60), first)
    three = [
        LabelledText(t.text, "kind" if t.label == "kind" else f"rude {i % 2}") for i, t in enumerate(toy_texts(90))
    ]
    three += [LabelledText(f"{t.text} word1", "rude 2") for t in three[:40]]
    settings = config(str(first.path), epochs=1)
    second = start(tmp_path / "second", settings)
    train_classifier(settings, three, second)
    labels = ClassifierScorer.load(str(second.path), "rude 2").labels
    assert labels == ("kind", "rude 0", "rude 2")


def test_texts_are_cut_in_scoring_where_training_cut_them(tmp_path: Path) -> None:
    settings = config(base(tmp_path / "base"), epochs=1, max_length=8)
    run = start(tmp_path / "run", settings)
    texts = [*toy_texts(60), LabelledText("thanks " + "word1 " * 20, "kind")]
    cut = sum(not is_held_out(t.text, 0.2) and len(t.text.split()) > 6 for t in texts)
    assert cut > 0
    assert train_classifier(settings, texts, run)["training"]["truncated"] == cut
    assert ClassifierScorer.load(str(run.path), "kind").max_length == 8


# Labels and sides.


def test_texts_that_cannot_be_trained_on(tmp_path: Path) -> None:
    def refused(texts: list[LabelledText], **fields: Any) -> str:
        settings = config("unused", **fields)
        with pytest.raises(MannersError) as error:
            train_classifier(settings, texts, start(tmp_path / f"run {len(list(tmp_path.iterdir()))}", settings))
        return str(error.value)

    one = [LabelledText(f"text {i}", "kind") for i in range(12)]
    assert "needs texts of two classes or more; here are kind" in refused(one)
    assert "the label 'kind' is not among `labels` (0, 1)" in refused(one, labels={"0": "hate", "1": "not hate"})
    assert "no text to train on is 'rude'" in refused(one, labels={"kind": "kind", "rude": "rude"})
    assert "none of the 2 texts fell to the held-out side" in refused(toy_texts(2), validation=1e-9)


def test_a_text_is_always_on_the_same_side_and_the_share_is_kept() -> None:
    texts = [f"text number {i}" for i in range(4000)]
    held = {t for t in texts if is_held_out(t, 0.25)}
    assert abs(len(held) / 4000 - 0.25) < 4 * math.sqrt(0.25 * 0.75 / 4000)
    assert held <= {t for t in texts if is_held_out(t, 0.5)}
    assert {is_held_out(f"  {t}\n", 0.25) for t in held} == {True}


def test_the_configuration_takes_numbers_as_labels(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("model: m\nlabels: {0: hate, 1: not hate, 2: not hate}\nlearning_rate: 1e-5\n")
    read = load_config(ClassifierConfig, tmp_path / "c.yaml")
    assert read.labels == {"0": "hate", "1": "not hate", "2": "not hate"}
    assert read.learning_rate == 1e-5


def test_the_shipped_configuration_is_one() -> None:
    shipped = Path(__file__).parents[2] / "configs" / "classifier.yaml"
    read = load_config(ClassifierConfig, shipped)
    assert set(ClassifierConfig.model_fields) == set(read.model_fields_set)
    defaults = ClassifierConfig(model=read.model, labels=read.labels)
    assert read == defaults


# Numbers.


def test_roc_auc_is_that_of_scikit_learn_ties_included() -> None:
    draw = random.Random(0)
    for _ in range(20):
        truth = [draw.random() < 0.3 for _ in range(50)] + [True, False]
        scores = [round(draw.gauss(1.0 if t else 0.0, 1.0), 1) for t in truth]
        assert roc_auc(scores, truth) == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)
    assert roc_auc([1.0, 2.0], [True, True]) is None


def test_wilson_by_hand() -> None:
    # Centre (p + z²/2n) / (1 + z²/n) and half-width, with p = 0.9, n = 10, z = 1.959964: 0.7890 ± 0.1932.
    assert wilson(9, 10) == pytest.approx((0.5958, 0.9821), abs=1e-4)
    assert wilson(0, 5)[0] == 0.0
    assert wilson(5, 5)[1] == 1.0


def test_calibration_error_by_hand() -> None:
    # Two bins: (0, 0.5] holds 0.4 and 0.5, one of them right; (0.5, 1] holds 0.9 and 0.7, both right.
    # 2/4 * |0.5 - 0.45| + 2/4 * |1 - 0.8| = 0.125
    assert calibration_error([0.4, 0.5, 0.9, 0.7], [True, False, True, True], bins=2) == pytest.approx(0.125)
    assert calibration_error([1.0, 1.0], [True, True]) == 0.0
    assert calibration_error([1.0, 1.0], [False, False]) == 1.0


def test_class_weights_are_those_of_scikit_learn() -> None:
    targets = [0] * 7 + [1] * 2 + [2]
    expected = compute_class_weight("balanced", classes=np.array([0, 1, 2]), y=targets)
    assert class_weights(targets, 3, "balanced").tolist() == pytest.approx(expected.tolist())
    assert class_weights(targets, 3, "plain").tolist() == [1.0, 1.0, 1.0]


def test_the_learning_rate_rises_and_falls_in_straight_lines() -> None:
    shares = [schedule(step, 10, 0.2) for step in range(10)]
    assert shares == pytest.approx([0.5, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125])
    assert [schedule(step, 4, 0.0) for step in range(4)] == pytest.approx([1.0, 0.75, 0.5, 0.25])
    assert schedule(0, 1, 0.9) == 1.0


# Files.


def test_jsonl_rows_are_read_and_bad_ones_are_told(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    lines = [b'\xef\xbb\xbf{"text": "one", "label": "hate"}', b'{"text": "two", "label": 1}', b"",
             b'{"text": "three", "label": true}', b"{broken", b'["no", "object"]', b'{"label": "hate"}',
             b'{"text": "  ", "label": "hate"}', b'{"text": "four", "label": null}', b'{"text": "five", "label": 0.5}',
             b'{"text": "\xff", "label": "hate"}', b'{"text": "\\ud800", "label": "hate"}',
             b'{"text": "six", "label": ""}']  # fmt: skip
    path.write_bytes(b"\n".join(lines))
    read = read_labelled(path)
    assert read.texts == [LabelledText("one", "hate"), LabelledText("two", "1"), LabelledText("three", "true")]
    assert read.problems == [
        "line 5: cannot be read as a row",
        "line 6: cannot be read as a row",
        "line 7: no text in 'text'",
        "line 8: no text in 'text'",
        "line 9: no label in 'label'",
        "line 10: no label in 'label'",
        "line 11: not UTF-8",
        "line 12: not UTF-8",
        "line 13: no label in 'label'",
    ]


def test_csv_columns_are_named_and_bad_rows_are_told(tmp_path: Path) -> None:
    path = tmp_path / "texts.CSV"
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["n", "tweet", "class"])
        writer.writerows(
            [[1, 'a "quoted",\nlong one', 0], [2, "", 1], [3, "short"], [4, "x" * 200_000, 1], [5, "last", 2]]
        )
    read = read_labelled(path, text_column="tweet", label_column="class")
    assert read.texts == [LabelledText('a "quoted",\nlong one', "0"), LabelledText("last", "2")]
    assert read.problems == [
        "line 4: no text in 'tweet'",
        "line 5: no label in 'class'",
        "line 6: cannot be read as a row",
    ]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    def refused(name: str, content: str | None, **columns: str) -> str:
        if content is not None:
            (tmp_path / name).write_text(content)
        with pytest.raises(MannersError) as error:
            read_labelled(tmp_path / name, **columns)
        return str(error.value)

    assert "No such file" in refused("none.jsonl", None)
    assert "must end in .jsonl or .csv" in refused("texts.parquet", "")
    assert "has no column 'label'; it has text, class" in refused("a.csv", "text,class\nx,1\n")
    assert "has no column 'text'; it has none" in refused("b.csv", "")
    assert "holds no labelled text; it is empty" in refused("c.jsonl", "")
    assert "holds no labelled text; line 1: no label in 'class'" in refused(
        "d.jsonl", '{"text": "x"}', label_column="class"
    )


# The documentation.


def test_the_examples_of_the_howto_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    howto = Path(__file__).parents[2] / "docs" / "howto" / "classifier-reward.md"
    blocks = re.findall(r"```python\n(.*?)```", howto.read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    base(tmp_path / "base")
    with (tmp_path / "texts.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["tweet", "class"])
        writer.writerows([t.text, 2 if t.label == "kind" else i % 2] for i, t in enumerate(toy_texts(400)))
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, str(howto), "exec"), names)
    assert names["run"].checkpoint("final").is_dir()
    assert names["rewards"].shape == (2,)


@pytest.mark.data
@pytest.mark.skipif("MANNERS_DATA" not in os.environ, reason="MANNERS_DATA is not set")
def test_hate_is_told_from_other_tweets_better_than_by_chance(tmp_path: Path) -> None:
    path = Path(os.environ["MANNERS_DATA"]) / "hate_speech_davidson" / "labeled_data.csv"
    read = read_labelled(path, text_column="tweet", label_column="class")
    assert len(read.texts) + len(read.problems) == 24783
    hate = [t for t in read.texts if t.label == "0"][:400]
    neither = [t for t in read.texts if t.label == "2"][:400]
    counts: dict[str, int] = {}
    for t in hate + neither:
        if not is_held_out(t.text, 0.2):
            for word in set(re.findall(r"\w+", t.text.lower())):
                counts[word] = counts.get(word, 0) + 1
    model = base(tmp_path / "base", sorted(word for word, n in counts.items() if n > 2))
    settings = config(model, labels={"0": "hate", "2": "not hate"}, epochs=4, learning_rate=1e-3, max_length=48)
    run = start(tmp_path / "run", settings)
    found = train_classifier(settings, hate + neither, run)
    assert found["accuracy_95"][0] > 0.6
    assert found["commonest_class"] < 0.6
    scorer = ClassifierScorer.load(str(run.path), "not hate")
    rewards = {}
    for name, texts in (("hate", hate), ("neither", neither)):
        rewards[name] = scorer.score_texts([t.text for t in texts if is_held_out(t.text, 0.2)]).mean().item()
    assert rewards["neither"] > rewards["hate"]
