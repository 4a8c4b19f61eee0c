"""Runs a service: load the bundle, listen, answer, stop.

In: `ServiceSettings`. It returns after SIGTERM or SIGINT, when the requests in flight are answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterator

import torch
import uvicorn
import uvloop
from grpc import aio
from kserve.model_repository import ModelRepository
from kserve.protocol.dataplane import DataPlane

from cadc_rec.errors import CadcError
from cadc_rec.serving.http.access_log import access_log
from cadc_rec.serving.http.availability import Withheld
from cadc_rec.serving.http.connections import impatient
from cadc_rec.serving.http.events import EventLog
from cadc_rec.serving.http.guard import ApiKey
from cadc_rec.serving.http.health import HealthPort
from cadc_rec.serving.http.loaded import Loaded, Repository
from cadc_rec.serving.http.observed import observed, observers
from cadc_rec.serving.http.recommender import Recommender
from cadc_rec.serving.http.rest import application
from cadc_rec.serving.http.rpc import grpc_server
from cadc_rec.serving.http.settings import ServiceSettings
from cadc_rec.serving.http.side_models import side_models
from cadc_rec.serving.http.tls import KeyPair

_SWITCH = 0.001  # seconds after which a thread lets the event loop go on; Python's own is 0.005
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
    # One call answers many users with vector instructions; threads that wake for each would cost
    # more than they do, and would take the cores from the loop that reads the next requests.
    torch.set_num_threads(1)
    sys.setswitchinterval(_SWITCH)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings, ready))
    gc.freeze()  # the process ends: looking for cycles in torch's modules would take seconds


async def _serve(settings: ServiceSettings, ready: Callable[[str], None]) -> None:
    limits, key = settings.limits, ApiKey(settings.api_key)
    stopping = asyncio.Event()
    pair = None
    if settings.tls_cert is not None and settings.tls_key is not None:
        pair = KeyPair(settings.tls_cert, settings.tls_key)
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(_listening(settings.host, settings.http_port, "--http-port"))
        written = stack.enter_context(access_log(settings.access_log))
        tell = None if written is None else written.write
        events = None if settings.journal is None else EventLog(settings.journal)
        if events is not None:
            stack.callback(events.close)
        withheld = None if settings.availability is None else Withheld(settings.availability)
        if withheld is not None:
            stack.callback(withheld.close)
        loaded = Loaded(settings.bundle, settings.verify_key, events, withheld)
        model = Recommender(settings.name, loaded, limits)
        stack.callback(model.close)
        models = ModelRepository()
        beside = side_models(model)
        for each in (model, *beside):
            models.update(each)
        dataplane = DataPlane(models)
        repository = Repository(models, loaded, settings.name, key.exists)
        scheme = "http" if pair is None else "https"
        where = [f"{scheme}://{_shown(settings.host)}:{listener.getsockname()[1]}"]
        tasks = []
        rpc = None
        if settings.grpc_port is not None:
            rpc = grpc_server(dataplane, repository, key, limits, observers(tell))
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

        if settings.health_port is not None:
            at = stack.enter_context(
                _listening(settings.host, settings.health_port, "--health-port")
            )
            health = HealthPort(at, is_ready)
            stack.callback(health.close)
            tasks.append(asyncio.create_task(health.beat()))
            where.append(f"health at http://{_shown(settings.host)}:{at.getsockname()[1]}")
        app = application(model, beside, dataplane, repository, key, limits, is_ready)
        config = uvicorn.Config(
            observed(app, tell),
            http=impatient(limits.head_seconds, _connections(limits.connections), model.load),
            ws="none", lifespan="off", backlog=_BACKLOG,
            log_level="critical", access_log=False, server_header=False, date_header=False,
            timeout_keep_alive=limits.idle_seconds,
            timeout_graceful_shutdown=limits.grace_seconds,
            ssl_context_factory=None if pair is None else lambda *_: pair.context,
        )  # fmt: skip
        if settings.watch_seconds > 0:
            tasks.append(asyncio.create_task(loaded.watch(settings.watch_seconds)))
        if events is not None:
            tasks.append(asyncio.create_task(events.watch()))
        if withheld is not None:
            tasks.append(asyncio.create_task(withheld.watch()))
        if pair is not None:
            tasks.append(asyncio.create_task(pair.watch()))
        predictor = loaded.predictor
        ready(f"{predictor.name} ({predictor.fingerprint[:12]}) on {', '.join(where)}")
        try:
            await _Both(config, rpc, limits.grace_seconds, stopping).serve(sockets=[listener])
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def _connections(most: int) -> int:
    """How many connections the process may have; it is let have as many files as it can."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = most + _OTHER_FILES
    if soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(1, min(most, soft - _OTHER_FILES))


@contextlib.contextmanager
def _listening(host: str, port: int, option: str) -> Iterator[socket.socket]:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise CadcError(
            f"{host}:{port} cannot be used ({error.strerror}); choose another --host or {option}."
        ) from error
    with listener:
        yield listener


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
