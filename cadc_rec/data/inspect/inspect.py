"""Inspects every table that a path leads to.

In: a file, a folder or a glob. Out: an `Inspection`: a profile of each table, the guessed role of
each, and of the interactions: repeated pairs, users with few items, popularity.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cadc_rec.data.engine import open_engine
from cadc_rec.data.inspect.profile import (
    TableProfile,
    column_names,
    pair_counts,
    popularity,
    profile,
)
from cadc_rec.data.inspect.roles import Roles, guess_roles
from cadc_rec.data.inspect.starting_config import starting_config
from cadc_rec.data.sources.raw_input import table_folders
from cadc_rec.data.tables.files import FileSet, find_files
from cadc_rec.data.tables.lines import TextFormat


@dataclass(frozen=True)
class Inspection:
    """What was found."""

    tables: Sequence[TableProfile]
    roles: Roles
    repeated_pairs: int = 0
    users_below_three: int = 0
    popularity: Sequence[tuple[int, int, int]] = ()
    """See `cadc_rec.data.inspect.profile.popularity`."""

    def config(self, data_dir: Path | None = None) -> str:
        """A first configuration for these tables, as the text of a TOML file.

        Args:
            data_dir: the folder that its paths are to be relative to.

        Raises:
            CadcError: no table names both a user and an item.
        """
        return starting_config(self.roles, data_dir)


def inspect_path(path: str, delimiter: str, encoding: str, data_dir: Path | None) -> Inspection:
    """Read every table below `path` once.

    Args:
        path: a file, a folder or a glob, in the current folder or the data folder.
        delimiter: of text files; empty for a comma or a tab.
        encoding: of text files.
        data_dir: as ``--data-dir``.

    Raises:
        CadcError: there is no table, or a file cannot be read.
    """
    layout = TextFormat(delimiter, encoding)
    with tempfile.TemporaryDirectory(prefix="cadc-rec-inspect-") as made:
        scratch = Path(made)
        folders = [Path.cwd(), *table_folders(data_dir)]
        groups = _tables(find_files(path, "PATH", folders), layout, scratch)
        with open_engine(scratch) as backend:
            backend.raw_sql("SET TimeZone = 'UTC'")
            tables = [
                profile(backend, found, f"table_{number}", layout, scratch)
                for number, found in enumerate(groups)
            ]
            roles = guess_roles(tables)
            log = roles.interactions
            if log is None:
                return Inspection(tables, roles)
            return Inspection(
                tables,
                roles,
                **pair_counts(log.scan, roles.user, roles.item),
                popularity=popularity(log.scan, roles.item),
            )


def _tables(files: Sequence[FileSet], layout: TextFormat, scratch: Path) -> list[FileSet]:
    """Files of one folder and one header are one table."""
    groups: dict[tuple[object, ...], list[Path]] = {}
    bases: dict[tuple[object, ...], FileSet] = {}
    for found in files:
        for file in found.files:
            alone = FileSet(found.format, found.base, (file,))
            below = found.name(file).parts
            top = below[0] if len(below) > 1 and "=" not in below[0] else ""
            key = (top, found.format, tuple(column_names(alone, layout, scratch)))
            groups.setdefault(key, []).append(file)
            bases[key] = FileSet(found.format, found.base / top if top else found.base, ())
    return [
        FileSet(bases[key].format, bases[key].base, tuple(sorted(group)))
        for key, group in groups.items()
    ]
