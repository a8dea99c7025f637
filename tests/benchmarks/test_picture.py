"""The pictures of a saved table say what the table says."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "speed" / "picture.py"


def row(name: str, title: str, ratio: float, target: float, phases: dict[str, float] | None = None) -> dict[str, Any]:
    ours = {"seconds": 0.5, **({"phases": phases} if phases else {})}
    return {"name": name, "title": title, "ratio": ratio, "target": target, "floor": 2.0, "ours": ours}


def test_every_row_and_every_part_is_in_the_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        row("ppo_all", "PPO everywhere", 2.25, 2.5, {"sample": 1.0, "update": 3.0}),
        row("ppo_top8", "PPO above", 4, 6, {"sample": 1.0, "update": 1.0}),
        row("generation", "answers", 1.5, 1.5),
        {**row("memory", "peak memory", 0.4, 0.4), "floor": None},
    ]
    (tmp_path / "table.json").write_text(json.dumps({"rows": rows}), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), str(tmp_path / "table.json"), "--out", str(tmp_path)])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    speed, phases = ((tmp_path / f"{name}.svg").read_text(encoding="utf-8") for name in ("speed", "phases"))
    assert "PPO everywhere 2.25, target 2.5; PPO above 4.00, target 6; answers 1.50, target 1.5" in speed
    assert "peak memory" not in speed
    assert "all layers: sample 0.125, update 0.375; top 8: sample 0.250, update 0.250" in phases
    assert "top 4" not in phases
