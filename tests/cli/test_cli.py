"""The commands as a user calls them, on tiny models; and what they say when something is wrong."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny import save_tiny, tiny_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from manners import cli

TINY = ["rank=2", "batch=4", "train_layers=1"]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a tiny model and forty judgements of two answers each: the kind one wins."""
    monkeypatch.chdir(tmp_path)
    save_tiny(Path("tiny"))
    rows = [
        {"prompt": f"say {i}", "completions": [f"kind {i}", f"rude {i}", f"meh {i}"], "ranking": [[0], [2], [1]]}
        for i in range(40)
    ]
    Path("judgements.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return tmp_path


class Called:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out.strip().splitlines()[-1])


@pytest.fixture
def manners(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*arguments: str) -> Called:
        monkeypatch.setattr(sys, "argv", ["manners", *arguments])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capsys.readouterr()
        return Called(code, out, err)

    return call


def sets(*pairs: str) -> list[str]:
    return [part for pair in pairs for part in ("--set", pair)]


def prepare(manners: Any) -> None:
    assert manners("import", "judgements.jsonl", "--json").json["new"] == 40
    assert manners("pairs", "--halves", "--json").code == 0


def test_the_whole_way_from_rankings_to_an_exported_model(workplace: Path, manners: Any) -> None:
    prepare(manners)
    rows = [json.loads(line) for line in Path("pairs/train.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 3 * len({row["ranking_id"] for row in rows})
    assert manners("train", "sft", "--run", "runs/sft", *sets("model=tiny", *TINY)).code == 0
    for half in ("first", "second"):
        done = manners("train", "reward", "--run", f"runs/{half}", "--data", f"pairs/{half}", "--json",
                       *sets("model=runs/sft", "epochs=3", "learning_rate=0.03", "read=mean", *TINY))  # fmt: skip
        assert done.code == 0, done.err
        assert 0 <= done.json["accuracy"] <= 1
    ppo = manners("train", "ppo", "--run", "runs/ppo", "--json",
                  *sets("model=runs/sft", "reward.model=runs/first", "second_judge.model=runs/second", "steps=2", "max_tokens=6",
                        "evaluate_every=1", "evaluate_prompts=3", *TINY))  # fmt: skip
    assert ppo.code == 0, ppo.err
    assert ppo.json["step"] == 1
    evaluated = manners("evaluate", "policy", "runs/ppo", "--json", *sets("max_tokens=6"))
    assert {row["name"] for row in evaluated.json["rows"]} >= {"reward", "second_judge", "kl", "length"}
    assert manners("report", "runs/ppo").out.strip().endswith("report.html")
    page = Path("runs/ppo/report.html").read_text(encoding="utf-8")
    assert "say " in page
    listed = [json.loads(line) for line in manners("runs", "--json").out.splitlines()]
    assert {(r["kind"], r["status"]) for r in listed} == {
        ("sft", "finished"),
        ("reward", "finished"),
        ("ppo", "finished"),
    }
    lineage = json.loads(Path("runs/ppo/lineage.json").read_text(encoding="utf-8"))["made_from"]
    assert lineage["reward"]["path"] == "../first"
    assert (Path("runs/ppo") / lineage["data"]["path"]).resolve() == workplace / "pairs"


@pytest.mark.usefixtures("workplace")
def test_export_answers_as_chat_does_and_as_the_adapter_on_the_plain_base(manners: Any) -> None:
    prepare(manners)
    assert manners("train", "sft", "--run", "runs/a", *sets("model=tiny", "learning_rate=0.05", *TINY)).code == 0
    assert (
        manners(
            "train",
            "sft",
            "--run",
            "runs/b",
            *sets("model=runs/a", "learning_rate=0.05", "seed=1", "rank=3", "train_layers=2"),
        ).code
        == 0
    )
    assert manners("export", "runs/b", "out/merged").code == 0
    assert manners("export", "runs/b", "out/adapter", "--adapter-only").code == 0
    said = manners("chat", "runs/b", "--message", "say 3", "--temperature", "0", "--max-tokens", "20").out.rstrip("\n")
    tokenizer = AutoTokenizer.from_pretrained("out/merged")
    model = AutoModelForCausalLM.from_pretrained("out/merged")
    turn = [{"role": "user", "content": "say 3"}]
    asked = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    made = model.generate(**asked, max_new_tokens=20, do_sample=False, pad_token_id=0)[
        0, asked["input_ids"].shape[1] :
    ].tolist()
    made = made[: made.index(0)] if 0 in made else made
    assert tokenizer.decode(made) == said
    plain = AutoModelForCausalLM.from_pretrained("tiny")
    peft = pytest.importorskip("peft")
    adapted = peft.PeftModel.from_pretrained(plain, "out/adapter").eval()
    ids = asked["input_ids"]
    assert (adapted(ids).logits - model(ids).logits).abs().max() < 1e-4
    assert (AutoModelForCausalLM.from_pretrained("tiny")(ids).logits - model(ids).logits).abs().max() > 1e-2
    assert "base_model" in Path("out/merged/README.md").read_text(encoding="utf-8")


@pytest.mark.usefixtures("workplace")
def test_a_moved_tree_of_runs_still_loads(manners: Any) -> None:
    prepare(manners)
    assert manners("train", "sft", "--run", "runs/a", *sets("model=tiny", *TINY)).code == 0
    assert manners("train", "sft", "--run", "runs/b", *sets("model=runs/a", *TINY)).code == 0
    Path("elsewhere").mkdir()
    Path("runs").rename("elsewhere/runs")
    Path("tiny").rename("elsewhere/tiny")
    assert manners("chat", "elsewhere/runs/b", "--message", "hi", "--max-tokens", "3").code == 0


@pytest.mark.usefixtures("workplace")
def test_sample_and_score(manners: Any) -> None:
    Path("prompts.txt").write_text("one\n\ntwo\n", encoding="utf-8")
    rows = [
        json.loads(line)
        for line in manners("sample", "tiny", "prompts.txt", "--k", "3", "--max-tokens", "4").out.splitlines()
    ]
    assert [len(row["completions"]) for row in rows] == [3, 3]
    prepare(manners)
    manners("train", "reward", "--run", "runs/r", *sets("model=tiny", *TINY))
    both = manners("score", "kind 1", "rude 1", "--reward", "runs/r", "--prompt", "say 1", "--json").out.splitlines()
    one = manners("score", "rude 1", "--reward", "runs/r", "--prompt", "say 1", "--json").json
    assert json.loads(both[1])["reward"] == pytest.approx(one["reward"], abs=2e-4)


def one_line(done: Called, *words: str) -> None:
    assert done.code not in (0, None)
    last = done.err.strip().splitlines()
    assert len(last) == 1, done.err
    assert all(word in last[0] for word in words), last[0]


@pytest.mark.usefixtures("workplace")
def test_bad_input_is_one_line_and_leaves_nothing(manners: Any) -> None:
    prepare(manners)
    one_line(
        manners("train", "ppo", *sets("model=tiny", "reward.model=runs/r", "learning_rat=1")),
        "learning_rat",
        "did you mean",
    )
    one_line(manners("train", "sft", "missing.yaml"), "missing.yaml", "does not exist")
    one_line(manners("import", "missing.jsonl"), "missing.jsonl")
    Path("empty.jsonl").write_text("", encoding="utf-8")
    one_line(manners("import", "empty.jsonl"), "empty.jsonl")
    one_line(manners("train", "sft", "--data", "nowhere", *sets("model=tiny")), "nowhere", "manners pairs")
    one_line(manners("train", "sft", *sets("model=nosuchmodel", *TINY)), "nosuchmodel")
    one_line(manners("train", "ppo", *sets("model=tiny")), "judge")
    one_line(
        manners("train", "ppo", "--run", "runs/p1", *sets("model=tiny", "reward.model=runs/none", *TINY)),
        "runs/none",
        "no reward model",
    )
    one_line(manners("score", "text"), "--reward")
    one_line(manners("export", "tiny", "out"), "tiny")
    one_line(manners("evaluate", "policy", "tiny"), "tiny", "not a run")
    one_line(manners("pairs", "--db", "other.db"), "other.db")
    assert not Path("runs/sft/checkpoints").exists()
    assert not Path("out").exists()
    assert not list(Path().rglob("*.part"))


@pytest.mark.usefixtures("workplace")
def test_a_prompt_longer_than_the_context_is_named(manners: Any) -> None:
    Path("long.txt").write_text("x" * 400 + "\n", encoding="utf-8")
    one_line(manners("sample", "tiny", "long.txt"), "do not fit", "256", "shorten")


@pytest.mark.usefixtures("workplace")
def test_a_tokenizer_without_a_template_is_named(manners: Any) -> None:
    tiny_tokenizer(template=None).save_pretrained("tiny")
    Path("tiny/chat_template.jinja").unlink(missing_ok=True)
    one_line(manners("chat", "tiny", "--message", "hi"), "chat template", "instruct")


@pytest.mark.usefixtures("workplace")
def test_a_checkpoint_of_another_architecture_is_refused(manners: Any) -> None:
    config = json.loads(Path("tiny/config.json").read_text(encoding="utf-8"))
    config["num_hidden_layers"] = 5
    Path("tiny/config.json").write_text(json.dumps(config), encoding="utf-8")
    one_line(manners("chat", "tiny", "--message", "hi"), "weights are missing")


@pytest.mark.usefixtures("workplace")
def test_an_adapter_of_another_model_is_refused(manners: Any) -> None:
    prepare(manners)
    manners("train", "sft", "--run", "runs/a", *sets("model=tiny", *TINY))
    save_tiny(Path("tiny"), kind="gpt2")
    one_line(manners("chat", "runs/a", "--message", "hi"), "does not fit")


@pytest.mark.usefixtures("workplace")
def test_a_full_disk_while_saving_leaves_no_half_checkpoint(manners: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(manners)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("manners.models.adapters.save_file", full)
    one_line(manners("train", "sft", "--run", "runs/a", *sets("model=tiny", *TINY)), "disk is full")
    assert not Path("runs/a/checkpoints/final").exists()
    assert json.loads(Path("runs/a/status.json").read_text(encoding="utf-8"))["status"] == "failed"


@pytest.mark.usefixtures("workplace")
def test_ctrl_c_leaves_a_run_that_can_be_looked_at(manners: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from manners.runs import Run

    prepare(manners)
    log = Run.log

    def interrupt(self: Run, **row: Any) -> None:
        log(self, **row)
        if row["step"] == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(Run, "log", interrupt)
    done = manners("train", "sft", "--run", "runs/a", *sets("model=tiny", *TINY))
    assert done.code == 130
    assert json.loads(Path("runs/a/status.json").read_text(encoding="utf-8"))["status"] == "interrupted"
    assert manners("report", "runs/a").code == 0


TINY_PPO = (
    "steps=3",
    "batch=4",
    "max_tokens=4",
    "evaluate_every=1",
    "evaluate_prompts=2",
    "epochs=1",
    "rank=2",
    "train_layers=1",
)


def tiny_ppo(*more: str) -> list[str]:
    """Settings of `train ppo` without any file: the built-in model and a rule for a judge."""
    return sets("model=tiny-random", "reward.function=manners.rewards.rules:distinct_words", *TINY_PPO, *more)


def break_off(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Ctrl-C while that step of a run is logged, once."""
    from manners.runs import Run

    log = Run.log

    def interrupt(self: Run, **row: Any) -> None:
        if row["step"] == step:
            monkeypatch.setattr(Run, "log", log)
            raise KeyboardInterrupt
        log(self, **row)

    monkeypatch.setattr(Run, "log", interrupt)


def test_ppo_runs_on_built_in_prompts_without_any_file(
    manners: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = manners("train", "ppo", "--prompts", "starter", "--json", *tiny_ppo())
    assert done.code == 0, done.err
    assert (done.json["step"], done.json["stopped"]) == (2, "steps")
    assert {p.name for p in tmp_path.iterdir()} == {"runs"}
    lineage = json.loads(Path("runs/ppo/lineage.json").read_text(encoding="utf-8"))["made_from"]
    assert lineage["model"] == {"path": "tiny-random", "hash": "", "kind": "model"}


def test_prompts_come_from_a_file(manners: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    asked = [f"question {i}" for i in range(30)]
    Path("prompts.txt").write_text("\n".join(asked), encoding="utf-8")
    assert manners("train", "ppo", "--prompts", "prompts.txt", *tiny_ppo("log_rollouts=4")).code == 0
    samples = [json.loads(line) for line in Path("runs/ppo/samples.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {sample["prompt"] for sample in samples} <= set(asked)
    assert "heldout_reward" in Path("runs/ppo/metrics.jsonl").read_text(encoding="utf-8")
    lineage = json.loads(Path("runs/ppo/lineage.json").read_text(encoding="utf-8"))["made_from"]
    assert lineage["prompts"]["path"] == "../../prompts.txt"


@pytest.mark.usefixtures("workplace")
def test_a_run_that_was_cut_short_goes_on_to_the_same_end(manners: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(manners)
    arguments = ("train", "ppo", "--data", "pairs", *tiny_ppo())
    assert manners(*arguments, "--run", "runs/whole").code == 0
    break_off(monkeypatch, step=2)
    assert manners(*arguments, "--run", "runs/cut").code == 130
    assert len(Path("runs/cut/metrics.jsonl").read_text(encoding="utf-8").splitlines()) == 2
    done = manners("train", "ppo", "--resume", "runs/cut", "--json")
    assert done.code == 0, done.err
    assert (done.json["run"], done.json["step"]) == ("runs/cut", 2)
    assert json.loads(Path("runs/cut/status.json").read_text(encoding="utf-8"))["status"] == "finished"
    for name in ("metrics.jsonl", "samples.jsonl", "checkpoints/final/adapter_model.safetensors"):
        assert Path("runs/cut", name).read_bytes() == Path("runs/whole", name).read_bytes()


@pytest.mark.usefixtures("workplace")
def test_a_resume_with_other_settings_or_sources_says_what_differs(
    manners: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(manners)
    break_off(monkeypatch, step=1)
    assert manners("train", "ppo", "--data", "pairs", *tiny_ppo()).code == 130
    one_line(manners("train", "ppo", "--resume", "runs/ppo", *sets("beta=0.5")), "beta: 0.05 → 0.5", "--accept-changes")
    with Path("judgements.jsonl").open("a", encoding="utf-8") as stream:
        stream.write('{"prompt": "new", "completions": ["a", "b"], "ranking": [[0], [1]]}\n')
    assert manners("import", "judgements.jsonl").code == 0
    assert manners("pairs").code == 0
    one_line(manners("train", "ppo", "--resume", "runs/ppo"), "data: content ", "--accept-changes")
    done = manners("train", "ppo", "--resume", "runs/ppo", "--accept-changes", *sets("beta=0.5"))
    assert done.code == 0, done.err
    (change,) = json.loads(Path("runs/ppo/lineage.json").read_text(encoding="utf-8"))["changes"]
    assert change["before_step"] == 1
    assert [line.split(":")[0] for line in change["differences"]] == ["beta", "data"]
    rows = Path("runs/ppo/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(row)["beta"] for row in rows] == [0.05, 0.5, 0.5]
    # a run that is through goes on when it is given more steps
    more = manners("train", "ppo", "--resume", "runs/ppo", "--accept-changes", "--json", *sets("steps=5"))
    assert (more.code, more.json["step"], more.json["stopped"]) == (0, 4, "steps")
    one_line(manners("train", "ppo", "--resume", "runs/none"), "runs/none")
    one_line(manners("train", "ppo", "--resume", "tiny", *tiny_ppo()), "tiny", "config.yaml")


@pytest.mark.usefixtures("workplace")
def test_strict_import_exits_with_an_error_and_keeps_the_good_rows(manners: Any) -> None:
    with Path("judgements.jsonl").open("a", encoding="utf-8") as stream:
        stream.write('{"prompt": "p", "completions": ["a"], "ranking": [[0, 7]]}\n')
    assert manners("import", "judgements.jsonl", "--strict").code == 1
    assert manners("import", "judgements.jsonl", "--json").json | {"file": ""} == {
        "file": "", "layout": "manners", "rows": 41, "judgements": 40, "new": 0, "known": 40, "rejected": 1,
        "rejects": "judgements.jsonl.rejects.jsonl"}  # fmt: skip


@pytest.mark.usefixtures("workplace")
def test_import_and_pairs_need_no_torch() -> None:
    code = (
        "import sys; sys.argv=['manners','import','judgements.jsonl'];\n"
        "from manners.cli import main; main_ok=False\n"
        "try: main()\nexcept SystemExit as stop: assert not stop.code\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
