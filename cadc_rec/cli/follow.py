"""The command that takes in a stream: files as they arrive in a folder, or a topic of Kafka."""

import contextlib
import math
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cadc_rec import strict_json
from cadc_rec.cli.export import Allow, Block, precisions_of, require_faiss
from cadc_rec.cli.options import (
    WORKDIR,
    Config,
    DataDir,
    Debug,
    Method,
    Sets,
    Workdir,
    stopped_gently,
)
from cadc_rec.cli.serve import read_api_key
from cadc_rec.errors import CadcError
from cadc_rec.log import log

if TYPE_CHECKING:
    from cadc_rec.config.experiment import Experiment
    from cadc_rec.follow.follow import Told
    from cadc_rec.follow.publish import Published
    from cadc_rec.follow.stream import Stop, Stream


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(follow)


def follow(
    config: Config,
    source: Annotated[
        str,
        typer.Option(
            "--from",
            help="The folder where files arrive, or kafka://HOST:PORT/TOPIC.",
            metavar="DIR|TOPIC",
            show_default=False,
        ),
    ],
    every_rows: Annotated[
        int | None, typer.Option(min=1, help="Close a batch at so many rows.", metavar="N")
    ] = None,
    every_minutes: Annotated[
        float | None,
        typer.Option(min=0.001, help="Close a batch so long after its first row.", metavar="M"),
    ] = None,
    once: Annotated[
        bool, typer.Option("--once", help="Take what is there, then end.")
    ] = False,
    idle_minutes: Annotated[
        float | None,
        typer.Option(min=0.001, help="End after so long without anything new.", metavar="M"),
    ] = None,
    marked: Annotated[
        bool,
        typer.Option(
            "--marked",
            help="Take only files with a NAME.done beside them, and folders with a _SUCCESS.",
        ),
    ] = False,
    skip: Annotated[
        list[str] | None,
        typer.Option(
            help="Leave out this file, or this message of Kafka. May be repeated.",
            metavar="NAME|PARTITION:OFFSET",
        ),
    ] = None,
    kafka_properties: Annotated[
        Path | None,
        typer.Option(help="More settings of Kafka's client, name=value a line.", metavar="FILE"),
    ] = None,
    export: Annotated[
        Path | None,
        typer.Option(
            help="Write the bundle of each update to this folder, and a delta; DIR/current leads "
            "to the newest.",
            metavar="DIR",
        ),
    ] = None,
    precision: Annotated[
        list[str] | None,
        typer.Option(help="As export's; none writes no TorchRec module.", metavar="NAME"),
    ] = None,
    sign: Annotated[
        Path | None,
        typer.Option(
            help="Sign bundles with this key (PEM). Default: $CADC_REC_SIGN_KEY.", metavar="KEY"
        ),
    ] = None,
    block: Block = None,
    allow: Allow = None,
    notify: Annotated[
        str | None,
        typer.Option(help="Tell the service at http://HOST:PORT of each bundle.", metavar="URL"),
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(help="File with the service's key. Default: $CADC_REC_API_KEY."),
    ] = None,
    keep: Annotated[
        int | None,
        typer.Option(
            min=1, help="Keep the newest N updates, bundles and deltas; default: all.", metavar="N"
        ),
    ] = None,
    workdir: Workdir = WORKDIR,
    data_dir: DataDir = None,
    method: Method = None,
    sets: Sets = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object a batch.")] = False,
    debug: Debug = False,
) -> None:  # fmt: skip
    """Take in a stream, batch by batch, each exactly once: an update for each, and a bundle."""
    from cadc_rec.config.file import load_experiment
    from cadc_rec.export.withheld import Withheld
    from cadc_rec.versions import require_trio

    experiment = load_experiment(config, method=method, overrides=sets or ())
    if notify is not None and export is None:
        raise CadcError("--notify tells a service of bundles; name their folder with --export.")
    for minutes, named in ((every_minutes, "--every-minutes"), (idle_minutes, "--idle-minutes")):
        if minutes is not None and not math.isfinite(minutes):
            raise CadcError(f"{named} {minutes}: write a number of minutes.")
    if export is not None:
        _require_apart(export, source, workdir)
    precisions = precisions_of(precision)
    withheld = Withheld(block, allow)
    withheld.read()
    if export is not None:
        require_faiss()
    require_trio()
    with stopped_gently("batches"), _stops() as stop:
        from cadc_rec.export.write import Wanted
        from cadc_rec.follow.follow import Until, remove_old
        from cadc_rec.follow.follow import follow as batches_of
        from cadc_rec.follow.publish import Shelf, load_address
        from cadc_rec.follow.publish import notify as told
        from cadc_rec.follow.stream import Bounds
        from cadc_rec.serving.bundle.signing import signing_key

        shelf = None
        if export is not None:
            wanted = Wanted(precisions=precisions, key=signing_key(sign), withheld=withheld)
            shelf = Shelf(export, wanted, keep)
        address = None if notify is None else load_address(notify)
        api_key = None if notify is None else read_api_key(api_key_file)

        def publish() -> dict[str, Any]:
            """Export the newest state and tell the service; what of it is worth printing."""
            published = shelf.publish(experiment, workdir, data_dir) if shelf else None
            if published is None:
                return {}
            found = _published(published)
            if address is not None:
                why = told(address, api_key)
                if why:
                    log.warning("the service was not told (%s); it goes on by its own --watch", why)
                found["told"] = not why
            return found

        bounds = Bounds(every_rows, every_minutes)
        stream = _stream(source, experiment, bounds, skip or [], marked, kafka_properties)
        until = Until(once, idle_minutes, stop)
        # First of all, for a process may have been killed between an update and its bundle.
        for batch in batches_of(experiment, workdir, stream, bounds, until, data_dir, publish):
            document = _document(batch) | (publish() if batch.update is not None else {})
            if keep is not None:
                remove_old(experiment, workdir, keep, data_dir)
            print(strict_json.dumps(document) if json else _line(document), flush=True)


@contextlib.contextmanager
def _stops() -> Iterator["Stop"]:
    """A wish to end that SIGTERM sets, so that the batch at hand is finished first."""
    from cadc_rec.follow.stream import Stop

    stop = Stop()
    # The handler sets a flag and no more: it may come in the middle of a line of the log.
    before = signal.signal(signal.SIGTERM, lambda *_: stop.set())
    try:
        yield stop
        if stop.is_set():
            log.info("ends after the batch at hand")
    finally:
        signal.signal(signal.SIGTERM, before)


def _require_apart(export: Path, source: str, workdir: Path) -> None:
    """Refuse a folder of bundles that lies in a folder of something else, or around it.

    Raises:
        CadcError: says which.
    """
    others = {"--workdir": str(workdir)}
    if "://" not in source:
        others["--from"] = source
    mine = export.resolve()
    for told, named in others.items():
        there = Path(named).resolve()
        if mine == there or mine in there.parents or there in mine.parents:
            raise CadcError(
                f"--export {export} and {told} {named}: one lies in the other; give each a folder "
                "of its own."
            )


def _stream(
    source: str,
    experiment: "Experiment",
    bounds: Any,
    skip: list[str],
    marked: bool,
    properties: Path | None,
) -> "Stream":
    from cadc_rec.follow.folder import FolderStream
    from cadc_rec.follow.kafka import KafkaStream, is_kafka, read_properties

    tables = experiment.data.tables
    if not is_kafka(source):
        if properties is not None:
            raise CadcError("--kafka-properties is for --from kafka://HOST:PORT/TOPIC alone.")
        return FolderStream(Path(source), skip, marked, not tables.interactions.columns)
    if marked:
        raise CadcError("--marked is for files; leave it out with --from kafka://.")
    if not bounds.given:
        raise CadcError("a topic has no files: give --every-rows or --every-minutes (or both).")
    settings = {} if properties is None else read_properties(properties)
    return KafkaStream(source, skip, settings, tables.encoding)


def _published(published: "Published") -> dict[str, Any]:
    found: dict[str, Any] = {"bundle": str(published.bundle)}
    if published.delta is not None:
        found |= {"delta": str(published.delta), "delta_share": published.share}
    return found


def _document(told: "Told") -> dict[str, Any]:
    batch, update = told.batch, told.update
    found: dict[str, Any] = {
        "batch": batch.number,
        "name": batch.name,
        "text": told.text,
        "rows": batch.rows,
        "taken": [dict(one) for one in batch.taken],
        "update": None if update is None else update.number,
        "day": dict(told.counts),
        "seconds": told.seconds,
    }
    if update is not None:
        found |= {
            "record": str(update.path.resolve()),
            "foreseen": update.report.get("progressive"),
            "metrics": update.report["metrics"],
            "rebuild": update.report["rebuild"],
        }
    return found


def _line(document: dict[str, Any]) -> str:
    """A batch for people."""
    parts = [f"{document['rows']:,} rows", f"{document['day'].get('interactions', 0):,} new"]
    if document["update"] is None:
        parts.append("nothing to learn")
    else:
        parts.append(f"update {document['update']}")
        metrics = (document["foreseen"] or {}).get("metrics") or {}
        foreseen = [f"{n.upper()} {100 * value:.2f}%" for n, value in metrics.items()]
        hit_rate = next((text for text in foreseen if text.startswith("HR")), "")
        parts.append(f"foreseen {hit_rate}" if hit_rate else "nobody came back")
    parts.append(f"{document['seconds']:.1f} s")
    if "bundle" in document:
        parts.append(f"bundle {Path(document['bundle']).name}")
    if "delta" in document:
        parts.append(f"delta of {document['delta_share']:.1%}")
    if document.get("rebuild"):
        parts.append(f"a rebuild is advised ({document['rebuild'][0]})")
    return f"batch {document['batch']} ({document['text']}): {', '.join(parts)}"
