"""The process that samples for the feedback app, so that the server stays without torch and answers while a model works.

The job comes as a line of JSON on stdin. What happens goes to stdout as lines of JSON: {"words"}, {"done", "total"}, then either a
line {"prompt", "completions"} for each prompt and {"finished": true}, or {"failed": why}. When stdin ends, whoever asked is gone, and
so is this process.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TextIO, TypeVar

from manners.errors import MannersError
from manners.records import Prompt

T = TypeVar("T")

# So few at a time that the bar moves.
_AT_ONCE = 16


def main() -> None:
    """Do the one job that stdin names."""
    if sys.platform != "win32":
        os.nice(10)  # people who rank at the same time come first
    # What libraries print must not get between our lines.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    try:
        _sample(job, out)
    except MannersError as error:
        _tell(out, failed=str(error))
        sys.exit(1)
    except Exception as error:
        # The server has only these words; where it went wrong stands on stderr.
        _tell(out, failed=f"the sampler stopped with {type(error).__name__}: {' '.join(str(error).split())[:300]}")
        raise


def _end_with_stdin() -> None:
    sys.stdin.read()
    os._exit(1)


def _sample(job: dict[str, Any], out: TextIO) -> None:
    prompts = [Prompt.from_json(value) for value in job.pop("prompts")]
    _tell(out, words="the model is being loaded")
    from manners.sampling.answers import answers_to

    total = len(prompts) * job["k"]

    def track(items: Sequence[T], description: str) -> Iterable[T]:
        _tell(out, words=description)
        return _told(items, total, out)

    def say(words: str) -> None:
        _tell(out, words=words)

    for prompt, answers in answers_to(prompts, batch=_AT_ONCE, say=say, track=track, **job):
        _tell(out, prompt=prompt.to_json(), completions=[answer.to_json() for answer in answers])
    _tell(out, finished=True)


def _told(items: Sequence[T], total: int, out: TextIO) -> Iterator[T]:
    _tell(out, done=0, total=total)
    for number, item in enumerate(items, 1):
        yield item
        _tell(out, done=min(number * _AT_ONCE, total), total=total)


def _tell(out: TextIO, **event: Any) -> None:
    out.write(json.dumps(event) + "\n")
    out.flush()


if __name__ == "__main__":
    main()
