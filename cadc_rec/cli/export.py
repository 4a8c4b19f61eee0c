"""The command that exports a finished experiment as a bundle, which a service needs."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cadc_rec import strict_json
from cadc_rec.cli.options import (
    NEWEST,
    WORKDIR,
    AsJson,
    Cache,
    Config,
    DataDir,
    Debug,
    Force,
    Method,
    Sets,
    Update,
    Workdir,
    stopped_gently,
    wanted_update,
)
from cadc_rec.errors import CadcError

if TYPE_CHECKING:
    from cadc_rec.export.finished import Finished
    from cadc_rec.serving.bundle.bundle import Bundle

_NO_TOWERS = "--triton needs towers, and this method has only vectors; leave --triton out."

Block = Annotated[
    Path | None,
    typer.Option(
        help="File of item ids that are never recommended: Parquet or CSV with a column "
        "item_id, or text with an id a line.",
        metavar="FILE",
        show_default=False,
    ),
]
Allow = Annotated[
    Path | None,
    typer.Option(
        help="File of the only item ids that are recommended, as for --block.",
        metavar="FILE",
        show_default=False,
    ),
]
Available = Annotated[
    str | None,
    typer.Option(
        help="Column of the items' table (data.tables.items) with true for those in store. A "
        "service withholds the others until it is told that they are back.",
        metavar="COLUMN",
        show_default=False,
    ),
]


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(export)


def export(
    config: Config,
    out: Annotated[
        Path,
        typer.Option(
            help="Folder of the bundle to write, or its address in a store.", metavar="BUNDLE"
        ),
    ],
    workdir: Workdir = WORKDIR,
    cache: Cache = None,
    data_dir: DataDir = None,
    method: Method = None,
    sets: Sets = None,
    update: Update = NEWEST,
    state: Annotated[
        Literal["production", "evaluation"],
        typer.Option(
            "--for",
            help="What the bundle knows of users: all that is in the log, or what was known when "
            "the test items were ranked.",
        ),
    ] = "production",
    refit: Annotated[
        bool,
        typer.Option(
            "--refit",
            help="Fit tables and towers again on all rows, held-out ones too, the towers for as "
            "many steps as those that were evaluated.",
        ),
    ] = False,
    index: Annotated[
        Literal["auto", "exact", "hnsw", "ivf-pq"],
        typer.Option(help="Kind of FAISS index; auto chooses by the number of items."),
    ] = "auto",
    precision: Annotated[
        list[str] | None,
        typer.Option(
            help="Precision of the TorchRec module's tables: int8 (default), int4 or fp16. "
            "Repeat it for several modules; none writes no module."
        ),
    ] = None,
    device: Annotated[
        Literal["cpu", "cuda"],
        typer.Option(help="Where the TorchRec module has its tables; cuda is exported on a GPU."),
    ] = "cpu",
    aot: Annotated[
        bool, typer.Option("--aot", help="Also compile the float programs with AOTInductor.")
    ] = False,
    triton: Annotated[
        Path | None,
        typer.Option(
            help="Also write a Triton model repository to this folder or address.", metavar="DIR"
        ),
    ] = None,
    sign: Annotated[
        Path | None,
        typer.Option(
            help="Sign with this Ed25519 private key (PEM). Default: $CADC_REC_SIGN_KEY.",
            metavar="KEY",
        ),
    ] = None,
    block: Block = None,
    allow: Allow = None,
    available: Available = None,
    delta_from: Annotated[
        Path | None,
        typer.Option(
            help="Also write what makes the new bundle of this one (a folder or an address), to "
            "the folder BUNDLE.delta beside the new one.",
            metavar="OLD",
            show_default=False,
        ),
    ] = None,
    force: Force = False,
    json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Write what a service needs of a finished run, as its newest update left it: one folder."""
    from cadc_rec.config.file import load_experiment
    from cadc_rec.export.withheld import Withheld, require_lists
    from cadc_rec.pipeline.job import opened
    from cadc_rec.pipeline.pipeline import launched
    from cadc_rec.serving.bundle.signing import signing_key
    from cadc_rec.store.remote.address import parse
    from cadc_rec.store.remote.cache import address_of
    from cadc_rec.store.remote.sending import require_apart, require_free, sent
    from cadc_rec.updates.chain import take_update
    from cadc_rec.versions import require_trio

    experiment = load_experiment(config, method=method, overrides=sets or ())
    if launched():
        raise CadcError("exporting runs in one process; start cadc-rec without a launcher.")
    # Refuse a wrong request before any work.
    if refit and state == "evaluation":
        raise CadcError(
            "--refit learns from the test items, which a bundle --for evaluation must not know; "
            "leave one of the two out."
        )
    key, precisions, wanted_state = (
        signing_key(sign),
        precisions_of(precision),
        wanted_update(update),
    )
    if device == "cuda" and precisions:
        from cadc_rec.export.predict import require_device

        require_device(device)
    out_of_store = None
    if available is not None:
        from cadc_rec.export.available import sold_out

        out_of_store = sold_out(experiment.data, available, data_dir)
    withheld = Withheld(block, allow, out_of_store)
    withheld.read()
    delta = None if delta_from is None else _place_of_delta(out)
    old = None if delta_from is None else _base_of_delta(delta_from, out)
    for before in (old.path if old else None, parse(out) if force else None):
        if isinstance(before, Path):
            require_lists(before, withheld)
    require_faiss()
    require_trio()
    require_apart({"--out": out, "--triton": triton, "--workdir": address_of(workdir)})
    for named in (out, triton, delta):
        if named is not None:
            require_free(named, replace=force)
    with stopped_gently("stages"), opened(experiment, workdir, data_dir) as base:
        taken = take_update(base, wanted_state)
        pipeline, evaluated = taken.pipeline, None
        artifacts = pipeline.run()
        from cadc_rec.export.trained import with_towers

        if triton is not None and not with_towers(artifacts):
            raise CadcError(_NO_TOWERS)
        if refit:
            from cadc_rec.pipeline.refit import refit as fitted_again

            pipeline, evaluated = fitted_again(pipeline, taken.built), artifacts
            artifacts = pipeline.run()
        from cadc_rec.export.finished import Finished
        from cadc_rec.export.write import Wanted, write_bundle

        finished = Finished(
            experiment,
            artifacts,
            pipeline.dataset,
            pipeline.pretrained,
            taken.document(),
            state,
            evaluated,
        )
        wanted = Wanted(index, precisions, device, aot, key, replace=force, withheld=withheld)
        with sent(out, replace=force) as folder:
            manifest = write_bundle(finished, folder, wanted)
        if triton is not None:
            _write_triton(finished, triton, precisions, force)
    share = 0.0
    if old is not None and delta is not None:
        from cadc_rec.serving.bundle.bundle import Bundle
        from cadc_rec.serving.bundle.delta import size_of, write_delta

        write_delta(old, Bundle.open(out), delta, replace=force)
        share = size_of(delta) / size_of(out)
    place = parse(out)
    written = str(place.resolve()) if isinstance(place, Path) else place
    if json:
        document: dict[str, Any] = {
            "bundle": written,
            "update": taken.document(),
            "state": state,
            "refit": refit,
            "manifest": manifest,
        }
        if delta is not None:
            document |= {"delta": str(delta.resolve()), "delta_share": share}
        print(strict_json.dumps(document))
        return
    print(f"export: {manifest['name']}, {len(manifest['files'])} files")
    print(written)
    if delta is not None:
        print(f"delta: {share:.1%} of the bundle's bytes")
        print(delta.resolve())


def require_faiss() -> None:
    """Refuse to export where the library of indexes is missing.

    Raises:
        CadcError: says how to install it.
    """
    if find_spec("faiss") is None:
        raise CadcError("exporting needs faiss; install it: pip install 'cadc-rec[export]'.")


def _place_of_delta(out: Path) -> Path:
    from cadc_rec.store.remote.address import parse

    if not isinstance(parse(out), Path):
        raise CadcError(
            f"{out}: a delta is written beside a bundle in a folder; give a local folder as --out."
        )
    return out.with_name(f"{out.name}.delta")


def _base_of_delta(named: Path, out: Path) -> "Bundle":
    """The bundle that a delta is made from, a folder or an address, verified.

    Raises:
        CadcError: it is none, or would be replaced by the new one.
    """
    from cadc_rec.serving.bundle.bundle import Bundle
    from cadc_rec.store.remote.finished import brought

    folder = brought(named).resolve()
    if folder == out.resolve():
        raise CadcError(f"--delta-from {named}: is the folder of the new bundle; name another.")
    return Bundle.open(folder)


def _write_triton(
    finished: "Finished", named: Path, precisions: tuple[str, ...], force: bool
) -> None:
    from cadc_rec.export.triton import write_repository
    from cadc_rec.store.remote.sending import sent_plainly

    trained = finished.trained()
    if trained is None:
        raise CadcError(_NO_TOWERS)
    with sent_plainly(named, last="config.pbtxt", replace=force) as folder:
        write_repository(trained, folder, (precisions or ("int8",))[0], replace=force)


def precisions_of(named: list[str] | None) -> tuple[str, ...]:
    """What ``--precision`` asks for.

    Raises:
        CadcError: one of them is not known.
    """
    wanted = tuple(dict.fromkeys(named or ["int8"]))
    if wanted == ("none",):
        return ()
    for precision in wanted:
        if precision not in ("int8", "int4", "fp16"):
            raise CadcError(f"--precision {precision}: choose int8, int4, fp16, or none alone.")
    return wanted
