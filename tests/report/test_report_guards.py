from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
from made_up_runs import DISAGREEMENT, REPETITION, MadeUpConfig, gain_row, guarded_run
from page_reader import Page, page_of

from manners.guards import DEFAULTS, Action, Guard, Signal
from manners.report.guards import ACTIONS, SIGNALS, guards, interventions
from manners.runs import Run, write_json

ENTROPY, VALUE = (
    {"signal": "entropy", "limit": 0.1, "patience": 2, "action": "warn"},
    {"signal": "value_loss", "limit": 10.0, "patience": 1, "action": "stop"},
)


def section(config: dict[str, Any], steps: list[tuple[float, dict[str, Any]]]) -> Page:
    return Page(guards(config, steps) or "")


def alarm(guard: str, action: str, says: str = "seen.") -> dict[str, Any]:
    return {"guard": guard, "action": action, "says": says, "value": 1.0, "limit": 2.0}


def test_every_signal_and_action_has_words() -> None:
    assert set(SIGNALS) == set(get_args(Signal))
    assert set(ACTIONS) == set(get_args(Action))


def test_alarms_stand_in_order_of_steps_with_what_they_saw_and_did(tmp_path: Path) -> None:
    page = page_of(guarded_run(tmp_path / "run"))
    classes = [attrs["class"] for attrs in page.named("li") if attrs.get("class")]
    assert classes == ["warned", "rolled", "stopped"]
    told = page.text("p", "b")
    assert "Entropy fell to <0.1." in told
    assert DISAGREEMENT[1:] in told
    assert REPETITION in told
    bold = page.words["b"]
    steps = [bold[place + 1] for place in (bold.index("step 2"), bold.index("step 5"), bold.index("step 9"))]
    assert steps == ["warned", "rolled the policy back to its best weights", "stopped the run"]
    assert "The guard kl watches nothing." in told


def test_the_top_of_the_page_says_that_guards_stopped_it_or_rolled_it_back(tmp_path: Path) -> None:
    run = guarded_run(tmp_path / "run")
    page = page_of(run)
    assert "Rolled back once, then stopped by a guard. No verdict yet." in page.words["span"]
    assert f"At step 9 the guard “repetition” stopped the run: {REPETITION}" in page.words["p"]
    assert not [words for words in page.words["p"] if words.startswith("At step 2")]
    rows = [gain_row(name, name, 0.0, 1.0, 0.1) for name in ("reward", "second_judge")]
    write_json(run.path / "evaluation.json", {"rows": rows})
    assert "Rolled back once, then stopped by a guard. It really got better." in page_of(run).words["span"]


@pytest.mark.parametrize(
    ("steps", "words", "sentences"),
    [
        ([(1.0, {"alarms": [alarm("entropy", "warn")]})], "", 0),
        ([(1.0, {"alarms": [alarm("kl", "stop")], "stopped": "guard: kl"})], "Stopped by a guard", 1),
        ([(step, {"alarms": [alarm("kl", "roll_back")], "rolled_back_to": "best"}) for step in (1.0, 4.0)],
         "Rolled back 2 times", 1),
        ([(1.0, {"alarms": [alarm("kl", "roll_back")], "rolled_back_to": "start"}),
          (2.0, {"alarms": [alarm("kl", "roll_back")], "stopped": "guard: kl"})],
         "Rolled back once, then stopped by a guard", 2),
        ([(3.0, {"alarms": [alarm("kl", "roll_back")], "rolled_back_to": "start", "stopped": "guard: kl"})],
         "Rolled back once, then stopped by a guard", 1),
        ([(3.0, {"alarms": [alarm("kl", "stop")], "stopped": "KL budget"})], "", 0),
        ([(1.0, {"stopped": "steps", "alarms": []})], "", 0),
        ([], "", 0),
    ],
)  # fmt: skip
def test_what_guards_did_is_told_in_a_few_words(steps: list[Any], words: str, sentences: int) -> None:
    found, why = interventions(steps)
    assert found == words
    assert len(why) == sentences


def test_interventions_of_one_kind_share_a_sentence_with_what_the_last_one_saw() -> None:
    seen = {2.0: "first.", 5.0: "second.", 9.0: "third."}
    steps = [(x, {"alarms": [alarm("kl", "roll_back", says)], "rolled_back_to": "best"}) for x, says in seen.items()]
    _, (sentence,) = interventions(steps)
    told = "the guard “KL to the reference” rolled the policy back to its best weights: third."
    assert sentence == f"At steps 2, 5 and 9 {told}"


def test_a_silent_run_names_the_guards_that_watched_it() -> None:
    row = {"entropy": 1.0, "unwatched": ["the guard value_loss watches nothing: no value_loss is measured"]}
    page = section({"guards": [ENTROPY, VALUE]}, [(1.0, row)])
    assert "One guard watched and none gave an alarm: entropy." in page.words["p"]
    assert "The guard value_loss watches nothing: no value_loss is measured." in page.words["p"]
    both = section({"guards": [ENTROPY, VALUE]}, [(1.0, {"entropy": 1.0, "value_loss": 2.0})])
    assert "2 guards watched and none gave an alarm: entropy, value loss." in both.words["p"]


def test_without_guards_it_says_so_and_an_older_run_has_no_section() -> None:
    assert "No guard watched this run." in section({"guards": []}, []).words["p"]
    assert guards({}, [(1.0, {"entropy": 1.0})]) is None


def test_the_table_says_what_each_guard_watched() -> None:
    limits = {"kl": 8.0, "negative_kl": -1.0, "repetition": 0.5, "length": 2.5, "clip_fraction": 0.4, "entropy": 0.1}
    rows = [Guard(signal=signal, limit=limit).model_dump() for signal, limit in limits.items()]  # type: ignore[arg-type]
    page = section({"guards": rows}, [(1.0, dict.fromkeys(limits, 1.0))])
    assert page.words["td"][::3] == [
        "above 8 nats per sequence", "below −1 nats per sequence", "above 50\u00a0% of the word triples of an answer",
        "2.5 times the first step's, or its inverse", "above 40\u00a0% of all", "below 0.1 nats per token",
    ]  # fmt: skip
    everything = section({"guards": [g.model_dump() for g in DEFAULTS]}, [(1.0, {})])
    assert all("not measured" in words for words in everything.words["td"][::3])
    assert everything.words["td"][1::3] == [str(g.patience) for g in DEFAULTS]
    assert everything.words["td"][2::3] == [ACTIONS[g.action] for g in DEFAULTS]


def test_alarms_of_odd_shape_are_shown_as_far_as_they_go() -> None:
    odd = [{"guard": "novel_thing", "action": "shout", "value": 3.5, "limit": 2}, {}, 7]
    page = section({}, [(1.0, {"alarms": odd, "unwatched": 3}), (2.0, {"alarms": "none"})])
    assert len(page.named("li")) == 2
    assert "3.5 where the limit is 2." in page.words["p"]
    assert " · novel thing · " in page.text("p")


@pytest.mark.parametrize(("stopped", "words"), [("KL budget", "KL budget was spent"), ("target reward", "was reached")])
def test_a_run_that_ended_early_says_why(tmp_path: Path, stopped: str, words: str) -> None:
    run = Run.create(tmp_path / "run", "ppo", MadeUpConfig(), {})
    run.log(step=3, stopped=stopped)
    run.mark("finished")
    assert any(p.startswith("Finished at step 3, its") and words in p for p in page_of(run).words["p"])
