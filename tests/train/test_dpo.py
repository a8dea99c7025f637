from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_model, tiny_tokenizer, tiny_trunk
from toy_judgements import ranked, toy_pairs

from manners.errors import MannersError
from manners.feedback.thumbs import Thumb
from manners.guards import Guard
from manners.learner.direct import DirectLearner
from manners.learner.local import POLICY
from manners.models.adapters import read_tensors
from manners.models.trunk import Trunk
from manners.records import Completion, Pair, Prompt
from manners.rewards.direct import Answers, Material
from manners.rewards.load import FunctionJudge, TextScorer
from manners.runs import Run, read_json, read_jsonl
from manners.train import dpo
from manners.train.dpo import DPOConfig, train_dpo, train_online_dpo

torch.set_num_threads(1)

TRAIN, HELD = toy_pairs(24, 0), toy_pairs(12, 1)
FIELDS: dict[str, Any] = {
    "rank": 4, "alpha": 8, "learning_rate": 1e-2, "train_layers": 2, "batch": 4, "epochs": 3, "evaluate_every": 6,
    "log_rollouts": 2, "sample_tokens": 4, "evaluate_prompts": 4,
}  # fmt: skip
LETTERS = "abcdef"
ASKED = [Prompt.of(first + second) for first in LETTERS for second in LETTERS]
ONLINE: dict[str, Any] = {
    "online": True,
    "steps": 4,
    "guards": (),
    "evaluate_every": 2,
    "save_every": 1,
    "train_layers": 1,
}
LOSSES: dict[str, dict[str, Any]] = {
    "dpo": {}, "robust": {"label_smoothing": 0.1}, "ipo": {}, "hinge": {}, "simpo": {"beta": 2.0}, "orpo": {}, "kto": {},
    "apo_zero": {}, "apo_down": {},
}  # fmt: skip


def learn(folder: Path, judged: Any = TRAIN, held: Any = HELD, **fields: Any) -> tuple[dict[str, Any], Run, Trunk]:
    config = DPOConfig(**FIELDS | fields)
    run = Run.create(folder, "dpo", config, {})
    trunk = tiny_trunk(train_layers=config.train_layers)
    return train_dpo(config, judged, held, run, trunk), run, trunk


def spelling_trunk(train_layers: Any = 1) -> Trunk:
    tokenizer = tiny_tokenizer(LETTERS)
    return Trunk(tiny_model(vocabulary=len(tokenizer), seed=1, layers=2), tokenizer, train_layers, name="tiny")


def count_a(_: list[str], completions: list[str]) -> list[float]:
    return [float(text.count("a")) for text in completions]


def ask_and_learn(folder: Path, **fields: Any) -> Run:
    config = DPOConfig(**FIELDS | ONLINE | fields)
    run = Run.create(folder, "dpo", config, {})
    train_online_dpo(config, ASKED[::2], ASKED[1::2], run, spelling_trunk(), (TextScorer(FunctionJudge(count_a)), None))
    return run


# --- offline --------------------------------------------------------------------------------------------------------


def test_at_the_first_step_the_policy_is_the_reference_and_the_loss_a_coin_toss(tmp_path: Path) -> None:
    _, run, _ = learn(tmp_path / "run", epochs=1)
    first = run.metrics()[0]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert [first[f"rewards/{name}"] for name in ("chosen", "rejected", "margins", "accuracies")] == [0, 0, 0, 0]


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_learns_what_people_preferred(tmp_path: Path, loss: str) -> None:
    evaluation, run, _ = learn(tmp_path / "run", loss=loss, **LOSSES[loss])
    rows = run.metrics()
    looks = [row for row in rows if "heldout_loss" in row]
    assert looks[-1]["heldout_loss"] < looks[0]["heldout_loss"]
    assert looks[-1]["heldout_rewards/margins"] > rows[0]["rewards/margins"] + 0.05
    assert evaluation["preferences"]["accuracy"] == 1
    assert evaluation["preferences"]["ci"] == [1, 1]
    assert (evaluation["preferences"]["n_pairs"], evaluation["preferences"]["n_prompts"]) == (12, 12)


def test_what_a_run_leaves(tmp_path: Path) -> None:
    evaluation, run, trunk = learn(tmp_path / "run")
    rows = run.metrics()
    assert [row["step"] for row in rows] == list(range(18))  # 24 prompts, 4 at a time, 3 times
    assert [row["epoch"] for row in rows] == [n // 6 for n in range(18)]
    always = {
        "step", "epoch", "loss", "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "logps/chosen",
        "logps/rejected", "gradient_norm", "learning_rate", "skipped", "alarms",
    }  # fmt: skip
    assert set(rows[0]) == always
    look = {f"heldout_{name}" for name in always if name.startswith(("loss", "rewards", "logps"))} | {"best"}
    assert set(rows[5]) == always | look
    assert set(rows[17]) == always | look | {"stopped"}
    assert {row["learning_rate"] for row in rows} <= {
        x for x in (row["learning_rate"] for row in rows) if 0 < x <= 1e-2
    }
    assert read_json(run.path / "evaluation.json") == evaluation
    assert read_json(run.checkpoint("final") / "manners.json") == {"role": "policy", "train_layers": 2}
    kept = [row for row in rows if row.get("best")]
    assert min(row["heldout_loss"] for row in rows if "best" in row) == kept[-1]["heldout_loss"]
    best = read_tensors(run.checkpoint("best") / "adapter_model.safetensors")
    for key, tensor in trunk.adapters.state(POLICY).items():
        assert tensor.tolist() == best[key].tolist()  # the policy that is evaluated and given back


def test_the_first_step_is_charged_with_asking_the_reference(tmp_path: Path) -> None:
    _, run, _ = learn(tmp_path / "run", epochs=1)
    phases = [row["phase_seconds"] for row in read_jsonl(run.path / "timings.jsonl")]
    assert [set(row) for row in phases] == [{"reference", "update"}, *[{"update"}] * 4, {"update", "evaluate"}]


def test_evaluation_counts_held_out_pairs_by_hand(tmp_path: Path) -> None:
    held = [pair.swap() if i < 3 else pair for i, pair in enumerate(HELD)]
    evaluation, _, _ = learn(tmp_path / "run", held=held)
    found = evaluation["preferences"]
    assert found["accuracy"] == pytest.approx(9 / 12)
    assert found["ci"][0] < 0.75 < found["ci"][1]


def test_micro_batches_change_nothing_but_rounding(tmp_path: Path) -> None:
    for loss in ("dpo", "kto"):
        rows = [
            learn(tmp_path / f"{loss}-{size}", loss=loss, epochs=2, micro_tokens=size)[1].metrics()
            for size in (1, 4096)
        ]
        for one, other in zip(*rows, strict=True):
            for name in ("loss", "rewards/margins", "logps/chosen", "gradient_norm"):
                assert one[name] == pytest.approx(other[name], rel=2e-3, abs=2e-4)


def test_all_pairs_of_a_prompt_are_learned_together(tmp_path: Path) -> None:
    many = [pair for i in range(8) for pair in ranked(Prompt.of(f"say {i}"), ["please sit", "sit", "never sit"])]
    _, run, _ = learn(tmp_path / "run", many, [], batch=4, epochs=1)
    assert len(run.metrics()) == 2
    assert not run.checkpoint("best").exists()
    assert (run.path / "evaluation.json").read_text().strip() == "{}"


def test_a_fine_tuning_term_keeps_the_chosen_answers_likely(tmp_path: Path) -> None:
    found = [
        learn(tmp_path / str(w), sft_weight=w, loss="apo_down")[1].metrics()[-1]["logps/chosen"] for w in (0.0, 1.0)
    ]
    assert found[1] > found[0] + 1


def test_tied_and_doubted_labels_are_learned_less(tmp_path: Path) -> None:
    doubted = [Pair(p.prompt, p.chosen, p.rejected, probability=0.5) for p in TRAIN]
    margins = [learn(tmp_path / name, pairs)[1].metrics()[-1]["heldout_rewards/margins"]
               for name, pairs in (("sure", TRAIN), ("doubted", doubted))]  # fmt: skip
    assert abs(margins[1]) < 0.1 < margins[0]


def test_kto_learns_from_thumbs_alone(tmp_path: Path) -> None:
    thumbs, held = ([Thumb(p.prompt, c, up) for p in pairs for c, up in ((p.chosen, True), (p.rejected, False))]
                    for pairs in (TRAIN, HELD))  # fmt: skip
    # nobody sees two answers to one prompt
    single = [thumb for i, thumb in enumerate(thumbs) if i % 4 in (0, 3)]
    evaluation, run, _ = learn(tmp_path / "run", single, held, loss="kto")
    last = run.metrics()[-1]
    assert last["heldout_rewards/chosen"] > 0.1 > -0.1 > last["heldout_rewards/rejected"]
    assert last["kl_estimate"] >= 0
    assert "rewards/accuracies" not in last
    assert evaluation["preferences"] == {"n_pairs": 0, "n_prompts": 12}


def test_thumbs_are_for_kto(tmp_path: Path) -> None:
    thumb = Thumb(TRAIN[0].prompt, TRAIN[0].chosen, True)
    with pytest.raises(MannersError, match="thumbs are for kto"):
        learn(tmp_path / "run", [thumb], [])
    with pytest.raises(MannersError, match="no pairs to learn from"):
        learn(tmp_path / "other", [], [])


def test_with_a_judge_held_out_prompts_are_answered_and_the_best_reward_is_kept(tmp_path: Path) -> None:
    _, run, _ = learn(tmp_path / "run", reward={"function": "manners.rewards.rules:distinct_words"})
    rows = [row for row in run.metrics() if "heldout_reward" in row]
    assert [row["step"] for row in rows] == [5, 11, 17]
    best = [row["heldout_reward"] for row in rows if row["best"]]
    assert best == sorted(best)
    assert best[-1] == max(row["heldout_reward"] for row in rows)
    samples = run.samples()
    assert [row["step"] for row in samples] == [5, 5, 11, 11, 17, 17]
    assert samples[0]["prompt"] == HELD[0].prompt.text
    assert {"completion", "reward"} <= set(samples[0])


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"loss": "ipo", "label_smoothing": 0.1}, "label_smoothing belongs"),
        ({"loss": "kto", "margin": 0.1}, "margin belongs"),
        ({"loss": "simpo", "length_normalised": False}, "means over tokens"),
        ({"guards": [{"signal": "kl", "limit": 1, "action": "roll_back"}]}, "do not roll back"),
        ({"loss": "sigmoid"}, "Input should be"),
    ],
)
def test_what_does_not_go_together_is_refused(fields: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        DPOConfig(**fields)


def test_lengths_count_where_the_paper_says_so() -> None:
    own = {loss: DPOConfig(loss=loss, **more).objective.length_normalised for loss, more in LOSSES.items()}
    assert {loss for loss, averaged in own.items() if averaged} == {"ipo", "simpo", "orpo"}
    assert DPOConfig(loss="dpo", length_normalised=True).objective.length_normalised
    assert not DPOConfig(loss="ipo", length_normalised=False).objective.length_normalised


# --- numbers that go wrong ------------------------------------------------------------------------------------------


def poisoned(monkeypatch: pytest.MonkeyPatch, calls: Callable[[int], bool]) -> None:
    """From the n-th training pass on, where `calls` says so, the policy's log-probabilities are no numbers."""
    seen, answers = [0], Material.answers

    def call(self: Material, places: Any, adapter: Any) -> Answers:
        found = answers(self, places, adapter)
        if torch.is_grad_enabled():
            seen[0] += 1
            if calls(seen[0]):
                return found._replace(logps=found.logps * math.nan)
        return found

    monkeypatch.setattr(Material, "answers", call)


def test_a_step_that_is_no_number_is_skipped_and_its_texts_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poisoned(monkeypatch, lambda n: n == 2)
    _, run, _ = learn(tmp_path / "run", epochs=1)
    rows = run.metrics()
    assert [row["skipped"] for row in rows] == [0, 1, 0, 0, 0, 0]
    assert rows[1]["loss"] is None
    kept = [json.loads(line) for line in (run.path / "offending" / "step-000001.jsonl").read_text().splitlines()]
    assert len(kept) == 4
    assert "please" in kept[0]["completions"][0]
    assert rows[-1]["heldout_loss"] < math.log(2)


def test_three_in_a_row_stop_the_run_and_nothing_that_is_no_number_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poisoned(monkeypatch, lambda n: n > 2)
    with pytest.raises(MannersError, match="three times in a row"):
        learn(tmp_path / "run")
    trunk = tiny_trunk(train_layers=2)
    trunk.adapters.add(POLICY, rank=4, alpha=8, seed=0)
    learner = DirectLearner(trunk, dpo._learner(DPOConfig(**FIELDS), trunk, 3).optimiser)
    with torch.no_grad():
        trunk.adapters.parameters(POLICY)[0].fill_(math.inf)
    with pytest.raises(MannersError, match="not a finite number"):
        learner.save(tmp_path / "checkpoint")
    assert not (tmp_path / "checkpoint").exists()


# --- online ---------------------------------------------------------------------------------------------------------


def test_online_it_learns_to_please_its_judge(tmp_path: Path) -> None:
    run = ask_and_learn(
        tmp_path / "run", steps=30, batch=16, evaluate_every=10, evaluate_prompts=18, learning_rate=3e-2
    )
    rows = run.metrics()
    first, last = (sum(row["reward"] for row in part) / len(part) for part in (rows[:5], rows[-5:]))
    assert last > first + 0.5
    looks = [row["heldout_reward"] for row in rows if "heldout_reward" in row]
    assert len(looks) == 3
    assert looks[-1] > first + 0.5
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-4)
    assert rows[-1]["kl"] > 0.1


def test_online_the_better_of_two_answers_is_chosen_and_equals_are_counted(tmp_path: Path) -> None:
    run = ask_and_learn(tmp_path / "run", steps=2, batch=16)
    first = run.metrics()[0]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert 0 < first["tied"] < 16
    assert first["episodes"] == 32
    keys = {"reward", "reward_std", "length", "finished", "distinct_2", "repetition", "reference_logp", "kl"}
    assert keys <= set(first)


def test_online_a_step_without_a_difference_teaches_nothing(tmp_path: Path) -> None:
    config = DPOConfig(**FIELDS | ONLINE | {"steps": 2})
    run = Run.create(tmp_path / "run", "dpo", config, {})
    nobody = TextScorer(FunctionJudge(lambda _, completions: [0.0] * len(completions)))
    trunk = train_online_dpo(config, ASKED, [], run, spelling_trunk(), (nobody, None))
    assert [row["tied"] for row in run.metrics()] == [4, 4]
    fresh = spelling_trunk()
    fresh.adapters.add(POLICY, rank=4, alpha=8, seed=0)
    for one, other in zip(trunk.adapters.parameters(POLICY), fresh.adapters.parameters(POLICY), strict=True):
        assert one.tolist() == other.tolist()


def test_online_an_answer_that_never_ends_can_cost(tmp_path: Path) -> None:
    # every score is the same, so that only the missing end tells two answers apart
    found = {}
    for penalty in (0.0, 1.0):
        config = DPOConfig(
            **FIELDS | ONLINE | {"steps": 1, "batch": 16, "missing_eos_penalty": penalty, "sample_tokens": 6}
        )
        run = Run.create(tmp_path / str(penalty), "dpo", config, {})
        judge = TextScorer(FunctionJudge(lambda _, completions: [0.0] * len(completions)))
        train_online_dpo(config, ASKED, [], run, spelling_trunk(), (judge, None))
        found[penalty] = run.metrics()[0]["tied"]
    assert found[0.0] == 16 > found[1.0]


def test_online_a_guard_stops_the_run(tmp_path: Path) -> None:
    guard = Guard(signal="kl", limit=-100, action="stop")
    run = ask_and_learn(tmp_path / "run", guards=(guard,))
    rows = run.metrics()
    assert [row.get("stopped") for row in rows] == ["guard: kl"]
    assert rows[0]["best"] is False
    assert run.checkpoint("final").exists()


def test_a_prompt_that_is_answered_ends_at_the_last_line_break_that_fits(tmp_path: Path) -> None:
    seen: list[str] = []

    def judge(prompts: list[str], completions: list[str]) -> list[float]:
        seen.extend(prompts)
        return [float(len(text)) for text in completions]

    config = DPOConfig(**FIELDS | ONLINE | {"steps": 1, "evaluate_every": 1, "max_prompt_tokens": 8})
    run = Run.create(tmp_path / "run", "dpo", config, {})
    long = [Prompt.of("ab\ncd" + "ef" * 8), Prompt.of("fe\ncd" + "ab" * 8)]
    train_online_dpo(config, long[:1], long[1:], run, spelling_trunk(), (TextScorer(FunctionJudge(judge)), None))
    assert set(seen) == {"ab", "fe"}


def test_online_needs_a_judge_and_prompts(tmp_path: Path) -> None:
    config = DPOConfig(**FIELDS | ONLINE)
    run = Run.create(tmp_path / "run", "dpo", config, {})
    with pytest.raises(MannersError, match="no judge is named"):
        train_online_dpo(config, ASKED, [], run, spelling_trunk())
    with pytest.raises(MannersError, match="no prompts"):
        train_online_dpo(config, [], [], run, spelling_trunk())


def test_a_budget_of_seconds_ends_the_run_behind_a_whole_step(tmp_path: Path) -> None:
    _, run, _ = learn(tmp_path / "run", max_seconds=1e-9)
    (row,) = run.metrics()
    assert (row["stopped"], row["best"]) == ("time", True)
    assert run.checkpoint("final").exists()


# --- going on -------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """What a kill is like from within."""


def left_by(run: Run) -> dict[str, bytes]:
    files = [run.path / "metrics.jsonl", run.path / "samples.jsonl", *run.path.glob("checkpoints/**/*")]
    return {str(p.relative_to(run.path)): p.read_bytes() for p in files if p.is_file()}


def offline(run: Run, config: DPOConfig) -> None:
    train_dpo(config, TRAIN, HELD, run, tiny_trunk(train_layers=config.train_layers), state=run.resume())


def online(run: Run, config: DPOConfig) -> None:
    judge = TextScorer(
        FunctionJudge(lambda _, texts: [text.count("a") + 0.1 * float(torch.rand(())) for text in texts])
    )
    train_online_dpo(config, ASKED[::2], ASKED[1::2], run, spelling_trunk(), (judge, None), state=run.resume())


@pytest.mark.parametrize(
    ("live", "fields"),
    [
        (offline, {"epochs": 1, "evaluate_every": 2, "save_every": 1}),
        (offline, {"epochs": 1, "evaluate_every": 2, "save_every": 4, "loss": "kto"}),
        (offline, {"epochs": 1, "evaluate_every": 4, "reward": {"function": "manners.rewards.rules:distinct_words"}}),
        (online, ONLINE | {"steps": 5, "guards": (Guard(signal="kl", limit=-99, patience=3),)}),
    ],
)
def test_killed_anywhere_and_resumed_it_is_the_same_run_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, live: Callable[[Run, DPOConfig], None], fields: dict[str, Any]
) -> None:
    config = DPOConfig(**FIELDS | fields)
    whole = Run.create(tmp_path / "whole", "dpo", config, {})
    live(whole, config)
    run = Run.create(tmp_path / "killed", "dpo", config, {})
    watched = [(DirectLearner, name) for name in ("step", "save", "save_state")] + [(Run, "log"), (Run, "time")]
    at, seen = [0], [0]

    def lurking(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            seen[0] += 1
            if seen[0] == at[0]:
                raise Killed
            return method(*args, **more)

        return call

    for owner, name in watched:
        monkeypatch.setattr(owner, name, lurking(vars(owner)[name]))
    deaths, stood = 0, ""
    while True:
        states = sorted(path.name for path in (run.path / "resume").glob("0*"))
        now = states[-1] if states else ""
        at[0], seen[0], stood = (at[0] + 1 if now == stood else 1 + deaths % 4), 0, now
        try:
            live(run, config)
            break
        except Killed:
            deaths += 1
    assert deaths > 5
    if config.guards and config.online:
        assert [len(row["alarms"]) for row in whole.metrics()] == [0, 0, 1, 0, 0]
    found, wanted = left_by(run), left_by(whole)
    assert sorted(found) == sorted(wanted)
    assert [name for name, content in wanted.items() if found[name] != content] == []
    assert {"metrics.jsonl", "checkpoints/best/adapter_model.safetensors"} <= set(wanted)


def test_a_run_that_is_through_stays_as_it_is(tmp_path: Path) -> None:
    config = DPOConfig(**FIELDS)
    run = Run.create(tmp_path / "run", "dpo", config, {})
    offline(run, config)
    before = left_by(run)
    offline(run, config)
    assert left_by(run) == before


def test_the_same_seed_gives_the_same_run_and_another_seed_another(tmp_path: Path) -> None:
    first, again, other = (
        learn(tmp_path / name, seed=seed, epochs=1)[1] for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert left_by(first) == left_by(again)
    assert left_by(first)["metrics.jsonl"] != left_by(other)["metrics.jsonl"]


def test_long_texts_are_cut_as_they_are_for_a_judge(tmp_path: Path) -> None:
    prompt = Prompt.of("so " * 200)
    pairs = [Pair(prompt, Completion(prompt.id, "yes " * 30), Completion(prompt.id, "no " * 30))]
    _, run, _ = learn(tmp_path / "run", pairs, [], epochs=1, max_tokens=8, max_prompt_tokens=16)
    assert run.metrics()[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert run.metrics()[0]["logps/chosen"] > -8 * 20
