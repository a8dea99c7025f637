from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

from manners.ops.memory import trim

GLIBC = sys.platform == "linux" and hasattr(ctypes.CDLL(None), "malloc_trim")
GROWN = """
import ctypes, gc, resource
from manners.ops.memory import trim

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

ctypes.CDLL(None).mallopt(-3, 2**30)  # M_MMAP_THRESHOLD: pieces that the allocator keeps
pieces = [bytearray(b"x") * 2**20 for _ in range(200)]
last = bytearray(b"x") * 2**20  # stands above them, so that nothing is given back by itself
del pieces
gc.collect()
before = resident()
trim()
print(before - resident())
"""


@pytest.mark.skipif(not GLIBC, reason="there is no malloc_trim here")
def test_what_was_freed_is_given_back() -> None:
    got = subprocess.run([sys.executable, "-c", GROWN], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert int(got.stdout) > 150 * 2**20


def test_where_it_cannot_be_asked_for_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: object())
    trim()
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", None)
    trim()
