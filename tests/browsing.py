"""For tests of the feedback app: a browser that carries the token of its forms, a clock that stands still, things to judge."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from argon2 import PasswordHasher
from starlette.testclient import TestClient

from manners.feedback.materials import Material
from manners.feedback.people import User
from manners.records import Completion, Message, Prompt

# A backslash and n in the file stand for a line break.
PAYLOADS = [
    line.replace("\\n", "\n")
    for line in (Path(__file__).parent / "web" / "payloads.txt").read_text(encoding="utf-8").splitlines()
]
CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


class FakeClock:
    """Stands still until somebody moves it."""

    def __init__(self) -> None:
        self.seconds = 1_800_000_000.0

    def __call__(self) -> float:
        return self.seconds


class Browser(TestClient):
    """Follows no redirects by itself, and adds the session's token to what it posts."""

    csrf = ""
    user: User

    def send_form(self, path: str, files: Any = None, accept: str = "text/html", **fields: Any) -> Any:
        named = {name.replace("__", "-"): value for name, value in fields.items()}
        return self.post(path, data={"csrf": self.csrf, **named}, files=files, headers={"accept": accept})


def token_in(page: str) -> str:
    """The token of the first form on a page."""
    found = re.search(r'name="csrf" value="([^"]+)"', page)
    assert found, page[:500]
    return found[1]


def field_in(page: str, name: str) -> str:
    """The value of a hidden field."""
    found = re.search(rf'name="{name}" value="([^"]*)"', page)
    assert found, page[:500]
    return found[1]


def materials(count: int = 3, answers: int = 3, text: str = "prompt") -> list[Material]:
    made = []
    for number in range(count):
        prompt = Prompt((Message("user", f"{text} {number}"),))
        completions = tuple(Completion(prompt.id, f"answer {k} to {number}", model=f"m{k}") for k in range(answers))
        made.append(Material(prompt, completions))
    return made
