"""Addresses: which text is one, and the objects below it.

In: text such as ``s3://bucket/prefix``. Out: a local path (``file://``), or `Objects`, whose every
error is one sentence with the address. Credentials come from the provider's own chain (environment,
web identity, instance metadata) and are nowhere else: an address that holds some is refused.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from cadc_rec.errors import BusyError, CadcError
from cadc_rec.store.remote.refusals import broke_off, no_bucket, sentence

RETRY_SECONDS = 60.0
"""How long a request is tried again while the store does not answer, or answers with an error."""
_RETRIES = 100  # the seconds end it
_TEXT = re.compile(r"([a-z][a-z0-9+.-]+):/{1,3}", re.IGNORECASE)  # pathlib makes one slash of two
_STORES = ("s3", "gs", "abfs", "abfss", "az")
_PART = 16 << 20  # bytes of a part of an upload, at least
_MOST_PARTS = 9000  # of one upload; S3 takes 10,000
_AT_ONCE = 4  # parts of one upload
_PIECE = 64 << 20  # bytes of a download that one request asks for, and retries ask for again
_PAUSES = (0.1, 0.5, 2.0)
Version = Mapping[str, str]
"""What distinguishes an object's content from an earlier one."""


def is_address(text: str | os.PathLike[str]) -> bool:
    """Whether `text` is an address and not a path; also one that pathlib took a slash from."""
    return _TEXT.match(str(text)) is not None


def parse(text: str | os.PathLike[str]) -> str | Path:
    """The address in its one form, without a slash at the end; of ``file://``, the path.

    Raises:
        CadcError: of no store that is known, without a bucket, or with a user or password.
    """
    found = _TEXT.match(str(text))
    if found is None:
        return Path(text)
    scheme, rest = found[1].lower(), str(text)[found.end() :].strip("/")
    if scheme == "file":
        return Path("/" + unquote(rest))
    if scheme not in _STORES:
        raise CadcError(
            f"{scheme}://...: no store that is known; use s3://, gs://, abfs:// or file://, or the "
            "path of a folder."
        )
    parts = urlsplit(f"{scheme}://{rest}")
    # A secret may hold a slash, and so reach beyond what is before the first one.
    of_container = scheme.startswith("abfs") and rest.count("@") == 1 and parts.username
    if parts.query or parts.fragment or ":" in parts.netloc or ("@" in rest and not of_container):
        raise CadcError(
            f"{scheme}://...: an address holds no user, password, query or fragment, and so no '@' "
            "but that of abfs://CONTAINER@ACCOUNT...; leave them out, and give credentials as the "
            "provider does (such as $AWS_ACCESS_KEY_ID or an instance's role)."
        )
    if not parts.netloc:
        raise CadcError(f"{scheme}://: names no bucket; write {scheme}://BUCKET/FOLDER.")
    return f"{scheme}://{rest}"


@dataclass(frozen=True)
class Found:
    """An object that is there: its name below the address, bytes, time of the store, version."""

    name: str
    size: int
    written: datetime
    version: Version


class Objects:
    """The objects below an address.

    Args:
        address: as `parse` gives it.

    Raises:
        CadcError: the library for stores is not installed, or the address cannot be used.
    """

    def __init__(self, address: str) -> None:
        try:
            from obstore import exceptions
            from obstore.store import from_url
        except ImportError:
            raise CadcError(
                f"{address}: addresses of stores need obstore; install it: pip install "
                "'cadc-rec[storage]', or name a folder."
            ) from None
        self.address, self._errors = address, exceptions
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
        more: dict[str, Any] = {}
        if address.startswith("s3://") and endpoint:
            more["config"] = {"endpoint": endpoint}
        with self._explained("be used"):
            self._store = from_url(
                address,
                # The person who names an endpoint without TLS means it.
                client_options={"allow_http": endpoint.startswith("http://"), "timeout": "10min"},
                retry_config={
                    "max_retries": _RETRIES,
                    "retry_timeout": timedelta(seconds=RETRY_SECONDS),
                    "backoff": {
                        "init_backoff": timedelta(seconds=0.3),
                        "max_backoff": timedelta(seconds=5),
                    },
                },
                **more,
            )

    def get(self, name: str) -> tuple[bytes, Found] | None:
        """An object's bytes; None where there is none."""
        import obstore

        with self._explained("be read"), contextlib.suppress(FileNotFoundError):
            result = obstore.get(self._store, name)
            return bytes(result.bytes()), _found(name, result.meta)
        return None

    def head(self, name: str) -> Found | None:
        """What is known of an object without its bytes; None where there is none."""
        import obstore

        with self._explained("be read"), contextlib.suppress(FileNotFoundError):
            return _found(name, obstore.head(self._store, name))
        return None

    def put(self, name: str, data: bytes) -> Version:
        """Write a small object, whatever is there."""
        import obstore

        with self._explained("be written"):
            return _version(obstore.put(self._store, name, data, use_multipart=False))

    def create(self, name: str, data: bytes) -> Version | None:
        """Write a small object where there is none; None, and nothing written, where there is.

        Args:
            name: of the object.
            data: its bytes, by which this process tells what it wrote itself.

        Raises:
            BusyError: the store refused every try, and has none.
        """
        return self._conditional(name, data, None)

    def replace(self, name: str, data: bytes, version: Version) -> Version | None:
        """Write a small object in place of this `version`; None where another stands there.

        Args:
            name: of the object.
            data: its bytes, as in `create`.
            version: of what is replaced.
        """
        return self._conditional(name, data, version)

    def _conditional(self, name: str, data: bytes, version: Version | None) -> Version | None:
        """Write where `version` stands, or nothing; None where something else does.

        A connection that broke leaves it in doubt whether the object was written, and it would not
        do to write it twice: who came in between would lose. So it is read, and if what was there
        before is still there, written again; a write that is late then fails by its condition.
        """
        import obstore

        errors = self._errors
        mode: Any = "create" if version is None else dict(version)
        last = time.monotonic() + RETRY_SECONDS
        for pause in (*_PAUSES, None):
            doubt: CadcError | None = None
            try:
                with (
                    self._explained("be written"),
                    contextlib.suppress(errors.AlreadyExistsError, errors.PreconditionError),
                    contextlib.suppress(*([] if version is None else [FileNotFoundError])),
                ):
                    return _version(obstore.put(self._store, name, data, mode=mode))
            except CadcError as error:
                if not broke_off(error.__cause__) or pause is None or time.monotonic() > last:
                    raise
                doubt = error
            try:
                there = self.get(name)
            except CadcError as error:
                raise doubt or error from None
            if there is not None and there[0] == data:  # this process's own
                return there[1].version
            if version is None and there is not None:
                return None
            unchanged = there is not None and there[1].version == version
            if version is not None and not (doubt and unchanged):
                return None
            if pause is not None:  # S3 refuses both of two writers, if they are quick enough
                time.sleep(pause)
        raise BusyError(
            f"{self.address}/{name}: was not written, because the store refused it time and again "
            "as if others were writing it, and it is not there; run again."
        )

    def upload(self, name: str, file: Path) -> None:
        """Write a file, in parts if it is large; the object appears when it is whole."""
        import obstore

        with self._explained("be written"):
            part = max(_PART, -(-file.stat().st_size // _MOST_PARTS))
            obstore.put(self._store, name, file, chunk_size=part, max_concurrency=_AT_ONCE)

    def pieces(self, name: str) -> Iterator[bytes]:
        """An object's bytes, piece by piece; each has the time that a request may take.

        Raises:
            LookupError: there is no such object, which no local file's absence can be taken for.
        """
        found = self.head(name)
        if found is None:
            raise LookupError(name)
        for start in range(0, found.size, _PIECE):
            yield self._piece(found, start, min(start + _PIECE, found.size))

    def _piece(self, found: Found, start: int, end: int) -> bytes:
        import obstore

        options: Any = {"range": (start, end)}
        if "e_tag" in found.version:  # or pieces of two objects could meet
            options["if_match"] = found.version["e_tag"]
        with self._explained("be read"), contextlib.suppress(FileNotFoundError):
            return bytes(obstore.get(self._store, found.name, options=options).bytes())
        raise LookupError(found.name)

    def list(self, prefix: str = "") -> Iterator[Found]:
        """The objects whose names begin with this folder's, such as ``prepare``."""
        import obstore

        with self._explained("be listed"):
            for page in obstore.list(self._store, prefix or None):
                for meta in page:
                    yield _found(str(meta["path"]), meta)

    def delete(self, names: Sequence[str]) -> None:
        """Remove objects; what is not there is gone already."""
        import obstore

        if names:
            with self._explained("be removed"), contextlib.suppress(FileNotFoundError):
                obstore.delete(self._store, list(names))

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        """Inside, an error of the store becomes one sentence.

        Args:
            what: could not be done with the address, such as ``be read``.
        """
        errors = self._errors
        try:
            yield
        except FileNotFoundError as error:
            raise CadcError(no_bucket(self.address)) from error
        except (errors.BaseError, ValueError) as error:
            denied = isinstance(error, (errors.PermissionDeniedError, errors.UnauthenticatedError))
            raise CadcError(sentence(self.address, what, error, denied)) from error


def _version(result: Mapping[str, Any]) -> Version:
    return {name: result[name] for name in ("e_tag", "version") if result.get(name)}


def _found(name: str, meta: Mapping[str, Any]) -> Found:
    return Found(name, int(meta["size"]), meta["last_modified"], _version(meta))
