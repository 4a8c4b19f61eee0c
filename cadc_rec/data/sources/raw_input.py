"""Finds a source's raw files, and says which bytes they hold.

In: a source's name and the user's folders. Out: a `RawInput`: the paths, and the fingerprint that
the prepare stage takes as its input. A public archive that is in none of the folders is downloaded
once, into a cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from cadc_rec.config.experiment import DataConfig
from cadc_rec.config.types import parse_memory
from cadc_rec.data.prepare.text import model_digest
from cadc_rec.data.tables.files import FileSet, TableFiles, find_tables
from cadc_rec.errors import CadcError
from cadc_rec.log import log, track
from cadc_rec.store.atomic import scratch_folder
from cadc_rec.store.remote.trees import local_tree

DATA_VARIABLE = "CADC_REC_DATA"
_CHUNK = 1 << 20
_TIMEOUT_SECONDS = 60


@dataclass(frozen=True)
class Archive:
    """A public file: its possible names in the user's folders, and where it is published."""

    names: tuple[str, ...]
    url: str
    sha256: str | None = None
    md5: str | None = None


ARCHIVES = {
    # Both checksums of 1M belong to the archive GroupLens publishes; ml-1m.zip.md5 lies beside it.
    "movielens-1m": Archive(
        names=("ml-1m.zip",),
        url="https://files.grouplens.org/datasets/movielens/ml-1m.zip",
        sha256="a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
        md5="c4d9eecfca2ab87c1945afe126590906",
    ),
    # From ml-10m.zip.md5 beside the archive, as several public loaders quote it; the archive
    # itself was not at hand.
    "movielens-10m": Archive(
        names=("ml-10m.zip",),
        url="https://files.grouplens.org/datasets/movielens/ml-10m.zip",
        md5="ce571fd55effeba0271552578f2648bd",
    ),
    # From ml-20m.zip.md5 likewise.
    "movielens-20m": Archive(
        names=("ml-20m.zip",),
        url="https://files.grouplens.org/datasets/movielens/ml-20m.zip",
        md5="cd245b17a1ae2cc31bb14903e1204af3",
    ),
    # trustlet.org publishes no checksum.
    "epinions": Archive(
        names=("epinions/ratings_data.txt.bz2", "ratings_data.txt.bz2"),
        url="http://www.trustlet.org/datasets/downloaded_epinions/ratings_data.txt.bz2",
    ),
}


@dataclass(frozen=True)
class RawInput:
    """What the prepare stage starts from."""

    path: Path | None
    """The archive; None where the source is generated, or the user's own tables."""
    fingerprint: str
    """SHA-256 of the archive's bytes, of the tables' files, or of the generator's settings."""
    tables: TableFiles | None = None
    """The user's own tables."""


def find_raw(
    config: DataConfig, data_dir: Path | None = None, spool: Path | None = None
) -> RawInput:
    """The raw input of `config.source`, downloaded when it is in none of the user's folders.

    Args:
        config: names the source.
        data_dir: a folder the user named; default: ``$CADC_REC_DATA``, then the download cache.
        spool: an empty folder for the rows of queries, needed where there are some; the caller
            removes it when the raw input was used.

    Raises:
        CadcError: a named folder does not exist or lacks the archive, or the download failed.
    """
    if config.source == "generated":
        return RawInput(None, _settings_digest(config))
    if config.source == "tables":
        folders = table_folders(data_dir)
        tables = find_tables(config.tables, folders, _fetched(config, folders, spool))
        return RawInput(None, _with_encoder(config, tables.fingerprint()), tables)
    archive = ARCHIVES[config.source]
    path = locate(config.source, data_dir)
    if path is None and data_dir is not None:
        raise CadcError(
            f"{data_dir}: holds no {archive.names[0]}, the archive of {config.source}; put it "
            f"there (from {archive.url}), or leave --data-dir out to have it downloaded."
        )
    if path is None:
        path = _download(archive)
    try:
        sha256, md5 = _digests(path)
    except OSError as error:
        raise CadcError(
            f"{path}: cannot be read ({error.strerror}); mend its rights or name another folder "
            "with --data-dir."
        ) from None
    mismatch = _mismatch(archive, sha256, md5)
    if mismatch:
        log.warning("%s: %s; it is used as it is.", path, mismatch)
    return RawInput(path, sha256)


def _with_encoder(config: DataConfig, tables: str) -> str:
    """The fingerprint of the tables, and of the model that encodes their text."""
    if not (config.reads_text and config.text.folder):
        return tables
    return hashlib.sha256(f"{tables}\0{model_digest(config.text)}".encode()).hexdigest()


@contextlib.contextmanager
def raw_input(config: DataConfig, data_dir: Path | None, workdir: Path) -> Iterator[RawInput]:
    """`find_raw`, with a place in the work folder for the rows of queries until the block ends.

    Raises:
        CadcError: as `find_raw`, and where the work folder cannot be used.
    """
    if config.source != "tables" or not config.tables.queries():
        yield find_raw(config, data_dir)
        return
    with scratch_folder(workdir, f"queries-{os.getpid()}") as spool:
        yield find_raw(config, data_dir, spool)


def _fetched(
    config: DataConfig, folders: Sequence[Path], spool: Path | None
) -> Mapping[str, FileSet]:
    """The rows of the queries, by table; none where there are no queries."""
    queries = config.tables.queries()
    if not queries:
        return {}
    from cadc_rec.data.tables.database import fetch, parse_address  # imports DuckDB

    assert spool is not None, "a configuration with queries is read through raw_input"
    memory = parse_memory(config.memory) if config.memory else None
    address = parse_address(config.tables.database, folders)
    return fetch(address, queries, spool, memory, config.tables.driver)


def locate(source: str, data_dir: Path | None = None) -> Path | None:
    """The archive of `source` in the user's folders or in the download cache, or None.

    Raises:
        CadcError: `data_dir`, or the folder ``$CADC_REC_DATA`` names, is not there.
    """
    if source not in ARCHIVES:
        return None
    named = os.environ.get(DATA_VARIABLE)
    if data_dir is not None:
        folders = [_existing(data_dir, "--data-dir")]
    elif named:
        folders = [_existing(Path(named), f"${DATA_VARIABLE}"), cache_folder()]
    else:
        folders = [cache_folder()]
    candidates = (folder / name for folder in folders for name in ARCHIVES[source].names)
    return next((path for path in candidates if path.is_file()), None)


def table_folders(data_dir: Path | None) -> list[Path]:
    """Where a relative path of the user's own tables leads."""
    if data_dir is not None:
        return [_existing(data_dir, "--data-dir")]
    named = os.environ.get(DATA_VARIABLE)
    return [*([_existing(Path(named), f"${DATA_VARIABLE}")] if named else []), Path.cwd()]


def cache_folder() -> Path:
    """Where downloads are kept: ``$XDG_CACHE_HOME/cadc-rec``, by default ``~/.cache/cadc-rec``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "cadc-rec"


def _existing(named: Path, named_by: str) -> Path:
    folder = local_tree(named)  # of an address, a copy
    if not folder.is_dir():
        raise CadcError(f"{folder}: no such folder; correct {named_by}.")
    return folder


def _settings_digest(config: DataConfig) -> str:
    settings = {"generated": config.generated.model_dump(mode="json")}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def _digests(path: Path) -> tuple[str, str]:
    """SHA-256 and md5 of a file, read once."""
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            sha256.update(chunk)
            md5.update(chunk)
    return sha256.hexdigest(), md5.hexdigest()


def _mismatch(archive: Archive, sha256: str, md5: str) -> str | None:
    """The sentence that names both checksums where they differ, else None."""
    for kind, expected, found in (
        ("SHA-256", archive.sha256, sha256),
        ("md5", archive.md5, md5),
    ):
        if expected is not None and found != expected:
            return f"its {kind} is {found}, that of the public archive is {expected}"
    return None


def _download(archive: Archive) -> Path:
    """Fetch the archive into the cache; the final name appears only when every byte is checked."""
    final = cache_folder() / Path(archive.names[0]).name
    remedy = f"download {archive.url} yourself and name its folder with --data-dir"
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        with _partial(final) as (file, partial):
            _fetch(archive.url, file)
            mismatch = _mismatch(archive, *_digests(partial))
            if mismatch:
                raise CadcError(f"{archive.url}: {mismatch}; the download was dropped: {remedy}.")
            partial.replace(final)
    except urllib.error.URLError as error:
        raise CadcError(f"{archive.url}: not reachable ({error.reason}); {remedy}.") from None
    except (OSError, http.client.HTTPException) as error:
        raise CadcError(
            f"{archive.url}: download into {final} failed ({error}); {remedy}."
        ) from None
    return final


@contextlib.contextmanager
def _partial(final: Path) -> Iterator[tuple[IO[bytes], Path]]:
    """A file with a name of its own beside `final`, removed at the end unless it was renamed."""
    handle, name = tempfile.mkstemp(prefix=f".{final.name}.", dir=final.parent)
    partial = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file, partial
    finally:
        partial.unlink(missing_ok=True)


def _fetch(url: str, file: IO[bytes]) -> None:
    # Not by pooch 1.9: with urllib3 below 2, which torchx holds, it keeps half of an archive whose
    # connection broke off, where no checksum is published.
    with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as response:
        total = int(response.headers.get("Content-Length") or 0)
        received = 0
        with track(f"download {url.rsplit('/', 1)[-1]}", total, "bytes") as ticker:
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                received += len(chunk)
                ticker.advance(len(chunk))
    file.flush()
    if total and received != total:
        raise OSError(f"the connection ended after {received} of {total} bytes")
