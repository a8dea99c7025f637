"""The process that samples for the feedback app, for real, on a tiny model with random weights."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

from manners.feedback.assign import Desk
from manners.feedback.store import Store
from manners.records import Prompt
from manners.sampling.answers import answers_to

SERVER = """
import sys, time
from manners.feedback.assign import Desk
from manners.feedback.batch import BatchSettings
from manners.feedback.store import Store
from manners.records import Prompt
from manners.web.sampling import SampleSettings, Sampling
store = Store.open(sys.argv[1])
at_work = Sampling(Desk(store))
asked = SampleSettings(model="tiny-random", k=3, max_tokens=int(sys.argv[2]), temperature=1, seed=5)
job_id = at_work.start(asked, [Prompt.of(f"p{n}") for n in range(int(sys.argv[3]))], BatchSettings(name="b"), "g")
print(at_work._process.pid, flush=True)
seen = set()
while (job := at_work.job(job_id)).state == "running":
    seen.add(job.done)
    time.sleep(0.01)
print(job.state, job.batch_id, job.words, sorted({"torch", "transformers", "numpy"} & set(sys.modules)), len(seen) > 1, sep="|")
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def server(place: Path, max_tokens: int, prompts: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SERVER, str(place), str(max_tokens), str(prompts)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_the_real_worker_gives_what_manners_sample_gives(tmp_path: Path) -> None:
    place = tmp_path / "s.db"
    out, _ = server(place, 5, 9).communicate(timeout=120)
    state, batch_id, words, heavy, moved = out.splitlines()[1].split("|")
    assert (state, words, heavy, moved) == ("done", "", "[]", "True")
    prompts = [Prompt.of(f"p{n}") for n in range(9)]
    expected = answers_to(prompts, "tiny-random", k=3, max_tokens=5, temperature=1, seed=5)
    with Store.open(place) as store:
        assert Desk(store).batch(batch_id).settings.name == "b"
        for prompt, answers in expected:
            assert {c.text for c in store.completions(prompt.id)} == {c.text for c in answers}


def test_a_killed_server_takes_its_worker_with_it(tmp_path: Path) -> None:
    process = server(tmp_path / "s.db", 128, 2000)
    assert process.stdout
    worker = int(process.stdout.readline())
    assert alive(worker)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    end = time.monotonic() + 20
    while alive(worker):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_the_worker_ends_when_its_stdin_does(tmp_path: Path) -> None:
    prompts = [Prompt.of(f"p{n}").to_json() for n in range(5000)]  # minutes of work
    job = {"model": "tiny-random", "k": 4, "max_tokens": 200, "temperature": 1, "seed": 0, "prompts": prompts}
    with (tmp_path / "out").open("w") as out:  # a file takes whatever is written, so only the end of stdin can end it
        process = subprocess.Popen(
            [sys.executable, "-m", "manners.sampling.worker"], stdin=subprocess.PIPE, stdout=out, text=True
        )
        assert process.stdin
        process.stdin.write(json.dumps(job) + "\n")
        process.stdin.close()
        try:
            assert process.wait(timeout=30) == 1
        finally:
            process.kill()
            process.wait()
    assert "finished" not in (tmp_path / "out").read_text()


def test_the_worker_says_what_is_wrong_with_a_model(tmp_path: Path) -> None:
    job = {"model": str(tmp_path / "nowhere"), "k": 2, "max_tokens": 4, "temperature": 1, "seed": 0}
    process = subprocess.Popen(
        [sys.executable, "-m", "manners.sampling.worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin
    assert process.stdout
    process.stdin.write(json.dumps({**job, "prompts": [Prompt.of("p").to_json()]}) + "\n")
    process.stdin.flush()
    events = [json.loads(line) for line in process.stdout]
    assert process.wait() == 1
    process.stdin.close()
    process.stdout.close()
    assert events[0] == {"words": "the model is being loaded"}
    assert f"{tmp_path / 'nowhere'}' does not exist" in events[-1]["failed"]
