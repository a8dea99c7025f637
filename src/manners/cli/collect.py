"""Commands that collect judgements and turn them into pairs. They need no torch."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

from manners.cli.data import make_pairs, one_of
from manners.cli.options import Database, Json
from manners.cli.talk import give, say
from manners.errors import MannersError
from manners.feedback.assign import Desk
from manners.feedback.batch import MODES
from manners.feedback.exports import EXPORTS
from manners.feedback.importers import ImportOptions, import_dataset, import_file
from manners.feedback.store import Store
from manners.records import SOURCES, SPLITS
from manners.runs import writing

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
    revisions: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="a run of `manners constitution revise` that reviewers may read at /constitution"),
    ] = None,
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

    serving.serve(db, host, port, public_url, ready, revisions)


@app.command()
def rank(
    file: Annotated[Optional[Path], typer.Argument(help="prompts and answers; without it, a batch")] = None,  # noqa: UP045
    db: Database = "manners.db",
    batch: Annotated[str, typer.Option(help="name or id of the batch; without it, the only open one")] = "",
    as_: Annotated[str, typer.Option("--as", help="who judges, as in the browser; without it, the login name")] = "",
    new: Annotated[bool, typer.Option("--new", help="make an account of that name")] = False,
    mode: Annotated[str, typer.Option(help="for a file: rank, pair, ratings, thumbs or edit")] = "rank",
    as_json: Json = False,
) -> None:
    """Rank answers in the terminal: the same batches, rules and drafts as in the browser."""
    from manners.cli import rank as ranking

    one_of("--mode", mode, MODES)
    with Store.open(db, create=file is not None) as store:
        sitting = ranking.rank(store, file, batch, as_, new, mode)
    facts = {
        "batch": sitting.batch.id,
        "answers": sitting.answers,
        "skipped": sitting.skipped,
        "finished": sitting.finished,
    }
    if as_json:
        give(facts)
    else:
        typer.echo(f"{db}: {sitting.answers} answers, {sitting.skipped} skipped")


@app.command()
def arena(
    db: Database = "manners.db",
    batch: Annotated[str, typer.Option(help="name or id of a batch; without it, the votes of all")] = "",
    as_json: Json = False,
) -> None:
    """Which of two models people prefer: blind votes as Bradley-Terry scores, and the same at equal length."""
    from manners.cli import arena as showing
    from manners.cli.rank import batch_called
    from manners.feedback.arena import arena as counted
    from manners.feedback.assign import Desk

    with Store.open(db, create=False) as store:
        found = batch_called(Desk(store), batch) if batch else None
        report = counted(store, found.id if found else "")
    if as_json:
        give({"batch": found.id if found else None, **report.to_json()})
    else:
        showing.show(report, f"{db}, {found.settings.name}" if found else db)


@app.command()
def person(
    who: Annotated[str, typer.Argument(help="name or pseudonym")],
    db: Database = "manners.db",
) -> None:
    """Everything the store holds about one person, as JSON."""
    from manners.feedback.people import People
    from manners.feedback.personal import data_of

    with Store.open(db, create=False) as store:
        give(data_of(store, People(store).find(who).id))


@app.command()
def forget(
    who: Annotated[str, typer.Argument(help="name or pseudonym")],
    db: Database = "manners.db",
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
    as_json: Json = False,
) -> None:
    """Delete a person's account and every word they wrote; their judgements stay, under a pseudonym that is nobody's any more."""
    from manners.feedback.people import People

    with Store.open(db, create=False) as store:
        people = People(store)
        found = people.find(who)
        if not yes and not typer.confirm(f"Delete what tells who {found.name or found.id} is, for good?", err=True):
            raise typer.Abort
        people.forget(found.id)
    if as_json:
        give({"forgotten": found.id})
    else:
        typer.echo(f"{db}: {found.id} is nobody's any more; delete older backups and exports yourself")


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
def agree(
    db: Database = "manners.db",
    batch: Annotated[str, typer.Option(help="name or id of a batch; without it, everything that people judged")] = "",
    as_json: Json = False,
) -> None:
    """How good the judgements are: agreement, biases, annotators, and what each number means."""
    from manners.cli import agree as agreeing
    from manners.cli.rank import batch_called
    from manners.feedback.assign import Desk
    from manners.feedback.people import People
    from manners.feedback.quality import quality

    with Store.open(db, create=False) as store:
        found = batch_called(Desk(store), batch) if batch else None
        report = quality(store, found.id if found else "")
        names = {user.id: user.name for user in People(store).everybody() if user.name}
    if as_json:
        give({"batch": found.id if found else None, **report.to_json()})
    else:
        agreeing.show(report, f"{db}, {found.settings.name}" if found else db, names)


@app.command()
def pairs(
    db: Database = "manners.db",
    out: Annotated[Path, typer.Option(help="folder to write to")] = Path("pairs"),
    seed: Annotated[int, typer.Option(help="draws the splits")] = 0,
    validation: Annotated[float, typer.Option(help="share of prompts")] = 0.1,
    test: Annotated[float, typer.Option(help="share of prompts")] = 0.1,
    source: Annotated[str, typer.Option(help="only judgements of this source")] = "",
    halves: Annotated[bool, typer.Option(help="also first/ and second/: half of the training prompts each")] = False,
    weights: Annotated[str, typer.Option(help="dawid-skene: pairs weigh as much as their judge can be believed")] = "",
    as_json: Json = False,
) -> None:
    """Turn rankings into pairs, split by prompt; the whole rankings go beside them, into rankings/."""
    one_of("--source", source, ("", *SOURCES))
    one_of("--weights", weights, ("", "dawid-skene"))
    with Store.open(db, create=False) as store:
        manifest = make_pairs(
            store,
            out,
            seed=seed,
            validation=validation,
            test=test,
            source=source or None,
            halves=halves,
            weights=weights,
        )
    counts = {split: facts["pairs"] for split, facts in manifest["splits"].items()}
    if as_json:
        give({"out": str(out), **counts})
    else:
        typer.echo(f"{out}: " + ", ".join(f"{split} {count} pairs" for split, count in counts.items()))


@app.command(name="export-judgements")
def export_judgements(
    layout: Annotated[str, typer.Argument(help="a file of the exports page: " + ", ".join(EXPORTS))],
    db: Database = "manners.db",
    batch: Annotated[str, typer.Option(help="name or id of a batch; without it, everything")] = "",
    out: Annotated[Optional[Path], typer.Option(help="file to write; without it, stdout")] = None,  # noqa: UP045
) -> None:
    """What was judged, for other programs: Hugging Face and TRL, Argilla, Label Studio, spreadsheets; or in our own layout."""
    from manners.cli.rank import batch_called

    one_of("the layout", layout, tuple(EXPORTS))
    if out is not None and out.is_dir():
        raise MannersError(f"{out} is a folder; name a file to write")
    with Store.open(db, create=False) as store:
        lines = EXPORTS[layout].lines(store, batch_called(Desk(store), batch).id if batch else "")
        if out is None:
            sys.stdout.writelines(lines)
            return
        with writing(out) as beside, beside.open("w", encoding="utf-8", newline="") as stream:
            stream.writelines(lines)
    say(f"{layout} in {out}", markup_of=f"{layout} in {out}")
