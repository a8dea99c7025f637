"""`manners evaluate MODEL [--against BASE]`: the behaviour card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from manners.cli.data import made_from
from manners.cli.gate import pass_gate
from manners.cli.options import Json, Replace, Sets
from manners.cli.talk import give, say, table, track
from manners.config import load_config
from manners.evaluate.gate import GateConfig
from manners.runs import Run


def card(
    model: Annotated[str, typer.Argument(help="'starter', a folder, a run of ours, or a Hub id")],
    against: Annotated[str, typer.Option(help="the model to compare with, by prompt")] = "",
    datasets: Annotated[Path | None, typer.Option(help="folder of published evaluation sets, or of your own")] = None,
    hub: Annotated[bool, typer.Option("--hub", help="fetch what is not there from the Hub, once")] = False,
    out: Annotated[Optional[Path], typer.Option(help="folder of the card [default: runs/card-NAME]")] = None,  # noqa: UP045
    config: Annotated[Optional[Path], typer.Option(help="YAML file of settings, such as judges")] = None,  # noqa: UP045
    gate: Annotated[Optional[Path], typer.Option(help="YAML file of rules; exit code 1 where one is broken")] = None,  # noqa: UP045
    sets: Sets = None,
    replace: Replace = False,
    as_json: Json = False,
) -> None:
    """The behaviour card of a model: harmless, honest, helpful, and at what price. The last line of stdout is one JSON object."""
    from manners.evaluate.card import CardConfig, Material, evaluate_card
    from manners.evaluate.datasets import gather

    rules = load_config(GateConfig, gate) if gate else None
    settings = load_config(CardConfig, config, sets or [])
    material = Material(*gather(datasets, hub=hub, chosen=settings.sets, say=say))
    folder = out or Path("runs") / f"card-{_name(model)}"
    run = Run.create(folder, "card", settings, made_from(folder, model=model, against=against), replace)
    with run.guard():
        value = evaluate_card(run, model, against, settings, material, track, say)
        page = _write(folder, value)
    if as_json:
        give(value)
    else:
        show_card(value)
        give(_short(run, page, value))
    if rules:
        pass_gate(rules, value["rows"], as_json=as_json)


def _short(run: Run, page: Path, value: Mapping[str, Any]) -> dict[str, Any]:
    """What the last line says of a card."""
    verdicts = {row["name"]: row["verdict"] for row in value["rows"] if row["verdict"]}
    return {"run": str(run.path), "card": str(page), "profile": value["profile"], "verdicts": verdicts,
            "warnings": value["warnings"], "seconds": run.status["seconds"]}  # fmt: skip


def _write(folder: Path, value: Mapping[str, Any]) -> Path:
    from manners.report.card import write_card

    return write_card(folder, value)


def _name(model: str) -> str:
    """A model as the name of a folder: the last part of its path or id."""
    return Path(model).resolve().name if Path(model).exists() else model.replace("/", "-")


def show_card(value: Mapping[str, Any]) -> None:
    """The card as tables on stderr, and what should not be overlooked."""
    from manners.report import card_words

    compared = bool(value["against"])
    columns = ("", "value", *(("base", "difference", "verdict") if compared else ()), "n", "unit")
    lines = []
    for title, rows in card_words.by_group(value):
        lines.append((title.upper(), *[""] * (len(columns) - 1)))
        for row in rows:
            pairs = [card_words.value(row["base"] or {}), card_words.change(row)] if compared else []
            beside = [*(" ".join(pair) for pair in pairs), *([row["verdict"]] if compared else [])]
            lines.append((row["label"], " ".join(card_words.value(row)), *beside, str(row["n"]), row["unit"]))
    table(card_words.summary(value), columns, lines, aside=True)
    for trait in value["profile"]:
        say(f"the model: {trait}", markup_of=trait)
    for warning in value["warnings"]:
        say(f"[yellow]warning:[/] {warning}", markup_of=warning)
    for each in value["missing"]:
        say(f"without {each['row']}: {each['why']}", markup_of=each["why"])
