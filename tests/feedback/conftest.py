"""Somebody who judges."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from manners.feedback.people import People, User


@pytest.fixture
def join(people: People) -> Callable[[str], User]:
    """Makes an annotator of that name."""
    return lambda name: people.accept(people.invite("annotator"), name, "hash")
