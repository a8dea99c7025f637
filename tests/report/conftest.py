from __future__ import annotations

import pytest
from made_up_runs import a_family

from manners.runs import Run


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished PPO run with its SFT and reward runs beside it; tests only read it."""
    return a_family(tmp_path_factory.mktemp("family"))
