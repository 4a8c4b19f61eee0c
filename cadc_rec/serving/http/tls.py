"""The certificate and key of a service, for HTTP and gRPC, and how a renewed pair replaces them.

In: two PEM files. Out: what uvicorn and gRPC encrypt with. A pair is read once, tried, and then
used, so that both protocols have the same one and a file that is written meanwhile harms nothing.
Open connections keep the pair they began with.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import grpc
from cryptography import x509
from prometheus_client import Gauge

from cadc_rec.errors import CadcError
from cadc_rec.log import log

_ENDS = Gauge(
    "cadc_rec_tls_not_after_timestamp_seconds",
    "When the certificate in use is no longer valid.",
    multiprocess_mode="livemin",
)


class KeyPair:
    """A certificate with its key.

    Args:
        certificate: PEM file with the certificate, then those that lead to a known authority.
        key: PEM file with the private key, without a passphrase.

    Attributes:
        context: for new connections of HTTP; a renewed pair has another one.

    Raises:
        CadcError: a file cannot be read, or the two do not make a pair.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        self.certificate, self.key = certificate, key
        self._seen = self._look()
        self._pair = self._read()
        self.context = _context(*self._pair, self)
        self._tell()

    def renew(self) -> bool:
        """Use what the files hold now, and keep the old pair on any fault.

        Returns:
            Whether another pair is used.
        """
        self._seen = self._look()
        try:
            pair = self._read()
            if pair == self._pair:
                return False
            # A context in use is never changed: a handshake would meet half of the new pair.
            context = _context(*pair, self)
        except CadcError as error:
            log.error("%s The old certificate stays.", error)
            return False
        self._pair, self.context = pair, context
        self._tell()
        return True

    async def watch(self, seconds: float = 10.0) -> None:
        """Renew at SIGHUP, and when a file changed; never returns."""
        told = asyncio.Event()
        loop = asyncio.get_running_loop()
        before = signal.getsignal(signal.SIGHUP)
        loop.add_signal_handler(signal.SIGHUP, told.set)
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(told.wait(), seconds)
                if told.is_set() or await asyncio.to_thread(self._look) not in (self._seen, None):
                    told.clear()
                    await asyncio.to_thread(self.renew)
        finally:
            loop.remove_signal_handler(signal.SIGHUP)
            signal.signal(signal.SIGHUP, before)

    def for_grpc(self) -> grpc.ServerCredentials:
        """For a port of gRPC, which asks at each new connection whether there is a newer pair."""
        given = self._pair

        def newer() -> grpc.ServerCertificateConfiguration | None:
            nonlocal given
            if given is self._pair:
                return None
            given = self._pair
            return _configuration(*given)

        return grpc.dynamic_ssl_server_credentials(
            _configuration(*given), newer, require_client_authentication=False
        )

    def _read(self) -> tuple[bytes, bytes]:
        found = []
        for option, file in (("--tls-cert", self.certificate), ("--tls-key", self.key)):
            try:
                found.append(file.read_bytes())
            except OSError as error:
                raise CadcError(f"{option} {file}: cannot be read ({error.strerror}).") from error
        return found[0], found[1]

    def _look(self) -> tuple[tuple[int, int, int], ...] | None:
        """What distinguishes the files from others; None while one is missing."""
        try:
            stats = [file.stat() for file in (self.certificate, self.key)]
        except OSError:
            return None
        return tuple((one.st_ino, one.st_size, one.st_mtime_ns) for one in stats)

    def _tell(self) -> None:
        try:
            ends = x509.load_pem_x509_certificate(self._pair[0]).not_valid_after_utc
        except ValueError as error:  # OpenSSL takes more than this does
            log.warning(
                "%s is used, but when it ends cannot be read (%s).", self.certificate, error
            )
            return
        _ENDS.set(ends.timestamp())
        if ends < datetime.now(UTC):
            log.warning("%s is no longer valid since %s; renew it.", self.certificate, ends)
        else:
            log.info("%s is valid until %s", self.certificate, ends)


def _configuration(certificate: bytes, key: bytes) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(key, certificate)])


def _context(certificate: bytes, key: bytes, pair: KeyPair) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    _load(context, certificate, key, pair)
    return context


def _load(context: ssl.SSLContext, certificate: bytes, key: bytes, pair: KeyPair) -> None:
    """Give a context the bytes that were read.

    Raises:
        CadcError: they are not a pair.
    """

    def passphrase() -> str:
        raise CadcError(
            f"--tls-key {pair.key}: the key has a passphrase; give one without, such as that of "
            "`openssl pkey -in KEY -out NEW`."
        )

    with _as_file(certificate) as one, _as_file(key) as other:
        try:
            context.load_cert_chain(one, other, passphrase)
        except ssl.SSLError as error:
            raise CadcError(
                f"--tls-cert {pair.certificate} and --tls-key {pair.key} are not a certificate and "
                f"its key in PEM ({error.reason or 'unreadable'}); give two that belong together."
            ) from None


@contextlib.contextmanager
def _as_file(contents: bytes) -> Iterator[str]:
    """A name that OpenSSL can open: of memory, for a key does not belong into another file."""
    descriptor = os.memfd_create("pem")
    try:
        os.write(descriptor, contents)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
