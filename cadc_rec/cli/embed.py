"""The command that gives vectors to items that came after training."""

from pathlib import Path
from typing import Annotated

import typer

from cadc_rec.cli.options import (
    NEWEST,
    WORKDIR,
    Cache,
    Config,
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


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(embed)


def embed(
    config: Config,
    items: Annotated[
        Path,
        typer.Option(
            help="Table of new items, with the columns that data.tables.items names.",
            metavar="FILE",
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="Parquet file to write: item_id, vector.", metavar="FILE")
    ],
    workdir: Workdir = WORKDIR,
    cache: Cache = None,
    data_dir: DataDir = None,
    method: Method = None,
    sets: Sets = None,
    update: Update = NEWEST,
    debug: Debug = False,
) -> None:
    """Write the vectors of items that came after training, by their attributes alone."""
    from cadc_rec.config.file import load_experiment
    from cadc_rec.pipeline.job import opened
    from cadc_rec.updates.chain import take_update

    experiment = load_experiment(config, method=method, overrides=sets or ())
    if out.suffix != ".parquet":
        raise CadcError(f"--out {out}: is written as Parquet; name it {out.stem}.parquet.")
    if not out.parent.is_dir():
        raise CadcError(f"--out {out}: there is no folder {out.parent}; make it first.")
    wanted = wanted_update(update)
    with stopped_gently("stages"), opened(experiment, workdir, data_dir) as base:
        pipeline = take_update(base, wanted).pipeline
        artifacts = pipeline.run()
        from cadc_rec.export.new_items import write_vectors
        from cadc_rec.export.write import Finished
        from cadc_rec.updates.new_entities import new_entities

        finished = Finished(experiment, artifacts, pipeline.dataset, pipeline.pretrained)
        prepared = artifacts["prepare"]
        new = new_entities(experiment.data, prepared, "item", items, "--items")
        vectors = finished.new_items.vectors_of(new.attributes, len(new.ids), new.dense)
        write_vectors(out, new.ids, vectors)
    print(f"embed: {len(new.ids):,} items, vectors of {vectors.shape[1]} numbers")
    print(out.resolve())
