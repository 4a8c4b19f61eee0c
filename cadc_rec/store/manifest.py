"""Manifests: JSON files that list a folder's files with checksums, and show what changed.

In: a folder of files. Out: ``manifest.json`` with the size and SHA-256 of each file and whatever
else its writer adds; later, an error that names what changed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from cadc_rec import strict_json
from cadc_rec.errors import CadcError
from cadc_rec.machine import available_cores

MANIFEST = "manifest.json"
MOST_THREADS = 16
"""Files that are hashed at once at most: some disks read less so."""


def digest(value: Any) -> str:
    """SHA-256 of a JSON value, in hexadecimal; the order of keys does not matter."""
    text = strict_json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    return str(file_entry(path)["sha256"])


def file_entry(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file, as they stand in a manifest.

    Both are of the file as it was opened: what a shared disk says of a path may be older.
    """
    with path.open("rb") as file:
        digested = hashlib.file_digest(file, "sha256").hexdigest()
        return {"bytes": os.fstat(file.fileno()).st_size, "sha256": digested}


def file_entries(
    folder: Path, files: Iterable[Path], threads: int | None = None
) -> dict[str, dict[str, Any]]:
    """`file_entry` of files of a folder by name, several files hashed at once."""
    named = {str(file.relative_to(folder)): file for file in files}
    with hashing(threads) as pool:
        return dict(zip(named, pool.map(file_entry, named.values()), strict=True))


def hashing(threads: int | None = None) -> ThreadPoolExecutor:
    """Threads that hash: Python lets go of its lock for it. By default as many as cores."""
    return ThreadPoolExecutor(threads or min(MOST_THREADS, available_cores()), "hash")


def write_sealed(folder: Path, body: Mapping[str, Any]) -> dict[str, Any]:
    """Write a manifest into `folder`, sealed with a digest of itself; returns what was written.

    Args:
        folder: receives ``manifest.json``.
        body: ``schema_version``, ``files`` and whatever else to record; JSON values.
    """
    text = sealed_text(body)
    (folder / MANIFEST).write_text(text, "utf-8")
    return dict(json.loads(text))


def sealed_text(body: Mapping[str, Any]) -> str:
    """The text of a manifest of this body, sealed with a digest of itself."""
    plain = json.loads(strict_json.dumps(body))  # tuples become lists before the digest is taken
    return strict_json.dumps({**plain, "digest": digest(plain)}, indent=2) + "\n"


def read_sealed(folder: Path, schema_version: int, remedy: str) -> dict[str, Any]:
    """The manifest of `folder`, checked against its own digest.

    Args:
        folder: holds ``manifest.json``.
        schema_version: the version that this code writes.
        remedy: the end of an error's sentence: what to do.

    Raises:
        CadcError: there is no manifest, it cannot be read, it changed, or another version wrote it.
    """
    file = folder / MANIFEST
    try:
        manifest = json.loads(file.read_text("utf-8"))
        if manifest["schema_version"] != schema_version:
            raise CadcError(
                f"{file} has schema {manifest['schema_version']}, but this version of cadc-rec "
                f"reads schema {schema_version}; {remedy}"
            )
        recorded = manifest["digest"]
    except FileNotFoundError:
        raise CadcError(f"{folder} has no {MANIFEST}; {remedy}") from None
    except OSError as error:
        raise _unreadable(file, error, remedy) from error
    except (ValueError, KeyError, TypeError):
        raise CadcError(f"{file} is not a manifest of cadc-rec; {remedy}") from None
    body = {name: value for name, value in manifest.items() if name != "digest"}
    if digest(body) != recorded:
        raise CadcError(f"{file} changed since it was written; {remedy}")
    return dict(manifest)


def verify_files(
    folder: Path,
    files: Mapping[str, Mapping[str, Any]],
    names: Iterable[str],
    what: str,
    remedy: str,
    threads: int | None = None,
) -> None:
    """Compare files with their entries in a manifest, several at once.

    Args:
        folder: the folder of the files.
        files: size and SHA-256 by name.
        names: the files to compare.
        what: what the files are part of, for the error.
        remedy: the end of an error's sentence: what to do.
        threads: how many at once; default: as many as cores.

    Raises:
        CadcError: a file is missing, cannot be read, or its bytes changed.
    """

    def verify(name: str) -> None:
        file, entry = folder / name, files[name]
        try:
            same = file.stat().st_size == entry["bytes"] and sha256_file(file) == entry["sha256"]
        except FileNotFoundError:
            raise CadcError(f"{file} is missing from {what}; {remedy}") from None
        except OSError as error:
            raise _unreadable(file, error, remedy) from error
        if not same:
            raise CadcError(f"{file} changed since it was written; {remedy}")

    with hashing(threads) as pool:
        for found in [pool.submit(verify, name) for name in names]:
            found.result()


def _unreadable(file: Path, error: OSError, remedy: str) -> CadcError:
    return CadcError(f"{file}: cannot be read ({error.strerror}); mend its rights, or {remedy}")
