"""The command that gives vectors to items and users that came after training."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cadc_rec.cli.options import (
    NEWEST,
    WORKDIR,
    Cache,
    DataDir,
    Debug,
    Method,
    Sets,
    Update,
    Workdir,
    stopped_gently,
    wanted_update,
)
from cadc_rec.errors import CadcError

if TYPE_CHECKING:
    import numpy as np

    from cadc_rec.data.prepare.new_rows import Columns
    from cadc_rec.export.new_users import NewUsers
    from cadc_rec.serving.predict.cold_items import NewItems


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(embed)


def embed(
    of: Annotated[
        Path,
        typer.Argument(
            help="The experiment's TOML file, or the folder or address of a bundle, which needs "
            "nothing else.",
            metavar="CONFIG|BUNDLE",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            help="Parquet file to write, or its address: item_id or user_id, vector.",
            metavar="FILE",
        ),
    ],
    items: Annotated[
        Path | None,
        typer.Option(
            help="Table of new items, with the columns that data.tables.items names.",
            metavar="FILE",
        ),
    ] = None,
    users: Annotated[
        Path | None,
        typer.Option(
            help="Table of new users, with the columns that data.tables.users names.",
            metavar="FILE",
        ),
    ] = None,
    history: Annotated[
        Path | None,
        typer.Option(
            help="With --users: what they took, with the columns of data.tables.interactions.",
            metavar="FILE",
        ),
    ] = None,
    workdir: Workdir = WORKDIR,
    cache: Cache = None,
    data_dir: DataDir = None,
    method: Method = None,
    sets: Sets = None,
    update: Update = NEWEST,
    debug: Debug = False,
) -> None:
    """Write the vectors of items or users that came after training, by what is known of them."""
    from cadc_rec.store.remote.address import parse
    from cadc_rec.store.remote.finished import brought_file
    from cadc_rec.store.remote.sending import sent_file

    if (items is None) == (users is None):
        raise CadcError("embed takes --items FILE or --users FILE: name one of them.")
    if history is not None and users is None:
        raise CadcError("--history says what users took; name these with --users.")
    if out.suffix != ".parquet":
        raise CadcError(f"--out {out}: is written as Parquet; name it {out.stem}.parquet.")
    place = parse(out)
    if isinstance(place, Path) and not place.parent.is_dir():
        raise CadcError(f"--out {out}: there is no folder {out.parent}; make it first.")
    items, users, history = (
        None if table is None else brought_file(table) for table in (items, users, history)
    )
    with sent_file(out) as file:
        _write(of, file, items, users, history, workdir, data_dir, method, sets, update)
    print(place.resolve() if isinstance(place, Path) else place)


def _write(
    of: Path,
    out: Path,
    items: Path | None,
    users: Path | None,
    history: Path | None,
    workdir: Path,
    data_dir: Path | None,
    method: str | None,
    sets: list[str] | None,
    update: str,
) -> None:
    from cadc_rec.store.remote.address import is_address
    from cadc_rec.store.remote.finished import brought

    if of.is_dir() or is_address(of):
        if method is not None or sets:
            raise CadcError(f"{of} is a bundle, of one method; leave --method and --set out.")
        _by_bundle(brought(of), items, users, history, out)
        return
    from cadc_rec.config.file import load_experiment
    from cadc_rec.pipeline.job import opened
    from cadc_rec.updates.chain import take_update

    experiment = load_experiment(of, method=method, overrides=sets or ())
    wanted = wanted_update(update)
    with stopped_gently("stages"), opened(experiment, workdir, data_dir) as base:
        pipeline = take_update(base, wanted).pipeline
        artifacts = pipeline.run()
        from cadc_rec.export.finished import Finished

        finished = Finished(experiment, artifacts, pipeline.dataset, pipeline.pretrained)
        if items is not None:
            _embed_items(finished.columns, finished.new_items, items, out)
        else:
            assert users is not None
            known = finished.dataset.item_ids().to_pylist()
            _embed_users(finished.columns, finished.new_users, known, users, history, out)


def _by_bundle(
    folder: Path, items: Path | None, users: Path | None, history: Path | None, out: Path
) -> None:
    from cadc_rec.data.prepare.new_rows import Columns
    from cadc_rec.export.new_users import NewUsers
    from cadc_rec.serving.bundle import layout
    from cadc_rec.serving.bundle.bundle import Bundle
    from cadc_rec.serving.bundle.signing import verification_key
    from cadc_rec.serving.predict.cold_items import NewItems

    bundle = Bundle.open(folder, verification_key(None))
    if not bundle.has(layout.COLUMNS):
        raise CadcError(f"{folder}: does not say how new rows are read; export it anew.")
    dense = bundle.json(layout.DENSE) if bundle.has(layout.DENSE) else {}
    attributes = bundle.json(layout.ATTRIBUTES)
    columns = Columns.of_json(bundle.json(layout.COLUMNS), attributes, dense)
    if items is not None:
        _embed_items(columns, NewItems.of_bundle(bundle), items, out)
    else:
        assert users is not None
        taken = len(bundle.table(layout.ITEMS)) - int(bundle.model().get("untaken_items", 0))
        known = bundle.table(layout.ITEMS)["item_id"].to_pylist()[:taken]
        _embed_users(columns, NewUsers.of_bundle(bundle), known, users, history, out)


def _embed_items(columns: "Columns", new_items: "NewItems", items: Path, out: Path) -> None:
    from cadc_rec.data.prepare.new_rows import read_new_rows
    from cadc_rec.export.new_items import write_vectors

    new = read_new_rows(columns, "item", items, "--items")
    vectors = new_items.vectors_of(new.attributes, len(new.ids), new.dense)
    write_vectors(out, "item", new.ids, vectors)
    _say("items", vectors)


def _embed_users(
    columns: "Columns",
    new_users: "NewUsers",
    known: list[int | str],
    users: Path,
    history: Path | None,
    out: Path,
) -> None:
    from cadc_rec.data.prepare.new_rows import read_log, read_new_rows
    from cadc_rec.export.new_items import write_vectors
    from cadc_rec.export.new_users import histories_of
    from cadc_rec.log import log

    if history is not None and not new_users.by_history:
        raise CadcError("--history: this model reads no history; leave it out.")
    if history is None and not new_users.by_attributes:
        raise CadcError(
            "--users: this model knows users by what they took alone; name that with --history."
        )
    new = read_new_rows(columns, "user", users, "--users")
    taken = None if history is None else read_log(columns, history, "--history")
    histories, unknown = histories_of(new.ids, taken, known)
    if unknown:
        log.warning("%s: %s rows are of items the model does not know", history, f"{unknown:,}")
    vectors = new_users.vectors_of(new.attributes, new.dense, histories)
    write_vectors(out, "user", new.ids, vectors)
    _say("users", vectors)


def _say(what: str, vectors: "np.ndarray") -> None:
    print(f"embed: {len(vectors):,} {what}, vectors of {vectors.shape[1]} numbers")
