"""A store with a desk and people, and a clock that the test moves."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from browsing import FakeClock

from manners.feedback.assign import Desk
from manners.feedback.people import People
from manners.feedback.store import Store


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(scope="session")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store, made once: copying it is quicker than making the tables again."""
    place = tmp_path_factory.mktemp("blank") / "blank.db"
    Store.open(place).close()
    return place


@pytest.fixture
def store(tmp_path: Path, blank: Path) -> Iterator[Store]:
    with Store.open(shutil.copy(blank, tmp_path / "judgements.db")) as opened:
        yield opened


@pytest.fixture
def people(store: Store, clock: FakeClock) -> People:
    return People(store, clock)


@pytest.fixture
def desk(store: Store, clock: FakeClock) -> Desk:
    return Desk(store, clock)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The figures that tests recorded (`record_property`), as a table at the end."""
    reports = [report for outcome in ("passed", "failed") for report in terminalreporter.stats.get(outcome, [])]
    figures = [figure for report in reports if report.when == "call" for figure in report.user_properties]
    if figures:
        terminalreporter.section("figures")
        width = max(len(name) for name, _ in figures)
        for name, value in figures:
            terminalreporter.write_line(f"{name:{width}}  {value}")
