"""Sampling for a new batch: a model answers prompts in a process of its own, one job at a time.

Jobs live in memory. The worker holds the read end of a pipe from this server and ends when the pipe does, so it never outlives the
server, however that ends.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any, Literal

from pydantic import Field

from manners.config import Config
from manners.errors import MannersError
from manners.feedback.assign import Desk
from manners.feedback.batch import ANSWERS, BatchSettings, check_answers
from manners.feedback.materials import sampled
from manners.records import Completion, Prompt

State = Literal["running", "done", "failed", "cancelled"]

COMMAND = (sys.executable, "-m", "manners.sampling.worker")
MOST_ANSWERS_IN_ALL = 20_000
_JOBS_REMEMBERED = 50


class SampleSettings(Config):
    """How a model is asked."""

    model: str = Field(
        default="starter",
        min_length=1,
        max_length=400,
        description="starter, a run, a folder on the server, or a Hub id",
    )
    k: int = Field(default=4, ge=1, le=9, description="answers per prompt")
    max_tokens: int = Field(default=128, ge=1, le=4096, description="the most tokens of an answer")
    temperature: float = Field(default=0.7, ge=0, le=10, description="0 always takes the likeliest token")
    seed: int = Field(default=0, ge=0, lt=2**31, description="draws the answers")


@dataclass(frozen=True, slots=True)
class Job:
    """Where a job stands. `total` is 0 until the model is loaded; `batch_id` is empty until the batch exists."""

    id: str
    settings: BatchSettings
    guideline: str
    state: State
    words: str
    done: int = 0
    total: int = 0
    batch_id: str = ""


class Sampling:
    """The one job that runs, and how earlier ones ended."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._lock = threading.Lock()
        self._jobs: dict[str, Job] = {}
        self._process: subprocess.Popen[str] | None = None
        self._thread: threading.Thread | None = None

    def available(self) -> bool:
        """Whether models can be run here: the train extra is installed."""
        return all(find_spec(name) is not None for name in ("torch", "transformers", "safetensors"))

    def start(self, asked: SampleSettings, prompts: Sequence[Prompt], settings: BatchSettings, guideline: str) -> str:
        """Begin to sample; the batch is made when all answers are there. Gives the job's id.

        Raises MannersError where another job runs, or where the batch could not be made of such answers.
        """
        if not self.available():
            raise MannersError(
                'models cannot be run here; install them with pip install "manners[train]" and start again'
            )
        check_answers(settings.mode, asked.k)
        if len(prompts) * asked.k > MOST_ANSWERS_IN_ALL:
            raise MannersError(
                f"these are {len(prompts) * asked.k} answers; at most {MOST_ANSWERS_IN_ALL} are sampled at once"
            )
        job = Job(secrets.token_hex(8), settings, guideline, "running", "a worker is being started")
        with self._lock:
            if self._process is not None:
                raise MannersError("another job is sampling; wait for it, or cancel it")
            # A session of its own: Ctrl-C at the server's terminal is for the server, which then ends the worker.
            self._process = subprocess.Popen(
                COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                encoding="utf-8", errors="replace", start_new_session=True,
            )  # fmt: skip
            for old in list(self._jobs)[: 1 - _JOBS_REMEMBERED]:
                del self._jobs[old]
            self._jobs[job.id] = job
            line = json.dumps({**asked.model_dump(), "prompts": [prompt.to_json() for prompt in prompts]})
            self._thread = threading.Thread(target=self._follow, args=(job.id, self._process, line), daemon=True)
            self._thread.start()
        return job.id

    def job(self, job_id: str) -> Job | None:
        """Where the job stands; None for one that this server does not know, perhaps because it was started since."""
        return self._jobs.get(job_id)

    def running(self) -> Job | None:
        return next((job for job in list(self._jobs.values()) if job.state == "running"), None)

    def cancel(self, job_id: str) -> None:
        """End the worker; nothing of what it sampled is kept. A job that is over stays as it is."""
        with self._lock:
            job = self._jobs.get(job_id)
            # While the batch is being made the worker is gone, and there is nothing left to cancel.
            worker = self._process if self._process is not None and self._process.poll() is None else None
            if job is not None and job.state == "running" and worker is not None:
                self._jobs[job_id] = replace(job, state="cancelled", words="nothing was kept")
                worker.kill()

    def close(self) -> None:
        """End what runs, and wait until it has ended."""
        running = self.running()
        if running is not None:
            self.cancel(running.id)
        if self._thread is not None:
            self._thread.join(timeout=10)

    # The thread beside a worker

    def _follow(self, job_id: str, process: subprocess.Popen[str], line: str) -> None:
        try:
            rows = self._listen(job_id, process, line)
            batch_id, words = self._made(job_id, rows) if rows else ("", "")
            if batch_id:
                self._change(job_id, state="done", words=words, batch_id=batch_id)
        except MannersError as error:
            self._change(job_id, state="failed", words=str(error))
        finally:
            self._change(
                job_id, state="failed", words="something went wrong here; what it was stands in the server's log"
            )
            with self._lock:
                self._process = None

    def _listen(self, job_id: str, process: subprocess.Popen[str], line: str) -> list[tuple[Prompt, list[Completion]]]:
        """What the worker sampled; nothing where it was cancelled. Raises MannersError where it failed, with what it said last."""
        assert process.stdin
        assert process.stdout
        assert process.stderr
        noise: deque[str] = deque(maxlen=20)
        # Somebody has to read what the worker complains about, or it would wait for that.
        reader = threading.Thread(target=noise.extend, args=(process.stderr,), daemon=True)
        reader.start()
        rows: list[tuple[Prompt, list[Completion]]] = []
        finished, failure = False, ""
        try:
            # A worker that ended before it had the job says why on stderr.
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(line + "\n")
                process.stdin.flush()
            for event in map(_event, process.stdout):
                finished = finished or "finished" in event
                failure = str(event.get("failed", failure))
                if "prompt" in event:
                    answers = [Completion.from_json(value) for value in event["completions"]]
                    rows.append((Prompt.from_json(event["prompt"]), answers))
                self._change(job_id, **{key: event[key] for key in ("words", "done", "total") if key in event})
        finally:
            code = _buried(process, reader)
        if failure or not finished:
            raise MannersError(failure or _died(code, list(noise)))
        return rows

    def _made(self, job_id: str, rows: list[tuple[Prompt, list[Completion]]]) -> tuple[str, str]:
        """Make the batch. The answers go into the store in any case: they took long."""
        job = self._jobs[job_id]
        if job.state != "running":
            return "", ""
        self._change(job_id, words="the batch is being made")
        self._desk.store.add_completions(rows)
        materials = sampled(rows, ANSWERS[job.settings.mode][0])
        batch = self._desk.create(job.settings, job.guideline, materials)
        left_out = len(rows) - len(materials)
        return (
            batch.id,
            f"{left_out} of {len(rows)} prompts were left out: too few different answers" if left_out else "",
        )

    def _change(self, job_id: str, **values: Any) -> None:
        with self._lock:
            job = self._jobs[job_id]
            if job.state == "running":
                self._jobs[job_id] = replace(job, **values)


def _buried(process: subprocess.Popen[str], reader: threading.Thread) -> int:
    """Wait for a process that said its last word, a little; close its pipes. Gives its exit code, negative for a signal."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=2)
    process.kill()
    code = process.wait()
    reader.join(timeout=5)
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with contextlib.suppress(BrokenPipeError):
                stream.close()
    return code


def _event(line: str) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}


def _died(code: int, noise: list[str]) -> str:
    last = next((line.strip() for line in reversed(noise) if line.strip()), "")
    why = f"was killed by signal {-code}, perhaps for want of memory" if code < 0 else f"ended with code {code}"
    return f"the sampling process {why}" + (f"; its last words: {last[:300]}" if last else "")
