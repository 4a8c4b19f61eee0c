"""A bundle as readers see it: opened only when every byte is what the manifest says.

In: a folder. Out: a `Bundle`, whose files are read as bytes that are checked once more as they
are read, so that what is used is what was verified, whoever can write to the folder meanwhile.
Arrays are mapped and not read: they were checked when the bundle was opened, and must not be
written in place later. Everything here replaces files whole.

Nothing here unpickles. Data are JSON, Parquet and safetensors; programs are loaded by
`cadc_rec.serving.bundle.programs`, from verified bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cadc_rec.errors import CadcError
from cadc_rec.serving.bundle import layout
from cadc_rec.serving.bundle.mapping import map_tensors
from cadc_rec.serving.bundle.signing import is_signed_by
from cadc_rec.store.manifest import digest, sha256_file
from cadc_rec.versions import library_versions

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

# Lower-case names of known kinds, at most one folder deep: no "..", no root, no hidden file.
_NAME = re.compile(r"([a-z0-9_]+/)?[a-z0-9_]+\.(json|md|parquet|safetensors|faiss|npy|pt2?)")
_MANIFEST_LIMIT = 1 << 20  # bytes; ours have a few kilobytes


@dataclass(frozen=True)
class Bundle:
    """A verified bundle.

    Attributes:
        path: its folder.
        manifest: what ``manifest.json`` says.
    """

    path: Path
    manifest: Mapping[str, Any]

    @classmethod
    def open(cls, path: Path, key: Ed25519PublicKey | None = None) -> Bundle:
        """Open the bundle in `path` after checking all of it.

        Args:
            path: the folder.
            key: whose signature the manifest must bear; None asks for none. See
                `cadc_rec.serving.bundle.signing.verification_key`.

        Raises:
            CadcError: it is not a bundle, it is of a newer version, it is not signed by `key`'s
                owner, or a file is missing, altered, or not one of the manifest's.
        """
        manifest = read_manifest(path, key)
        present = _files_in(path)
        for name, entry in manifest["files"].items():
            if name not in present:
                raise CadcError(f"{path / name} is missing from the bundle; {_REMEDY}")
            file = path / name
            try:
                same = (
                    file.stat().st_size == entry["bytes"] and sha256_file(file) == entry["sha256"]
                )
            except OSError as error:
                raise CadcError(f"{file}: cannot be read ({error.strerror}).") from error
            if not same:
                raise CadcError(f"{file} changed since it was exported; {_REMEDY}")
        stray = present - {layout.MANIFEST, layout.SIGNATURE, *manifest["files"]}
        if stray:
            raise CadcError(
                f"{path / min(stray)} does not belong to the bundle and is not opened; delete it "
                "if you know where it comes from."
            )
        return cls(path, manifest)

    @property
    def fingerprint(self) -> str:
        """Digest of the contents, equal wherever the same bytes were exported."""
        return str(self.manifest["fingerprint"])

    @property
    def name(self) -> str:
        """What the exporter called it, for people."""
        return str(self.manifest["name"])

    def other_versions(self) -> list[str]:
        """The libraries that it was exported with and that are of another version here."""
        here = library_versions()
        return [
            f"{library} {made_with} (here {here.get(library, 'not installed')})"
            for library, made_with in self.manifest.get("versions", {}).items()
            if library != "duckdb"  # answers nothing
            and _release(library, str(made_with)) != _release(library, here.get(library, ""))
        ]

    def has(self, name: str) -> bool:
        """Whether the file is there; see `cadc_rec.serving.bundle.layout`."""
        return name in self.manifest["files"]

    def read(self, name: str) -> bytes:
        """A file's bytes, checked against the manifest.

        Raises:
            CadcError: the bundle has no such file, or it changed since the bundle was opened.
        """
        if not self.has(name):
            raise CadcError(f"{self.path}: this bundle has no {name}.")
        entry = self.manifest["files"][name]
        try:
            contents = (self.path / name).read_bytes()
        except OSError as error:
            raise CadcError(f"{self.path / name}: cannot be read ({error.strerror}).") from error
        if hashlib.sha256(contents).hexdigest() != entry["sha256"]:
            raise CadcError(f"{self.path / name} changed since the bundle was opened; {_REMEDY}")
        return contents

    def json(self, name: str) -> Any:
        """A JSON file's value."""
        return json.loads(self.read(name))

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """A safetensors file's tensors, read from disk as they are used.

        Raises:
            CadcError: the bundle has no such file, or it is none of safetensors.
        """
        if not self.has(name):
            raise CadcError(f"{self.path}: this bundle has no {name}.")
        try:
            return map_tensors(self.path / name)
        except OSError as error:
            raise CadcError(f"{self.path / name}: cannot be read ({error.strerror}).") from error

    def mapped(self, name: str) -> np.ndarray:
        """A NumPy file's array, read from disk as it is used; checked when the bundle was opened.

        Raises:
            CadcError: the bundle has no such file, or it is no array.
        """
        import numpy as np

        if not self.has(name):
            raise CadcError(f"{self.path}: this bundle has no {name}; export it anew.")
        try:
            found: np.ndarray = np.load(self.path / name, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise CadcError(f"{self.path / name}: cannot be read ({error}); {_REMEDY}") from error
        return found

    def table(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """A Parquet file's table; of these columns, or of all."""
        import pyarrow.parquet as pq

        return pq.read_table(io.BytesIO(self.read(name)), columns=columns)

    def table_without(self, name: str, left_out: Sequence[str]) -> pa.Table:
        """A Parquet file's table, less some of its columns."""
        import pyarrow.parquet as pq

        file = pq.ParquetFile(io.BytesIO(self.read(name)))
        return file.read([each for each in file.schema_arrow.names if each not in left_out])

    def model(self) -> dict[str, Any]:
        """`layout.MODEL`."""
        return dict(self.json(layout.MODEL))


_REMEDY = "copy or export the bundle anew."


def _release(library: str, version: str) -> str:
    """A version, less what changes no answer: the kind of build, and Python's last number."""
    version = version.partition("+")[0]
    return ".".join(version.split(".")[:2]) if library == "python" else version


def manifest_of(
    folder: Path, name: str, inputs: Mapping[str, str], versions: Mapping[str, str], created: str
) -> dict[str, Any]:
    """The manifest of all files that lie in `folder`.

    Args:
        folder: the bundle's, without manifest and signature.
        name: for people.
        inputs: fingerprints of the artifacts it was made from.
        versions: libraries and their versions.
        created: the time, ISO 8601.
    """
    files = {}
    for file in sorted(_files_in(folder)):
        assert _NAME.fullmatch(file), file
        path = folder / file
        files[file] = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
    body = {
        "format": layout.FORMAT,
        "format_version": _version(folder, files),
        "name": name,
        "fingerprint": digest({file: entry["sha256"] for file, entry in files.items()}),
        "inputs": dict(inputs),
        "files": files,
        "versions": dict(versions),
        "created": created,
    }
    return {**body, "digest": digest(body)}


def _version(folder: Path, files: Mapping[str, Any]) -> int:
    """The least version whose readers know all of these files, and all that is in them."""
    if layout.WITHHELD in files:
        return 6 if "sold_out" in map_tensors(folder / layout.WITHHELD) else 5
    if layout.item_content(0) in files:
        return 4
    return 3 if layout.CONTEXT in files else 2 if layout.LISTS in files else 1


def _files_in(path: Path) -> set[str]:
    """Names of all files below `path`; anything but plain files and folders is refused."""
    found = set()
    for folder, folders, files in os.walk(path):
        for entry in (*folders, *files):
            full = Path(folder) / entry
            kind = full.lstat().st_mode
            if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
                raise CadcError(
                    f"{full}: a bundle holds plain files only, no links or devices; {_REMEDY}"
                )
        found |= {(Path(folder) / file).relative_to(path).as_posix() for file in files}
    return found


def read_manifest(path: Path, key: Ed25519PublicKey | None) -> dict[str, Any]:
    """A bundle's manifest, whose names are those of plain files in its folder; see `Bundle.open`.

    Raises:
        CadcError: there is none, or it is not sound, of a newer version, or not signed by `key`.
    """
    file = path / layout.MANIFEST
    contents = _small_file(file)
    if contents is None:
        raise CadcError(f"{path} is not a bundle: it has no {layout.MANIFEST}.")
    if key is not None:
        signature = _small_file(path / layout.SIGNATURE)
        if signature is None:
            raise CadcError(
                f"{path} is not signed, and a signature is asked for; export it with --sign."
            )
        if not is_signed_by(contents, signature, key):
            raise CadcError(f"{path}: the signature is not the key owner's; it is not opened.")
    try:
        manifest = json.loads(contents)
        if manifest["format"] != layout.FORMAT:
            raise KeyError
        version = int(manifest["format_version"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise CadcError(f"{file} is not the manifest of a bundle; {_REMEDY}") from None
    if version > layout.FORMAT_VERSION:
        raise CadcError(
            f"{path}: a bundle of format {version}; this cadc-rec reads up to "
            f"{layout.FORMAT_VERSION}: install a newer one."
        )
    body = {name: value for name, value in manifest.items() if name != "digest"}
    if manifest.get("digest") != digest(body) or not _sound(manifest):
        raise CadcError(f"{file} changed since it was exported; {_REMEDY}")
    for name in manifest["files"]:
        if not _NAME.fullmatch(name):
            raise CadcError(f"{file} names {name!r}, which is not a name of a bundle's file.")
    return dict(manifest)


def _sound(manifest: Mapping[str, Any]) -> bool:
    """Whether what the rest of this module relies on is there, and of the right types."""
    files = manifest.get("files")
    return (
        isinstance(files, dict)
        and all(
            isinstance(entry, dict)
            and isinstance(entry.get("bytes"), int)
            and isinstance(entry.get("sha256"), str)
            for entry in files.values()
        )
        and isinstance(manifest.get("versions", {}), dict)
        and all(isinstance(manifest.get(text), str) for text in ("name", "fingerprint", "created"))
    )


def _small_file(file: Path) -> bytes | None:
    """The contents of a manifest or signature; None where there is no such plain file."""
    try:
        if not stat.S_ISREG(file.lstat().st_mode):
            raise CadcError(f"{file}: not a plain file; {_REMEDY}")
        with file.open("rb") as opened:
            contents = opened.read(_MANIFEST_LIMIT + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise CadcError(f"{file}: cannot be read ({error.strerror}).") from error
    if len(contents) > _MANIFEST_LIMIT:
        raise CadcError(f"{file} is too large for a manifest; {_REMEDY}")
    return contents
