"""Many annotators at once against a real server: how long they wait, and what of their work is there afterwards.

`python tests/crowd.py --help` runs it at any size and prints the figures.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import random
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from itsdangerous import TimestampSigner

from manners.feedback.assign import Desk
from manners.feedback.batch import BatchSettings
from manners.feedback.chain import audit
from manners.feedback.exports import submissions
from manners.feedback.materials import Material
from manners.feedback.people import People
from manners.feedback.store import Store
from manners.records import Completion, Prompt

_ANSWERS = 4


@dataclass
class Seen:
    """What the annotators saw: seconds that each request took, keys of acknowledged answers, anything unexpected."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: {"page": [], "draft": [], "submit": []})
    acknowledged: list[str] = field(default_factory=list)
    strange: list[str] = field(default_factory=list)

    def percentile(self, kind: str, share: float) -> float:
        ordered = sorted(self.seconds[kind])
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


class Server:
    """`manners serve` in a process of its own, which can be killed and started again on the same store."""

    def __init__(self, db: str) -> None:
        self._db = db
        self.port = free_port()
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-c", "from manners.cli import main; main()"]
        self._process = subprocess.Popen(
            [*command, "serve", "--db", self._db, "--port", str(self.port), "--json"], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            self._process.communicate()
            raise RuntimeError(f"the server at port {self.port} ended at once, with {self._process.returncode}")
        self.told: dict[str, str] = json.loads(line)

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()

    def stop(self) -> None:
        self._process.terminate()
        self._process.communicate(timeout=30)


def free_port() -> int:
    """A port below those that the system gives to clients.

    Otherwise a client that knocks while the server is down may be given that very port, talk to itself, and keep the server out. The
    system draws it: two test processes whose generators stand alike would else take the same one at the same moment.
    """
    while True:
        port = random.SystemRandom().randrange(15_000, 30_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Annotator(threading.Thread):
    """Opens tasks, saves drafts, hands in, and sends again whatever was not acknowledged."""

    def __init__(self, server: Server, cookie: str, batch_id: str, seed: int, think: float, seen: Seen) -> None:
        super().__init__(daemon=True)
        self._server, self._cookie, self._batch_id, self._seen = server, cookie, batch_id, seen
        self._draws, self._think, self.leaving = random.Random(seed), think, threading.Event()
        self._connection: http.client.HTTPConnection | None = None

    def run(self) -> None:
        try:
            self._work()
        finally:
            self._disconnect()

    def _work(self) -> None:
        self.leaving.wait(self._think * self._draws.random())
        home = self._ask("GET", "/")[2]
        csrf = re.findall(r'name="csrf" value="([^"]+)"', home)[0]
        place = self._ask("POST", f"/batches/{self._batch_id}/next", {"csrf": csrf})[1]
        while not self.leaving.is_set() and place.startswith("/tasks/"):
            status, _, page = self._timed("page", "GET", place)
            if status != 200:
                self._seen.strange.append(f"{place}: {status}")
                return
            form = {"csrf": csrf, "client_key": re.findall(r'name="client_key" value="([^"]+)"', page)[0]}
            form |= {f"rank-{k}": str(self._draws.randint(1, _ANSWERS)) for k in range(_ANSWERS)}
            if self._thinks():
                self._timed("draft", "POST", f"{place}/draft", form)
            if not self._thinks():
                return
            status, _, text = self._timed("submit", "POST", place, {**form, "action": "submit"})
            if status != 200:
                self._seen.strange.append(f"{place}: {status} {text[:200]}")
                return
            self._seen.acknowledged.append(form["client_key"])
            place = json.loads(text)["next"]

    def _thinks(self) -> bool:
        """Take time over half a task; False when it is time to leave."""
        return not self.leaving.wait(self._draws.expovariate(2 / self._think) if self._think else 0)

    def _timed(self, kind: str, method: str, path: str, form: dict[str, str] | None = None) -> tuple[int, str, str]:
        start = time.monotonic()
        answer = self._ask(method, path, form)
        self._seen.seconds[kind].append(time.monotonic() - start)
        return answer

    def _ask(self, method: str, path: str, form: dict[str, str] | None = None) -> tuple[int, str, str]:
        """Send a request until it is answered, as the script of the page does."""
        accept = "application/json" if form and "client_key" in form else "text/html"
        headers = {"Cookie": f"manners_session={self._cookie}", "Accept": accept}
        body = urllib.parse.urlencode(form) if form else None
        if body:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        while True:
            try:
                if self._connection is None:
                    self._connection = http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=60)
                self._connection.request(method, path, body, headers)
                answer = self._connection.getresponse()
                text = answer.read().decode()
                if answer.status < 500:
                    return answer.status, answer.headers.get("location", ""), text
                self._seen.strange.append(f"{path}: {answer.status} {text[:200]}")
            except (OSError, http.client.HTTPException):
                pass
            self._disconnect()
            time.sleep(0.05)

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None


def prepare(db: str, annotators: int, items: int) -> tuple[str, list[str]]:
    """A store with a batch and people who are signed in; gives the batch and their cookies."""
    with Store.open(db) as store:
        people = People(store)
        signer = TimestampSigner(people.secret(), salt="manners.web")
        batch = Desk(store).create(
            BatchSettings(name="crowd", overlap=3, repeat_share=0.05), "# Be kind", _materials(items)
        )
        cookies = []
        for number in range(annotators):
            user = people.accept(people.invite("annotator"), f"annotator {number}", "no password")
            cookies.append(signer.sign(people.start_session(user.id)).decode())
    return batch.id, cookies


def _materials(count: int) -> list[Material]:
    made = []
    for number in range(count):
        prompt = Prompt.of(f"prompt {number}: " + "why is that so? " * 10)
        texts = (f"answer **{k}** to {number}\n\n" + "words and more words " * 20 for k in range(_ANSWERS))
        made.append(Material(prompt, tuple(Completion(prompt.id, text) for text in texts)))
    return made


def crowd(
    db: str, annotators: int, seconds: float, think: float, kills: int = 0, items: int = 1000, least: int = 1
) -> Seen:
    """Let `annotators` work for `seconds` with `think` seconds on each task, while the server is killed `kills` times.

    Before each kill and before the end at least `least` answers are acknowledged, however long a slow machine takes for them.
    """
    batch_id, cookies = prepare(db, annotators, items)
    server, seen = Server(db), Seen()
    people = [Annotator(server, cookie, batch_id, seed, think, seen) for seed, cookie in enumerate(cookies)]
    for annotator in people:
        annotator.start()
    for kill in range(kills + 1):
        if kill:
            server.kill()
            server.start()
        _let_work(seen, seconds / (kills + 1), least)
    for annotator in people:
        annotator.leaving.set()
    for annotator in people:
        annotator.join(60)
    server.stop()
    return seen


def _let_work(seen: Seen, seconds: float, least: int) -> None:
    wanted, patience = len(seen.acknowledged) + least, time.monotonic() + 120
    time.sleep(seconds)
    while len(seen.acknowledged) < wanted and time.monotonic() < patience:
        time.sleep(0.1)
    if len(seen.acknowledged) < wanted:
        seen.strange.append(f"only {len(seen.acknowledged)} of {wanted} answers were taken in two minutes")


def missing_or_doubled(db: str, seen: Seen) -> list[str]:
    """Acknowledged answers that are not in the log exactly once, and what the audit has to say."""
    with Store.open(db, create=False) as store:
        logged = Counter(row["client_key"] for row in submissions(store))
        rankings = Counter(row["ranking_id"] for row in submissions(store))
        wrong = [f"{key}: {logged[key]} times" for key in seen.acknowledged if logged[key] != 1]
        wrong += [f"ranking {key}: {count} submissions" for key, count in rankings.items() if count != 1]
        if store.counts().rankings != len(rankings):
            wrong.append(f"{store.counts().rankings} rankings, {len(rankings)} submissions")
        with store.reading() as connection:
            wrong += audit(connection).problems
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotators", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--think", type=float, default=4, help="mean seconds that one spends on a task")
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--db", default="", help="an empty store; default: a SQLite file that is thrown away")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        db = options.db or str(Path(folder) / "crowd.db")
        seen = crowd(db, options.annotators, options.seconds, options.think, options.kills, items=3000)
        for kind, seconds in seen.seconds.items():
            figures = "  ".join(
                f"p{share * 100:.0f} {1000 * seen.percentile(kind, share):.0f} ms" for share in (0.5, 0.95, 0.99)
            )
            print(f"{kind:7} {len(seconds):5}  {len(seconds) / options.seconds:5.1f}/s  {figures}")
        wrong = missing_or_doubled(db, seen)
        print(f"acknowledged {len(seen.acknowledged)}, missing or doubled {len(wrong)} {wrong[:3]}")
        print(f"errors {len(seen.strange)} {seen.strange[:3]}")


if __name__ == "__main__":
    main()
