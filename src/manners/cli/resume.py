"""Going on with a run that was cut short: the same settings and the same sources, or a clear word on what differs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from manners.config import Config, differences, dump_config, load_config
from manners.errors import MannersError
from manners.runs import Run, read_json, write_json, write_text


def reopen(
    path: Path, kind: str, settings: Config, sources: Mapping[str, Any], accept_changes: bool
) -> tuple[Run, Path | None]:
    """The run in `path`, brought back to its last whole state, and the folder of that state (None: it had none yet).

    Raises MannersError where the run is of another kind, or where `settings` or `sources` (lineage entries) differ from what it
    was started with, unless `accept_changes`; then the difference is written into its lineage.
    """
    run = Run.open(path)
    if run.kind != kind:
        raise MannersError(f"{path} is a run of kind {run.kind!r}, not {kind!r}")
    lineage = read_json(path / "lineage.json")
    found = differences(load_config(type(settings), path / "config.yaml"), settings)
    for name in dict.fromkeys([*lineage["made_from"], *sources]):
        before, now = (entries.get(name, {}).get("hash", "nothing") for entries in (lineage["made_from"], sources))
        if before != now:
            found.append(f"{name}: content {before or 'unknown'} → {now or 'unknown'}")
    if found and not accept_changes:
        raise MannersError(
            f"{path} was started otherwise ({'; '.join(found)}); leave the changes out, or say --accept-changes to go on with them"
        )
    state = run.resume()
    if found:
        step = int(state.name) if state else 0
        changes = [*lineage.get("changes", []), {"before_step": step, "differences": found}]
        write_json(path / "lineage.json", {**lineage, "made_from": dict(sources), "changes": changes})
        write_text(path / "config.yaml", f"# {kind}\n{dump_config(settings)}")
    run.mark("running")
    return run, state


def source_of(path: Path, name: str) -> Path | None:
    """Where the run in `path` says that its source `name` lies; None where it has none of that name."""
    entry = read_json(path / "lineage.json")["made_from"].get(name)
    return path / entry["path"] if entry else None
