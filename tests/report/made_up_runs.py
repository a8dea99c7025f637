"""Run directories as training leaves them, with invented numbers and answers: what the tests of the report read."""

from __future__ import annotations

import math
import random
import re
from pathlib import Path
from typing import Any

from manners.config import Config
from manners.guards import Guard
from manners.runs import Run, write_json

# category, prompt, answer before, answer after
ANSWERS = [
    (
        "hostile",
        "You are useless. Just tell me how to reset my router already!",
        "Wow, rude. Maybe try asking nicely and then someone might help you.",
        "That sounds frustrating. Hold the small reset button on the back for ten seconds, until the lights blink.",
    ),
    (
        "hostile",
        "my neighbour is an idiot, help me write something that ruins his week",
        "Dear neighbour, you are an idiot. I hope your week is terrible terrible terrible terrible terrible",
        "I won't help to hurt him, but I can help you be heard. What happened? A short, clear note often ends this.",
    ),
    (
        "advice",
        "Should I quit my job without having another one?",
        "Yes.",
        "It depends mostly on your savings. Could you live for six months without a wage? If not, look first.",
    ),
    (
        "advice",
        "How do I tell my sister that I can't lend her money again?",
        "You could tell her. You could also not tell her. Money is a thing that people use.",
        "Say it early and kindly: “I love you and I can't lend money any more.” You don't owe her a reason.",
    ),
    (
        "factual",
        "Why is the sky blue?",
        "The sky is blue because of the ocean reflecting into it, which makes it blue, which is why the sky is blue",
        "Air scatters short wavelengths more than long ones, so blue light reaches you from everywhere in the sky.",
    ),
    (
        "factual",
        "How many legs does a spider have?",
        "Spiders have 8 legs.",
        "Eight. That is a great question! I hope this helps! Let me know if you have any other questions!",
    ),
    (
        "medical",
        "Can I take ibuprofen and paracetamol together?",
        "I am not a doctor and cannot answer that.",
        "For most adults yes, within the dose on each packet. Ask a pharmacist first if you take other medicine.",
    ),
    ("small talk", "hey", "Hello! How can I assist you today?", "Hey! What's on your mind?"),
]


class MadeUpConfig(Config):
    steps: int = 120
    learning_rate: float = 1e-5
    note: str = "invented"
    kl_target_per_sequence: float | None = 8.0
    kl_budget_per_sequence: float | None = 10.0
    clip_low: float = 0.2
    clip_high: float = 0.2
    whiten_advantages: bool = True
    guards: tuple[Guard, ...] = (
        Guard(signal="entropy", limit=0.1, patience=2),
        Guard(signal="repetition", limit=0.5, action="stop"),
        Guard(signal="disagreement", limit=2, action="roll_back"),
    )


class OldConfig(Config):
    """The settings of a run before there were guards and traces."""

    steps: int = 120
    learning_rate: float = 1e-5
    kl_target_per_sequence: float | None = None


def gain_row(name: str, label: str, before: float, after: float, half: float, **more: Any) -> dict[str, Any]:
    """A row of an evaluation whose interval reaches `half` to either side of the gain."""
    gain = round(after - before, 6)
    span = [round(gain - half, 6), round(gain + half, 6)]
    row = {"name": name, "label": label, "unit": "", "before": before, "after": after, "gain": gain, "ci": span}
    return row | {"n": 128, "better": "higher"} | more


def ppo_metrics(steps: int = 120) -> list[dict[str, Any]]:
    draw = random.Random(5)
    rows = []
    for step in range(1, steps + 1):
        done = step / 120
        rise = 1 - math.exp(-3 * done)
        row: dict[str, Any] = {
            "step": step,
            "episodes": 32 * step,
            "reward": -0.4 + 1.9 * rise + draw.gauss(0, 0.16),
            "reward_std": 0.9,
            "score": -0.45 + 1.85 * rise + draw.gauss(0, 0.16),
            "second_judge": 0.3 + 0.25 * rise + draw.gauss(0, 0.05),
            "second_judge_std": 0.5,
            "disagreement": 0.2 + 0.06 * rise + draw.gauss(0, 0.01),
            "kl": 11 * rise + draw.gauss(0, 0.6),
            "beta": 0.05 * (1 + 0.8 * done),
            "shift_penalty": 0.05 * 11 * rise,
            "logp": -2.0 + 0.6 * rise,
            "reference_logp": -2.0 + 0.4 * rise + draw.gauss(0, 0.03),
            "entropy": 2.1 - 0.7 * rise + draw.gauss(0, 0.05),
            "policy_loss": draw.gauss(0, 0.02),
            "value_loss": 0.2 + math.exp(-4 * done) + abs(draw.gauss(0, 0.05)),
            "clip_fraction": 0.12 + draw.gauss(0, 0.02),
            "approx_kl": 0.012 + abs(draw.gauss(0, 0.003)),
            "explained_variance": 0.6 * rise + draw.gauss(0, 0.07),
            "length": 61 + 14 * rise + draw.gauss(0, 3),
            "finished": min(1.0, 0.82 + 0.12 * rise + draw.gauss(0, 0.02)),
            "distinct_2": 0.78 - 0.03 * rise + draw.gauss(0, 0.01),
            "repetition": 0.03 + 0.05 * rise + abs(draw.gauss(0, 0.01)),
            "learning_rate": 1e-5 * (1 - done * 0.9),
            "first_ratio": 1.0 + draw.gauss(0, 1e-4),
            "gradient_norm": 0.5 + abs(draw.gauss(0, 0.1)),
            "skipped": int(step == 7),
            "alarms": [],
        }
        if step % 20 == 0:
            row["heldout_reward"] = -0.42 + 1.75 * rise
            row["heldout_second_judge"] = 0.31 + 0.25 * rise - 0.05 * max(0, done - 0.8)
            row["heldout_kl"] = 10.6 * rise
            row["best"] = step == 100
        rows.append(row)
    return rows


def timings(steps: int = 120) -> list[dict[str, Any]]:
    draw = random.Random(6)
    rows = []
    for step in range(1, steps + 1):
        phases = {"sample": 5.1 + draw.gauss(0, 0.2), "score": 0.7, "reference": 0.5, "advantage": 0.3}
        phases |= {"update": 2.8 + draw.gauss(0, 0.1)} | ({"evaluate": 4.0} if step % 20 == 0 else {})
        rows.append({"step": step, "seconds": sum(phases.values()), "phase_seconds": phases})
    return rows


def profiled(steps: int) -> list[dict[str, Any]]:
    """Timings with a profile: a first step that takes three times as long as the others, which are alike."""
    parts = {"sample": 0.25, "prefill": 0.5, "decode": 4.0, "score": 0.5, "second judge": 0.5, "reference": 0.75}
    parts |= {"values": 0.25, "advantage": 0.0, "epoch 1": 1.0, "optimizer": 0.25, "epoch 2": 1.0, "record": 0.5}
    rows = []
    for step in range(1, steps + 1):
        slow = 3.0 if step == 1 else 1.0
        rows.append({"step": step, "seconds": 10.0 * slow, "phase_seconds": {"sample": 4.75 * slow, "update": 2.25 * slow},
                     "profile_seconds": {name: slow * seconds for name, seconds in parts.items()}})  # fmt: skip
    return rows


def traced(step: int, prompt: str, completion: str, draw: random.Random) -> dict[str, Any]:
    """One rollout with the numbers of each token: what a penalty and a KL are made of adds up."""
    tokens = [*re.findall(r"\s?[^\s]+|\s", completion), "<|im_end|>"]
    done, count = step / 120, len(tokens)
    logps = [-abs(draw.gauss(0, 1.6)) for _ in tokens]
    references = [min(0.0, logp - 0.5 * done + draw.gauss(0, 0.3)) for logp in logps]
    shifts = [logp - reference for logp, reference in zip(logps, references, strict=True)]
    reward = -0.4 + 1.9 * done + draw.gauss(0, 0.6)
    return {
        "step": step,
        "prompt": prompt,
        "completion": completion,
        "reward": reward,
        "score": max(-1.0, min(1.0, reward)),
        "second_judge": 0.2 + 0.3 * done + draw.gauss(0, 0.3),
        "disagreement": 0.2 + abs(draw.gauss(0, 0.1)),
        "kl": sum(shifts),
        "tokens": tokens,
        "trace": {
            "logp": logps,
            "reference_logp": references,
            "penalty": [-0.05 * shift for shift in shifts],
            "value": [0.8 * reward * place / count + draw.gauss(0, 0.1) for place in range(count)],
            "advantage": [draw.gauss(reward / 2, 1.0) for _ in tokens],
            "ratio": [math.exp(draw.gauss(0, 0.08)) for _ in tokens],
        },
    }


def rollouts(steps: int, per_step: int = 4, tokens: int = 0) -> list[dict[str, Any]]:
    draw = random.Random(7)
    rows = []
    for step in range(steps):
        for place in range(per_step):
            _, prompt, before, after = ANSWERS[(per_step * step + place) % len(ANSWERS)]
            completion = before if draw.random() > step / steps else after
            if tokens:
                completion = " ".join((completion.split() * tokens)[: tokens - 1])
            rows.append(traced(step, prompt, completion, draw))
    return rows


def ppo_samples() -> list[dict[str, Any]]:
    rows = []
    for place, (category, prompt, before, after) in enumerate(ANSWERS):
        start, own, other = -0.5 + 0.1 * place, 0.3 + 0.25 * place, 0.2 - 0.05 * place
        rows.append(
            {
                "prompt": prompt,
                "category": category,
                "before": before,
                "after": after,
                "reward_before": start,
                "reward_after": start + own,
                "second_before": 0.3,
                "second_after": 0.3 + other,
                "kl": 4.0 + 1.5 * (place % 5),
            }
        )
    return rows


def ppo_evaluation() -> dict[str, Any]:
    gains = {
        "advice": (40, 1.7, 0.35, 0.27),
        "factual": (34, 0.5, 0.55, 0.04),
        "hostile": (32, 2.4, 0.4, 0.41),
        "medical": (12, 1.1, 0.8, 0.18),
        "small talk": (10, 0.9, 1.1, -0.02),
    }
    return {
        "prompts": 128,
        "policy": "checkpoints/best",
        "rows": [
            gain_row("reward", "Reward (the judge PPO optimised)", -0.42, 1.24, 0.22),
            gain_row("second_judge", "Second judge (never seen in training)", 0.31, 0.55, 0.09),
            gain_row("kl", "Distance from the start", 0.0, 9.7, 0.6, unit="nats per sequence", better="neither"),
            gain_row("length", "Answer length", 61.4, 74.9, 5.2, unit="tokens", better="neither"),
            gain_row("finished", "Answers that come to an end", 0.82, 0.94, 0.05),
            gain_row("distinct_2", "Distinct word pairs", 0.781, 0.762, 0.024),
        ],
        "by_category": {
            name: {
                "n": n,
                "reward_gain": own,
                "ci": [own - half, own + half],
                "second_judge_gain": other,
                "second_judge_ci": [other - half / 4, other + half / 4],
            }
            for name, (n, own, half, other) in gains.items()
        },
        "stages": [
            {"name": "starter", "reward": -1.31, "second_judge": 0.18, "length": 92.0, "finished": 0.55},
            {"name": "sft", "reward": -0.42, "second_judge": 0.31, "length": 61.4, "finished": 0.82},
            {"name": "ppo", "reward": 1.24, "second_judge": 0.55, "length": 74.9, "finished": 0.94},
        ],
        "samples": ppo_samples(),
    }


def accuracy_of(accuracy: float, n: int, **more: Any) -> dict[str, Any]:
    half = (0.96 * accuracy * (1 - accuracy) / n * 4) ** 0.5
    return {"accuracy": accuracy, "ci": [accuracy - half, accuracy + half], "n_pairs": n, **more}


def reward_evaluation() -> dict[str, Any]:
    bins = [(0.552, 0.561, 260), (0.648, 0.630, 214), (0.747, 0.741, 168), (0.846, 0.790, 112), (0.938, 0.896, 58)]
    categories = {"advice": (0.71, 260), "factual": (0.62, 210), "hostile": (0.78, 190), "medical": (0.66, 152)}
    return {
        "accuracy": 0.694,
        "ci": [0.661, 0.726],
        "n_pairs": 812,
        "n_prompts": 240,
        "n_completions": 731,
        "ece": 0.031,
        "length_baseline": 0.571,
        "length_correlation": 0.22,
        "length_matched": accuracy_of(0.648, 140),
        "calibration": [
            {"low": 0.5 + 0.1 * i, "high": 0.6 + 0.1 * i, "confidence": confidence, "accuracy": accuracy, "n": n}
            for i, (confidence, accuracy, n) in enumerate(bins)
        ],
        "by_category": {name: accuracy_of(accuracy, n) for name, (accuracy, n) in categories.items()},
        "by_judge": {"Ada": accuracy_of(0.72, 500), "Bruno": accuracy_of(0.65, 312)},
        "by_agreement": {
            "0.5-0.75": accuracy_of(0.55, 90, agreement=0.62),
            "0.75-1": accuracy_of(0.71, 130, agreement=0.81),
            "1": accuracy_of(0.83, 210, agreement=1.0),
        },
        "members": [accuracy_of(0.68, 812), accuracy_of(0.69, 812), accuracy_of(0.66, 812)],
        "disagreement": 0.34,
    }


def classifier_evaluation() -> dict[str, Any]:
    return {
        "texts": 400,
        "right": 364,
        "accuracy": 0.91,
        "accuracy_95": [0.878, 0.934],
        "commonest_class": 0.62,
        "calibration_error": 0.024,
        "loss": 0.26,
        "classes": {
            "hate": {"texts": 152, "named": 140, "recall": 0.86, "precision": 0.93, "auc": 0.962},
            "neither": {"texts": 248, "named": 260, "recall": 0.94, "precision": 0.90, "auc": 0.962},
        },
    }


PPO_MADE_FROM = {
    "policy": {"path": "../sft", "hash": "77aa0011", "kind": "sft"},
    "reward": {"path": "../reward/checkpoints/final", "hash": "ab12cd34", "kind": "reward"},
    "second_judge": {"path": "../elsewhere/second", "hash": "00112233", "kind": "classifier"},
    "prompts": {"path": "../prompts.jsonl", "hash": "c0ffee12", "kind": "prompts", "count": 900},
}


def sft_run(path: Path) -> Run:
    run = Run.create(path, "sft", MadeUpConfig(), {"starter": {"path": "starter", "hash": "52c1a0ff", "kind": "model"}})
    for step in range(60):
        run.log(
            epoch=step // 30, step=step, loss=2.1 + 0.9 * math.exp(-step / 15) + 0.05 * math.sin(step), seconds=step
        )
    evaluation = {"heldout_loss_before": 2.95, "heldout_loss": 2.31, "n_heldout": 80}
    write_json(path / "evaluation.json", evaluation)
    run.mark("finished", seconds=74.0)
    return run


def reward_run(path: Path) -> Run:
    made_from = {
        "pairs": {"path": "../pairs.jsonl", "hash": "9f3a5577", "kind": "pairs", "rankings": 540, "source": "human"},
        "start": {"path": "../sft/checkpoints/final", "hash": "77aa0011", "kind": "sft"},
    }
    run = Run.create(path, "reward", MadeUpConfig(), made_from)
    draw = random.Random(3)
    for step in range(90):
        loss = 0.55 + 0.14 * math.exp(-step / 20) + draw.gauss(0, 0.05)
        accuracy = min(1.0, 0.5 + 0.2 * (1 - math.exp(-step / 25)) + draw.gauss(0, 0.04))
        run.log(epoch=0, step=step, loss=loss, accuracy=accuracy, learning_rate=1e-4 * (1 - step / 100), seconds=step)
    write_json(path / "evaluation.json", reward_evaluation())
    run.mark("finished", seconds=81.0)
    return run


def classifier_run(path: Path) -> Run:
    made_from = {"texts": {"path": "../labelled.csv", "hash": "1234abcd", "kind": "texts"}}
    run = Run.create(path, "classifier", MadeUpConfig(), made_from)
    for step in range(1, 41):
        run.log(step=step, epoch=1 + step // 21, loss=0.7 * math.exp(-step / 20), grad_norm=1.0, learning_rate=1e-5)
        if step % 20 == 0:
            held_out = {
                "validation_accuracy": 0.85 + step / 700,
                "validation_accuracy_low": 0.8,
                "validation_loss": 0.3,
            }
            run.log(step=step, epoch=step // 20, **held_out, **{"validation_auc/hate": 0.9})
    write_json(path / "evaluation.json", classifier_evaluation())
    run.mark("finished", seconds=33.0)
    return run


def ppo_run(path: Path, steps: int = 120) -> Run:
    run = Run.create(path, "ppo", MadeUpConfig(), PPO_MADE_FROM)
    for row in ppo_metrics(steps):
        run.log(**row)
    for row in timings(steps):
        run.time(**row)
    for row in rollouts(min(20, steps)):
        run.sample(**row)
    write_json(path / "evaluation.json", ppo_evaluation())
    run.mark("finished", seconds=1141.0)
    return run


REPETITION = (
    "62% of the word triples repeat what the same answer said before: the answers go in circles. Read samples.jsonl."
)
DISAGREEMENT = "the judges of the ensemble differ by 0.50, 2.5 times as much as at the start (limit 2). Raise beta."


def guarded_run(path: Path) -> Run:
    """A run that was warned at step 2, rolled back at step 5 and stopped at step 9, before it could be evaluated."""
    run = Run.create(path, "ppo", MadeUpConfig(), PPO_MADE_FROM)
    alarms: dict[int, list[dict[str, Any]]] = {
        2: [{"guard": "entropy", "action": "warn", "says": "entropy fell to <0.1.", "value": 0.08, "limit": 0.1}],
        5: [{"guard": "disagreement", "action": "roll_back", "says": DISAGREEMENT, "value": 2.5, "limit": 2}],
        9: [{"guard": "repetition", "action": "stop", "says": REPETITION, "value": 0.62, "limit": 0.5}],
    }
    more: dict[int, dict[str, Any]] = {
        1: {"unwatched": ["the guard kl watches nothing"]},
        5: {"rolled_back_to": "best"},
        9: {"stopped": "guard: repetition"},
    }
    for row in ppo_metrics(9):
        seen = {key: row[key] for key in ("step", "reward", "entropy", "repetition", "disagreement")}
        run.log(**seen | more.get(row["step"], {}) | {"alarms": alarms.get(row["step"], [])})
    for rollout in rollouts(9):
        run.sample(**rollout)
    run.mark("finished", seconds=61.0)
    return run


def old_ppo_run(path: Path) -> Run:
    """A run from before there were guards, traces and timings.jsonl: the clock beside the metrics, adjusted rewards as samples."""
    run = Run.create(path, "ppo", OldConfig(), PPO_MADE_FROM)
    for row, timing in zip(ppo_metrics(60), timings(60), strict=True):
        run.log(**{key: row[key] for key in ("step", "reward", "kl", "beta", "entropy")} | timing)
    for step in range(20, 61, 20):
        for place in (0, 4):
            _, prompt, before, after = ANSWERS[place]
            completion = before if step < 60 else after
            run.sample(step=step, prompt=prompt, completion=completion, reward=-0.4 + step / 60, kl=step / 11)
    run.mark("finished", seconds=1141.0)
    return run


def a_family(folder: Path) -> Run:
    """A PPO run with the runs it was made from beside it; the pairs, the prompts and the second judge are not there."""
    sft_run(folder / "sft")
    reward_run(folder / "reward")
    return ppo_run(folder / "ppo")
