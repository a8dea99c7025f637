"""Commands that collect judgements and turn them into pairs. They need no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from manners.cli.data import make_pairs, one_of
from manners.cli.options import Database, Json
from manners.cli.talk import give, say
from manners.errors import MannersError
from manners.feedback.importers import ImportOptions, import_dataset, import_file
from manners.feedback.store import Store
from manners.records import SOURCES, SPLITS

app = typer.Typer()


@app.command(name="import")
def import_(
    files: Annotated[list[str], typer.Argument(help="files, or data set ids with --hub")],
    db: Database = "manners.db",
    layout: Annotated[str, typer.Option(help="auto, or the name of a layout (docs/howto/import.md)")] = "auto",
    rejects: Annotated[Optional[Path], typer.Option(help="where rows that cannot be read go")] = None,  # noqa: UP045
    strict: Annotated[bool, typer.Option(help="exit with an error when any row was rejected")] = False,
    hub: Annotated[bool, typer.Option(help="read data sets of the Hugging Face Hub by id")] = False,
    hub_split: Annotated[str, typer.Option(help="split of the Hub data set")] = "train",
    judge: Annotated[str, typer.Option(help="who judged")] = "",
    source: Annotated[str, typer.Option(help="human, ai or rule")] = "human",
    category: Annotated[str, typer.Option(help="category of all prompts")] = "",
    split: Annotated[str, typer.Option(help="put all prompts into train, validation or test")] = "",
    criterion: Annotated[str, typer.Option(help="which rating counts, where there are several")] = "",
    as_json: Json = False,
) -> None:
    """Import judgements: our JSONL, hh-rlhf, Open-Assistant, Hugging Face preference layouts, ratings, CSV."""
    one_of("--source", source, SOURCES)
    one_of("--split", split, ("", *SPLITS))
    values = {"judge": judge, "source": source, "category": category, "split": split, "criterion": criterion}
    options = ImportOptions.model_validate({k: v for k, v in values.items() if v})
    with Store.open(db) as store:
        for file in files:
            if hub:
                done = import_dataset(store, file, hub_split, layout, options, rejects_path=rejects, strict=strict)
            else:
                done = import_file(
                    store, file, layout, options, rejects_path=rejects, strict=strict, progress=_rows_read
                )
            facts = {"file": file, "layout": done.layout, "rows": done.rows, "judgements": done.judgements, "new": done.new,
                     "known": done.known, "rejected": done.rejected, "rejects": str(done.rejects_path or "")}  # fmt: skip
            if as_json:
                give(facts)
            else:
                tail = f"; {done.rejected} rows rejected, see {done.rejects_path}" if done.rejected else ""
                typer.echo(
                    f"{file}: {done.rows} rows as {done.layout}, {done.new} new judgements, {done.known} known{tail}"
                )


def _rows_read(rows: int) -> None:
    if rows and rows % 5000 == 0:
        say(f"{rows} rows read")


@app.command()
def serve(
    db: Database = "manners.db",
    host: Annotated[
        str, typer.Option(help="address to listen on; the default serves this machine alone")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one", min=0, max=65535)] = 8420,
    public_url: Annotated[str, typer.Option(help="address that people open, behind a proxy: https://...")] = "",
    as_json: Json = False,
) -> None:
    """The feedback app: people rank answers in a browser."""
    from manners.cli import serve as serving

    def ready(served: serving.Served) -> None:
        if served.warning:
            say(f"[yellow]warning:[/] {served.warning}")
        if as_json:
            give({"url": served.url, "admin_link": served.admin_link})
            return
        typer.echo(f"manners serves {db} at {served.url} (stop with Ctrl-C)")
        if served.admin_link:
            typer.echo(f"There is no admin yet. Become it with this link, within a day: {served.admin_link}")

    serving.serve(db, host, port, public_url, ready)


@app.command()
def audit(
    db: Database = "manners.db",
    head: Annotated[str, typer.Option(help="last hash, noted at an earlier audit: it must still be there")] = "",
    as_json: Json = False,
) -> None:
    """Verify the hash chain over everything that was judged; fails when something was changed, removed or inserted."""
    from manners.feedback import chain

    with Store.open(db, create=False) as store, store.reading() as connection:
        result = chain.audit(connection, head, progress=_links_checked)
    if as_json:
        give({"links": result.links, "head": result.head, "problems": list(result.problems)})
    else:
        typer.echo(f"{db}: {result.links} links, head {result.head}")
    if not result.whole:
        raise MannersError(
            f"the log of {db} was changed: {result.problems[0]} ({len(result.problems)} problems in all)"
        )


def _links_checked(links: int) -> None:
    if links and links % 5000 == 0:
        say(f"{links} links checked")


@app.command()
def pairs(
    db: Database = "manners.db",
    out: Annotated[Path, typer.Option(help="folder to write to")] = Path("pairs"),
    seed: Annotated[int, typer.Option(help="draws the splits")] = 0,
    validation: Annotated[float, typer.Option(help="share of prompts")] = 0.1,
    test: Annotated[float, typer.Option(help="share of prompts")] = 0.1,
    source: Annotated[str, typer.Option(help="only judgements of this source")] = "",
    halves: Annotated[bool, typer.Option(help="also first/ and second/: half of the training prompts each")] = False,
    as_json: Json = False,
) -> None:
    """Turn rankings into pairs, split by prompt; the whole rankings go beside them, into rankings/."""
    one_of("--source", source, ("", *SOURCES))
    with Store.open(db, create=False) as store:
        manifest = make_pairs(
            store, out, seed=seed, validation=validation, test=test, source=source or None, halves=halves
        )
    counts = {split: facts["pairs"] for split, facts in manifest["splits"].items()}
    if as_json:
        give({"out": str(out), **counts})
    else:
        typer.echo(f"{out}: " + ", ".join(f"{split} {count} pairs" for split, count in counts.items()))
