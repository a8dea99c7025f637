"""The constitution: the principles, templates and examples by which a model is taught without people, as one YAML file.

Everything in it is checked when it is read, so that a run does not end on a misspelt placeholder after an hour. It has a content
hash, which goes into the lineage of whatever was made under it. How to write one: docs/howto/write-a-constitution.md.
"""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator

from manners.config import Config, load_config
from manners.errors import MannersError
from manners.records import Prompt, content_hash

DEFAULT = "default"
Aspect = Literal["helpful", "honest", "toxicity", "aggression", "danger", "non_evasive", "non_preachy"]
HUMAN, ASSISTANT = "Human", "Assistant"
_NAMES = {"user": HUMAN, "assistant": ASSISTANT, "system": "System"}


class Critique(Config):
    """A principle of the supervised phase: what to look for in an answer, and how to write it anew."""

    id: str = Field(min_length=1, description="a short name, unique in the file; stored with every step")
    critique: str = Field(min_length=1, description="the critique request")
    revision: str = Field(min_length=1, description="the revision request")
    aspects: tuple[Aspect, ...] = Field(min_length=1, description="what it is about")


class Comparison(Config):
    """A principle by which two answers are compared."""

    id: str = Field(min_length=1, description="a short name, unique in the file; stored with every comparison")
    principle: str = Field(min_length=1, description="a question whose answer is (A) or (B)")
    aspects: tuple[Aspect, ...] = Field(min_length=1, description="what it is about")


class RevisionExample(Config):
    """One whole round of critique and revision, to be imitated."""

    prompt: str = Field(min_length=1)
    answer: str = Field(min_length=1)
    principle: str = Field(min_length=1, description="the id of the critique principle it is an example of")
    critique: str = Field(min_length=1)
    revision: str = Field(min_length=1)


class ComparisonExample(Config):
    """One comparison with its right answer."""

    prompt: str = Field(min_length=1)
    a: str = Field(min_length=1)
    b: str = Field(min_length=1)
    principle: str = Field(min_length=1, description="the id of the comparison principle it is an example of")
    reason: str = Field(min_length=1, description="for chains of thought")
    better: Literal["A", "B"]


class Templates(Config):
    """How a request is put to the model. Every placeholder of a template must stand in it, and no other may."""

    critique: str = Field(description="asks for a critique: {conversation} {answer} {request}")
    revision: str = Field(description="asks for a revision: {conversation} {answer} {critique} {request}")
    comparison: str = Field(description="asks which answer is better: {conversation} {principle} {a} {b}")


PLACEHOLDERS: Mapping[str, tuple[str, ...]] = {
    "critique": ("conversation", "answer", "request"),
    "revision": ("conversation", "answer", "critique", "request"),
    "comparison": ("conversation", "principle", "a", "b"),
}


class Constitution(Config):
    """A constitution, as it stands in its file."""

    name: str = Field(min_length=1)
    version: str = Field(min_length=1, description="say a new one whenever the text changes")
    critiques: tuple[Critique, ...] = Field(min_length=1)
    comparisons: tuple[Comparison, ...] = Field(min_length=1)
    revision_examples: tuple[RevisionExample, ...] = ()
    comparison_examples: tuple[ComparisonExample, ...] = ()
    templates: Templates

    @field_validator("version", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        """1 and 1.0 are versions too, though YAML reads them as numbers."""
        return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value

    @classmethod
    def load(cls, source: str | Path = DEFAULT) -> Self:
        """The constitution in the file `source`, or the one that comes with the package ("default").

        Raises MannersError, one line that names the field, the id or the placeholder, for a file that is not as it should be.
        """
        if str(source) != DEFAULT:
            return cls._read(Path(source))
        with resources.as_file(resources.files("manners.constitution") / "default.yaml") as path:
            return cls._read(path)

    @classmethod
    def _read(cls, path: Path) -> Self:
        try:
            found = load_config(cls, path)
        except MannersError as error:  # without the value at fault: that of a missing field is the whole file
            raise MannersError(str(error).partition(" (got ")[0]) from None
        problem = _problem(found)
        if problem:
            raise MannersError(f"constitution {path}: {problem}")
        return found

    @property
    def hash(self) -> str:
        """The content hash: equal for equal constitutions, wherever their files lie and however they are laid out."""
        return content_hash("constitution", self.model_dump(mode="json"))

    def critique_of(self, principle: str) -> Critique:
        """The critique principle with this id. Raises KeyError."""
        return {c.id: c for c in self.critiques}[principle]

    def comparison_of(self, principle: str) -> Comparison:
        """The comparison principle with this id. Raises KeyError."""
        return {c.id: c for c in self.comparisons}[principle]

    @property
    def texts(self) -> dict[str, str]:
        """Every text of the principles by its place in the file: "critiques.ID.critique" and so on."""
        found = {f"critiques.{c.id}.critique": c.critique for c in self.critiques}
        found |= {f"critiques.{c.id}.revision": c.revision for c in self.critiques}
        return found | {f"comparisons.{c.id}.principle": c.principle for c in self.comparisons}


def conversation_text(prompt: Prompt) -> str:
    """The whole conversation as text, a line of "Human: …", "Assistant: …" or "System: …" for each turn."""
    return "\n".join(f"{_NAMES[message.role]}: {message.content.strip()}" for message in prompt.messages)


def placeholders_in(template: str) -> list[str]:
    """The placeholders of a template. Raises ValueError for a brace that stands alone."""
    return [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]


def _problem(constitution: Constitution) -> str:
    """What is wrong with a constitution whose fields are all there; empty where nothing is."""
    return (
        _named_twice("critiques", [c.id for c in constitution.critiques])
        or _named_twice("comparisons", [c.id for c in constitution.comparisons])
        or _wrong_template(constitution.templates)
        or _unfilled(constitution.texts)
        or _unknown_example(constitution)
    )


def _named_twice(where: str, ids: Sequence[str]) -> str:
    twice = [name for name, count in Counter(ids).items() if count > 1]
    return f"{where} has the id {twice[0]!r} twice; give each principle an id of its own" if twice else ""


def _wrong_template(templates: Templates) -> str:
    for name, wanted in PLACEHOLDERS.items():
        template = str(templates.model_dump()[name])
        try:
            found = placeholders_in(template)
        except ValueError as error:
            return f"templates.{name} has a brace that stands alone ({error}); write {{{{ or }}}} for a brace itself"
        known = ", ".join(f"{{{w}}}" for w in wanted)
        if unknown := [f for f in found if f not in wanted]:
            return f"templates.{name} has the unknown placeholder {{{unknown[0]}}}; it may have {known}"
        if missing := [w for w in wanted if w not in found]:
            return f"templates.{name} lacks the placeholder {{{missing[0]}}}; it needs {known}"
    return ""


def _unfilled(texts: Mapping[str, str]) -> str:
    """A principle is put into a template as it is: a brace in it is a placeholder that nobody will fill."""
    for where, text in texts.items():
        if "{" in text or "}" in text:
            return f"{where} has a placeholder that nothing fills: {text.strip()[:60]!r}; write it out"
        if not text.strip():
            return f"{where} is empty; write a sentence"
    return ""


def _unknown_example(constitution: Constitution) -> str:
    known = {
        "revision_examples": {c.id for c in constitution.critiques},
        "comparison_examples": {c.id for c in constitution.comparisons},
    }
    for where, named in (
        ("revision_examples", [e.principle for e in constitution.revision_examples]),
        ("comparison_examples", [e.principle for e in constitution.comparison_examples]),
    ):
        for place, principle in enumerate(named):
            if principle not in known[where]:
                return f"{where}.{place} names the principle {principle!r}, which is not there; name one that is"
    return ""
