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
