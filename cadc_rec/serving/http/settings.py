"""What a service is told when it starts: where it listens, who may ask, how much at once."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from cadc_rec.errors import CadcError

_LEAST_KEY = 16  # characters of an API key: fewer are guessed


@dataclass(frozen=True)
class Limits:
    """How much a client may ask for, and how long it may take.

    Attributes:
        body_bytes: of a request, over HTTP and gRPC.
        users: in one request.
        k: items a user.
        history: items of each history.
        waiting: requests that wait for an answer at once; more are told to come back.
        connections: HTTP connections at once.
        head_seconds: until the first byte and from there to the end of the headers.
        body_seconds: from the headers to the end of the body.
        answer_seconds: from there until the answer is sent.
        idle_seconds: of a connection between two requests.
        grace_seconds: for requests in flight when the service is stopped.
    """

    body_bytes: int = 2 << 20
    users: int = 1024
    k: int = 1000
    history: int = 1000
    waiting: int = 1024
    connections: int = 1024
    head_seconds: float = 10.0
    body_seconds: float = 10.0
    answer_seconds: float = 30.0
    idle_seconds: int = 75
    grace_seconds: int = 20


@dataclass(frozen=True)
class ServiceSettings:
    """One service.

    Attributes:
        bundle: the folder, or a link to the folder of the moment.
        name: of the model, as clients call it.
        host: the address it binds to.
        http_port: 0 for any that is free.
        grpc_port: likewise; None for no gRPC.
        api_key: what clients have to know; None lets everybody ask.
        verify_key: file with the public key that bundles must be signed with.
        watch_seconds: how often to look for another bundle in the same place; 0 for never.
        limits: of requests.
    """

    bundle: Path
    name: str = "recommender"
    host: str = "127.0.0.1"
    http_port: int = 8080
    grpc_port: int | None = 8081
    api_key: str | None = None
    verify_key: Path | None = None
    watch_seconds: float = 2.0
    limits: Limits = Limits()


def require_key_beyond_loopback(host: str, api_key: str | None, everybody: bool) -> None:
    """Refuse to let a network ask without a key, unless that is what is wanted.

    Raises:
        CadcError: `host` is not this machine's loopback, and there is no key.
    """
    if api_key is not None and len(api_key) < _LEAST_KEY:
        raise CadcError(
            f"the API key has {len(api_key)} characters; give {_LEAST_KEY} or more, such as those "
            "of `openssl rand -hex 16`."
        )
    if api_key is None and not everybody and not is_loopback(host):
        raise CadcError(
            f"--host {host} lets other machines ask: give an API key (--api-key-file, or "
            "$CADC_REC_API_KEY), or --no-api-key to let everybody."
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
