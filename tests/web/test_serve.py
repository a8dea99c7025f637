"""The real server in a process of its own: how it starts, what it loads, and what is left when it is killed."""

from __future__ import annotations

import json
import resource
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from crowd import Server, crowd, missing_or_doubled

from manners.cli.serve import serve
from manners.errors import MannersError

COMMAND = [sys.executable, "-c", "from manners.cli import main; main()"]


def test_the_app_needs_no_torch() -> None:
    code = (
        "import sys, tempfile, manners.cli.app, manners.cli.serve\n"
        "from manners.feedback.store import Store\n"
        "manners.cli.serve.create_app(Store.open(tempfile.mkdtemp() + '/s.db'))\n"
        "print(sorted({'torch', 'numpy', 'transformers', 'matplotlib', 'scipy', 'accelerate'} & set(sys.modules)))\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_it_is_there_within_two_seconds_of_work_and_says_where(tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen(
        [*COMMAND, "serve", "--db", str(tmp_path / "new.db"), "--port", "0", "--json"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    told = json.loads(process.stdout.readline())
    assert urllib.request.urlopen(f"{told['url']}/health", timeout=10).status == 200
    page = urllib.request.urlopen(told["admin_link"], timeout=10).read().decode()
    assert "You are invited as <b>admin</b>" in page
    process.terminate()
    process.communicate(timeout=10)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Processor time, so that the neighbours of a busy machine do not count.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2


def test_the_first_admin_link_is_new_with_every_start_until_it_was_used(tmp_path: Path) -> None:
    links = []
    for _ in range(2):
        process = subprocess.Popen(
            [*COMMAND, "serve", "--db", str(tmp_path / "s.db"), "--port", "0"], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout
        where, link = process.stdout.readline(), process.stdout.readline()
        assert "at http://127.0.0.1:" in where
        links.append(link.split()[-1])
        if len(links) == 2:
            host = links[1].split("/invite/")[0]
            old = f"{host}/invite/{links[0].split('/invite/')[1]}"
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(old, timeout=10)
        process.terminate()
        process.communicate(timeout=10)
    assert links[0].split("/invite/")[1] != links[1].split("/invite/")[1]


def test_a_port_that_is_taken_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(MannersError, match="choose another port"):
        serve(str(tmp_path / "s.db"), "127.0.0.1", taken.getsockname()[1], "", lambda _: None)


def test_a_kill_under_load_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    db = str(tmp_path / "crowd.db")
    seen = crowd(db, annotators=12, seconds=4, think=0.3, kills=2, items=400, least=10)
    assert len(seen.acknowledged) >= 30
    assert seen.strange == []
    assert missing_or_doubled(db, seen) == []


def test_sixty_four_people_at_once(tmp_path: Path) -> None:
    db = str(tmp_path / "crowd.db")
    seen = crowd(db, annotators=64, seconds=5, think=4, items=400, least=21)
    assert seen.strange == []
    assert missing_or_doubled(db, seen) == []
    # The long test (test_load.py) holds 250 ms; here the machine may have other things to do.
    assert seen.percentile("submit", 0.5) < 1


def test_stopping_is_quick_and_clean(tmp_path: Path) -> None:
    server = Server(str(tmp_path / "s.db"))
    start = time.monotonic()
    server.stop()
    assert time.monotonic() - start < 10
    audit = subprocess.run(
        [*COMMAND, "audit", "--db", str(tmp_path / "s.db"), "--json"], capture_output=True, text=True, check=True
    )
    assert json.loads(audit.stdout) == {"links": 0, "head": "0" * 64, "problems": []}
    wrong = subprocess.run(
        [*COMMAND, "audit", "--db", str(tmp_path / "s.db"), "--head", "f" * 64], capture_output=True, text=True
    )
    assert wrong.returncode == 1
    assert "is not in the chain" in " ".join(wrong.stderr.split())
