"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

Database = Annotated[str, typer.Option("--db", help="SQLite file or postgresql:// URL")]
Json = Annotated[bool, typer.Option("--json", help="print one JSON object instead of text")]
Sets = Annotated[Optional[list[str]], typer.Option("--set", help="key=value, over the config file; may be repeated")]  # noqa: UP045
RunFolder = Annotated[Path, typer.Option("--run", help="folder of the run")]
Replace = Annotated[bool, typer.Option("--replace", help="replace a run that is there already")]
Data = Annotated[Path, typer.Option("--data", help="folder that `manners pairs` wrote")]
ConfigFile = Annotated[Optional[Path], typer.Argument(help="YAML file; without it, defaults")]  # noqa: UP045
PairsOrNone = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--data", help="folder that `manners pairs` wrote [default: pairs]"),
]
Prompts = Annotated[
    str, typer.Option("--prompts", help="a file of prompts, or 'starter', in place of those of the pairs")
]
Resume = Annotated[Optional[Path], typer.Option("--resume", help="go on with the run in this folder")]  # noqa: UP045
AcceptChanges = Annotated[bool, typer.Option("--accept-changes", help="resume though settings or sources differ")]
