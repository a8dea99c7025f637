"""What every route works with: the store and its desk, the people, the templates, the settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from itsdangerous import TimestampSigner
from jinja2 import Environment

from manners.feedback.assign import Desk
from manners.feedback.clock import Clock, now
from manners.feedback.people import People
from manners.feedback.store import Store
from manners.web.assets import Assets
from manners.web.passwords import Passwords, Throttle
from manners.web.sampling import Sampling


@dataclass(frozen=True, slots=True)
class WebSettings:
    """How the app is reached, and how much it takes.

    `public_url` is the address that people open, where it is not the one the server listens on; with https:// cookies are sent
    over encrypted connections only. `body_bytes` is the most a request may hold, `upload_bytes` the same for a file that an admin
    uploads, `call_bytes` for a batch that a program sends: less, since such a body is read before anybody asks for the token.
    `revisions` is a run of critique and revision that reviewers may read.
    """

    public_url: str = "http://127.0.0.1:8420"
    body_bytes: int = 512 * 1024
    upload_bytes: int = 32 * 1024 * 1024
    call_bytes: int = 8 * 1024 * 1024
    revisions: Path | None = None

    @property
    def secure(self) -> bool:
        return self.public_url.startswith("https://")


@dataclass(frozen=True)
class Office:
    store: Store
    settings: WebSettings
    people: People
    desk: Desk
    passwords: Passwords
    throttle: Throttle
    templates: Environment
    assets: Assets
    sampling: Sampling
    signer: TimestampSigner = field(repr=False)
    clock: Clock = now
