"""`manners evaluate gate`: may this model ship? Exit code 0 yes, 1 no, 2 where the card or the rules cannot be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from manners.cli.options import Json
from manners.cli.talk import give, say, table
from manners.config import load_config
from manners.errors import MannersError
from manners.evaluate.gate import Checked, GateConfig, check, read_card

UNREADABLE = 2


def gate(
    card: Annotated[Path, typer.Argument(help="card.json, or the folder it lies in")],
    rules: Annotated[Path, typer.Argument(help="YAML file of rules, such as configs/gate.yaml")],
    as_json: Json = False,
) -> None:
    """Check a behaviour card against rules. The exit code is 0 where all are kept, 1 where one is broken."""
    try:
        rows, settings = read_card(card)["rows"], load_config(GateConfig, rules)
    except MannersError as error:
        say(f"[red]error:[/] {error}", markup_of=str(error))
        raise typer.Exit(UNREADABLE) from None
    pass_gate(settings, rows, as_json=as_json)


def pass_gate(gate: GateConfig, rows: Sequence[Mapping[str, Any]], *, as_json: bool = False) -> None:
    """Show the outcome of every rule, and leave with exit code 1 where one is broken."""
    checked = check(gate, rows)
    broken = sum(not one.ok for one in checked)
    if as_json:
        give({"passed": not broken, "rules": [one.to_json() for one in checked]})
    else:
        title = "Every rule is kept" if not broken else f"{broken} of {len(checked)} rules are broken"
        table(title, ("", "row", "rule", "found", ""), [_cells(one) for one in checked])
    if broken:
        raise typer.Exit(1)


def _cells(one: Checked) -> tuple[str, ...]:
    return (one.outcome, one.row, one.asks, one.found, one.because)
