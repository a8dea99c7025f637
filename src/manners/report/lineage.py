"""From weights back to judgements: what a run was made from, followed as far as this machine has it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from manners.report.evidence import Evidence, Row, by_step, exists, gather, source_path
from manners.report.markup import Html, tag
from manners.report.numerals import between, interval, number, percent, plain
from manners.runs import Run

# A chain of runs this long is a loop that somebody made by hand.
_DEEPEST = 8


def related_runs(run: Run) -> dict[str, Run]:
    """The runs that `run` was made from and that exist here, and what those were made from in turn.

    Keys are the names on the way down, joined by "/": "reward", "reward/start". A path to a checkpoint stands for the
    run that it lies in.
    """
    return dict(_follow(run, "", (run.path.resolve(),)))


def _follow(run: Run, prefix: str, above: tuple[Path, ...]) -> Iterator[tuple[str, Run]]:
    for name, entry in gather(run).made_from.items():
        found = _run_at(source_path(run, entry))
        if found is None or found.path.resolve() in above or len(above) > _DEEPEST:
            continue
        yield f"{prefix}{name}", found
        yield from _follow(found, f"{prefix}{name}/", (*above, found.path.resolve()))


def _run_at(path: Path | None) -> Run | None:
    if path is None:
        return None
    for place in (path, *(p.parent for p in (path, *path.parents) if p.name == "checkpoints")):
        if exists(place / "lineage.json"):
            return Run.open(place)
    return None


def tree(run: Run, evidence: Evidence, related: Mapping[str, Run]) -> Html:
    """The run on top, below each thing what it was made from, down to the judgements."""
    here = _card(evidence.name, evidence.kind, {}, _facts(evidence), "this run")
    return tag("ul", tag("li", here, _sources(run, evidence, related, "")), class_="lineage")


def _sources(run: Run, evidence: Evidence, related: Mapping[str, Run], prefix: str) -> Html | None:
    items = []
    for name, entry in evidence.made_from.items():
        key = f"{prefix}{name}"
        if key in related:
            source = gather(related[key])
            card = _card(name, str(entry.get("kind") or source.kind), entry, _facts(source), f"run {source.name}")
            items.append(tag("li", card, _sources(related[key], source, related, f"{key}/")))
        else:
            path = source_path(run, entry)
            away = "not on this machine" if path is not None and not exists(path) else None
            items.append(tag("li", _card(name, str(entry.get("kind") or ""), entry, None, away)))
    return tag("ul", *items) if items else None


def _card(name: str, kind: str, entry: Row, facts: str | None, note: str | None) -> Html:
    told = [
        f"{key.replace('_', ' ')} {value}"
        for key, value in entry.items()
        if key not in ("path", "hash", "kind") and isinstance(value, str | int | float)
    ]
    path, digest = entry.get("path"), entry.get("hash")
    title = [
        tag("strong", name.replace("_", " ")),
        tag("span", kind, class_="kind") if kind and kind != name else None,
        tag("span", note, class_="note") if note else None,
    ]
    where = [
        tag("code", str(path)) if path else None,
        tag("code", f"#{digest}", class_="hash", title="hash of the content") if digest else None,
    ]
    return tag(
        "div",
        tag("p", *title),
        tag("p", facts, class_="facts") if facts else None,
        tag("p", " · ".join(told), class_="facts") if told else None,
        tag("p", *where, class_="where") if any(where) else None,
        class_="source",
    )


def _facts(evidence: Evidence) -> str | None:
    """The one number that says how good this step of the way was."""
    found = evidence.evaluation
    accuracy, span = number(found.get("accuracy")), interval(found.get("ci")) or interval(found.get("accuracy_95"))
    if accuracy is not None:
        sure = f" ({between((100 * span[0], 100 * span[1]), 0)}\u00a0%)" if span else ""
        what = "right on" if evidence.kind == "classifier" else "agrees with"
        of = "texts" if evidence.kind == "classifier" else "judgements"
        return f"{what} {percent(accuracy)}{sure} of held-out {of}"
    losses = [loss for _, row in by_step(evidence.metrics) if (loss := number(row.get("heldout_loss"))) is not None]
    loss = number(found.get("heldout_loss")) or (losses[-1] if losses else None)
    return None if loss is None else f"held-out loss {plain(loss, 3)} nats per token"
