"""Any OpenAI-compatible endpoint: many calls at once, each answered, or counted as a failure, whatever the server does.

Calls go to BASE_URL/chat/completions. What is passing (429, 5xx, time-outs, broken answers) is tried again with growing pauses; what
concerns every call (a refused key, an unknown model, nobody there) stops with one line; the rest is a `Failure` of that one call.
Every answer goes into a cache on the disk as it comes, so that none is ever paid for twice.

What is left out on purpose: streaming, tools, and the legacy completions route.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2

from manners.constitution.calls import Call, EndpointConfig, Spent
from manners.constitution.judge import Failure
from manners.constitution.ledger import Ledger
from manners.constitution.replies import BrokenReplyError, Reply, detail_of, reply_of, retry_after
from manners.errors import MannersError
from manners.records import content_hash
from manners.runs import Track, untracked

LARGEST_ANSWER = 1 << 24  # bytes
_PASSING = (408, 409, 425, 429)


@dataclass(frozen=True, slots=True)
class _Again:
    """An attempt that failed in a way that passes; `after`: seconds that the endpoint asked to wait, None where it did not."""

    failure: Failure
    after: float | None = None


class Endpoint:
    """Asks the endpoint that `config` names; `place` is the folder of the run, beside which the cache lies.

    `paid` counts the calls that were answered now, `used` those from the cache as well. `clock`, `wait` and `jitter` are there for
    tests: seconds, a pause, a number in [0, 1). Raises MannersError for a key that is named and not set.
    """

    def __init__(
        self,
        config: EndpointConfig,
        place: Path,
        *,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], object] | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        if not (config.base_url and config.model):
            raise MannersError("an endpoint needs endpoint.base_url and endpoint.model; set both")
        self.config = config
        self._key = _key(config.key_variable)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._clock, self._wait, self._jitter = clock, wait or self._stop.wait, jitter
        self._not_before = float("-inf")
        self._in_a_row = 0
        self._logprobs = True
        self.paid = self.used = Spent()
        path = Path(config.cache) if config.cache else place.parent / "endpoint-cache.jsonl"
        self._ledger = Ledger(path)
        self._known = {row["key"]: Reply.from_json(row["reply"]) for row in self._ledger.rows()}

    def knows(self, call: Call) -> bool:
        """Whether the call was answered before."""
        return self._key_of(call) in self._known

    def ask(
        self, calls: Sequence[Call], track: Track = untracked, what: str = "asking the endpoint"
    ) -> list[Reply | Failure]:
        """The answer to each call, in their order. Raises MannersError for what concerns every call; what was answered is kept."""
        keys = [self._key_of(call) for call in calls]
        open_calls = {key: call for key, call in zip(keys, calls, strict=True) if key not in self._known}
        failures: dict[str, Failure] = {}
        if open_calls:
            failures = self._ask_all(open_calls, track, what)
        replies = [self._known.get(key) or failures[key] for key in keys]
        for reply in replies:
            if isinstance(reply, Reply):
                self.used += reply
        return replies

    def _ask_all(self, calls: dict[str, Call], track: Track, what: str) -> dict[str, Failure]:
        self._stop.clear()
        failures: dict[str, Failure] = {}
        most = min(self.config.concurrency, len(calls))
        with self._client(most) as client, ThreadPoolExecutor(most, "endpoint") as pool:
            futures = [(key, pool.submit(self._until_stopped, client, key, call)) for key, call in calls.items()]
            try:
                for key, future in track(futures, what):
                    if failure := future.result():
                        failures[key] = failure
            except BaseException:
                self._stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return failures

    def _client(self, most: int) -> httpx2.Client:
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        limits = httpx2.Limits(max_connections=most, max_keepalive_connections=most)
        return httpx2.Client(headers=headers, timeout=self.config.timeout, limits=limits)

    def _until_stopped(self, client: httpx2.Client, key: str, call: Call) -> Failure | None:
        """Answer a call; what concerns every call keeps the others from being made."""
        try:
            return self._answer(client, key, call)
        except MannersError:
            self._stop.set()
            raise

    def _answer(self, client: httpx2.Client, key: str, call: Call) -> Failure | None:
        """Ask until there is an answer, which goes into the cache, or until it is of no use to ask again."""
        outcome: Reply | Failure | _Again = Failure("stopped")
        for attempt in range(self.config.attempts):
            if isinstance(outcome, _Again):
                self._pause(attempt, outcome.after)
            if self._stop.is_set():
                return Failure("stopped")
            outcome = self._once(client, call)
            if isinstance(outcome, Reply):
                self._keep(key, outcome)
                return None
            if isinstance(outcome, Failure):
                break
        failure = outcome.failure if isinstance(outcome, _Again) else outcome
        assert isinstance(failure, Failure)
        self._count(failure)
        return failure

    def _keep(self, key: str, reply: Reply) -> None:
        with self._lock:
            self._ledger.path.parent.mkdir(parents=True, exist_ok=True)
            self._ledger.add([{"key": key, "model": self.config.model, "reply": reply.to_json()}])
            self._known[key] = reply
            self.paid += reply
            self._in_a_row = 0

    def _count(self, failure: Failure) -> None:
        """Note a call that failed for good. Raises MannersError where nobody is there, or where too many fail behind each other."""
        if failure.kind == "unreachable":
            raise MannersError(
                f"nobody answers at {self.config.base_url} ({failure.detail}); start the server or mend base_url, then resume"
            )
        with self._lock:
            self._in_a_row += 1
            if self._in_a_row >= self.config.give_up_after:
                raise MannersError(
                    f"{self._in_a_row} calls to {self.config.base_url} failed behind each other, the last one with"
                    f" {failure.kind} ({failure.detail}); mend it and resume, nothing that was answered is asked again"
                )

    def _pause(self, attempt: int, after: float | None) -> None:
        """Wait before the attempt of this number (1 = the second): as long as the endpoint asked, else twice as long each time, by
        half or one and a half of it. What one call was asked to wait holds for all."""
        if after is not None:
            with self._lock:
                self._not_before = max(self._not_before, self._clock() + after)
        else:
            doubled = min(self.config.first_wait * 2 ** (attempt - 1), self.config.longest_wait)
            self._wait(doubled * (0.5 + self._jitter()))

    def _once(self, client: httpx2.Client, call: Call) -> Reply | Failure | _Again:
        if (left := self._not_before - self._clock()) > 0:
            self._wait(left)
        if not self._logprobs:
            call = replace(call, top_logprobs=0)
        begun = time.monotonic()
        try:
            status, headers, content = self._post(client, call.body(self.config.model), begun + self.config.timeout)
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            return _Again(Failure("unreachable", self._clean(str(error))))
        except (httpx2.TimeoutException, TimeoutError):
            return _Again(Failure("timeout", f"no answer within {self.config.timeout:g} s"))
        except (httpx2.TransportError, httpx2.DecodingError, BrokenReplyError) as error:
            return _Again(Failure("connection lost", self._clean(str(error))))
        if status == 200:
            try:
                return reply_of(content, time.monotonic() - begun, self._clean)
            except BrokenReplyError as error:
                return _Again(Failure("broken answer", str(error)))
        return self._refused(client, call, status, headers, detail_of(content, self._clean))

    def _post(self, client: httpx2.Client, body: dict[str, Any], deadline: float) -> tuple[int, httpx2.Headers, bytes]:
        """Status, headers and content, read whole. The client's time-out is for each piece, so the whole has a deadline as well."""
        content = bytearray()
        with client.stream("POST", f"{self.config.base_url}/chat/completions", json=body) as response:
            for piece in response.iter_bytes():
                content += piece
                if time.monotonic() > deadline:
                    raise TimeoutError
                if len(content) > LARGEST_ANSWER:
                    raise BrokenReplyError(f"an answer of more than {LARGEST_ANSWER} bytes")
            return response.status_code, response.headers, bytes(content)

    def _refused(
        self, client: httpx2.Client, call: Call, status: int, headers: httpx2.Headers, detail: str
    ) -> Reply | Failure | _Again:
        """What a status other than 200 means. Raises MannersError for what every call would meet."""
        url = self.config.base_url
        if status in (401, 403):
            named = f"the key in {self.config.key_variable}" if self._key else "calls without a key (name key_variable)"
            raise MannersError(f"{url} refuses {named}: {status} {detail}")
        if status == 404:
            raise MannersError(f"{url} knows no model {self.config.model!r}, or the address is wrong: 404 {detail}")
        if 300 <= status < 400:
            raise MannersError(f"{url} sends elsewhere ({headers.get('location', status)}); put that into base_url")
        if status in _PASSING or status >= 500:
            after = retry_after(headers.get("retry-after", ""))
            if after is not None and after > self.config.longest_wait:
                raise MannersError(
                    f"{url} asks to wait {after:.0f} s, more than longest_wait {self.config.longest_wait:g}; resume later"
                )
            return _Again(Failure(f"http {status}", detail), after)
        if call.top_logprobs and "logprobs" in detail:
            self._logprobs = False
            return self._once(client, call)
        return Failure(f"http {status}", detail)

    def _clean(self, text: str) -> str:
        """Text as it may be kept: UTF-8, without NUL, and without the key, should the server give it back."""
        whole = text.encode("utf-8", "replace").decode("utf-8").replace("\0", "")
        return whole.replace(self._key, "[key]") if self._key else whole

    def _key_of(self, call: Call) -> str:
        return content_hash("call", self.config.base_url, call.body(self.config.model))


def _key(variable: str) -> str:
    if not variable:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise MannersError(f"the environment variable {variable} is not set; put the key of the endpoint into it")
    if not key.isascii():
        raise MannersError(f"the environment variable {variable} holds letters that no key has; put the key there")
    return key
