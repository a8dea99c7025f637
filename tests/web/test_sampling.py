"""Sampling from the app: a batch that a model answers, in a process beside the server."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from browsing import Browser
from fastapi import FastAPI

from manners.errors import MannersError
from manners.feedback.assign import Desk
from manners.feedback.batch import BatchSettings
from manners.feedback.store import Store
from manners.records import Prompt
from manners.web import sampling
from manners.web.sampling import Job, SampleSettings, Sampling

Enter = Callable[..., Browser]
Script = Callable[[str], None]

PROLOGUE = """
import json, os, signal, sys, time
job = json.loads(sys.stdin.readline())
def tell(**event):
    print(json.dumps(event), flush=True)
def answer(*texts):
    for prompt in job["prompts"]:
        from manners.records import Prompt
        known = Prompt.from_json(prompt).id
        tell(prompt=prompt, completions=[{"prompt_id": known, "text": text, "model": job["model"]} for text in texts])
"""


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    """Puts a few lines of Python in the place of the worker."""

    def replace(code: str) -> None:
        monkeypatch.setattr(sampling, "COMMAND", (sys.executable, "-c", PROLOGUE + code))

    return replace


@pytest.fixture
def at_work(desk: Desk) -> Any:
    """The sampling of a server, closed when the test is over."""
    made = Sampling(desk)
    yield made
    made.close()


def ended(at_work: Sampling, job_id: str) -> Job:
    return waited(lambda: at_work.job(job_id), lambda job: job.state != "running")


def waited(look: Callable[[], Any], until: Callable[[Any], bool], seconds: float = 30) -> Any:
    end = time.monotonic() + seconds
    while not until(seen := look()):
        assert time.monotonic() < end, seen
        time.sleep(0.02)
    return seen


def begin(at_work: Sampling, mode: str = "rank", k: int = 3, prompts: int = 2) -> str:
    settings = BatchSettings.model_validate({"name": "Sampled", "mode": mode})
    asked = [Prompt.of(f"p{number}") for number in range(prompts)]
    return at_work.start(SampleSettings(model="tiny-random", k=k, max_tokens=4), asked, settings, "# Be kind")


def test_a_batch_of_what_the_worker_said(script: Script, at_work: Sampling, desk: Desk) -> None:
    script("tell(done=0, total=6); answer('x', 'y', 'z'); tell(finished=True)")
    job = ended(at_work, begin(at_work))
    assert (job.state, job.words) == ("done", "")
    [batch] = desk.batches()
    assert (batch.id, batch.settings.name) == (job.batch_id, "Sampled")
    assert desk.progress(batch.id).items == 2
    answers = [c for prompt in desk.store.prompts() for c in desk.store.completions(prompt.id)]
    assert [(c.text, c.model) for c in answers] == [
        ("x", "tiny-random"),
        ("y", "tiny-random"),
        ("z", "tiny-random"),
    ] * 2


def test_the_same_words_twice_are_one_answer(script: Script, at_work: Sampling, desk: Desk) -> None:
    script(
        "first, second = job['prompts']\n"
        "job['prompts'] = [first]; answer('same', 'same', 'same')\n"
        "job['prompts'] = [second]; answer('one', 'same', 'one')\n"
        "tell(finished=True)"
    )
    job = ended(at_work, begin(at_work))
    assert job.state == "done"
    assert job.words == "1 of 2 prompts were left out: too few different answers"
    assert desk.progress(job.batch_id).items == 1


def test_nothing_but_the_same_words_says_what_to_do(script: Script, at_work: Sampling, desk: Desk) -> None:
    script("answer('same', 'same', 'same'); tell(finished=True)")
    job = ended(at_work, begin(at_work))
    assert (job.state, desk.batches()) == ("failed", [])
    assert "higher temperature" in job.words
    assert desk.store.counts().completions == 2  # what took long is kept


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("tell(failed=\"model 'nowhere' does not exist\")", "model 'nowhere' does not exist"),
        ("sys.exit('no room left on the device')", "ended with code 1; its last words: no room left on the device"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "killed by signal 9, perhaps for want of memory"),
        ("answer('x', 'y')", "ended with code 0"),  # answers, and no word that these were all
        ("print('no json'); print('[1]'); sys.exit(7)", "ended with code 7"),
        ("tell(prompt={'messages': []}, completions=[])", "went wrong"),
    ],
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_worker_that_dies_is_told_in_plain_words(
    script: Script, at_work: Sampling, desk: Desk, code: str, words: str
) -> None:
    script(code)
    job = ended(at_work, begin(at_work))
    assert job.state == "failed"
    assert words in job.words
    assert desk.batches() == []
    script("answer('x', 'y', 'z'); tell(finished=True)")
    job_id = waited(lambda: started(at_work), bool)  # the place is free again
    assert ended(at_work, job_id).state == "done"


def started(at_work: Sampling) -> str:
    try:
        return begin(at_work)
    except MannersError:
        return ""


def test_a_worker_that_never_reads_its_job(at_work: Sampling, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "COMMAND", (sys.executable, "-c", "import sys; sys.exit('no such module')"))
    job = ended(at_work, begin(at_work, prompts=5000, k=2))  # more than a pipe holds
    assert job.state == "failed"
    assert "no such module" in job.words


def test_cancelling_ends_the_worker_and_keeps_nothing(
    script: Script, at_work: Sampling, desk: Desk, tmp_path: Path
) -> None:
    script(f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); tell(done=3, total=6); time.sleep(60)")
    job_id = begin(at_work)
    waited(lambda: at_work.job(job_id), lambda job: job.done == 3)
    with pytest.raises(MannersError, match="another job is sampling"):
        begin(at_work)
    at_work.cancel(job_id)
    assert ended(at_work, job_id).state == "cancelled"
    waited(lambda: alive(int((tmp_path / "pid").read_text())), lambda is_alive: not is_alive)
    assert desk.batches() == []
    assert desk.store.counts().completions == 0
    script("answer('x', 'y', 'z'); tell(finished=True)")
    again = waited(lambda: started(at_work), bool)
    assert ended(at_work, again).state == "done"
    at_work.cancel(again)
    assert ended(at_work, again).state == "done"


def test_cancelling_after_the_last_word_still_cancels(script: Script, at_work: Sampling, desk: Desk) -> None:
    script("answer('x', 'y', 'z'); tell(finished=True); tell(done=6, total=6); time.sleep(60)")
    job_id = begin(at_work)
    waited(lambda: at_work.job(job_id), lambda job: job.done == 6)
    at_work.cancel(job_id)
    script("answer('x', 'y', 'z'); tell(finished=True)")
    ended(at_work, waited(lambda: started(at_work), bool))  # by then nothing is left of the first one
    assert ended(at_work, job_id).state == "cancelled"
    assert len(desk.batches()) == 1


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_closing_ends_the_worker(script: Script, desk: Desk, tmp_path: Path) -> None:
    script(f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); tell(done=0, total=6); time.sleep(60)")
    at_work = Sampling(desk)
    job_id = begin(at_work)
    waited(lambda: at_work.job(job_id), lambda job: job.total == 6)
    start = time.monotonic()
    at_work.close()
    assert time.monotonic() - start < 5
    assert not alive(int((tmp_path / "pid").read_text()))


@pytest.mark.parametrize(
    ("mode", "k", "prompts", "words"),
    [
        ("pair", 4, 1, "a batch of mode pair takes items with 2"),
        ("rank", 1, 1, "a batch of mode rank takes items with 2 to 9"),
        ("rank", 9, 3000, "at most 20000"),
    ],
)
def test_what_could_give_no_batch_is_not_begun(
    script: Script, at_work: Sampling, mode: str, k: int, prompts: int, words: str
) -> None:
    script("raise SystemExit('begun')")
    with pytest.raises(MannersError, match=words):
        begin(at_work, mode, k, prompts)


def form(**changed: str) -> dict[str, str]:
    values = {"name": "From a model", "mode": "rank", "guideline": "# Be kind", "source": "sample", "prompts": "one\r\n\r\ntwo",
              "sample_model": "tiny-random", "sample_k": "3", "sample_max_tokens": "4", "sample_temperature": "1"}  # fmt: skip
    return {**values, **changed}


def test_from_the_form_to_the_batch(script: Script, enter: Enter, store: Store) -> None:
    script(
        "tell(words='the model is <b>loaded</b>'); tell(words='sampling', done=2, total=6); sys.stdin.readline()\n"
        "answer('x', 'y', 'z'); tell(finished=True)"
    )
    admin = enter("admin")
    assert "let a model answer prompts now" in admin.get("/admin/batches/new").text
    answer = admin.send_form("/admin/batches", **form())
    assert answer.status_code == 303, answer.text
    place = answer.headers["location"]
    told = waited(lambda: admin.get(place, headers={"accept": "application/json"}).json(), lambda told: told["total"])
    assert told == {"state": "running", "words": "sampling", "done": 2, "total": 6}
    page = admin.get(place).text
    assert 'max="6" value="2"' in page
    assert '<noscript><meta http-equiv="refresh"' in page
    assert f'<a href="{place}">From a model</a>' in admin.get("/admin/batches").text
    cancelled = admin.send_form(f"{place}/cancel")
    assert (cancelled.status_code, cancelled.headers["location"]) == (303, place)
    assert "Cancelled: nothing was kept." in admin.get(place).text
    script("answer('x', 'y', 'z'); tell(finished=True)")
    place = waited(lambda: admin.send_form("/admin/batches", **form()), lambda a: a.status_code == 303).headers[
        "location"
    ]
    done = waited(lambda: admin.get(place), lambda page: page.status_code == 303)
    assert done.headers["location"].startswith("/admin/batches/")
    assert "From a model" in admin.get(done.headers["location"]).text
    assert [prompt.text for prompt in store.prompts()] == ["one", "two"]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"prompts": " "}, "there are no prompts"),
        ({"prompts": '{"prompt": "fine"}\n{"no": 1}'}, "line 2 is no prompt"),
        ({"prompts": '{"prompt": "half \\ud800"}'}, "half of a surrogate pair"),
        ({"prompts": "x" * 50_001}, "50000 characters"),
        ({"sample_k": "99"}, "k: Input should be less than or equal to 9"),
        ({"sample_temperature": "hot"}, "temperature: Input should be a valid number"),
        ({"sample_temperature": "nan"}, "temperature"),
        ({"guideline": " "}, "a guideline has"),
        ({"mode": "pair"}, "mode pair takes items with 2"),
        ({"name": ""}, "name"),
    ],
)
def test_a_form_that_is_wrong_comes_back_with_what_was_typed(
    script: Script, enter: Enter, changed: dict[str, str], words: str
) -> None:
    script("raise SystemExit('begun')")
    answer = enter("admin").send_form("/admin/batches", **form(**changed))
    assert answer.status_code == 422
    assert words in answer.text.replace("&#39;", "'")
    assert 'value="tiny-random"' in answer.text


def test_words_of_a_worker_are_text(script: Script, enter: Enter) -> None:
    script("tell(failed='<script>alert(1)</script> \\x1b[2J')")
    admin = enter("admin")
    place = admin.send_form("/admin/batches", **form()).headers["location"]
    page = waited(lambda: admin.get(place).text, lambda text: "This did not work" in text)
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "\x1b" not in page


def test_without_the_extra_the_page_says_what_to_install(enter: Enter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "find_spec", lambda name: None if name == "torch" else object())
    admin = enter("admin")
    page = admin.get("/admin/batches/new").text
    assert "pip install &#34;manners[train]&#34;" in page or 'pip install "manners[train]"' in page
    answer = admin.send_form("/admin/batches", **form())
    assert answer.status_code == 422
    assert "models cannot be run here" in answer.text


def test_a_job_of_a_server_that_was_restarted(enter: Enter) -> None:
    admin = enter("admin")
    page = admin.get("/admin/sampling/0123456789abcdef")
    assert page.status_code == 404
    assert "the job ended with it" in page.text
    told = admin.get("/admin/sampling/0123456789abcdef", headers={"accept": "application/json"}).json()
    assert told["state"] == "unknown"


def test_the_app_ends_its_worker_with_itself(script: Script, app: FastAPI, desk: Desk, tmp_path: Path) -> None:
    script(f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); tell(done=0, total=6); time.sleep(60)")
    with Browser(app):
        at_work: Sampling = app.state.office.sampling
        job_id = begin(at_work)
        waited(lambda: at_work.job(job_id), lambda job: job.total == 6)
    assert not alive(int((tmp_path / "pid").read_text()))
    assert desk.batches() == []
