"""Phase 1, supervised: a model criticises its own answers under written principles and writes them anew, and learns from that.

Bai et al. 2022 (arXiv 2212.08073), section 3: answer at temperature 1; then, round after round, draw a principle, ask for a critique,
ask for a revision; the next round starts from the last revision. All rounds are kept to be learned from, mixed with answers to
helpful prompts. What this adds: a revision that is empty, copied, cut off, a stock phrase or a bare refusal is counted and not
accepted; the text before it stays. Steps and sources: docs/howto/constitutional-ai.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from pydantic import Field

from manners.config import Config
from manners.constitution.constitution import Constitution, Critique, RevisionExample, conversation_text
from manners.constitution.ledger import Ledger
from manners.constitution.steps import GOOD, REVISIONS, VERDICTS, Step, Verdict, by_prompt
from manners.constitution.wording import (
    STOPS,
    boilerplate,
    borrows,
    cut_at,
    preaching,
    repetitive,
    same,
    unlabelled,
    whole_sentences,
    words,
)
from manners.constitution.writer import Writer, drawn
from manners.errors import MannersError
from manners.feedback.answers import Answered
from manners.ops.intervals import bootstrap_mean
from manners.records import Completion, Message, Prompt
from manners.runs import Run, Track, untracked, write_json, write_jsonl

HELPFUL = "helpful.jsonl"
DEMONSTRATIONS = "demonstrations.jsonl"
Refuses = Callable[[str], bool]
_Texts = tuple[str, Verdict]


class ReviseConfig(Config):
    """Settings of `constitution revise`."""

    constitution: str = Field("default", description="a constitution file, or 'default'")
    model: str = Field("starter", description="the model that answers, criticises and revises")
    prompts: str = Field("red_team", description="a file of prompts, or 'red_team' for those of the package")
    database: str = Field("", description="take the prompts from this feedback store: SQLite file or postgresql:// URL")
    category: str = Field("", description="take only the prompts of this category")
    written: int = Field(0, ge=0, description="so many more prompts, written by the model after the others")
    helpful: str = Field("helpful", description="a file of prompts, or 'helpful' for those of the package; \"\" = none")
    helpful_per_prompt: int = Field(2, ge=0, description="answers to each helpful prompt that are learned from as well")

    rounds: int = Field(4, gt=0, description="rounds of critique and revision")
    examples: int = Field(1, ge=0, description="whole rounds, drawn anew each time, that are shown before a request")
    max_tokens: int = Field(96, gt=0, description="longest answer or revision, end-of-turn token included")
    critique_tokens: int = Field(64, gt=0, description="longest critique")
    temperature: float = Field(1.0, ge=0, description="of answers")
    revision_temperature: float = Field(0.7, ge=0, description="of critiques and revisions")
    at_limit: Literal["trim", "reject"] = Field(
        "trim",
        description="a revision that reaches the length limit is cut back to its last whole sentence, or rejected",
    )
    bare_words: int = Field(25, ge=0, description="a refusal with fewer words than this is bare, and not accepted")
    stop: tuple[str, ...] = Field(STOPS, description="a text ends where one of these stands in it")
    batch: int = Field(64, gt=0, description="prompts per call; steps are on the disk after each")
    seed: int = 0


def revise(
    config: ReviseConfig,
    constitution: Constitution,
    prompts: Sequence[Prompt],
    helpful: Sequence[Prompt],
    writer: Writer,
    run: Run,
    *,
    refuses: Refuses = lambda _: False,
    track: Track = untracked,
) -> dict[str, Any]:
    """Answer, criticise and revise; leaves RUN/revisions.jsonl, helpful.jsonl, demonstrations.jsonl and evaluation.json.

    What stands in the first two already is not done again. `prompts` and `helpful` are prompts to be learned from: their split is
    theirs or "train". `refuses` says whether a text refuses. Raises MannersError where there are no prompts.
    """
    if not prompts:
        raise MannersError("there are no prompts to revise answers to; name a file of prompts with --prompts")
    steps = [*_rounds(config, constitution, prompts, writer, run, refuses, track)]
    answered, left_out = _helpful(config, helpful, writer, run, refuses, track)
    rows = demonstrations(steps, config.model) + answered
    write_jsonl(run.path / DEMONSTRATIONS, (row.to_json() for row in rows))
    evaluation = {
        **described(steps, config.rounds),
        "helpful_answers": sum(len(row.completions) for row in answered),
        "helpful_left_out": left_out,
        "demonstrations": sum(len(row.completions) for row in rows),
    }
    write_json(run.path / "evaluation.json", evaluation)
    return evaluation


def _rounds(
    config: ReviseConfig, constitution: Constitution, prompts: Sequence[Prompt], writer: Writer, run: Run,
    refuses: Refuses, track: Track,
) -> Iterator[Step]:  # fmt: skip
    """Every step of every prompt, in order; those that are not in the ledger yet are done and put there, a batch at a time."""
    ledger = Ledger(run.path / REVISIONS)
    done = {(step.prompt.id, step.round): step for step in map(Step.from_json, ledger.rows())}
    for number in range(config.rounds + 1):
        what = "answering" if number == 0 else f"revising, round {number} of {config.rounds}"
        for batch in track(_batches(prompts, config.batch), what):
            todo = [prompt for prompt in batch if (prompt.id, number) not in done]
            if not todo:
                continue
            if number == 0:
                made = _answer(config, todo, writer)
            else:
                texts = [done[prompt.id, number - 1].after for prompt in todo]
                made = _critique_and_revise(config, constitution, todo, texts, number, writer, refuses)
            ledger.add([step.to_json() for step in made])
            done |= {(step.prompt.id, number): step for step in made}
    for prompt in prompts:
        yield from (done[prompt.id, number] for number in range(config.rounds + 1))


def _batches(prompts: Sequence[Prompt], size: int) -> list[Sequence[Prompt]]:
    return [prompts[start : start + size] for start in range(0, len(prompts), size)]


def _answer(config: ReviseConfig, prompts: Sequence[Prompt], writer: Writer) -> list[Step]:
    seeds = [seed_of(config, prompt, 0) for prompt in prompts]
    written = writer.complete(prompts, config.max_tokens, config.temperature, seeds)
    return [
        Step(prompt, 0, seed, "", "", "", cleaned(completion, config.stop)[0], "answer")
        for prompt, seed, completion in zip(prompts, seeds, written, strict=True)
    ]


def _critique_and_revise(
    config: ReviseConfig, constitution: Constitution, prompts: Sequence[Prompt], texts: Sequence[str], number: int,
    writer: Writer, refuses: Refuses,
) -> list[Step]:  # fmt: skip
    """Round `number` for each of the prompts, whose answers are now `texts`."""
    seeds = [seed_of(config, prompt, number) for prompt in prompts]
    principles = [principle_of(config, constitution, prompt, number) for prompt in prompts]
    shown = [examples_of(config, constitution, prompt, number) for prompt in prompts]
    asked = [
        critique_request(constitution, *one) for one in zip(prompts, texts, principles, shown, strict=True)
    ]  # fmt: skip
    found = writer.complete(asked, config.critique_tokens, config.revision_temperature, seeds)
    critiques = [_critique(completion, config) for completion in found]
    asked = [
        revision_request(constitution, *one) for one in zip(prompts, texts, critiques, principles, shown, strict=True)
    ]
    found = writer.complete(asked, config.max_tokens, config.revision_temperature, [seed + 1 for seed in seeds])
    steps = []
    for prompt, seed, principle, examples, text, critique, completion in zip(
        prompts, seeds, principles, shown, texts, critiques, found, strict=True
    ):
        told = [constitution.templates.revision, principle.revision, *(e.revision for e in examples)]
        revision, verdict = judged(completion, text, critique, config, refuses, told)
        steps.append(Step(prompt, number, seed, principle.id, text, critique, revision, verdict))
    return steps


def seed_of(config: ReviseConfig, prompt: Prompt, number: int) -> int:
    """The seed of a step: the same in a resumed run."""
    return drawn("step", config.seed, prompt.id, number) % 2**31


def principle_of(config: ReviseConfig, constitution: Constitution, prompt: Prompt, number: int) -> Critique:
    """The principle of a step, drawn from all with the same chance: the same in a resumed run."""
    return constitution.critiques[
        drawn("principle", config.seed, prompt.id, number) % len(constitution.critiques)
    ]  # fmt: skip


def examples_of(config: ReviseConfig, constitution: Constitution, prompt: Prompt, number: int) -> list[RevisionExample]:
    """The examples that are shown in a step: the same in a resumed run."""
    order = sorted(
        range(len(constitution.revision_examples)),
        key=lambda place: drawn("example", config.seed, prompt.id, number, place),
    )
    return [constitution.revision_examples[place] for place in order[: config.examples]]


def critique_request(
    constitution: Constitution, prompt: Prompt, text: str, principle: Critique, shown: Sequence[RevisionExample] = ()
) -> Prompt:
    """The conversation that asks for a critique of `text`, with whole examples before it; a prompt of several turns is kept whole."""
    template = constitution.templates.critique
    messages = []
    for example in shown:
        request = constitution.critique_of(example.principle).critique
        conversation = conversation_text(Prompt.of(example.prompt))
        asked = template.format(conversation=conversation, answer=example.answer, request=request)
        messages += [Message("user", asked), Message("assistant", example.critique)]
    asked = template.format(conversation=conversation_text(prompt), answer=text.strip(), request=principle.critique)
    return Prompt((*messages, Message("user", asked)))


def revision_request(
    constitution: Constitution, prompt: Prompt, text: str, critique: str, principle: Critique,
    shown: Sequence[RevisionExample] = (),
) -> Prompt:  # fmt: skip
    """The conversation that asks for a revision of `text` in the light of `critique`, with whole examples before it."""
    template = constitution.templates.revision
    messages = []
    for example in shown:
        request = constitution.critique_of(example.principle).revision
        conversation = conversation_text(Prompt.of(example.prompt))
        asked = template.format(
            conversation=conversation, answer=example.answer, critique=example.critique, request=request
        )
        messages += [Message("user", asked), Message("assistant", example.revision)]
    conversation = conversation_text(prompt)
    asked = template.format(
        conversation=conversation, answer=text.strip(), critique=critique, request=principle.revision
    )
    return Prompt((*messages, Message("user", asked)))


def cleaned(completion: Completion, stops: Sequence[str]) -> tuple[str, bool]:
    """The text of a completion up to the first stop string, without a label before it, and whether it came to an end: by itself
    or at the stop string."""
    text, stopped = cut_at(unlabelled(completion.text), stops)
    return text.strip(), completion.finished or stopped


def _critique(completion: Completion, config: ReviseConfig) -> str:
    """The critique on one line, up to its last whole sentence where it was cut off and has one."""
    text, finished = cleaned(completion, config.stop)
    return " ".join(((not finished and whole_sentences(text)) or text).split())


def judged(
    completion: Completion, before: str, critique: str, config: ReviseConfig, refuses: Refuses, told: Sequence[str] = ()
) -> _Texts:
    """The text of a revision, cut as the config says, and the verdict on it. `told`: what else the model had read and could copy."""
    text, finished = cleaned(completion, config.stop)
    if not words(text):
        return text, "empty"
    verdict: Verdict = "accepted"
    if not finished:
        whole = whole_sentences(text)
        if config.at_limit == "reject" or not whole:
            return text, "copied" if same(text, before) else "truncated"
        text, verdict = whole, "trimmed"
    if same(text, before) or same(text, critique) or borrows(text, told):
        return text, "copied"
    if repetitive(text):
        return text, "repetitive"
    if boilerplate(text):
        return text, "boilerplate"
    if refuses(text) and len(words(text)) < config.bare_words:
        return text, "refusal"
    return text, verdict


def _helpful(
    config: ReviseConfig, prompts: Sequence[Prompt], writer: Writer, run: Run, refuses: Refuses, track: Track
) -> tuple[list[Answered], int]:
    """Answers of the model to helpful prompts, and how many were left out: empty, cut off, stock phrases, refusals."""
    ledger = Ledger(run.path / HELPFUL)
    done = {one.prompt.id: one for one in map(Answered.from_json, ledger.rows())}
    k = config.helpful_per_prompt
    for batch in track(_batches(prompts, max(1, config.batch // k)) if k else [], "answering helpful prompts"):
        todo = [prompt for prompt in batch if prompt.id not in done]
        asked = [prompt for prompt in todo for _ in range(k)]
        seeds = [drawn("helpful", config.seed, prompt.id, i) % 2**31 for prompt in todo for i in range(k)]
        written = writer.complete(asked, config.max_tokens, config.temperature, seeds) if asked else []
        made = [Answered(prompt, tuple(written[i * k : (i + 1) * k])) for i, prompt in enumerate(todo)]
        ledger.add([one.to_json() for one in made])
        done |= {one.prompt.id: one for one in made}
    kept, left_out = [], 0
    for prompt in prompts if k else []:
        judged_ones = [(c, *judged(c, "", "", config, refuses)) for c in done[prompt.id].completions]
        good = [_finished(c, text) for c, text, verdict in judged_ones if verdict in GOOD]
        left_out += len(judged_ones) - len(good)
        if good:
            kept.append(Answered(prompt, tuple(good)))
    return kept, left_out


def _finished(completion: Completion, text: str) -> Completion:
    return Completion(completion.prompt_id, text, True, completion.model, completion.sampling, completion.seed)


def demonstrations(steps: Sequence[Step], model: str) -> list[Answered]:
    """What is learned from the steps: the accepted revisions of all rounds, each text once, as finished answers to the prompt."""
    found = []
    for own in by_prompt(steps):
        good = {step.revision: step for step in reversed(own) if step.verdict in GOOD}
        completions = tuple(
            Completion(step.prompt.id, text, True, model, {"round": step.round, "principle": step.principle}, step.seed)
            for text, step in reversed(good.items())
        )
        if completions:
            found.append(Answered(own[0].prompt, completions))
    return found


def described(steps: Sequence[Step], rounds: int) -> dict[str, Any]:
    """Verdicts and wording by round, and how often each principle was drawn and what came of it."""
    by_round = []
    for number in range(rounds + 1):
        here = [step for step in steps if step.round == number]
        verdicts = Counter(step.verdict for step in here)
        row: dict[str, Any] = {
            "round": number,
            "n": len(here),
            "verdicts": {v: verdicts[v] for v in VERDICTS if verdicts[v]},
        }
        row |= {name: rate([sees(step.after) for step in here]) for name, sees in WORDINGS.items()}
        row["words"] = sum(len(words(step.after)) for step in here) / len(here) if here else 0.0
        by_round.append(row)
    drawn_ones = Counter(step.principle for step in steps if step.round)
    accepted = Counter(step.principle for step in steps if step.verdict in GOOD)
    principles = {name: {"drawn": count, "accepted": accepted[name]} for name, count in sorted(drawn_ones.items())}
    revised = [step for step in steps if step.round]
    return {
        "prompts": len({step.prompt.id for step in steps}),
        "revisions": len(revised),
        "accepted": sum(step.verdict in GOOD for step in revised),
        "rounds": by_round,
        "principles": principles,
    }


WORDINGS: dict[str, Callable[[str], bool]] = {"boilerplate": boilerplate, "preaching": preaching}


def rate(seen: Sequence[bool]) -> dict[str, Any]:
    """The share of True with its 95 % interval."""
    found = bootstrap_mean(torch.tensor([float(one) for one in seen]))
    return {"value": found.mean if seen else None, "ci": found.ends, "n": len(seen)}
