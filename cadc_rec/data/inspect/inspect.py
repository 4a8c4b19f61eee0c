"""Inspects every table that a path leads to.

In: a file, a folder or a glob. Out: an `Inspection`: a profile of each table, the guessed role of
each, and of the interactions: repeated pairs, users with few items, popularity.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import ibis
from ibis.backends.duckdb import Backend

from cadc_rec.data.engine import open_engine
from cadc_rec.data.formats.lines import USUAL, TextFormat
from cadc_rec.data.formats.open import columns_in
from cadc_rec.data.inspect.advice import Advice, advise
from cadc_rec.data.inspect.leaks import without_leaks
from cadc_rec.data.inspect.profile import (
    TableProfile,
    pair_counts,
    popularity,
    profile,
)
from cadc_rec.data.inspect.roles import Entities, Roles, guess_roles
from cadc_rec.data.inspect.starting_config import starting_config
from cadc_rec.data.inspect.times import user_gaps
from cadc_rec.data.inspect.warnings import left_files, table_warnings
from cadc_rec.data.meetings import Meeting, meet
from cadc_rec.data.sources.raw_input import table_folders
from cadc_rec.data.sources.raw_tables import Side
from cadc_rec.data.sources.times import Gaps
from cadc_rec.data.tables.files import FileSet, find_files, other_files
from cadc_rec.data.tables.plain import is_empty
from cadc_rec.errors import CadcError


@dataclass(frozen=True)
class Inspection:
    """What was found."""

    tables: Sequence[TableProfile]
    roles: Roles
    repeated_pairs: int = 0
    users_below_three: int = 0
    held_out_users: int = 0
    """Users with three different items or more."""
    median_items: float = 0.0
    """Of the numbers of different items that users took."""
    popularity: Sequence[tuple[int, int, int]] = ()
    """See `cadc_rec.data.inspect.profile.popularity`."""
    meetings: Sequence[Meeting] = ()
    """How the tables of users and of items meet the interactions."""
    warnings: Sequence[str] = ()
    """What looks wrong, and what was passed over: a sentence each, without its full stop."""
    layout: TextFormat = USUAL
    """How text files were read."""
    gaps: Gaps | None = None
    """Between users' times, where there are times: whether these are a clock's."""

    def advice(self) -> list[Advice]:
        """Which methods fit; empty without interactions."""
        if self.roles.interactions is None:
            return []
        return list(advise(self.roles, self.gaps, self.median_items, self.held_out_users))

    def config(self, data_dir: Path | None = None) -> str:
        """A first configuration for these tables, as the text of a TOML file.

        Args:
            data_dir: the folder that its paths are to be relative to.

        Raises:
            CadcError: no table names both a user and an item, or no path leads to its files alone.
        """
        notes = [*self.warnings, *(advice.text for advice in self.advice())]
        return starting_config(self.roles, data_dir, self.layout, notes, self.meetings, self.gaps)


def inspect_path(path: str, layout: TextFormat, data_dir: Path | None) -> Inspection:
    """Read every table below `path` once.

    Args:
        path: a file, a folder or a glob, in the current folder or the data folder.
        layout: of text files.
        data_dir: as ``--data-dir``.

    Raises:
        CadcError: there is no table, or a file cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="cadc-rec-inspect-") as made:
        scratch = Path(made)
        folders = [Path.cwd(), *table_folders(data_dir)]
        every = find_files(path, "PATH", folders)
        empty = [f for found in every if not found.is_lake for f in found.files if is_empty(f)]
        left = left_files(empty, other_files(path, folders, every))
        sets = [replace(found, files=_without(found.files, empty)) for found in every]
        sets = [found for found in sets if found.files]
        if not sets:
            raise CadcError(f"{empty[0]}: is empty; name a file with rows.")
        with open_engine(scratch) as backend:
            backend.raw_sql("SET TimeZone = 'UTC'")
            tables = [
                profile(backend, found, f"table_{number}", layout, scratch)
                for number, found in enumerate(_tables(backend, sets, layout, scratch))
            ]
            roles, leaks = without_leaks(backend, guess_roles(tables))
            warnings = [*left, *table_warnings(tables, roles), *leaks]
            log = roles.interactions
            if log is None:
                return Inspection(tables, roles, warnings=warnings, layout=layout)
            return Inspection(
                tables,
                roles,
                **pair_counts(log.scan, roles.user, roles.item),
                popularity=popularity(log.scan, roles.item),
                meetings=list(_meetings(backend, roles)),
                warnings=warnings,
                layout=layout,
                gaps=_gaps(backend, roles, log),
            )


def _gaps(backend: Backend, roles: Roles, log: TableProfile) -> Gaps | None:
    """The gaps between users' times, where there are times."""
    if not roles.timestamp:
        return None
    reading = log.column(roles.timestamp).readings
    return user_gaps(backend, log.scan.rows, roles.user, roles.timestamp, reading)


def _meetings(backend: Backend, roles: Roles) -> Iterator[Meeting]:
    """How the guessed tables of users and items meet the interactions, by their ids as text."""
    sides: tuple[tuple[Side, str, Entities | None], ...] = (
        ("user", roles.user, roles.users),
        ("item", roles.item, roles.items),
    )
    assert roles.interactions is not None
    log = roles.interactions.scan.rows
    for side, column, entities in sides:
        if entities is None:
            continue
        table = entities.table.scan.rows
        ids = table.select(id=table[entities.id].cast("string")).distinct()
        taken = log.select(id=log[column].cast("string")).group_by("id").agg(rows=ibis._.count())
        # The files are read once for all that is asked of them.
        kept = [
            backend.create_table(f"{side}_{name}_ids", one.filter(one["id"].notnull()))
            for name, one in (("table", ids), ("taken", taken))
        ]
        yield meet(backend, side, *kept)


def _without(files: Sequence[Path], empty: Sequence[Path]) -> tuple[Path, ...]:
    return tuple(file for file in files if file not in empty)


def _tables(
    backend: Backend, files: Sequence[FileSet], layout: TextFormat, scratch: Path
) -> list[FileSet]:
    """Files of one folder and one header are one table."""
    groups: dict[tuple[object, ...], list[Path]] = {}
    bases: dict[tuple[object, ...], FileSet] = {}
    for found in files:
        for number, file in enumerate(found.files):
            alone = FileSet(found.format, found.base, (file,))
            below = found.name(file).parts
            top = below[0] if len(below) > 1 and "=" not in below[0] else ""
            # Objects of one table may differ in their members, so that their files' names decide.
            same: object = re.sub(r"[0-9]+", "", file.name)
            if found.format != "json":
                role = f"header_{found.format}_{number}"
                same = tuple(columns_in(backend, alone, role, layout, scratch))
            key = (top, found.format, same)
            groups.setdefault(key, []).append(file)
            bases[key] = FileSet(found.format, found.base / top if top else found.base, ())
    return [
        FileSet(bases[key].format, bases[key].base, tuple(sorted(group)))
        for key, group in groups.items()
    ]
