"""The report of a run: one HTML file that opens anywhere, loads nothing and runs nothing but its own few lines."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from manners.report import constitution, guards, judges, lineage, sections
from manners.report.evidence import by_step, gather
from manners.report.headline import headline
from manners.report.markup import Html, join, tag, verbatim
from manners.runs import Run, write_text


def write_report(run_path: Path) -> Path:
    """Write RUN/report.html from what the run and the runs it was made from have left on disk, and give its path.

    Raises MannersError when `run_path` is no run or the report cannot be written; a missing or broken file of the run
    is told in the report.
    """
    run = Run.open(run_path)
    path = run.path / "report.html"
    write_text(path, build_report(run, lineage.related_runs(run)))
    return path


def build_report(run: Run, related: Mapping[str, Run]) -> str:
    """The report of `run` as HTML; the same directories always give the same text.

    `related` holds the runs that it was made from, by the names in lineage.json joined by "/" on the way down (see
    `lineage.related_runs`); what is not in it is shown by its path and hash alone.
    """
    evidence = gather(run)
    parts: list[Html | None] = [sections.numbers(evidence), sections.stages(evidence)]
    if evidence.kind in constitution.KINDS:
        parts = constitution.parts(evidence, run)
    elif evidence.kind in judges.KINDS:
        parts.append(judges.judge(evidence, "judge", "How well it judges", own=True))
    else:
        parts += [sections.categories(evidence), sections.before_and_after(evidence)]
    if evidence.asks_a_judge:
        parts.append(guards.guards(evidence.config, by_step(evidence.metrics)))
    if evidence.kind not in constitution.KINDS:
        parts += [sections.curves(evidence), sections.rollouts(evidence)]
        parts += [sections.time_by_phase(evidence), sections.time_by_part(evidence)]
    for place, (name, source) in enumerate(related.items()):
        found = gather(source)
        if "/" not in name and found.kind in judges.KINDS:
            parts.append(judges.judge(found, f"judge-{place}", f"The judge: {name.replace('_', ' ')}"))
    parts += [sections.made_from(evidence, lineage.tree(run, evidence, related)), sections.settings(evidence)]
    return document(f"{evidence.name}: {evidence.kind}", headline(evidence), join(parts))


def document(title: str, top: Html, body: Html) -> str:
    """A whole page in the style of the report, which loads nothing."""
    style, scripts = (
        _own_file("styles.css") + _own_file("microscope.css"),
        [_own_file("lists.js"), _own_file("microscope.js")],
    )
    # Nothing may be loaded, and of scripts only these run, even if some text should ever slip past the escaping.
    allowed = {
        "default-src": "'none'",
        "style-src": "'unsafe-inline'",
        "script-src": " ".join(f"'sha256-{_digest(script)}'" for script in scripts),
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    policy = "; ".join(f"{what} {where}" for what, where in allowed.items())
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        verbatim("style", style),
    )
    page = tag("body", tag("main", top, body), *(verbatim("script", script) for script in scripts))
    return "<!doctype html>\n" + tag("html", head, page, lang="en") + "\n"


def _own_file(name: str) -> str:
    return resources.files("manners.report").joinpath(name).read_text(encoding="utf-8")


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
