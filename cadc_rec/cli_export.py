"""The command that exports: a finished experiment becomes a bundle for those who serve it."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Annotated

import typer

from cadc_rec.cli_options import (
    WORKDIR,
    AsJson,
    Config,
    DataDir,
    Debug,
    Force,
    Method,
    Sets,
    Workdir,
    stopped_gently,
)
from cadc_rec.errors import CadcError
from cadc_rec.experiment_file import load_experiment
from cadc_rec.pipeline import Pipeline
from cadc_rec.versions import require_trio


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(export)


def export(
    config: Config,
    out: Annotated[Path, typer.Option(help="The bundle to write.", metavar="BUNDLE")],
    workdir: Workdir = WORKDIR,
    data_dir: DataDir = None,
    method: Method = None,
    sets: Sets = None,
    index: Annotated[
        str, typer.Option(help="FAISS index: auto (by the number of items), exact, hnsw, ivf-pq.")
    ] = "auto",
    sign: Annotated[
        Path | None,
        typer.Option(
            help="Sign with this Ed25519 private key (PEM); default $CADC_REC_SIGN_KEY.",
            metavar="KEY",
        ),
    ] = None,
    force: Force = False,
    json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Write what a service needs of the trained model: one verified folder."""
    experiment = load_experiment(config, method=method, overrides=sets or ())
    from cadc_rec.serving.signing import signing_key

    key = signing_key(sign)  # before hours of training
    with stopped_gently("stages"):
        require_trio()
        pipeline = Pipeline(experiment, workdir, data_dir)
        artifacts = pipeline.run()
        try:
            from cadc_rec.export.write import Finished, Wanted, write_bundle
        except ModuleNotFoundError as error:
            if error.name != "faiss":
                raise
            raise CadcError(
                "exporting needs faiss; install it: pip install 'cadc-rec[serve]'."
            ) from error
        finished = Finished(experiment, artifacts, pipeline.dataset, pipeline.pretrained)
        manifest = write_bundle(finished, out, Wanted(index, key=key, replace=force))
    if json:
        print(jsonlib.dumps({"bundle": str(out.resolve()), "manifest": manifest}))
    else:
        print(f"export: {manifest['name']}, {len(manifest['files'])} files")
        print(out.resolve())
