"""What the card reads of a model, against plain passes of the same model through transformers."""

from __future__ import annotations

import pytest
import tiny
import torch

from manners.evaluate.datasets import Source
from manners.evaluate.observation import PRIMER, observe, truthful_context
from manners.evaluate.questions import Comparison, Fact, Items, Question
from manners.evaluate.side_effects import perplexity
from manners.evaluate.subject import TrunkSubject
from manners.models.trunk import Trunk
from manners.records import Completion, Prompt
from manners.sampling.local import LocalSampler

DATA = Source("made up", "here", "Apache-2.0", "", True)


def subject(trunk: Trunk) -> TrunkSubject:
    return TrunkSubject(LocalSampler(trunk, None), max_tokens=5, temperature=1.0, seed=3)


def wide() -> Trunk:
    return Trunk(tiny.tiny_model(context=1024), tiny.tiny_tokenizer(), "all", name="wide")


@torch.no_grad()
def whole_pass(trunk: Trunk, context: list[int], following: list[int]) -> float:
    """Σ log p of `following` behind `context`, from the logits of the whole model."""
    logits = trunk.model(torch.tensor([context + following])).logits[0].double().log_softmax(-1)
    return sum(float(logits[len(context) - 1 + i, token]) for i, token in enumerate(following))


def test_continuations_are_those_of_a_plain_pass() -> None:
    trunk = wide()
    found = subject(trunk).continuations(["Q: one\nA:", "And two"], [[" yes", " not at all"], [" x"]])
    encode = lambda text: trunk.tokenizer(text)["input_ids"]  # noqa: E731
    expected = [[whole_pass(trunk, encode("Q: one\nA:"), encode(t)) for t in (" yes", " not at all")],
                [whole_pass(trunk, encode("And two"), encode(" x"))]]  # fmt: skip
    for told, known in zip(found, expected, strict=True):
        assert told.logps.tolist() == pytest.approx(known, abs=1e-4)
    assert [told.tokens.tolist() for told in found] == [[4, 11], [2]]


def test_replies_go_through_the_chat_template_and_count_the_end() -> None:
    trunk = wide()
    prompt = Prompt.of("say it")
    done, cut = Completion(prompt.id, "it"), Completion(prompt.id, "it", finished=False)
    found = subject(trunk).replies([prompt], [[done, cut]])[0]
    context = trunk.tokenizer("<|user|>say it<|end|><|assistant|>", add_special_tokens=False)["input_ids"]
    said = trunk.tokenizer("it", add_special_tokens=False)["input_ids"]
    assert found.tokens.tolist() == [3, 2]
    assert found.logps.tolist() == pytest.approx(
        [whole_pass(trunk, context, [*said, 0]), whole_pass(trunk, context, said)], abs=1e-4
    )


def test_perplexity_is_e_to_the_loss_of_transformers() -> None:
    trunk = wide()
    texts = ["The ferry left at six.", "It rained."]
    measured = perplexity(subject(trunk).continuations(["", ""], [[t] for t in texts]), DATA)
    loss, count = 0.0, 0
    for text in texts:
        ids = torch.tensor([trunk.tokenizer(text)["input_ids"]])
        with torch.no_grad():
            loss += float(trunk.model(ids, labels=ids).loss) * (ids.shape[1] - 1)
        count += ids.shape[1] - 1
    assert measured.reading.span().mean == pytest.approx(2.718281828459045 ** (loss / count), rel=1e-4)
    assert measured.reading.items == 2


def test_a_long_context_loses_its_beginning_and_a_long_text_its_end() -> None:
    trunk = tiny.tiny_trunk()
    long, answer = "abc " * 200, " yes"
    encode = lambda text: trunk.tokenizer(text)["input_ids"]  # noqa: E731
    found = subject(trunk).continuations([long, ""], [[answer], ["x" * 600]])
    kept = encode(long)[-(trunk.context - len(answer)) :]
    assert found[0].logps.item() == pytest.approx(whole_pass(trunk, kept, encode(answer)), abs=1e-4)
    assert found[1].tokens.item() == trunk.context - 1


def test_answers_are_drawn_for_each_prompt_apart() -> None:
    prompts = [Prompt.of("one"), Prompt.of("two")]
    found = subject(tiny.tiny_trunk()).complete(prompts, 3)
    assert [[c.prompt_id for c in own] for own in found] == [[p.id] * 3 for p in prompts]
    assert len({c.text for own in found for c in own}) > 3


def test_an_observation_asks_as_the_harness_does() -> None:
    trunk = wide()
    question = Question("Is it so?", "No", ("No", "Not so"), ("Yes", "Sure"))
    prompt = Prompt.of("p")
    items = Items((prompt,), (prompt,), (prompt,), (prompt,), (question,), (Comparison("other", prompt, "a", "bb"),),
                  ("Some text.",), (Fact("The sky is", "blue", ("red",)),))  # fmt: skip
    seen = observe(subject(trunk), items, 2)
    context = trunk.tokenizer(f"{PRIMER}\n\nQ: Is it so?\nA:")["input_ids"]
    assert truthful_context("Is it so?").endswith("in Barcelona, Spain.\n\nQ: Is it so?\nA:")
    score = {
        text: whole_pass(trunk, context, trunk.tokenizer(f" {text}")["input_ids"])
        for text in ("No", "Not so", "Yes", "Sure")
    }
    assert seen.first[0].logps.tolist() == pytest.approx([score[t] for t in ("No", "Yes", "Sure")], abs=1e-3)
    assert seen.second[0].logps.tolist() == pytest.approx([score[t] for t in ("No", "Not so", "Yes", "Sure")], abs=1e-3)
    assert (len(seen.ordinary[0]), len(seen.dangerous[0])) == (2, 1)
    sky = trunk.tokenizer("The sky is")["input_ids"]
    assert seen.facts[0].logps[0].item() == pytest.approx(
        whole_pass(trunk, sky, trunk.tokenizer(" blue")["input_ids"]), abs=1e-4
    )


def test_replies_at_a_temperature_are_those_that_the_sampler_gave() -> None:
    trunk = wide()
    sampler = LocalSampler(trunk, None)
    asked = [Prompt.of("say"), Prompt.of("say more")]
    drawn = sampler.sample(asked, max_tokens=6, temperature=0.5, seed=1)
    found = subject(trunk).replies(asked, [[c] for c in drawn.completions], temperature=0.5)
    assert [f.logps.item() for f in found] == pytest.approx(drawn.logps.sum(-1).tolist(), abs=1e-4)
