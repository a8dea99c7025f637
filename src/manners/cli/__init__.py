"""The command line: `manners`. stdout is data, stderr is talk; an error is one line and an exit code that is not 0."""

from __future__ import annotations

import os
import sys

from manners.errors import MannersError


def main() -> None:
    """Entry point of the `manners` command."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from manners.cli.app import app
    from manners.cli.talk import say

    try:
        app()
    except MannersError as error:
        say(f"[red]error:[/] {error}", markup_of=str(error))
        sys.exit(1)
    except KeyboardInterrupt:
        say("stopped; what was finished so far is kept")
        sys.exit(130)
