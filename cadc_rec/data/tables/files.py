"""Which files make up each table, and which bytes they hold.

In: a path of the configuration (a file, a folder or a glob) and the folders it is relative to.
Out: the files in the order their rows are read in, decompressed where they are compressed text, and
a fingerprint of them all.
"""

from __future__ import annotations

import bz2
import glob
import gzip
import hashlib
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from cadc_rec.config.tables import TablesConfig
from cadc_rec.errors import CadcError, link_to_nowhere, name_without_text

FileFormat = Literal["parquet", "text", "arrow"]
COMPRESSED = (".gz", ".bz2", ".zst")
_SUFFIXES: Mapping[str, FileFormat] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "text",
    ".tsv": "text",
    ".txt": "text",
    ".dat": "text",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
}
_CHUNK = 1 << 20


@dataclass(frozen=True)
class FileSet:
    """The files of one table, all of one format."""

    format: FileFormat
    base: Path
    """The folder the files' names are relative to."""
    files: tuple[Path, ...]
    """Absolute, sorted by name: the rows of the table in their order."""
    read_from: tuple[Path, ...] = ()
    """The files with the rows of a query; `files` then holds the query's name for messages."""

    def name(self, file: Path) -> Path:
        """A file's path below the base."""
        return file.relative_to(self.base)


@dataclass(frozen=True)
class TableFiles:
    """The files of every table the configuration names."""

    interactions: FileSet
    users: FileSet | None
    items: FileSet | None

    def fingerprint(self) -> str:
        """SHA-256 over each table's file names (partitions are values) and bytes."""
        total = hashlib.sha256()
        for role in ("interactions", "users", "items"):
            found: FileSet | None = getattr(self, role)
            if found is None:
                continue
            for file, own in zip(found.read_from or found.files, found.files, strict=True):
                total.update(f"{role}\0{found.name(own).as_posix()}\0".encode())
                total.update(_digest(file))
        return total.hexdigest()


def find_tables(
    config: TablesConfig, folders: Sequence[Path], fetched: Mapping[str, FileSet] | None = None
) -> TableFiles:
    """The files of `config`'s tables; a relative path is looked for in `folders`, in order.

    Args:
        config: names them.
        folders: what a relative path is relative to.
        fetched: what the queries gave, by table.

    Raises:
        CadcError: no table of interactions is named, or a path leads to no file of a known format.
    """
    if not (config.interactions.path or config.interactions.query):
        raise CadcError(
            "data.tables.interactions.path is empty; name the file, folder or glob that holds the "
            "interactions, or a query of a database."
        )
    found: dict[str, FileSet | None] = {}
    for role in ("interactions", "users", "items"):
        path = getattr(config, role).path
        here = _find(path, f"data.tables.{role}.path", folders) if path else None
        found[role] = (fetched or {}).get(role, here)
    interactions = found["interactions"]
    assert interactions is not None
    return TableFiles(interactions, found["users"], found["items"])


def file_format(path: Path) -> FileFormat | None:
    """The format that the end of a file's name says, or None."""
    name = path.name.lower()
    inner = next((name.removesuffix(s) for s in COMPRESSED if name.endswith(s)), None)
    found = _SUFFIXES.get(Path(inner if inner is not None else name).suffix)
    return found if inner is None or found == "text" else None


def partition_keys(found: FileSet) -> list[str]:
    """The hive partitions (folders called ``key=value``); they are columns like any other.

    Raises:
        CadcError: the files are not all partitioned alike.
    """
    keys = [
        [part.partition("=")[0] for part in found.name(file).parent.parts if "=" in part]
        for file in found.files
    ]
    for key, file in zip(keys, found.files, strict=True):
        if key != keys[0]:
            raise CadcError(
                f"{file}: is partitioned by {', '.join(key) or 'nothing'}, and {found.files[0]} by "
                f"{', '.join(keys[0]) or 'nothing'}; partition all files alike."
            )
    return keys[0]


def find_files(path: str, key: str, folders: Sequence[Path]) -> list[FileSet]:
    """Every file of a known format that a path leads to, those of one format together.

    Args:
        path: a file, a folder or a glob; absolute, or looked for in `folders`, in order.
        key: the setting or argument it comes from, for messages.
        folders: what a relative path is relative to.

    Raises:
        CadcError: nothing is there, or nothing of a known format.
    """
    tried = []
    for folder in folders:
        place = folder / Path(path).expanduser()  # an absolute path stays itself
        tried.append(str(place))
        if place.is_file():
            if file_format(place) is None:
                raise CadcError(f"{place}: {_unknown()}; rename it or convert it.")
            return _file_sets(key, place.parent, [place])
        if place.is_dir():
            return _file_sets(key, place, list(_below(place)))
        matched = [Path(name) for name in glob.glob(str(place), recursive=True)]
        if matched:
            base = _fixed_part(place)
            inside = (_below(m) if m.is_dir() else [m] for m in matched if not _hidden(m, base))
            return _file_sets(key, base, [file for files in inside for file in files])
        if nowhere := link_to_nowhere(place):
            raise CadcError(nowhere)
    places = " or ".join(dict.fromkeys(tried))
    raise CadcError(f"{places}: no such file or folder; correct {key}, or name its --data-dir.")


def _find(path: str, key: str, folders: Sequence[Path]) -> FileSet:
    """The one table a path leads to."""
    found = find_files(path, key, folders)
    if len(found) > 1:
        raise CadcError(
            f"{found[0].base}: holds {' and '.join(files.format for files in found)} files; name "
            f"those of one format by a glob in {key}."
        )
    return found[0]


def _file_sets(key: str, base: Path, files: Sequence[Path]) -> list[FileSet]:
    base = base.absolute()
    for file in files:
        if refused := link_to_nowhere(file) or name_without_text(str(file)):
            raise CadcError(refused)
    known: dict[FileFormat, set[Path]] = {}
    for file in files:
        kind = file_format(file)
        if kind is not None:
            known.setdefault(kind, set()).add(file.absolute())
    if not known:
        raise CadcError(f"{base}: holds no file of a known format for {key}; {_unknown()}.")
    return [
        FileSet(
            kind, base, tuple(sorted(known[kind], key=lambda f: f.relative_to(base).as_posix()))
        )
        for kind in sorted(known)
    ]


def _below(folder: Path) -> Iterator[Path]:
    """The files below a folder, less what Spark and others leave beside their data.

    A link that leads nowhere is one of them, so that its rows are not missed in silence.
    """
    for path in folder.rglob("*"):
        if (path.is_file() or (path.is_symlink() and not path.exists())) and not _hidden(
            path, folder
        ):
            yield path


def _hidden(path: Path, base: Path) -> bool:
    return any(part.startswith((".", "_")) for part in path.relative_to(base).parts)


def _fixed_part(pattern: Path) -> Path:
    """The folder before the first part with a wildcard."""
    parts = pattern.parts
    wild = next((n for n, part in enumerate(parts) if glob.has_magic(part)), len(parts) - 1)
    return Path(*parts[:wild])


def _unknown() -> str:
    suffixes = " ".join(_SUFFIXES)
    return f"the end of a file's name says its format: {suffixes}, text also with .gz .bz2 .zst"


def _digest(file: Path) -> bytes:
    digest = hashlib.sha256()
    try:
        with file.open("rb") as opened:
            while chunk := opened.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise CadcError(f"{file}: cannot be read ({error.strerror}); mend its rights.") from None
    return digest.digest()


def unpacked(file: Path, target: Path) -> Path:
    """`file` itself, or what it holds where its name ends in .gz, .bz2 or .zst.

    DuckDB would read .gz and .zst itself, but takes a truncated .zst for a shorter file and does
    not compare a .gz with its checksum.

    Args:
        file: a text file, perhaps compressed.
        target: where its content may be written; folders are made.

    Raises:
        CadcError: truncated, damaged, or not what its name says.
    """
    kind = file.suffix.lower()
    if kind not in COMPRESSED:
        return file
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _open(file, kind) as source, target.open("wb") as out:
            shutil.copyfileobj(source, out, _CHUNK)
    except (EOFError, zlib.error, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's, not the file's
        raise CadcError(
            f"{file}: not a whole {kind} file, truncated or damaged ({error}); write it again."
        ) from None
    return target


def _open(file: Path, kind: str) -> IO[bytes] | Any:
    if kind == ".gz":
        return gzip.open(file, "rb")
    if kind == ".bz2":
        return bz2.open(file, "rb")
    import pyarrow as pa  # takes long to import, and only .zst needs it

    return pa.CompressedInputStream(str(file), "zstd")
