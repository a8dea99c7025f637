from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from made_up_runs import (
    MadeUpConfig,
    classifier_run,
    gain_row,
    old_ppo_run,
    ppo_evaluation,
    ppo_run,
    profiled,
    reward_evaluation,
    reward_run,
    sft_run,
    timings,
)
from page_reader import ATTACK, Page, page_of

from manners.errors import MannersError
from manners.report import build_report, write_report
from manners.report.lineage import related_runs
from manners.runs import Run, write_json


@pytest.fixture(scope="module")
def text(family: Run) -> str:
    return build_report(family, related_runs(family))


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def test_the_page_is_well_formed_and_every_id_is_there_once(page: Page) -> None:
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert page.faults == []
    assert len(ids) == len(set(ids))
    assert {"html", "head", "title", "main", "h1"} <= {name for name, _ in page.elements}


def test_the_page_loads_nothing(text: str, page: Page) -> None:
    assert not {"link", "img", "iframe", "object", "embed", "image", "audio", "video", "form"} & {
        n for n, _ in page.elements
    }
    loads = [v for _, a in page.elements for k, v in a.items() if k in ("src", "href", "action", "data", "xlink:href")]
    assert all(value and value.startswith("#") for value in loads)
    assert not re.search(r"https?:|@import|url\((?!#)", text)


def test_only_the_own_scripts_may_run(text: str, page: Page) -> None:
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert len(scripts) == text.count("<script") == 2
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    policy = next(a["content"] for a in page.named("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert f"script-src 'sha256-{digests[0]}' 'sha256-{digests[1]}';" in policy
    assert policy.startswith("default-src 'none'")
    assert not [key for _, attrs in page.elements for key in attrs if key.startswith("on")]


def test_every_figure_has_a_title_and_a_description(page: Page) -> None:
    ids = {attrs.get("id") for _, attrs in page.elements}
    figures = page.named("svg")
    assert len(figures) > 30
    for figure in figures:
        assert figure["role"] == "img"
        assert set((figure["aria-labelledby"] or "").split()) <= ids


def test_the_same_run_gives_the_same_text(family: Run, text: str) -> None:
    assert build_report(family, related_runs(family)) == text


def test_all_sections_of_a_full_run_are_there_in_reading_order(page: Page) -> None:
    headings = page.words["h2"]
    assert headings == [
        "Before and after", "Stage by stage", "By kind of prompt", "Answers before and after", "Guards",
        "The course of training", "Under the microscope", "Where the time went", "The judge: reward", "Made from",
        "To run it again",
    ]  # fmt: skip
    assert "It really got better." in page.text("span")


def test_the_numbers_stand_in_the_table(text: str) -> None:
    table = Page(text[text.index('<table class="numbers"') : text.index('<section id="stages"')])
    cells = table.words["td"]
    assert cells[:5] == ["−0.42", "1.24", "+1.66", "+1.44 to +1.88", "128"]
    assert table.words["span"] == ["better", "better", "higher", "higher", "better", "no clear change"]


def test_both_answers_of_every_sample_are_there_with_what_the_script_sorts_by(page: Page) -> None:
    cards = [attrs for attrs in page.named("article") if "data-order" in attrs]
    assert [card["data-category"] for card in cards] == [s["category"] for s in ppo_evaluation()["samples"]]
    gains = [s["reward_after"] - s["reward_before"] for s in ppo_evaluation()["samples"]]
    assert [float(card["data-gain"] or "nan") for card in cards] == pytest.approx(gains)
    own_less_other = [0.3 + 0.25 * i - (0.2 - 0.05 * i) for i in range(len(cards))]
    assert [float(card["data-gap"] or "nan") for card in cards] == pytest.approx(own_less_other)
    assert [float(card["data-kl"] or "nan") for card in cards] == [s["kl"] for s in ppo_evaluation()["samples"]]
    for sample in ppo_evaluation()["samples"]:
        assert sample["before"] in page.text("p")
        assert sample["after"] in page.text("p")
    values = {attrs.get("value") for attrs in page.named("option")}
    assert {"order", "gain", "-gain", "kl", "gap", "hostile", "small talk"} <= values


def test_controls_are_hidden_and_answers_shown_where_no_script_runs(page: Page) -> None:
    controls = [attrs for attrs in page.named("p") if attrs.get("class") == "controls"]
    assert len(controls) == 4
    assert all("hidden" in attrs for attrs in controls)
    assert not [attrs for name in ("article", "details") for attrs in page.named(name) if "hidden" in attrs]


def test_lineage_names_sources_with_hashes_and_what_is_missing(page: Page) -> None:
    codes = page.text("code")
    for digest in ("#77aa0011", "#ab12cd34", "#00112233", "#c0ffee12", "#9f3a5577", "#52c1a0ff"):
        assert digest in codes
    notes = [note for note in page.words["span"] if note == "not on this machine"]
    # The second judge, the prompts, the pairs of the reward model, and the starter below the SFT run, reached twice.
    assert len(notes) == 5
    assert "agrees with 69\u00a0% (66 to 73\u00a0%) of held-out judgements" in page.text("p")


def attack(value: Any) -> Any:
    """The same structure with every text and every key replaced by an attack."""
    if isinstance(value, dict):
        return {key: attack(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [attack(inner) for inner in value]
    return ATTACK if isinstance(value, str) else value


def test_no_text_of_a_run_becomes_markup(tmp_path: Path) -> None:
    run = ppo_run(tmp_path / "run", steps=2)
    evaluation = ppo_evaluation()
    hostile = {
        "rows": [{**row, "label": ATTACK, "unit": ATTACK, "better": ATTACK} for row in evaluation["rows"]],
        "by_category": {ATTACK: evaluation["by_category"]["hostile"]},
        "stages": attack(evaluation["stages"]),
        "samples": [
            attack(evaluation["samples"][0]),
            {"prompt": {"messages": [{"role": ATTACK, "content": ATTACK}] * 2}},
        ],
    }
    evil = Run.create(tmp_path / "reward", ATTACK.replace("\ud800", ""), MadeUpConfig(note=ATTACK[:-1]), {})
    write_json(evil.path / "evaluation.json", reward_evaluation() | {"by_category": {"x": {"accuracy": 0.5}}})
    lineage = {
        "kind": "ppo",
        "made_from": {"a<b>": attack({"path": "", "hash": "", "kind": ""}), "r": {"path": "../reward"}},
    }

    def write(name: str, *rows: Any) -> None:
        # Escaped surrogates are what a broken tokenizer leaves in JSON.
        (run.path / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    write("evaluation.json", hostile)
    write("lineage.json", lineage)
    write("environment.json", {"platform": ATTACK})
    write("status.json", {"status": "failed", "error": ATTACK, "at": ATTACK})
    trace = {ATTACK: [1, 2], "logp": [-1, -2], "value": [ATTACK, 1]}
    write("samples.jsonl", {"step": 1, "prompt": ATTACK, "completion": ATTACK},
          {"step": 1, "prompt": ATTACK, "completion": "", "tokens": [ATTACK, ATTACK], "trace": trace})  # fmt: skip
    alarm = {"guard": ATTACK, "action": ATTACK, "says": ATTACK, "value": ATTACK, "limit": None}
    write("metrics.jsonl", {"step": 1, ATTACK: 1.0, "alarms": [alarm], "unwatched": [ATTACK], "stopped": ATTACK})
    write("timings.jsonl", {"step": 1, "phase_seconds": {ATTACK: 2.0}, "profile_seconds": {ATTACK: 1.0, "a": ATTACK}})
    made = write_report(run.path).read_text(encoding="utf-8")
    page = Page(made)
    assert page.faults == []
    assert "<script>alert" not in made
    assert "\x00" not in made
    assert made.count("</style>") == made.count("<style>") == 1
    assert made.count("</script>") == made.count("<script>") == 2
    assert not {"img", "textarea"} & {name for name, _ in page.elements}
    assert not [key for _, attrs in page.elements for key in attrs if key.startswith("on")]
    assert page.text("p").count("<script>alert(1)</script>") >= 8
    assert page.text("i").count("<script>alert(1)</script>") == 2


def test_an_interrupted_run_can_be_looked_at(tmp_path: Path) -> None:
    run = ppo_run(tmp_path / "run", steps=7)
    for name in ("evaluation.json", "samples.jsonl"):
        (run.path / name).unlink()
    run.mark("interrupted", seconds=66.0)
    page = page_of(run)
    assert "No verdict yet." in page.text("span")
    assert any(word.startswith("Interrupted at step 7;") and "took 1 min 6 s" in word for word in page.words["p"])
    assert "No answers were evaluated" in page.text("p")
    assert "No answers were compared." in page.text("p")
    assert "The run has left no samples.jsonl." in page.text("p")
    assert any(attrs.get("id") == "curve-reward-data-reward" for attrs in page.named("g"))


def test_a_run_that_wrote_nothing_says_so(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", "ppo", MadeUpConfig(), {})
    (run.path / "environment.json").unlink()
    (run.path / "config.yaml").unlink()
    page = page_of(run)
    assert "Nothing was recorded." in page.text("span")
    for words in ("There are no metrics", "names no sources", "no config.yaml", "no environment.json", "Still running"):
        assert words in page.text("p")
    assert page.named("svg") == []


@pytest.mark.parametrize("key", ["rows", "by_category", "stages", "samples", "prompts"])
@pytest.mark.parametrize("value", [None, 3, "text", [], {}, [None, 1], [{}], {"a": 1}])
def test_any_part_of_the_evaluation_may_be_missing_or_odd(bare_ppo: Run, key: str, value: Any) -> None:
    parts = ppo_evaluation() | {"samples": [{}], "stages": [], "by_category": {}}
    parts["rows"] = [gain_row("reward", "Reward", 0.0, 1.0, 0.1)]
    write_json(bare_ppo.path / "evaluation.json", parts | {key: value})
    page_of(bare_ppo)


@pytest.fixture(scope="module")
def bare_ppo(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run.create(tmp_path_factory.mktemp("bare") / "run", "ppo", MadeUpConfig(), {})


@pytest.mark.parametrize("key", sorted(reward_evaluation()))
def test_any_number_of_a_reward_model_may_be_missing(tmp_path: Path, key: str) -> None:
    run = Run.create(tmp_path / "run", "reward", MadeUpConfig(), {})
    write_json(run.path / "evaluation.json", {k: v for k, v in reward_evaluation().items() if k != key})
    page_of(run)


def test_reports_of_the_other_kinds(tmp_path: Path) -> None:
    reward = page_of(reward_run(tmp_path / "reward"))
    assert reward.words["h2"] == ["How well it judges", "The course of training", "Made from", "To run it again"]
    assert "It has learned to judge." in reward.text("span")
    assert len([a for a in reward.named("g") if re.fullmatch(r"judge-reliability-bin-\d", a.get("id") or "")]) == 5
    classifier = page_of(classifier_run(tmp_path / "classifier"))
    assert "It has learned to tell the classes apart." in classifier.text("span")
    assert "0.962" in classifier.text("td")
    sft = page_of(sft_run(tmp_path / "sft"))
    assert sft.words["h2"] == ["The course of training", "Made from", "To run it again"]
    assert "Held-out loss went from 2.950 to 2.310 nats per token." in sft.text("p")
    other = Run.create(tmp_path / "other", "other", MadeUpConfig(), {})
    other.log(step=1, loss=0.69)
    assert any(a.get("id") == "curve-metric-0-data-loss" for a in page_of(other).named("g"))


def test_a_broken_file_is_told_on_the_page(tmp_path: Path) -> None:
    run = sft_run(tmp_path / "run")
    (run.path / "metrics.jsonl").write_text('{"step": 1}\nhalf a li\n{"step": 2}\n')
    assert any(w.startswith("metrics.jsonl cannot be read") and "line 2" in w for w in page_of(run).words["p"])


def test_the_scripts_find_what_they_look_for(page: Page, text: str) -> None:
    script = page.text("script")
    wanted = set(re.findall(r'getElementById\("([\w-]+)"\)', script))
    assert wanted == {"lens", "first-lens"}
    assert wanted <= {attrs.get("id") for _, attrs in page.elements}
    for name in ("answers", "microscope"):
        start = text.index(f'<section id="{name}"')
        part = Page(text[start : text.index('<section id="', start + 1)])
        assert {"sort", "search"} <= {attrs.get("name") for _, attrs in part.elements}
        assert {"count", "more"} <= {attrs.get("class") for _, attrs in part.elements}
        assert len([attrs for _, attrs in part.elements if "list" in (attrs.get("class") or "").split()]) == 1
        cards = [attrs for _, attrs in part.elements if attrs.get("class") in ("sample", "rollout")]
        orders = {(attrs.get("value") or "").lstrip("-") for attrs in part.named("option")} - {"", "all"}
        categories = {attrs.get("data-category") for attrs in cards}
        assert all(f"data-{order}" in attrs for attrs in cards for order in orders - categories)


def test_time_is_read_from_timings_and_of_older_runs_from_their_metrics(tmp_path: Path) -> None:
    new, old = Run.create(tmp_path / "new", "ppo", MadeUpConfig(), {}), old_ppo_run(tmp_path / "old")
    for row in timings(20):
        new.time(**row)
    assert "56 s" in page_of(new).words["td"]
    assert round(sum(row["phase_seconds"]["update"] for row in timings(20))) == 56
    assert not (old.path / "timings.jsonl").exists()
    assert "2 min 48 s" in page_of(old).words["td"]
    assert round(sum(row["phase_seconds"]["update"] for row in timings(60))) == 168


def test_a_profile_is_drawn_where_there_is_one_without_its_first_step(tmp_path: Path) -> None:
    run, bare = (Run.create(tmp_path / name, "ppo", MadeUpConfig(), {}) for name in ("run", "bare"))
    for row in profiled(4):
        run.time(**row)
    for row in timings(4):
        bare.time(**row)
    page, without = page_of(run), page_of(bare)
    assert "A step, part by part" in page.words["h2"]
    assert "A step, part by part" not in without.words["h2"]
    start = page.words["td"].index("4.000")  # decoding, of steps of 10 seconds
    assert page.words["td"][start + 1] == "40\u00a0%"
    assert {"everything else", "epoch 1", "sampling: decode"} <= set(page.words["th"])
    assert page.words["td"][-2:] == ["10.000", "100\u00a0%"]
    assert any(words.startswith("The mean of 3 steps, without the first") for words in page.words["p"])
    assert "sampling: decode: 4.000 seconds, 40\u00a0%." in page.text("desc")
    assert not [a for a in without.named("svg") if "profile" in (a.get("aria-labelledby") or "")]


def test_a_profile_of_one_step_is_better_than_none(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", "grpo", MadeUpConfig(), {})
    run.time(**profiled(1)[0])
    page = page_of(run)
    assert "30.000" in page.words["td"]
    assert any(words.startswith("One step, the first") for words in page.words["p"])


def test_without_matplotlib_the_report_says_what_to_install() -> None:
    code = "import sys; sys.modules['matplotlib'] = None\nimport manners.report"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip().endswith('the report draws its figures with matplotlib; pip install "manners[train]"')


def test_write_report_puts_the_page_into_the_run(tmp_path: Path) -> None:
    run = sft_run(tmp_path / "run")
    path = write_report(run.path)
    assert path == run.path / "report.html"
    assert path.read_text(encoding="utf-8") == build_report(run, {})
    with pytest.raises(MannersError, match="not a run directory"):
        write_report(tmp_path)
