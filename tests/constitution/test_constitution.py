"""The constitution file: what is wrong with one is said in a line that names it, and the one of the package is whole."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from writers import SHORT

from manners.constitution.constitution import Constitution, conversation_text, placeholders_in
from manners.errors import MannersError
from manners.records import Message, Prompt

ASPECTS = {"helpful", "honest", "toxicity", "aggression", "danger", "non_evasive", "non_preachy"}


def broken(tmp_path: Path, old: str, new: str) -> str:
    """What is said of the short constitution with one thing changed."""
    text = SHORT.read_text(encoding="utf-8")
    assert text.count(old) >= 1
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(MannersError) as caught:
        Constitution.load(path)
    assert "\n" not in str(caught.value)
    assert "mine.yaml" in str(caught.value)
    assert len(str(caught.value)) < 300 + len(str(tmp_path))
    return str(caught.value)


def test_the_one_of_the_package_covers_every_aspect_in_both_phases() -> None:
    constitution = Constitution.load()
    assert len(constitution.critiques) >= 16
    assert len(constitution.comparisons) >= 16
    assert {aspect for c in constitution.critiques for aspect in c.aspects} == ASPECTS
    assert {aspect for c in constitution.comparisons for aspect in c.aspects} == ASPECTS
    assert len(constitution.revision_examples) >= 3
    assert {example.better for example in constitution.comparison_examples} == {"A", "B"}


def test_every_text_of_the_package_ends_as_a_sentence_does() -> None:
    constitution = Constitution.load()
    examples = [text for e in constitution.revision_examples for text in (e.prompt, e.answer, e.critique, e.revision)]
    examples += [text for e in constitution.comparison_examples for text in (e.prompt, e.a, e.b, e.reason)]
    for text in [*constitution.texts.values(), *examples]:
        assert re.fullmatch(r"[A-Z].*[.?!]", text), text


def test_a_principle_for_comparison_is_a_question() -> None:
    assert all(c.principle.endswith("?") for c in Constitution.load().comparisons)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("id: untrue", "id: rude", "critiques has the id 'rude' twice"),
        ("id: truer", "id: kinder", "comparisons has the id 'kinder' twice"),
        (", revision: Be true.", "", "critiques.1.revision"),
        ("version: 1\n", "", "version"),
        ("critique: 'Rude?'", 'critique: "Rude, {name}?"', "critiques.rude.critique has a placeholder that nothing fills"),
        ("principle: 'Truer?'", "principle: 'Truer {x}?'", "comparisons.truer.principle has a placeholder"),
        ("revision: Be safe.", "revision: '  '", "critiques.risk.revision is empty"),
        ("| {critique} | {request}", "| {request}", "templates.revision lacks the placeholder {critique}"),
        ("(B) {b}", "(B) {c}", "templates.comparison has the unknown placeholder {c}"),
        ("(B) {b}", "(B) {b.text}", "templates.comparison has the unknown placeholder {b.text}"),
        ("(B) {b}", "(B) {b", "templates.comparison has a brace that stands alone"),
        ("(B) {b}", "(B) {}", "templates.comparison has the unknown placeholder {}"),
        ("principle: rude, critique", "principle: rudest, critique", "revision_examples.0 names the principle 'rudest'"),
        ("principle: kinder, reason", "principle: nicer, reason", "comparison_examples.0 names the principle 'nicer'"),
        ("aspects: [honest]", "aspects: [nice]", "critiques.1.aspects"),
        ("better: B", "better: C", "comparison_examples.0.better"),
        ("name: short", "name: short\ntitle: x", "unknown config key 'title'"),
        ("critiques:", "critiques: [", "is not YAML"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert says in broken(tmp_path, old, new)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(MannersError, match=r"none\.yaml does not exist"):
        Constitution.load(tmp_path / "none.yaml")


def test_the_hash_is_of_the_content_and_not_of_the_layout(tmp_path: Path) -> None:
    plain = Constitution.load(SHORT)
    laid_out = tmp_path / "other.yaml"
    laid_out.write_text(yaml.safe_dump(plain.model_dump(mode="json"), width=30), encoding="utf-8")
    assert Constitution.load(laid_out).hash == plain.hash
    changed = tmp_path / "changed.yaml"
    changed.write_text(SHORT.read_text(encoding="utf-8").replace("Be kind.", "Be kinder."), encoding="utf-8")
    assert Constitution.load(changed).hash != plain.hash
    assert re.fullmatch(r"[0-9a-f]{16}", plain.hash)


def test_a_version_may_be_a_number() -> None:
    assert Constitution.load(SHORT).version == "1"


def test_every_turn_of_a_conversation_is_a_line() -> None:
    turns = (
        Message("system", "Be brief."),
        Message("user", "Hi "),
        Message("assistant", "Hello."),
        Message("user", "Why?"),
    )
    assert conversation_text(Prompt(turns)) == "System: Be brief.\nHuman: Hi\nAssistant: Hello.\nHuman: Why?"


def test_doubled_braces_are_braces() -> None:
    assert placeholders_in("{{x}} {answer}") == ["answer"]
