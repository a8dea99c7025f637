from __future__ import annotations

import builtins
import errno
import hashlib
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from manners.config import Config, load_config
from manners.errors import MannersError
from manners.runs import (
    Run,
    environment,
    file_hash,
    read_json,
    read_jsonl,
    untracked,
    write_json,
    write_jsonl,
    write_text,
    writing,
)


class Toy(Config):
    steps: int = 3


def start(path: Path, replace: bool = False) -> Run:
    return Run.create(path, "toy", Toy(), {"pairs": {"path": "pairs", "hash": "abc"}}, replace=replace)


def files(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


def full_disk(*_args: object, **_fields: object) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def write_half(path: Path, error: BaseException) -> None:
    """Begin a directory at `path` and break off."""
    with writing(path) as beside:
        beside.mkdir()
        (beside / "weights").write_text("half")
        raise error


# --- all or nothing -------------------------------------------------------------------------------------------------


def test_a_file_appears_whole_in_a_folder_made_for_it(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "text"
    with writing(path) as beside:
        beside.write_text("new")
        assert not path.exists()
        assert beside.parent == path.parent  # a rename within one folder is one step, across disks it is not
    assert files(tmp_path) == {"a/b/text": "new"}


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), MannersError("no")])
def test_a_file_stays_as_it_was_when_writing_breaks_off(tmp_path: Path, error: BaseException) -> None:
    def write() -> None:
        with writing(path) as beside:
            beside.write_text("half")
            raise error

    path = tmp_path / "text"
    path.write_text("old")
    with pytest.raises(type(error)) as caught:
        write()
    assert caught.value is error
    assert files(tmp_path) == {"text": "old"}


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_nothing_is_left_when_the_first_writing_breaks_off(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)):
        write_half(tmp_path / "folder", error)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_old_file_and_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "text"
    path.write_text("old")
    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(MannersError, match="the disk is full; free some room") as caught:
        write_text(path, "new")
    assert str(path) in str(caught.value)
    assert files(tmp_path) == {"text": "old"}


def test_a_disk_that_fills_at_the_rename_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "text"
    path.write_text("old")
    monkeypatch.setattr(Path, "replace", full_disk)
    with pytest.raises(MannersError, match="the disk is full"):
        write_text(path, "new")
    assert files(tmp_path) == {"text": "old"}


def test_a_directory_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "best"
    for name in ("one", "two"):
        with writing(path) as beside:
            beside.mkdir()
            (beside / name).write_text(name)
    assert files(tmp_path) == {"best/two": "two"}


def test_a_directory_stays_as_it_was_when_writing_breaks_off(tmp_path: Path) -> None:
    path = tmp_path / "best"
    path.mkdir()
    (path / "weights").write_text("old")
    with pytest.raises(RuntimeError):
        write_half(path, RuntimeError())
    assert files(tmp_path) == {"best/weights": "old"}


def test_a_directory_is_not_lost_between_the_two_renames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "best"
    path.mkdir()
    (path / "weights").write_text("old")
    rename = Path.rename

    def fail_for_the_new_one(self: Path, target: Path) -> Path:
        if self.name.endswith(".part"):
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    def write() -> None:
        with writing(path) as beside:
            beside.mkdir()
            (beside / "weights").write_text("new")

    monkeypatch.setattr(Path, "rename", fail_for_the_new_one)
    with pytest.raises(MannersError, match="Input/output error"):
        write()
    assert files(tmp_path) == {"best/weights": "old"}


def test_what_an_earlier_crash_of_the_same_process_number_left_is_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "best"
    with writing(path) as beside:
        beside.mkdir()
    beside.mkdir()
    (beside / "half").write_text("half")
    with writing(path) as again:
        again.mkdir()
        (again / "weights").write_text("new")
    assert files(tmp_path) == {"best/weights": "new"}


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file, no folder")
    with pytest.raises(MannersError, match=r"cannot write .*; free some room or choose another place"):
        write_text(tmp_path / "file" / "inside", "new")
    assert files(tmp_path) == {"file": "a file, no folder"}


# --- JSON -----------------------------------------------------------------------------------------------------------

ROWS: list[dict[str, Any]] = [{"a": 1, "text": "zwei\nZeilen 世界 \u2028"}, {"b": [1.5, None, True]}]


def test_json_and_jsonl_read_back_the_same(tmp_path: Path) -> None:
    write_json(tmp_path / "v.json", {"rows": ROWS})
    write_jsonl(tmp_path / "v.jsonl", ROWS)
    assert read_json(tmp_path / "v.json") == {"rows": ROWS}
    assert read_jsonl(tmp_path / "v.jsonl") == ROWS
    assert (tmp_path / "v.jsonl").read_text().count("\n") == 2


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_number_that_json_does_not_have_is_refused_and_the_old_file_stays(tmp_path: Path, number: float) -> None:
    write_json(tmp_path / "v.json", {"loss": 1.0})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "v.json", {"loss": number})
    assert read_json(tmp_path / "v.json") == {"loss": 1.0}


@pytest.mark.parametrize("cut", [1, 3, 9])
def test_a_last_line_cut_by_a_crash_is_left_out(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "v.jsonl"
    write_jsonl(path, ROWS)
    path.write_bytes(path.read_bytes()[: -1 - cut])
    assert read_jsonl(path) == ROWS[:1]


def test_a_last_line_cut_within_a_letter_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "v.jsonl"
    path.write_bytes('{"a": 1}\n{"text": "世'.encode()[:-1])
    assert read_jsonl(path) == [{"a": 1}]


def test_a_whole_last_line_counts_without_its_line_end_and_blank_lines_do_not(tmp_path: Path) -> None:
    path = tmp_path / "v.jsonl"
    path.write_text('{"a": 1}\r\n\n  \n{"a": 2}')
    assert read_jsonl(path) == [{"a": 1}, {"a": 2}]
    path.write_text("")
    assert read_jsonl(path) == []


@pytest.mark.parametrize("text", ['{"a": 1}\n{"a": \n{"a": 3}\n', '{"a": 1}\n{"a": \n', '{"a": 1}\nnonsense\n\n'])
def test_any_other_broken_line_is_an_error_with_its_number(tmp_path: Path, text: str) -> None:
    path = tmp_path / "v.jsonl"
    path.write_text(text)
    with pytest.raises(MannersError, match="line 2 is not JSON") as caught:
        read_jsonl(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("read", [read_json, read_jsonl])
def test_what_cannot_be_read_is_told(tmp_path: Path, read: Callable[[Path], Any]) -> None:
    with pytest.raises(MannersError, match="nowhere does not exist"):
        read(tmp_path / "nowhere")
    with pytest.raises(MannersError, match="cannot read"):
        read(tmp_path)
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\n{}\n")
    with pytest.raises(MannersError, match="cannot read"):
        read(tmp_path / "bytes")


def test_json_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "v.json").write_text('{"a": ')
    with pytest.raises(MannersError, match=r"v\.json is not JSON"):
        read_json(tmp_path / "v.json")


# --- hashes ---------------------------------------------------------------------------------------------------------


def test_the_hash_of_a_file_is_its_sha256(tmp_path: Path) -> None:
    path = tmp_path / "data"
    content = os.urandom((1 << 20) + 17)  # more than is read at once
    path.write_bytes(content)
    assert file_hash(path) == hashlib.sha256(content).hexdigest()[:16]
    (tmp_path / "empty").touch()
    assert file_hash(tmp_path / "empty") == "e3b0c44298fc1c14"  # SHA-256 of nothing


def tree(folder: Path, content: dict[str, str]) -> str:
    for name, text in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return file_hash(folder)


def test_the_hash_of_a_directory_knows_names_and_contents_and_no_order(tmp_path: Path) -> None:
    first = tree(tmp_path / "1", {"a": "x", "b/c": "y"})
    assert tree(tmp_path / "2", {"b/c": "y", "a": "x"}) == first
    others = [{"a": "x", "b/c": "z"}, {"a": "x", "b/d": "y"}, {"a": "y", "b/c": "x"}, {"a": "x"}, {"a": "x", "bc": "y"},
              {"a": "x", "b/c": "y", "d": ""}]  # fmt: skip
    assert len({first, *(tree(tmp_path / f"other{i}", content) for i, content in enumerate(others))}) == 7


@pytest.mark.parametrize("other", [{"ab": "c"}, {"a": "", "b": "c"}])
def test_name_and_content_do_not_run_into_each_other(tmp_path: Path, other: dict[str, str]) -> None:
    assert tree(tmp_path / "1", {"a": "bc"}) != tree(tmp_path / "2", other)


# --- runs -----------------------------------------------------------------------------------------------------------


def test_a_new_run_says_what_it_is_and_what_it_is_made_from(tmp_path: Path) -> None:
    run = start(tmp_path / "runs" / "toy")
    assert run.path == tmp_path / "runs" / "toy"
    assert sorted(p.name for p in run.path.iterdir()) == [
        "config.yaml",
        "environment.json",
        "lineage.json",
        "status.json",
    ]
    assert load_config(Toy, run.path / "config.yaml") == Toy()
    assert read_json(run.path / "lineage.json") == {
        "kind": "toy",
        "made_from": {"pairs": {"path": "pairs", "hash": "abc"}},
    }
    assert run.kind == "toy"
    assert run.status["status"] == "running"
    assert (run.metrics(), run.samples()) == ([], [])
    assert Run.open(run.path).kind == "toy"


def test_the_environment_names_versions_and_no_people() -> None:
    found = environment()
    assert found["packages"]["torch"].startswith("2.")
    assert {"python", "platform", "cpus", "packages"} == set(found)
    text = json.dumps(found)
    assert socket.gethostname() not in text
    assert str(Path.home()) not in text


def test_an_empty_directory_is_taken_and_one_that_holds_something_is_not(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert start(tmp_path / "empty").status["status"] == "running"
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("years of work")
    with pytest.raises(MannersError, match="is not empty; choose another --run or say --replace"):
        start(other)
    assert files(other) == {"thesis.tex": "years of work"}
    with pytest.raises(MannersError, match="is a file; name a directory"):
        start(other / "thesis.tex", replace=True)
    assert files(other) == {"thesis.tex": "years of work"}


def test_replace_begins_a_run_anew(tmp_path: Path) -> None:
    run = start(tmp_path / "toy")
    run.log(step=0)
    run.checkpoint("final").mkdir(parents=True)
    with pytest.raises(MannersError, match="is not empty"):
        start(tmp_path / "toy")
    again = start(tmp_path / "toy", replace=True)
    assert again.metrics() == []
    assert not again.checkpoint("final").exists()


@pytest.mark.parametrize("content", [{"thesis.tex": "years"}, {"config.yaml": "of a website", "thesis.tex": "years"}])
def test_replace_replaces_runs_only(tmp_path: Path, content: dict[str, str]) -> None:
    tree(tmp_path / "work", content)
    with pytest.raises(MannersError, match="holds other files and no run; it is not replaced"):
        start(tmp_path / "work", replace=True)
    assert files(tmp_path / "work") == content


def test_a_directory_without_lineage_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(MannersError, match="is not a run directory"):
        Run.open(tmp_path)
    with pytest.raises(MannersError, match="is not a run directory"):
        Run.open(tmp_path / "nowhere")


def test_rows_are_kept_in_order_and_each_is_on_the_disk_at_once(tmp_path: Path) -> None:
    run = start(tmp_path / "toy")
    for step in range(3):
        run.log(step=step, note="ä")
        run.sample(step=step, prompt="Hello")
        assert len((run.path / "metrics.jsonl").read_text().splitlines()) == step + 1
    assert run.metrics() == [{"step": step, "note": "ä"} for step in range(3)]
    assert Run.open(run.path).samples() == [{"step": step, "prompt": "Hello"} for step in range(3)]


def test_a_log_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = start(tmp_path / "toy")
    monkeypatch.setattr(Path, "open", full_disk)
    monkeypatch.setattr(builtins, "open", full_disk)
    with pytest.raises(MannersError, match="the disk is full"):
        run.log(step=0)


def test_metrics_are_json_even_when_a_number_is_not(tmp_path: Path) -> None:
    run = start(tmp_path / "toy")
    run.log(gradient_norm=float("inf"), loss=float("nan"))

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    json.loads((run.path / "metrics.jsonl").read_text(), parse_constant=refuse)


def test_a_run_whose_work_is_done_is_finished(tmp_path: Path) -> None:
    run = start(tmp_path / "toy")
    with run.guard() as inside:
        assert inside is run
        assert run.status["status"] == "running"
    assert run.status["status"] == "finished"
    assert run.status["seconds"] >= 0


@pytest.mark.parametrize(
    ("error", "status"),
    [(KeyboardInterrupt(), "interrupted"), (ValueError("too much"), "failed"), (MannersError("no prompts"), "failed"),
     (SystemExit(3), "failed"), (MemoryError("all gone"), "failed")],
)  # fmt: skip
def test_a_run_that_breaks_off_says_how_and_the_error_goes_on(
    tmp_path: Path, error: BaseException, status: str
) -> None:
    run = start(tmp_path / "toy")
    with pytest.raises(type(error)) as caught, run.guard():
        raise error
    assert caught.value is error
    assert run.status["status"] == status
    assert run.status.get("error", "") == ("" if status == "interrupted" else str(error))


def test_a_run_that_was_never_marked_has_no_known_status(tmp_path: Path) -> None:
    run = start(tmp_path / "toy")
    (run.path / "status.json").unlink()
    assert run.status == {"status": "unknown"}


# --- going on with a run --------------------------------------------------------------------------------------------


def with_states(path: Path, *steps: int) -> Run:
    """A run of six steps, two samples in each, that left its state after some of them."""
    run = start(path)
    for step in range(6):
        run.sample(step=step, prompt="Zeile \u2028 \r ä")
        run.sample(step=step, prompt="b")
        run.log(step=step)
        run.time(step=step, seconds=1.5)
        if step + 1 in steps:
            with run.state(step + 1) as folder:
                (folder / "weights").write_text(str(step + 1))
    return run


def test_a_state_replaces_the_one_before_it(tmp_path: Path) -> None:
    run = with_states(tmp_path / "toy", 2, 4)
    assert files(run.path / "resume") == {"00000004/weights": "4"}


def test_resume_goes_back_to_the_last_state_and_drops_what_came_after_it(tmp_path: Path) -> None:
    run = with_states(tmp_path / "toy", 4)
    before = {name: (run.path / name).read_bytes() for name in ("metrics.jsonl", "samples.jsonl", "timings.jsonl")}
    assert run.resume() == run.path / "resume" / "00000004"
    assert [row["step"] for row in run.metrics()] == [0, 1, 2, 3]
    assert [row["step"] for row in run.samples()] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert len(read_jsonl(run.path / "timings.jsonl")) == 4
    assert all(before[name].startswith((run.path / name).read_bytes()) for name in before)


def test_resume_without_a_state_begins_at_the_beginning(tmp_path: Path) -> None:
    run = with_states(tmp_path / "toy")
    assert run.resume() is None
    assert (run.metrics(), run.samples()) == ([], [])
    assert start(tmp_path / "new").resume() is None


@pytest.mark.parametrize("torn", [b'{"step": 3, "lo', b'{"step": 3, "text": "\xc3', b'{"step": 3}'])
def test_a_torn_last_row_is_dropped(tmp_path: Path, torn: bytes) -> None:
    run = with_states(tmp_path / "toy", 3)
    with (run.path / "metrics.jsonl").open("r+b") as stream:
        stream.seek(len(b'{"step": 0}\n') * 3)
        stream.truncate()
        stream.write(torn)
    run.resume()
    assert (run.path / "metrics.jsonl").read_bytes() == b'{"step": 0}\n{"step": 1}\n{"step": 2}\n'


def test_a_checkpoint_that_was_moved_aside_comes_back_and_half_of_one_goes(tmp_path: Path) -> None:
    run = with_states(tmp_path / "toy", 3)
    checkpoints = run.path / "checkpoints"
    tree(checkpoints, {".best.123.old/weights": "old", ".best.123.part/weights": "half", "final/weights": "whole",
                       ".final.9.old/weights": "older", "start/weights": "first"})  # fmt: skip
    tree(run.path / "resume", {".00000006.123.part/weights": "half"})
    run.resume()
    assert files(checkpoints) == {"best/weights": "old", "final/weights": "whole", "start/weights": "first"}
    assert {p.name for p in checkpoints.iterdir()} == {"best", "final", "start"}
    assert files(run.path / "resume") == {"00000003/weights": "3"}
    assert [p.name for p in (run.path / "resume").iterdir()] == ["00000003"]


def test_half_a_new_state_beside_a_whole_one_is_no_state(tmp_path: Path) -> None:
    def break_off() -> None:
        with run.state(5) as folder:
            (folder / "weights").write_text("half")
            raise RuntimeError

    run = with_states(tmp_path / "toy", 2)
    with pytest.raises(RuntimeError):
        break_off()
    assert run.resume() == run.path / "resume" / "00000002"


def test_a_crash_before_the_older_state_is_gone_leaves_the_newer_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = with_states(tmp_path / "toy", 2)
    with monkeypatch.context() as patch:
        patch.setattr("manners.runs._remove", lambda _: None)
        with run.state(4) as folder:
            (folder / "weights").write_text("4")
    assert sorted(p.name for p in (run.path / "resume").iterdir()) == ["00000002", "00000004"]
    assert run.resume() == run.path / "resume" / "00000004"


def test_numbers_that_json_does_not_have_are_null_wherever_they_stand(tmp_path: Path) -> None:
    run = start(tmp_path / "toy")
    run.sample(step=0, trace={"ratio": [1.0, float("inf")]}, rows=[{"a": float("nan")}])
    assert run.samples() == [{"step": 0, "trace": {"ratio": [1.0, None]}, "rows": [{"a": None}]}]


def test_a_run_appears_with_all_that_it_takes_to_be_resumed_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("manners.runs.environment", crash)
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path / "toy")
    assert list(tmp_path.iterdir()) == []


def test_untracked_goes_through_all_in_order() -> None:
    assert list(untracked(range(4), "counting")) == [0, 1, 2, 3]
