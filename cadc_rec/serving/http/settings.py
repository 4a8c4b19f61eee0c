"""The settings of a service: where it listens, who may ask, and how much at once."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from cadc_rec.errors import CadcError

_LEAST_KEY = 16  # characters; a shorter API key could be guessed


@dataclass(frozen=True)
class Limits:
    """How much a client may ask for, and how long it may take.

    Attributes:
        body_bytes: bytes of a request's body, over HTTP and gRPC.
        users: users in one request.
        k: recommended items for each user.
        places: users times k of one request.
        history: items in each history.
        wait_seconds: seconds of work that may wait before a request; beyond it, it is refused as
            busy. A request that takes longer may wait for as long as it takes.
        connections: HTTP connections at the same time; no more than the process may have files.
        head_seconds: seconds from the connection to the first byte, and from there to the end of
            the headers.
        body_seconds: seconds from the end of the headers to the end of the body.
        deadline_seconds: seconds from the end of the body until the answer is sent, unless the
            client allows fewer; of what asks for recommendations.
        load_seconds: the same, of a call that loads a bundle.
        other_seconds: the same, of all other requests.
        idle_seconds: seconds that a connection may stay idle between two requests.
        grace_seconds: seconds that requests have to finish when the service is stopped.
    """

    body_bytes: int = 2 << 20
    users: int = 1024
    k: int = 1000
    places: int = 1 << 20
    history: int = 1000
    wait_seconds: float = 0.1
    connections: int = 8192
    head_seconds: float = 10.0
    body_seconds: float = 10.0
    deadline_seconds: float = 30.0
    load_seconds: float = 600.0
    other_seconds: float = 30.0
    idle_seconds: int = 75
    grace_seconds: int = 20


@dataclass(frozen=True)
class ServiceSettings:
    """The settings of one service.

    Attributes:
        bundle: the bundle's folder, a link to the current one, or its address in a store.
        name: the model's name for clients.
        host: the address to bind to.
        http_port: port for HTTP; 0 takes any free port.
        grpc_port: port for gRPC; 0 takes any free port, None serves no gRPC.
        health_port: port that answers nothing but whether the service is live and ready, from a
            thread of its own; 0 takes any free port, None leaves it to the HTTP port.
        api_key: the key that clients must send; None answers everybody.
        verify_key: file with the public key that bundles must be signed with.
        workers: processes that answer.
        watch_seconds: seconds between checks for a new bundle at the same path; 0 never checks.
        new_items: items that may be put beside the bundle's, new and changed ones together.
        new_items_bytes: of their journal.
        events: file of the journal of events; None puts it beside the bundle where that is a
            folder, and keeps none otherwise.
        tls_cert: PEM file with the certificate and what leads to a known authority; None serves
            without TLS.
        tls_key: PEM file with its key.
        access_log: file for a line of each request, ``-`` for standard output; None writes none.
        limits: limits of requests.
    """

    bundle: Path | str
    name: str = "recommender"
    host: str = "127.0.0.1"
    http_port: int = 8080
    grpc_port: int | None = 8081
    health_port: int | None = None
    api_key: str | None = None
    verify_key: Path | None = None
    workers: int = 1
    watch_seconds: float = 2.0
    new_items: int = 10_000
    new_items_bytes: int = 64 << 20
    events: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    access_log: str | None = None
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            given, missing = "--tls-cert", "--tls-key"
            if self.tls_cert is None:
                given, missing = missing, given
            raise CadcError(f"{given} alone: TLS needs a certificate and its key; give {missing}.")

    @property
    def journal(self) -> Path | None:
        """Where the journal of events lies."""
        if self.events is None and isinstance(self.bundle, Path):
            place = self.bundle.absolute()  # of a link: beside the link
            return place.with_name(f"{place.name}.events")
        return self.events

    @property
    def availability(self) -> Path | None:
        """Where the journal of withheld items lies: beside that of events."""
        return self._beside("availability")

    @property
    def items(self) -> Path | None:
        """Where the journal of new items lies: beside that of events."""
        return self._beside("items")

    def _beside(self, what: str) -> Path | None:
        if self.events is not None:
            return self.events.with_name(f"{self.events.name}.{what}")
        place = self.journal
        return None if place is None else place.with_suffix(f".{what}")


def require_key_beyond_loopback(host: str, api_key: str | None, everybody: bool) -> None:
    """Require an API key where other machines can ask, unless `everybody` may.

    Raises:
        CadcError: `host` is not this machine's loopback and there is no key, or the key is short.
    """
    if api_key is not None and len(api_key) < _LEAST_KEY:
        raise CadcError(
            f"the API key has {len(api_key)} characters; give {_LEAST_KEY} or more, such as those "
            "of `openssl rand -hex 16`."
        )
    if api_key is None and not everybody and not is_loopback(host):
        raise CadcError(
            f"--host {host} lets other machines ask: give an API key (--api-key-file, or "
            "$CADC_REC_API_KEY), or answer everybody with --no-api-key."
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
