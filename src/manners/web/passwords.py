"""Passwords: Argon2id hashes, and a brake on guessing."""

from __future__ import annotations

import threading

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from manners.errors import MannersError
from manners.feedback.clock import Clock, now

SHORTEST, LONGEST = 10, 1000
# Each computation takes 64 MiB and a core: two at a time, whoever knocks.
_AT_ONCE = 2


class Passwords:
    """Makes and checks hashes. `hasher` has the parameters; a test hands over cheap ones."""

    def __init__(self, hasher: PasswordHasher | None = None) -> None:
        self._hasher = hasher or PasswordHasher()
        self._turn = threading.Semaphore(_AT_ONCE)
        # What a name that does not exist is checked against, so that it takes just as long as one that does.
        self._nobody = self._hasher.hash("nobody's password")

    def hash(self, password: str) -> str:
        """Raises MannersError where the password is too short or too long to be one."""
        if not SHORTEST <= len(password) <= LONGEST:
            raise MannersError(f"a password has {SHORTEST} to {LONGEST} characters")
        with self._turn:
            return self._hasher.hash(password)

    def fits(self, password: str, hashed: str | None) -> bool:
        """Whether `password` is the one behind the hash; False for nobody's hash, after the same time."""
        with self._turn:
            try:
                self._hasher.verify(self._nobody if hashed is None else hashed, password[:LONGEST])
            except (VerificationError, InvalidHashError):
                return False
        return hashed is not None


class Throttle:
    """After a few failures, every further one doubles the time until the next try counts.

    Kept in memory: one server process, nothing on disk that says who tried from where. `patience` failures are free; then the
    wait grows from one second to `longest`.
    """

    def __init__(self, patience: int = 5, longest: float = 900.0, clock: Clock = now) -> None:
        self._patience, self._longest, self._clock = patience, longest, clock
        self._failures: dict[str, tuple[int, float]] = {}
        self._lock = threading.Lock()

    def wait(self, *keys: str) -> float:
        """Seconds until a try under all of these keys counts; 0 when it counts now."""
        with self._lock:
            return max(0.0, *(self._failures.get(key, (0, 0.0))[1] - self._clock() for key in keys))

    def failed(self, *keys: str) -> None:
        with self._lock:
            if len(self._failures) > 10_000:
                self._forget_old()
            for key in keys:
                count = self._failures.get(key, (0, 0.0))[0] + 1
                pause = 0.0 if count < self._patience else min(self._longest, 2.0 ** min(count - self._patience, 30))
                self._failures[key] = (count, self._clock() + pause)

    def succeeded(self, *keys: str) -> None:
        with self._lock:
            for key in keys:
                self._failures.pop(key, None)

    def _forget_old(self) -> None:
        limit = self._clock() - self._longest
        self._failures = {key: kept for key, kept in self._failures.items() if kept[1] > limit}
