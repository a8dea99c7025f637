from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import shake

from manners.models.load import lineage_of, load_trunk
from manners.models.tiny import ALPHABET, tiny_tokenizer
from manners.records import Completion, Prompt
from manners.text.chat import Chat


def test_the_built_in_model_needs_no_file_and_is_the_same_every_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = (load_trunk("tiny-random", layers) for layers in (2, "all"))
    assert first.fingerprint == second.fingerprint
    assert (first.branch, second.branch, first.name) == (1, 0, "tiny-random")
    assert list(tmp_path.iterdir()) == []


def test_building_it_leaves_the_random_numbers_of_others_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_trunk("tiny-random")
    assert torch.equal(torch.rand(3), expected)


def test_its_tokenizer_gives_back_every_text_of_its_alphabet() -> None:
    tokenizer = tiny_tokenizer()
    ids = tokenizer(ALPHABET)["input_ids"]
    assert (len(ids), len(set(ids))) == (len(ALPHABET), len(ALPHABET))
    assert tokenizer.decode(ids) == ALPHABET
    chat = Chat(tokenizer, 256)
    answer = Completion("", "two  words\n and 3!")
    assert chat.text(chat.completion(answer)) == answer.text
    assert chat.text(chat.prompt(Prompt.of("Hi"))) == "<|user|>Hi<|end|><|assistant|>"


def test_an_adapter_on_it_names_it_and_loads_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny-random").mkdir()  # a folder of the same name is not meant
    trunk = load_trunk("tiny-random", 1)
    trunk.adapters.add("policy", rank=2, alpha=4, seed=0)
    shake(trunk, "policy")
    trunk.adapters.save("policy", tmp_path / "adapter", trunk.name)
    assert lineage_of(str(tmp_path / "adapter")) == ("tiny-random", [tmp_path / "adapter"])
    assert load_trunk(str(tmp_path / "adapter")).fingerprint != trunk.fingerprint
