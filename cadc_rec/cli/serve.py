"""The command that serves a bundle over HTTP and gRPC."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from cadc_rec.cli.options import Cache, Debug
from cadc_rec.errors import CadcError
from cadc_rec.log import log

_KEY_VARIABLE = "CADC_REC_API_KEY"


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(serve)


def serve(
    bundle: Annotated[
        Path,
        typer.Argument(
            help="Folder of the bundle, a link to it, or its address in a store.", metavar="BUNDLE"
        ),
    ],
    host: Annotated[str, typer.Option(help="Address to bind to.")] = "127.0.0.1",
    http_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port for HTTP; 0 takes any free port.")
    ] = 8080,
    grpc_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port for gRPC; 0 takes any free port.")
    ] = 8081,
    no_grpc: Annotated[bool, typer.Option("--no-grpc", help="Serve over HTTP only.")] = False,
    health_port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Port that answers for health alone, from a thread of "
                     "its own; 0 takes any free port. Default: none; the HTTP port answers, too."),
    ] = None,
    name: Annotated[str, typer.Option(help="Name that clients call the model by.")] = "recommender",
    api_key_file: Annotated[
        Path | None,
        typer.Option(help=f"File with the key that clients must send. Default: ${_KEY_VARIABLE}."),
    ] = None,
    no_api_key: Annotated[
        bool, typer.Option("--no-api-key", help="Answer everybody who can reach --host.")
    ] = False,
    verify_key: Annotated[
        Path | None,
        typer.Option(help="File with the public key that bundles must be signed with. "
                     "Default: $CADC_REC_VERIFY_KEY, else unsigned bundles are accepted."),
    ] = None,
    watch: Annotated[
        float, typer.Option(min=0, help="Seconds between checks for a new bundle; 0 never checks.")
    ] = 2.0,
    workers: Annotated[
        int, typer.Option(min=1, max=256, help="Processes that answer; they share one bundle.")
    ] = 1,
    deadline: Annotated[
        float,
        typer.Option(min=0.001, help="Seconds in which who asks for recommendations is answered or "
                     "refused; clients may allow less."),
    ] = 30.0,
    max_wait: Annotated[
        float,
        typer.Option(min=0.001, help="Seconds of work that may wait before a request; beyond it "
                     "it is refused at once."),
    ] = 0.1,
    max_places: Annotated[
        int, typer.Option(min=1, help="Recommendations in one answer: users times k.")
    ] = 1 << 20,
    max_new_items: Annotated[
        int,
        typer.Option(min=0, help="Items that may be put beside the bundle's while it is served, "
                     "new and changed ones together."),
    ] = 10_000,
    max_new_items_mib: Annotated[
        int, typer.Option(min=1, help="Size of the journal of these items.")
    ] = 64,
    events: Annotated[
        Path | None,
        typer.Option(help="Journal of the events that clients tell. Default: BUNDLE.events beside "
                     "a bundle that is a folder.", show_default=False),
    ] = None,
    tls_cert: Annotated[
        Path | None,
        typer.Option(help="PEM file with the certificate: serve HTTPS, and gRPC over TLS. It is "
                     "read again when it changes, and at SIGHUP."),
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(help="PEM file with the certificate's key.")
    ] = None,
    access_log: Annotated[
        str | None,
        typer.Option(help="File for a line of JSON for each request; - is standard output."),
    ] = None,
    cache: Cache = None,
    debug: Debug = False,
) -> None:  # fmt: skip
    """Serve a bundle: answer requests of the Open Inference Protocol until stopped."""
    from cadc_rec.serving.http.settings import (
        Limits,
        ServiceSettings,
        require_key_beyond_loopback,
    )
    from cadc_rec.serving.http.shared_metrics import shared_metrics
    from cadc_rec.store.remote.address import parse

    api_key = None if no_api_key else read_api_key(api_key_file)
    require_key_beyond_loopback(host, api_key, no_api_key)
    settings = ServiceSettings(
        bundle=parse(bundle),
        name=name,
        host=host,
        http_port=http_port,
        grpc_port=None if no_grpc else grpc_port,
        health_port=health_port,
        api_key=api_key,
        verify_key=verify_key,
        workers=workers,
        watch_seconds=watch,
        limits=Limits(deadline_seconds=deadline, wait_seconds=max_wait, places=max_places),
        new_items=max_new_items,
        new_items_bytes=max_new_items_mib << 20,
        events=events,
        tls_cert=tls_cert,
        tls_key=tls_key,
        access_log=access_log,
    )
    for library in ("OPENBLAS", "OMP"):  # NumPy, faiss and torch read them when they are loaded
        os.environ.setdefault(f"{library}_NUM_THREADS", "1")
    with shared_metrics(workers):
        with _no_arguments():
            try:
                from cadc_rec.serving.http.server import serve as run
            except ImportError as error:
                raise CadcError(
                    f"the service's libraries are missing ({error}); run `make install-serve`, or "
                    "`pip install cadc-rec[serve]` in an environment of its own."
                ) from error
        run(settings, lambda where: log.info("serving %s", where))


@contextlib.contextmanager
def _no_arguments() -> Iterator[None]:
    """Hides the command line, which KServe would read when it is imported."""
    arguments, sys.argv = sys.argv, sys.argv[:1]
    try:
        yield
    finally:
        sys.argv = arguments


def read_api_key(file: Path | None) -> str | None:
    """The key in a file, or without one that of the environment; None where neither has one.

    Raises:
        CadcError: the file cannot be read or is empty, or the key cannot stand in a header of HTTP.
            The key is not in the sentence.
    """
    if file is None:
        where, key = f"${_KEY_VARIABLE}", os.environ.get(_KEY_VARIABLE, "").strip()
    else:
        where = str(file)
        try:
            key = file.read_bytes().decode("utf-8", "replace").strip()
        except OSError as error:
            raise CadcError(f"{file}: the API key cannot be read ({error}).") from error
        if not key:
            raise CadcError(f"{file} is empty; write the API key into it.")
    if not (key.isascii() and key.isprintable()):
        raise CadcError(
            f"{where}: the API key must be one line of printable ASCII characters; write one "
            "without other letters and line breaks, here and at the clients."
        )
    return key or None
