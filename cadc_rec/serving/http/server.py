"""Runs a service: load the bundle, listen, answer, stop.

In: `ServiceSettings`. It returns after SIGTERM or SIGINT, when the requests in flight are answered.
Of several workers (`cadc_rec.serving.http.workers`) each runs the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
import uvloop
from grpc import aio
from kserve.model_repository import ModelRepository
from kserve.protocol.dataplane import DataPlane

from cadc_rec.errors import CadcError
from cadc_rec.serving.bundle.signing import verification_key
from cadc_rec.serving.http.about import About
from cadc_rec.serving.http.access_log import access_log
from cadc_rec.serving.http.connections import impatient
from cadc_rec.serving.http.event_log import EventLog
from cadc_rec.serving.http.guard import ApiKey
from cadc_rec.serving.http.handshake import handshaking
from cadc_rec.serving.http.health import HealthPort
from cadc_rec.serving.http.item_log import ItemLog
from cadc_rec.serving.http.loaded import Loaded, Repository, use_one_thread
from cadc_rec.serving.http.observed import observed, observers
from cadc_rec.serving.http.recommender import Recommender
from cadc_rec.serving.http.rest import application
from cadc_rec.serving.http.rpc import grpc_server
from cadc_rec.serving.http.settings import ServiceSettings
from cadc_rec.serving.http.shared_metrics import forget
from cadc_rec.serving.http.side_models import side_models
from cadc_rec.serving.http.tls import KeyPair
from cadc_rec.serving.http.withheld import Withheld
from cadc_rec.serving.http.workers import Link, Workers, apart
from cadc_rec.serving.predict.predictor import Predictor
from cadc_rec.store.remote.finished import brought

_SWITCH = 0.001  # seconds after which a thread lets the event loop go on; Python's own is 0.005
_YOUNG = 10_000  # objects after which the collector looks at the new ones; Python's own is 700
_BACKLOG = 2048  # connections that the system holds until they are accepted
_OTHER_FILES = 64  # that the process may open beside connections


class _Both(uvicorn.Server):
    """HTTP, which stops together with gRPC."""

    def __init__(
        self, config: uvicorn.Config, rpc: aio.Server | None, grace: int, stopping: asyncio.Event
    ) -> None:
        super().__init__(config)
        self.rpc, self.grace, self.stopping = rpc, grace, stopping

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop at SIGTERM and SIGINT; uvicorn's own way raises them again when all is done."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.stopping.set()
        stops = [super().shutdown(sockets)]
        if self.rpc is not None:
            stops.append(self.rpc.stop(self.grace))
        await asyncio.gather(*stops)


def serve(settings: ServiceSettings, ready: Callable[[str], None]) -> None:
    """Serve until stopped.

    Args:
        settings: the service's settings.
        ready: called with the addresses when all ports listen.

    Raises:
        CadcError: the bundle is refused, or a port is taken.
    """
    sys.setswitchinterval(_SWITCH)
    # A request makes no cycles, and hundreds of requests under way have more objects than 700: the
    # collector would look through them all the time, in vain.
    gc.set_threshold(_YOUNG)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # it renews the certificate, where there is one
    with contextlib.ExitStack() as stack:
        health = None
        if settings.health_port is not None:
            health = _listening(settings.host, settings.health_port, "--health-port")
            stack.enter_context(health)
            url = f"http://{_shown(settings.host)}:{health.getsockname()[1]}"
            told = ready

            def ready(where: str) -> None:
                told(f"{where}, health at {url}")

        if settings.workers > 1:
            _serve_with_workers(settings, ready, health, stack)
            return
        listener = _listening(settings.host, settings.http_port, "--http-port")
        stack.enter_context(listener)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(settings, ready, listener, health))
    gc.freeze()  # the process ends: looking for cycles in torch's modules would take seconds


def _serve_with_workers(
    settings: ServiceSettings,
    ready: Callable[[str], None],
    health: socket.socket | None,
    stack: contextlib.ExitStack,
) -> None:
    """Serve in several processes; `stack` closes their sockets."""
    host, port = settings.host, settings.http_port
    with _listening(host, port, "--http-port") as first:  # it is free, for nobody shares it
        port = first.getsockname()[1]
    listeners = [_listening(host, port, "--http-port", True) for _ in range(settings.workers)]
    for listener in listeners:
        stack.enter_context(listener)
    if settings.grpc_port is not None:
        with _listening(host, settings.grpc_port, "--grpc-port") as first:
            settings = replace(settings, grpc_port=first.getsockname()[1])
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        held = stack.enter_context(socket.socket(family))  # keeps the port while none listens
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind((host, settings.grpc_port))

    _key_pair(settings)  # a wrong one is told before workers start
    forget(os.getpid())  # metrics are those of the workers
    use_one_thread()
    # Workers bring a bundle of a store themselves. Its library does not survive the fork, and this
    # process is to hold no copy in the cache when they have gone on to another bundle.
    place = settings.bundle
    folder = place if isinstance(place, Path) else apart(brought, place)
    # What this loads, libraries above all, is loaded once, and shared by all workers.
    Predictor.load(folder.resolve(), verification_key(settings.verify_key))

    async def run(place: int, link: Link) -> None:
        await _serve(settings, link.ready, listeners[place], None, link)

    grace = settings.limits.grace_seconds
    Workers(settings.workers, run, listeners, grace, health).serve(
        lambda where: ready(f"{where}, {settings.workers} workers")
    )


async def _serve(
    settings: ServiceSettings,
    ready: Callable[[str], None],
    listener: socket.socket,
    health: socket.socket | None,
    link: Link | None = None,
) -> None:
    """Serve in this process.

    Args:
        settings: the service's settings.
        ready: called with the addresses.
        listener: for HTTP.
        health: for health alone; None without.
        link: to the parent, where there are other workers.
    """
    limits, key = settings.limits, ApiKey(settings.api_key)
    stopping = asyncio.Event()
    pair = _key_pair(settings)
    with contextlib.ExitStack() as stack:
        written = stack.enter_context(access_log(settings.access_log))
        tell = None if written is None else written.write
        told = _told(settings)
        for each in told:
            stack.callback(each.close)
        loaded = Loaded(settings.bundle, settings.verify_key, *told)
        model = Recommender(settings.name, loaded, limits)
        stack.callback(model.close)
        models = ModelRepository()
        beside = side_models(model)
        for side in beside:
            stack.callback(side.close)
        for one in (model, *beside):
            models.update(one)
        dataplane = DataPlane(models)
        reload = loaded.reload if link is None else link.reload_all
        repository = Repository(models, reload, settings.name, key.exists)
        scheme = "http" if pair is None else "https"
        where = [f"{scheme}://{_shown(settings.host)}:{listener.getsockname()[1]}"]
        rpc = None
        if settings.grpc_port is not None:
            about, seen = About(model, beside), observers(tell)
            rpc = grpc_server(dataplane, repository, about, key, limits, seen, link is not None)
            address = f"{_shown(settings.host)}:{settings.grpc_port}"
            try:
                if pair is None:
                    port = rpc.add_insecure_port(address)
                else:
                    port = rpc.add_secure_port(address, pair.for_grpc())
            except RuntimeError as error:
                raise CadcError(
                    f"--grpc-port {settings.grpc_port} cannot be used; choose another port."
                ) from error
            await rpc.start()
            where.append(f"grpc://{_shown(settings.host)}:{port}")

        def is_ready() -> bool:
            return model.ready and not stopping.is_set()

        app = application(model, beside, dataplane, repository, key, limits, is_ready)
        most = _connections(limits.connections)
        protocol: Any = impatient(limits.head_seconds, most, model.load, tell)
        if pair is not None:
            protocol = handshaking(protocol, lambda: pair.context, limits.head_seconds, most)
        config = uvicorn.Config(
            observed(app, tell), http=protocol,
            ws="none", lifespan="off", backlog=_BACKLOG,
            log_level="critical", access_log=False, server_header=False, date_header=False,
            timeout_keep_alive=limits.idle_seconds,
            timeout_graceful_shutdown=limits.grace_seconds,
        )  # fmt: skip
        server = _Both(config, rpc, limits.grace_seconds, stopping)
        tasks = [asyncio.create_task(loaded.load_ahead())]
        if health is not None:
            port_of_health = HealthPort(health, is_ready)
            stack.callback(port_of_health.close)
            tasks.append(asyncio.create_task(port_of_health.beat()))
        if link is not None:
            stop = partial(server.handle_exit, signal.SIGTERM, None)
            tasks.append(asyncio.create_task(link.listen(loaded.reload, stop)))
        if settings.watch_seconds > 0:
            tasks.append(asyncio.create_task(loaded.watch(settings.watch_seconds)))
        tasks += [asyncio.create_task(each.watch()) for each in told]
        if pair is not None:
            tasks.append(asyncio.create_task(pair.watch()))
        predictor = loaded.predictor
        ready(f"{predictor.name} ({predictor.fingerprint[:12]}) on {', '.join(where)}")
        try:
            await server.serve(sockets=[listener])
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def _told(settings: ServiceSettings) -> tuple[EventLog, Withheld, ItemLog] | tuple[()]:
    """What clients tell while the bundle is served; nothing where there is no place for it."""
    events, availability, items = settings.journal, settings.availability, settings.items
    if events is None or availability is None or items is None:
        return ()
    withheld = Withheld(availability)
    put = ItemLog(items, settings.new_items, settings.new_items_bytes, withheld.follow)
    return EventLog(events, before=put.follow), withheld, put


def _key_pair(settings: ServiceSettings) -> KeyPair | None:
    """The certificate and its key; None without TLS."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    return KeyPair(settings.tls_cert, settings.tls_key)


def _connections(most: int) -> int:
    """How many connections the process may have; it is let have as many files as it can."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = most + _OTHER_FILES
    if soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(1, min(most, soft - _OTHER_FILES))


def _listening(host: str, port: int, option: str, shared: bool = False) -> socket.socket:
    """A socket that listens.

    Raises:
        CadcError: the port is taken, by somebody who does not share it.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server(
            (host, port), family=family, backlog=_BACKLOG, reuse_port=shared
        )
    except OSError as error:
        raise CadcError(
            f"{host}:{port} cannot be used ({error.strerror}); choose another --host or {option}."
        ) from error


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
