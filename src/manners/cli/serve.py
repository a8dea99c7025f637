"""`manners serve`: the feedback app on this machine, or for a team behind a proxy."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from manners.constitution.steps import read_steps
from manners.errors import MannersError
from manners.feedback.people import People
from manners.feedback.store import Store
from manners.web import WebSettings, create_app


@dataclass(frozen=True, slots=True)
class Served:
    """Where the app is, the link for the first admin while there is none, and a warning where passwords travel unencrypted."""

    url: str
    admin_link: str
    warning: str


def serve(
    db: str, host: str, port: int, public_url: str, ready: Callable[[Served], None], revisions: Path | None = None
) -> None:
    """Serve the store at `db` until interrupted. `ready` is told the address once the port is taken; port 0 takes a free one.
    `revisions`: a run of critique and revision that reviewers may read.

    Raises MannersError when the store or the port cannot be had.
    """
    if revisions is not None:
        read_steps(revisions)  # what is no such run is told now, and not to who opens the page
    with Store.open(db) as store, _listening(host, port) as listening:
        url = public_url or f"http://{_shown(host)}:{listening.getsockname()[1]}"
        settings = WebSettings(public_url=url, revisions=revisions)
        app = create_app(store, settings)
        token = People(store).first_admin()
        server = uvicorn.Server(
            uvicorn.Config(app, log_level="warning", access_log=False, server_header=False, timeout_keep_alive=65)
        )
        # A writer gives the interpreter away with each of its statements, and others wait for the writer: it has to come back soon,
        # not after the usual 5 milliseconds.
        sys.setswitchinterval(0.0005)
        ready(Served(url, f"{url.rstrip('/')}/invite/{token}" if token else "", _warning(host, settings)))
        server.run(sockets=[listening])


def _warning(host: str, settings: WebSettings) -> str:
    if settings.secure or host in ("127.0.0.1", "::1", "localhost"):
        return ""
    return "passwords travel unencrypted; put a proxy with https in front and name it with --public-url https://..."


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named because asyncio switches off the gathering of small packets, 40 ms a page, only where it is.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(512)
    except OSError as error:
        listening.close()
        raise MannersError(
            f"cannot listen on {host} port {port}: {error.strerror}; choose another port with --port"
        ) from None
    return listening


def _shown(host: str) -> str:
    """The host as it stands in an address; one that listens everywhere goes by the machine's name."""
    if host in ("0.0.0.0", "::"):
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host
