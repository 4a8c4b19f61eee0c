"""Which files make up each table, and which bytes they hold.

In: a path of the configuration (a file, a folder or a glob) and the folders it is relative to.
Out: the files in the order their rows are read in, and a fingerprint of them all. A zip archive is
like a folder, except that only who names it gets what is in it.
"""

from __future__ import annotations

import fnmatch
import glob
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cadc_rec.config.tables import TablesConfig
from cadc_rec.data.tables.lakes import lake_kind, refuse_parts_of_lakes, require_reader
from cadc_rec.data.tables.matrices import MatrixFile, find_matrices
from cadc_rec.data.tables.plain import ARCHIVE, COMPRESSED, archive_of, content, entries_of
from cadc_rec.errors import CadcError, link_to_nowhere, name_without_text

FileFormat = Literal["parquet", "text", "json", "arrow", "delta", "iceberg"]
_SUFFIXES: Mapping[str, FileFormat] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "text",
    ".tsv": "text",
    ".txt": "text",
    ".dat": "text",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
}
_NAMED_ONLY = (ARCHIVE, ".json")
"""Beside tables these mostly hold something else: a folder's tables are without them."""


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

    @property
    def is_lake(self) -> bool:
        """Whether the file is the folder of a Delta Lake or Iceberg table."""
        return self.format in ("delta", "iceberg")

    def name(self, file: Path) -> Path:
        """A file's path below the base."""
        return file.relative_to(self.base)


@dataclass(frozen=True)
class TableFiles:
    """The files of every table the configuration names."""

    interactions: FileSet
    users: FileSet | None
    items: FileSet | None
    matrices: tuple[MatrixFile, ...] = ()
    """Vectors in files of their own."""

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
        for matrix in self.matrices:
            for file in (matrix.path, matrix.ids):
                total.update(f"{matrix.side}s\0{matrix.name}\0{file.suffix}\0".encode())
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
    matrices = find_matrices(config, folders)
    return TableFiles(interactions, found["users"], found["items"], matrices)


def file_format(path: Path) -> FileFormat | None:
    """The format that the end of a file's name says, or None."""
    found = _SUFFIXES.get(_inner(path))
    return found if path.suffix.lower() not in COMPRESSED or found in ("text", "json") else None


def _inner(path: Path) -> str:
    """The end of a file's name, before what says that it is compressed."""
    name = path.name.lower()
    inner = next((name.removesuffix(s) for s in COMPRESSED if name.endswith(s)), name)
    return Path(inner).suffix


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
            if place.suffix.lower() == ARCHIVE:
                return _file_sets(key, place, _entries(place))
            if file_format(place) is None:
                raise CadcError(f"{place}: {_unknown()}; rename it or convert it.")
            return _file_sets(key, place.parent, [place])
        if place.is_dir():
            kind = lake_kind(place)
            if kind:
                require_reader(kind, place)
                return [FileSet(kind, place.absolute().parent, (place.absolute(),))]
            return _file_sets(key, place, list(_below(place)))
        archive = archive_of(place)
        if archive is not None:
            return _file_sets(key, *_inside(archive, place, key))
        matched = [Path(name) for name in glob.glob(str(place), recursive=True)]
        if matched:
            base = _fixed_part(place)
            inside = (_expanded(m) for m in matched if not _hidden(m, base))
            return _file_sets(key, base, [file for files in inside for file in files])
        if nowhere := link_to_nowhere(place):
            raise CadcError(nowhere)
    places = " or ".join(dict.fromkeys(tried))
    raise CadcError(f"{places}: no such file or folder; correct {key}, or name its --data-dir.")


def other_files(path: str, folders: Sequence[Path], found: Sequence[FileSet]) -> list[Path]:
    """The files of a folder or archive that `find_files` did not take.

    Args:
        path: as for `find_files`; for a single file or a glob there are none.
        folders: likewise.
        found: what it gave.
    """
    place = next((p for f in folders if (p := f / Path(path).expanduser()).exists()), None)
    if place is None or any(files.is_lake for files in found):
        return []
    taken = {file for files in found for file in files.files}
    if place.suffix.lower() == ARCHIVE and place.is_file():
        there = entries_of(place)
    else:
        there = [file for file in place.rglob("*") if file.is_file()]
    visible = [file.absolute() for file in there if not _hidden(file, place)]
    return sorted(file for file in visible if file not in taken)


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
    refuse_parts_of_lakes(known.get("parquet", ()))
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
        is_there = path.is_file() or (path.is_symlink() and not path.exists())
        if is_there and not _hidden(path, folder) and _inner(path) not in _NAMED_ONLY:
            yield path


def _expanded(matched: Path) -> Sequence[Path]:
    """What a glob found: a file, or those in a folder or an archive."""
    if matched.is_dir():
        return list(_below(matched))
    return _entries(matched) if matched.suffix.lower() == ARCHIVE else [matched]


def _entries(archive: Path) -> list[Path]:
    """The text files in an archive; tables of other formats compress themselves."""
    every = [file for file in entries_of(archive) if not _hidden(file, archive)]
    return [file for file in every if file_format(file) in ("text", "json")]


def _inside(archive: Path, place: Path, key: str) -> tuple[Path, list[Path]]:
    """The folder that names in an archive are relative to there, and the files meant by `place`."""
    every = _entries(archive)
    if place in every:
        return place.parent, [place]
    below = [file for file in every if place in file.parents]
    if below:
        return place, below
    matched = [file for file in every if fnmatch.fnmatchcase(str(file), str(place))]
    if not matched:
        shown = ", ".join(str(file.relative_to(archive)) for file in every[:10]) or "no text files"
        raise CadcError(
            f"{place}: no such file in the archive, which holds {shown}; correct {key}."
        )
    return _fixed_part(place), matched


def _hidden(path: Path, base: Path) -> bool:
    return any(part.startswith((".", "_")) for part in path.relative_to(base).parts)


def _fixed_part(pattern: Path) -> Path:
    """The folder before the first part with a wildcard."""
    parts = pattern.parts
    wild = next((n for n, part in enumerate(parts) if glob.has_magic(part)), len(parts) - 1)
    return Path(*parts[:wild])


def _unknown() -> str:
    suffixes = " ".join(_SUFFIXES)
    return (
        f"the end of a file's name says its format: {suffixes}, text also with .gz .bz2 .zst or in "
        "a .zip (name a .zip or .json itself)"
    )


def _digest(file: Path) -> bytes:
    digest = hashlib.sha256()
    every = sorted(path for path in file.rglob("*") if path.is_file()) if file.is_dir() else [file]
    for part in every:
        if file.is_dir():  # the folder of a Delta Lake or Iceberg table
            digest.update(f"\0{part.relative_to(file).as_posix()}\0".encode())
        for chunk in content(part):
            digest.update(chunk)
    return digest.digest()
