from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse.csgraph import shortest_path
from tiny import shake, tiny_model, tiny_tokenizer
from torch import Tensor

from manners.errors import MannersError
from manners.feedback.answers import Answered, read_answers
from manners.learner.offline import QLearner
from manners.models.heads import heads_of
from manners.models.packing import pack_rows
from manners.models.shaping import QShaping, load_q_values, shape_of
from manners.models.trunk import Trunk
from manners.records import Completion, Prompt
from manners.rewards.load import FunctionJudge, ScorerConfig, TextScorer
from manners.runs import Run
from manners.sampling.local import LocalSampler
from manners.train import ilql
from manners.train.ilql import ILQLConfig, Scorers, ilql_objective, train_ilql

torch.set_num_threads(1)

LETTERS = "abcdef"
TINY: dict[str, Any] = {
    "train_layers": 2, "rank": 4, "alpha": 8, "batch": 2, "epochs": 2, "learning_rate": 1e-2, "head_learning_rate": 1e-2,
    "max_tokens": 8, "save_every": 1,
}  # fmt: skip
NOBODY = Scorers(None, None)


def trunk_of(letters: str = LETTERS, layers: int = 2) -> Trunk:
    tokenizer = tiny_tokenizer(letters)
    return Trunk(tiny_model(vocabulary=len(tokenizer), seed=1, layers=layers), tokenizer, 2, name="tiny")


def answered(prompt: str, *answers: tuple[str, Any], finished: bool = True) -> Answered:
    asked = Prompt.of(prompt)
    texts = tuple(Completion(asked.id, text, finished) for text, _ in answers)
    return Answered(asked, texts, tuple(reward for _, reward in answers))


DATA = [
    answered("a", ("bad", 1.0), ("c", -1.0), ("fade", 0.5)),
    answered("b", ("face", 0.0), ("ef", 2.0)),
    answered("cab", ("d", -0.5)),
    answered("fed", ("abcdef", 1.5), ("a", -1.0)),
]


def start(folder: Path, config: ILQLConfig) -> Run:
    return Run.create(folder, "ilql", config, {})


def learn(
    folder: Path,
    data: Sequence[Answered] = DATA,
    heldout: Sequence[Prompt] = (),
    scorers: Scorers = NOBODY,
    **fields: Any,
) -> tuple[Run, Trunk]:
    config = ILQLConfig(**TINY | fields)
    run = start(folder, config)
    return run, train_ilql(config, data, heldout, run, trunk_of(), scorers)


def learner_on(trunk: Trunk, **fields: Any) -> QLearner:
    learner = ilql.make_learner(ILQLConfig(**TINY | fields), trunk)
    shake(trunk, "policy", std=0.2)
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for parameter in learner.q_values.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return learner


# --- what it sees ---------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_what_is_seen_of_packed_answers_is_what_each_alone_says() -> None:
    trunk = trunk_of()
    learner = learner_on(trunk)
    rows = [([1, 2, 3], [[5, 6, 0], [7, 0]]), ([2, 4], [[6, 7, 8, 9, 0]]), ([3], [[5], [6, 0], [7, 7, 7]])]
    packed = pack_rows(rows)
    seen = learner.see(packed, trunk.states(packed), partitions=True)
    assert seen.mask.sum(-1).tolist() == [3, 2, 0, 5, 0, 0, 1, 2, 3]
    for row, (prompt, responses) in enumerate(rows):
        for k, response in enumerate(responses):
            tokens = torch.tensor([prompt + response])
            with trunk.adapters.using("policy"):
                hidden = trunk.hidden(trunk.states(tokens))[0, len(prompt) - 1 : -1]
            own, chosen = (3 * row + k, slice(0, len(response))), torch.tensor(response)
            place = torch.arange(len(response))
            weight = trunk.head_weight
            close(seen.logps[own], torch.log_softmax(hidden @ weight.T, -1)[place, chosen])
            for number, head in enumerate(heads_of(learner.q_values.q)):
                everything = head.all(hidden, weight)
                close(seen.q[number][own], everything[place, chosen])
                close(seen.partitions[number][own], everything.logsumexp(-1))
            targets = torch.stack(
                [head.all(hidden, weight)[place, chosen] for head in heads_of(learner.q_values.targets)]
            )
            close(seen.targets[own], targets.amin(0))
            close(seen.values[own], learner.q_values.value(hidden))
    assert not seen.logps[~seen.mask].any()


def close(got: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


# --- the losses of a step -------------------------------------------------------------------------------------------


def test_the_first_step_by_hand(tmp_path: Path) -> None:
    # before the first update all Q and V are 0, so that only the reward on the last token is missed, once by each head
    fields = {"batch": 4, "epochs": 1, "gamma": 0.9, "conservative_weight": 0.3, "cloning_weight": 2.0}
    (row,) = learn(tmp_path / "run", **fields)[0].metrics()
    rewards = [r for one in DATA for r in one.rewards]
    trunk = trunk_of()
    logps: list[float] = []
    for one in DATA:
        for completion in one.completions:
            text = f"<|user|>{one.prompt.text}<|end|><|assistant|>"
            start, whole = (trunk.tokenizer(t)["input_ids"] for t in (text, f"{text}{completion.text}<|end|>"))
            with torch.no_grad():
                said = torch.log_softmax(trunk.model(torch.tensor([whole])).logits[0], -1)
            logps += [float(said[t - 1, whole[t]]) for t in range(len(start), len(whole))]
    tokens, vocabulary = sum(len(c.text) + 1 for one in DATA for c in one.completions), len(trunk.tokenizer)
    assert len(logps) == tokens
    td = 2 * sum(r * r for r in rewards) / tokens
    assert row["td_loss"] == pytest.approx(td, rel=1e-5)
    assert row["conservative_loss"] == pytest.approx(2 * math.log(vocabulary), rel=1e-5)
    assert row["cloning_loss"] == pytest.approx(-sum(logps) / tokens, rel=1e-4)
    assert (row["value_loss"], row["q"], row["value"], row["advantage"]) == (0, 0, 0, 0)
    assert row["loss"] == pytest.approx(td + 0.3 * 2 * math.log(vocabulary) - 2.0 * sum(logps) / tokens, rel=1e-4)


def seen_of(values: list[list[float]], lengths: list[int], targets: list[list[float]] | None = None) -> ilql.Seen:
    v = torch.tensor(values)
    mask = torch.arange(v.shape[1])[None] < torch.tensor(lengths)[:, None]
    zeros = torch.zeros_like(v)
    return ilql.Seen(mask, zeros, torch.stack([zeros, zeros]), torch.stack([zeros, zeros]),
                     zeros if targets is None else torch.tensor(targets), v)  # fmt: skip


def test_behind_the_last_token_there_is_nothing_more_to_come() -> None:
    seen = seen_of([[5.0, 7.0, 9.0], [5.0, 7.0, 1e6]], lengths=[3, 2])
    rewards = torch.tensor([[0.0, 0.0, 2.0], [0.5, -1.0, 0.0]])
    found = ilql_objective(seen, rewards, ILQLConfig(gamma=0.5))
    # Q is 0, so that the loss of both heads is twice the square of r + γ V(next)
    assert found.parts["td_loss"].tolist() == [
        [2 * 3.5**2, 2 * 4.5**2, 2 * 2.0**2],
        [2 * (0.5 + 3.5) ** 2, 2 * 1.0, 0.0],
    ]


@pytest.mark.parametrize("tau", [0.5, 0.9])
def test_the_value_goes_to_the_lesser_target_q(tau: float) -> None:
    seen = seen_of([[1.0, 1.0]], [2], targets=[[3.0, 0.0]])
    found = ilql_objective(seen, torch.zeros(1, 2), ILQLConfig(tau=tau))
    assert found.parts["value_loss"].tolist() == [pytest.approx([4 * tau, 1 - tau])]
    assert found.statistics["advantage"].tolist() == [[2.0, -1.0]]


def test_better_tokens_are_cloned_more() -> None:
    seen = replace_logps(seen_of([[0.0, 0.0]], [2], targets=[[1.0, -1.0]]), [[-2.0, -2.0]])
    found = ilql_objective(seen, torch.zeros(1, 2), ILQLConfig(cloning_beta=math.log(3)))
    assert found.parts["cloning_loss"].tolist() == [pytest.approx([6.0, 2 / 3])]


def test_with_what_answers_earned_the_answers_that_earned_more_are_cloned_more() -> None:
    seen = replace_logps(seen_of([[0.0, 0.0], [0.5, 0.5]], [2, 2], targets=[[9.0, 9.0], [9.0, 9.0]]), [[-2.0] * 2] * 2)
    config = ILQLConfig(cloning_beta=math.log(4), cloning_advantage="target", lam=1.0, gamma=1.0, cloning_cap=3.0)
    found = ilql_objective(seen, torch.tensor([[0.0, -0.5], [0.0, 1.5]]), config)
    # earned −0.5 above a value of 0: 4^(−1/2); 1.5 above one of 0.5: 4, but the cap is 3
    assert found.parts["cloning_loss"].tolist() == [pytest.approx([1.0, 1.0]), pytest.approx([6.0, 6.0])]


def replace_logps(seen: ilql.Seen, logps: list[list[float]]) -> ilql.Seen:
    return seen._replace(logps=torch.tensor(logps))


def test_micro_batches_change_nothing_but_rounding(tmp_path: Path) -> None:
    found = [
        learn(tmp_path / str(size), micro_tokens=size, epochs=3, learning_rate=1e-3)[0].metrics()[:-1]
        for size in (1, 10_000)
    ]
    for one, other in zip(*found, strict=True):
        assert one == pytest.approx(other, rel=1e-2, abs=1e-3)


# --- targets, rewards, choices --------------------------------------------------------------------------------------


def heads_left_by(run: Run, trunk: Trunk) -> tuple[list[Tensor], list[Tensor]]:
    values = load_q_values(run.checkpoint("final"), trunk)
    return list(values.q.parameters()), list(values.targets.parameters())


def test_targets_move_every_so_many_steps_by_so_much(tmp_path: Path) -> None:
    never = heads_left_by(*learn(tmp_path / "never", target_every=100, target_rate=1.0))
    fresh = list(QLearner(trunk_of(), rank=1, alpha=1, beta=1, micro_tokens=1, seed=0).q_values.targets.parameters())
    assert all(torch.equal(a, b) for a, b in zip(never[1], fresh, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(*never, strict=True))
    always = heads_left_by(*learn(tmp_path / "always", target_every=1, target_rate=1.0))
    assert all(torch.equal(a, b) for a, b in zip(*always, strict=True))
    # four steps: with every third, the targets stand where the heads stood before the last step
    config = {"target_every": 3, "target_rate": 0.5}
    third, q = heads_left_by(*learn(tmp_path / "third", **config))[1], []

    run = start(tmp_path / "cut", ILQLConfig(**TINY | config))
    saved = ilql.save_progress

    def cut(run: Run, progress: Any, learner: QLearner) -> None:
        if progress.step == 3:
            q.extend(p.detach().clone() for p in learner.q_values.q.parameters())
            raise KeyboardInterrupt
        saved(run, progress, learner)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ilql, "save_progress", cut)
        with pytest.raises(KeyboardInterrupt):
            train_ilql(ILQLConfig(**TINY | config), DATA, [], run, trunk_of(), NOBODY)
    for before, own, now in zip(fresh, q, third, strict=True):
        torch.testing.assert_close(now, 0.5 * before + 0.5 * own)


def vowels(_: list[str], completions: list[str]) -> list[float]:
    return [float(sum(text.count(v) for v in "ae")) for text in completions]


VOWELS = TextScorer(FunctionJudge(vowels))


def test_a_judge_says_what_answers_earned_and_it_is_written_down(tmp_path: Path) -> None:
    run, _ = learn(tmp_path / "run", scorers=Scorers(VOWELS, None))
    (bad, c, fade), (face, ef), (d,), (all_six, a) = (one.rewards for one in read_answers(run.path / "answers.jsonl"))
    assert [bad, c, fade, face, ef, d, all_six, a] == [1, 0, 2, 2, 1, 0, 2, 1]


def test_the_model_s_own_answers_are_added_and_judged(tmp_path: Path) -> None:
    judge = ScorerConfig(function="test_ilql:vowels")
    run, _ = learn(tmp_path / "run", scorers=Scorers(VOWELS, None), own_answers=3, reward=judge)
    rows = read_answers(run.path / "answers.jsonl")
    assert [one.prompt for one in rows] == [one.prompt for one in DATA]
    for one, before in zip(rows, DATA, strict=True):
        assert one.completions[: len(before.completions)] == before.completions
        assert len(one.completions) == len(before.completions) + 3
        assert one.rewards == tuple(vowels([], [c.text for c in one.completions]))
    assert len({c.text for one in rows for c in one.completions[-3:]}) > 6
    with pytest.raises(ValueError, match="name a judge"):
        ILQLConfig(own_answers=1)


def test_without_the_judged_answers_it_learns_from_its_own_alone(tmp_path: Path) -> None:
    judge = ScorerConfig(function="test_ilql:vowels")
    own = {"own_answers": 3, "judged_answers": False}
    run, _ = learn(tmp_path / "run", scorers=Scorers(VOWELS, None), reward=judge, **own)
    rows = read_answers(run.path / "answers.jsonl")
    assert {one.prompt for one in rows} == {one.prompt for one in DATA}
    given = {c.id for one in DATA for c in one.completions}
    assert [len(one.completions) for one in rows] == [3] * len(DATA)
    assert not given & {c.id for one in rows for c in one.completions}
    with pytest.raises(ValueError, match="nothing to learn from"):
        ILQLConfig(judged_answers=False)


def test_centred_it_does_not_matter_what_all_answers_to_a_prompt_earned_alike(tmp_path: Path) -> None:
    raised = [replace(one, rewards=tuple(r + 4.0 * i for r in one.rewards)) for i, one in enumerate(DATA)]

    def adapter(name: str, data: Sequence[Answered], centre: bool) -> Tensor:
        _, trunk = learn(tmp_path / name, data, centre_rewards=centre, cloning_beta=1.0, cloning_advantage="target")
        return torch.cat([p.detach().flatten() for p in trunk.adapters.parameters("policy")])

    one, other = (adapter(name, data, True) for name, data in (("a", DATA), ("b", raised)))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert (adapter("c", DATA, False) - adapter("d", raised, False)).abs().max() > 1e-2


def test_without_rewards_and_judge_there_is_nothing_to_learn(tmp_path: Path) -> None:
    with pytest.raises(MannersError, match="without rewards and nobody to judge them"):
        learn(tmp_path / "run", [replace(DATA[0], rewards=())])


def test_the_best_look_is_kept_and_sampled_as_the_policy_is(tmp_path: Path) -> None:
    run, trunk = learn(
        tmp_path / "run", heldout=[Prompt.of(x) for x in "abcd"], scorers=Scorers(VOWELS, VOWELS), evaluate_prompts=3,
        evaluate_samples=2, evaluate_every=1, epochs=3, beta=2.0,
    )  # fmt: skip
    looks = [row for row in run.metrics() if "heldout_reward" in row]
    assert len(looks) == 6
    best = max(range(6), key=lambda i: looks[i]["heldout_reward"])
    assert [row["best"] for row in looks] == [
        all(looks[i]["heldout_reward"] > looks[j]["heldout_reward"] for j in range(i)) for i in range(6)
    ]
    assert looks[best]["best"]
    assert all(row["heldout_second_judge"] == row["heldout_reward"] for row in looks)
    sampler = LocalSampler(trunk, "policy", shape=shape_of(str(run.checkpoint("final")), trunk))
    rollouts = sampler.sample([Prompt.of(x) for x in "aabbcc"], max_tokens=8, temperature=1.0, seed=7919)
    assert looks[-1]["heldout_reward"] == pytest.approx(float(VOWELS.score(rollouts).mean()))
    assert looks[-1]["heldout_kl"] != 0


class Told:
    """A judge that says of each look what it is told; of answers to be learned from, nothing good or bad."""

    def __init__(self, looks: list[float]) -> None:
        self.looks = looks

    def score(self, rollouts: Any) -> Tensor:
        heldout = rollouts.trunk is not None
        return torch.full((len(rollouts),), self.looks.pop(0) if heldout else 0.0)


def test_a_look_that_is_no_better_than_the_best_is_not_kept(tmp_path: Path) -> None:
    judge, kept = Told([2.0, 1.0, 3.0, 3.0]), []
    with pytest.MonkeyPatch.context() as patch:
        save = QLearner.save
        patch.setattr(QLearner, "save", lambda self, path: (kept.append(path.name), save(self, path)))
        run, _ = learn(
            tmp_path / "run",
            heldout=[Prompt.of("x")],
            scorers=Scorers(judge, None),
            evaluate_prompts=1,
            evaluate_every=1,
        )
    assert [row["best"] for row in run.metrics()] == [True, False, True, False]
    assert kept == ["best", "best", "final"]
    assert len(run.samples()) == 4


# --- to the bit -----------------------------------------------------------------------------------------------------


def left_by(run: Run) -> dict[str, bytes]:
    files = [run.path / "metrics.jsonl", run.path / "answers.jsonl", *run.path.glob("checkpoints/**/*")]
    return {str(p.relative_to(run.path)): p.read_bytes() for p in files if p.is_file()}


def moody(_: list[str], completions: list[str]) -> list[float]:
    """A judge that never says the same twice."""
    return [text.count("a") + float(torch.rand(())) for text in completions]


@pytest.mark.parametrize("save_every", [1, 3])
def test_a_run_that_was_killed_goes_on_to_the_bit(tmp_path: Path, save_every: int) -> None:
    judge = TextScorer(FunctionJudge(moody))
    config = ILQLConfig(
        **TINY | {"save_every": save_every, "evaluate_every": 2, "evaluate_prompts": 2, "target_every": 2, "epochs": 3}
    )
    held = [Prompt.of("x"), Prompt.of("y")]

    def live(run: Run) -> None:
        torch.rand(3)  # something else went on in between
        train_ilql(config, DATA, held, run, trunk_of(), Scorers(judge, None), state=run.resume())

    whole = start(tmp_path / "whole", config)
    live(whole)
    assert len(whole.metrics()) == 6
    for death in range(1, 8):
        run = start(tmp_path / f"killed {death}", config)
        left = death

        def dying(self: QLearner, loss: float, step: Any = QLearner.step) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
            return step(self, loss)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(QLearner, "step", dying)
            if death <= 6:
                with pytest.raises(KeyboardInterrupt):
                    live(run)
                live(run)
            else:
                live(run)
                live(run)  # through already
        found, expected = left_by(run), left_by(whole)
        assert sorted(found) == sorted(expected)
        assert [name for name in expected if found[name] != expected[name]] == []


def test_a_budget_of_seconds_ends_the_run_behind_a_whole_step(tmp_path: Path) -> None:
    run, _ = learn(tmp_path / "run", max_seconds=1e-9, save_every=100)
    (row,) = run.metrics()
    assert row["stopped"] == "time"
    assert run.checkpoint("final").is_dir()
    before = left_by(run)
    config = ILQLConfig(**TINY | {"max_seconds": 1e-9})
    train_ilql(config, DATA, [], run, trunk_of(), NOBODY, state=run.resume())
    assert left_by(run) == before


def test_a_run_that_is_given_more_epochs_goes_on(tmp_path: Path) -> None:
    run, _ = learn(tmp_path / "run")
    assert [row.get("stopped") for row in run.metrics()] == [None, None, None, "steps"]
    train_ilql(ILQLConfig(**TINY | {"epochs": 3}), DATA, [], run, trunk_of(), NOBODY, state=run.resume())
    assert [row["epoch"] for row in run.metrics()] == [0, 0, 1, 1, 2, 2]


# --- a random-walk world --------------------------------------------------------------------------------------------

# one walks from letter to letter along edges, until f, where the answer ends; each step costs 1
EDGES = {"a": "bc", "b": "ad", "c": "ade", "d": "be", "e": "cf", "f": ""}


def walk_from(start: str, rng: np.random.Generator) -> str:
    while True:
        walk = start
        while walk[-1] != "f" and len(walk) < 12:
            walk += str(rng.choice(list(EDGES[walk[-1]])))
        if walk[-1] == "f":
            return walk[1:]


def distances() -> dict[str, float]:
    graph = np.array([[float(b in EDGES[a]) for b in LETTERS] for a in LETTERS])
    return dict(zip(LETTERS, shortest_path(graph, unweighted=True)[:, 5], strict=True))


def walked(start: str, answer: str) -> float:
    """Steps of an answer; one that takes a step that does not exist, or does not arrive, counts as 15."""
    whole = start + answer
    legal = all(b in EDGES[a] for a, b in itertools.pairwise(whole))
    return float(len(answer)) if legal and whole[-1] == "f" else 15.0


def test_from_walks_of_a_drunkard_the_policy_learns_the_shortest_way(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    data = []
    for place in range(60):
        start_at = "abcde"[place % 5]
        walk = walk_from(start_at, rng)
        data.append(answered(start_at, (walk, (*[-1.0] * len(walk), 0.0))))
    run, trunk = learn(
        tmp_path / "run", data, epochs=250, batch=5, rank=16, alpha=64, train_layers=2, learning_rate=5e-3, head_learning_rate=3e-2,
        gamma=1.0, tau=0.9, target_rate=0.2, conservative_weight=0.3, save_every=1000,
    )  # fmt: skip
    values = load_q_values(run.checkpoint("final"), trunk)
    prompts = [Prompt.of(letter) for letter in "abcde" for _ in range(20)]
    steps = []
    for beta in (0.0, 1.0, 8.0):
        sampler = LocalSampler(trunk, "policy", batch=100, shape=QShaping(values, trunk.head_weight, beta))
        rollouts = sampler.sample(prompts, max_tokens=14, temperature=1.0, seed=1)
        pairs = zip(prompts, rollouts.completions, strict=True)
        steps.append(np.mean([walked(prompt.text, completion.text) for prompt, completion in pairs]))
    shortest = np.mean([distances()[letter] for letter in "abcde"])
    drunkard = np.mean([len(one.completions[0].text) for one in data])
    assert steps == sorted(steps, reverse=True)
    assert drunkard > 2 * shortest
    assert steps[-1] < shortest + 0.3
