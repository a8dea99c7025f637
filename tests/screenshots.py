"""Pictures of the pages on a store of made-up judgements: those of docs/howto/collect-feedback.md, or of every page.

python tests/screenshots.py                 # docs/pictures/feedback/*.png
python tests/screenshots.py --all FOLDER    # every page, wide and on a phone, light and dark: to look at
"""

from __future__ import annotations

import argparse
import io
import random
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from chromium import PHONE, Site, begin, launch
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from manners.feedback.adjudicate import disputes
from manners.feedback.assign import Desk, Task
from manners.feedback.batch import MODES, Batch, Mode
from manners.feedback.clock import now
from manners.feedback.guidelines import starter_guideline
from manners.feedback.materials import Material, starter_materials
from manners.feedback.people import User
from manners.feedback.submissions import Answer, submit
from manners.records import Completion

_MADE = Path(__file__).parents[1] / "docs" / "pictures" / "feedback"
_WIDE = {"viewport": {"width": 1100, "height": 860}}
_SMALL = {**PHONE, "device_scale_factor": 1}
_DAY = 24 * 3600.0
_TASTES = {"Ann": 0.03, "Bela": 0.08, "Chidi": 0.06, "Dora": 0.3}


@dataclass(frozen=True)
class Shown:
    """The demo store: where its pages are."""

    site: Site
    admin: User
    ranked: Batch
    arena: Batch
    modes: Mapping[Mode, Batch]

    @property
    def places(self) -> dict[str, str]:
        ranked, dispute = self.ranked.id, self.dispute()
        return {
            "work": "/", "my-answers": "/history", "account": "/account", "exports": "/exports", "api": "/docs",
            "batches": "/admin/batches", "new-batch": "/admin/batches/new", "batch": f"/admin/batches/{ranked}",
            "people": "/admin/people", "audit": "/admin/audit", "guideline": f"/guidelines/{self.ranked.guideline_id}",
            "finished": f"/batches/{ranked}/finished", "not-found": "/nothing", "quality": f"/admin/batches/{ranked}/quality",
            "all-quality": "/admin/quality", "review": "/review", "disputes": f"/review/{ranked}", "dispute": dispute,
            "arena": f"/arena/{self.arena.id}", "arenas": "/arena", "new-arena": "/admin/arena/new",
        }  # fmt: skip

    def dispute(self) -> str:
        first = disputes(self.site.store, self.ranked.id)[0]
        return f"/review/{self.ranked.id}/{first.item_id}"


def made_up(site: Site) -> Shown:
    """Four people who agree more or less on the starter prompts, and who vote between two models."""
    materials = [m for m in starter_materials() if isinstance(m, Material) and len(m.completions) >= 4]
    admin = site.person("admin", "Ada")
    words = starter_guideline()
    gold = [replace(m, gold=((1,), (2,))) for m in materials[:4]]
    ranked = site.batch(
        gold + materials[4:24], words, name="Everyday questions", overlap=4, gold_share=0.15, repeat_share=0.1
    )
    both = [m for m in materials[24:] if {"starter", "written"} <= {c.model for c in m.completions}]
    arena = site.batch([_duel(m) for m in both[:30]], words, name="Before and after", mode="pair", overlap=3)
    draws = random.Random(5)
    for place, (name, noise) in enumerate(_TASTES.items()):
        person = site.person("annotator", name)
        for batch in (ranked, arena):
            _judge(site, person, batch, noise, draws, now() - _DAY * (3 - place / 2))
    modes = {
        mode: site.batch([_fitted(m, mode) for m in materials[-3:]], words, name=f"To try: {mode}", mode=mode)
        for mode in MODES
    }
    return Shown(site, admin, ranked, arena, modes)


def _fitted(material: Material, mode: str) -> Material:
    count = {"pair": 2, "edit": 1}.get(mode, 4)
    return replace(material, completions=material.completions[:count])


def _duel(material: Material) -> Material:
    """An answer of the starter model against one that a person wrote, under the names of two models."""
    prompt, by = material.prompt, {c.model: c for c in material.completions}
    pair = (("before", by["starter"]), ("after", by["written"]))
    return Material(prompt, tuple(Completion(prompt.id, c.text, c.finished, model) for model, c in pair))


def _judge(site: Site, person: User, batch: Batch, noise: float, draws: random.Random, start: float) -> None:
    """Rank by what a careful reader likes (whole sentences, not too short), with noise: the more, the worse the judge."""
    moment = start

    def clock() -> float:
        return moment

    desk = Desk(site.store, clock)
    while task_id := desk.next(person.id, batch.id):
        task = desk.task(task_id, person.id)
        seconds = draws.lognormvariate(3, 0.5)
        moment += seconds
        submit(site.store, task, _answer(task, noise, draws, seconds), clock)


def _answer(task: Task, noise: float, draws: random.Random, seconds: float) -> Answer:
    liked = [len(c.text) / 400 + c.finished + 3 * noise * draws.gauss(0, 1) for c in task.completions]
    order = sorted(range(len(liked)), key=lambda place: -liked[place])
    tiers = [[order[0]]]
    for one, other in pairwise(order):
        if liked[one] - liked[other] < 0.03:
            tiers[-1].append(other)
        else:
            tiers.append([other])
    pair = task.batch.settings.mode == "pair"
    strength = min(4, 1 + int(2 * abs(liked[0] - liked[1]))) if pair and len(tiers) == 2 else None
    return Answer(client_key=f"demo-{task.id}", tiers=tuple(map(tuple, tiers)), strength=strength, active_ms=int(1000 * seconds),
                  guideline_id=task.batch.guideline_id)  # fmt: skip


def _work_at(page: Page, batch: Batch, *keys: str) -> None:
    begin(page, batch)
    for key in keys:
        page.keyboard.press(key)
    page.wait_for_timeout(1200)


Act = Callable[[Page, Shown], Any]
# Name, colour scheme, screen, and how to get there.
Shot = tuple[str, str, dict[str, Any], Act]
# What the page of the documentation shows.
_DOCS: tuple[Shot, ...] = (
    ("rank", "light", _WIDE, lambda page, shown: _work_at(page, shown.modes["rank"], "2", "1", "2")),
    ("rank-phone", "dark", _SMALL, lambda page, shown: _work_at(page, shown.modes["rank"], "2", "1", "2")),
    ("pair", "dark", _WIDE, lambda page, shown: _work_at(page, shown.modes["pair"], "2")),
    ("guideline", "light", _WIDE, lambda page, shown: _work_at(page, shown.modes["rank"], "g")),
    ("new-batch", "light", _WIDE, lambda page, shown: page.goto(shown.places["new-batch"])),
    ("batch", "light", _WIDE, lambda page, shown: page.goto(shown.places["batch"])),
    ("quality", "light", _WIDE, lambda page, shown: page.goto(shown.places["quality"])),
    ("dispute", "dark", _WIDE, lambda page, shown: page.goto(shown.places["dispute"])),
    ("arena", "light", _WIDE, lambda page, shown: page.goto(shown.places["arena"])),
)


def every_page(shown: Shown) -> Sequence[Shot]:
    """All pages and modes, wide and on a phone, light and dark."""
    acts: dict[str, Act] = {name: partial(_go, place=place) for name, place in shown.places.items()}
    acts |= {f"task-{mode}": partial(_begin, batch=batch) for mode, batch in shown.modes.items()}
    return [(f"{name}-{kind}-{scheme}", scheme, screen, act) for name, act in acts.items()
            for kind, screen in (("wide", _WIDE), ("phone", _SMALL)) for scheme in ("light", "dark")]  # fmt: skip


def _go(page: Page, _: Shown, place: str) -> None:
    page.goto(place)


def _begin(page: Page, _: Shown, batch: Batch) -> None:
    _work_at(page, batch)


def save(png: bytes, path: Path) -> None:
    """Few colours are enough for pages, and make small files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.open(io.BytesIO(png)).convert("RGB").quantize(96, dither=Image.Dither.NONE).save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", type=Path, metavar="FOLDER", help="every page, to look at")
    folder: Path | None = parser.parse_args().all
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        site, browser = Site(Path(scratch)), launch(playwright)
        shown = made_up(site)
        shots = every_page(shown) if folder else _DOCS
        for name, scheme, screen, act in shots:
            context = site.context(browser, shown.admin, color_scheme=scheme, **screen)
            page = context.new_page()
            act(page, shown)
            save(page.screenshot(full_page=bool(folder)), (folder or _MADE) / f"{name}.png")
            context.close()
        browser.close()
        site.close()


if __name__ == "__main__":
    main()
