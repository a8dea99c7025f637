"""An OpenAI-compatible server on loopback that behaves as badly as it is told, and counts what it was asked."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Body = dict[str, Any]


@dataclass
class Answer:
    """What goes back: a status, headers, and a body as it stands, or as JSON.

    `hang`: seconds before the body, `drip` after each of its bytes; `cut`: the connection ends in the middle of the body.
    """

    body: Any
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    hang: float = 0.0
    drip: float = 0.0
    cut: bool = False


def chat(text: str | None, tokens: list[dict[str, Any]] | None = None, **choice: Any) -> Answer:
    """A chat completion as it should be, without log-probabilities unless `tokens` are given."""
    logprobs = {"content": tokens} if tokens is not None else None
    whole = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop", "logprobs": logprobs} | choice
    return Answer({"choices": [whole], "usage": {"prompt_tokens": 100, "completion_tokens": 3}})


def token(text: str, **top: float) -> dict[str, Any]:
    """A token with its alternatives: token("A", A=-0.1, B=-2.4)."""
    return {"token": text, "logprob": top.get(text.strip(" ()"), -0.5),
            "top_logprobs": [{"token": t, "logprob": p} for t, p in top.items()]}  # fmt: skip


def soft(a: float, b: float) -> Answer:
    """The verdict with these log-probabilities."""
    letter = "A" if a >= b else "B"
    return chat(f"({letter})", [token("("), token(letter, A=a, B=b), token(")")])


class FakeEndpoint:
    """`answer` is asked with the body of every call and the number of calls before it. `most_at_once`: how many were open together."""

    def __init__(self, answer: Callable[[Body, int], Answer]) -> None:
        self.answer = answer
        self.bodies: list[Body] = []
        self.keys: list[str] = []
        self.times: list[float] = []
        self.open = self.most_at_once = 0
        self.lock = threading.Lock()
        self.url = ""

    @property
    def calls(self) -> int:
        return len(self.bodies)

    def conversations(self) -> list[str]:
        return [json.dumps(body["messages"]) for body in self.bodies]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, fake: FakeEndpoint) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.fake = fake

    def handle_error(self, *_: object) -> None:
        """A client that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_POST(self) -> None:
        fake = self.server.fake
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with fake.lock:
            number = len(fake.bodies)
            fake.bodies.append(body)
            fake.times.append(time.monotonic())
            fake.keys.append(self.headers.get("Authorization", ""))
            fake.open += 1
            fake.most_at_once = max(fake.most_at_once, fake.open)
        try:
            self._give(fake.answer(body, number) if self.path.endswith("/v1/chat/completions") else Answer({}, 404))
        finally:
            with fake.lock:
                fake.open -= 1

    def _give(self, answer: Answer) -> None:
        data = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        time.sleep(answer.hang)
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if answer.cut:
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
        elif answer.drip:
            for byte in data:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                time.sleep(answer.drip)
        else:
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Silent."""


@contextmanager
def serving(answer: Callable[[Body, int], Answer]) -> Iterator[FakeEndpoint]:
    """The server, for as long as the block lasts."""
    fake = FakeEndpoint(answer)
    server = _Server(fake)
    fake.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
