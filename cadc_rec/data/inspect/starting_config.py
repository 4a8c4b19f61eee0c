"""The configuration that `inspect --out` writes: what was guessed, with the reasons as comments."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from cadc_rec.data.id_forms import ID_FORMS, Meeting
from cadc_rec.data.inspect.roles import Entities, Roles
from cadc_rec.data.sources.raw_tables import guess_unit
from cadc_rec.data.tables.files import FileSet, find_files
from cadc_rec.errors import CadcError

_WHOLE = re.compile(r"-?[0-9]{1,18}")


def starting_config(roles: Roles, data_dir: Path | None, meetings: Sequence[Meeting] = ()) -> str:
    """A TOML file that `cadc-rec run` takes.

    Args:
        roles: what the tables were taken for.
        data_dir: the folder that paths in a configuration are relative to, where there is one.
        meetings: how the tables' ids meet.

    Raises:
        CadcError: no table of interactions was found.
    """
    if roles.interactions is None:
        raise CadcError(
            "no table names both a user and an item, so there is nothing to start from; write the "
            "sections of docs/your-data.md by hand."
        )
    lines = [
        "# Written by `cadc-rec inspect`: guesses from names and counts. Read and correct them.",
        'seed = 0\nmethod = "cadc"\n',
        '[data]\nsource = "tables"\n',
        *_normalized(meetings),
        "[data.tables.interactions]",
        f"path = {_text(_path(roles.interactions.files, data_dir))}",
        f"user = {_text(roles.user)}",
        f"item = {_text(roles.item)}",
        f"timestamp = {_text(roles.timestamp)}"
        if roles.timestamp
        else '# timestamp = "..." # none was found: the order of a user\'s rows is a seeded draw',
    ]
    lines += _unit(roles)
    if roles.rating:
        lines += [
            f"rating = {_text(roles.rating)}",
            "# min_rating = 4.0 # unset, every row is an interaction, whatever its rating",
        ]
    for side, entities in (("users", roles.users), ("items", roles.items)):
        if entities is not None:
            lines += ["", f"[data.tables.{side}]", *_entities(entities, data_dir)]
    return "\n".join(lines) + "\n"


def _normalized(meetings: Sequence[Meeting]) -> Iterator[str]:
    """The forms that let tables meet, where few of their ids do as they are."""
    forms = [form for form in ID_FORMS if any(form in met.reason for met in meetings)]
    if forms:
        yield "[data.tables]"
        yield from (f"# {met.side} ids: {met.why()}" for met in meetings if met.reason)
        yield f"normalize_ids = [{', '.join(map(_text, forms))}]\n"


def _unit(roles: Roles) -> Iterator[str]:
    """What whole numbers of a time count, where their size tells it."""
    assert roles.interactions is not None
    column = roles.interactions.column(roles.timestamp) if roles.timestamp else None
    if column is None or not (_WHOLE.fullmatch(column.least) and _WHOLE.fullmatch(column.greatest)):
        return
    least, greatest = int(column.least), int(column.greatest)
    unit = guess_unit(least, greatest)
    if unit:
        day = datetime.fromtimestamp(least // 10 ** {"s": 0, "ms": 3, "us": 6, "ns": 9}[unit], UTC)
        yield f"unit = {_text(unit)} # by their size; the first is of {day.date()}"


def _entities(entities: Entities, data_dir: Path | None) -> Iterator[str]:
    yield f"path = {_text(_path(entities.table.files, data_dir))}"
    yield f"id = {_text(entities.id)}"
    if entities.title:
        yield f"title = {_text(entities.title)}"
    separators = [guess.separator for guess in entities.guesses if guess.separator]
    separator = max(separators, key=separators.count, default="")
    missing: list[str] = []
    for kind in ("categorical", "multi", "numeric", "hashed"):
        named = [
            guess
            for guess in entities.guesses
            if guess.kind == kind and guess.separator in ("", separator)
        ]
        yield from (f"# {guess.column}: {guess.why}" for guess in named)
        if named:
            yield f"{kind} = [{', '.join(_text(guess.column) for guess in named)}]"
        missing += [text for guess in named for text in guess.missing if text not in missing]
    if separator:
        yield f"separator = {_text(separator)}"
    if missing:
        yield f"missing = [{', '.join(map(_text, missing))}]"
    for guess in entities.guesses:
        if guess.kind is None or guess.separator not in ("", separator):
            yield f"# left out: {guess.column} ({guess.why})"


def _path(found: FileSet, data_dir: Path | None) -> str:
    """The file, the folder of several, or a glob where the folder holds others too."""
    place = found.files[0]
    if len(found.files) > 1:
        (everything, *others) = find_files(str(found.base), "PATH", [found.base])
        place = found.base
        if others or len(everything.files) > len(found.files):
            names = [str(file) for file in found.files]
            start = os.path.commonprefix(names)  # noqa: RUF071 the beginning of names is meant
            place = Path(f"{start}*{''.join(found.files[0].suffixes)}")
    if data_dir is not None and place.is_relative_to(data_dir.absolute()):
        return str(place.relative_to(data_dir.absolute()))
    return str(place)


def _text(value: str) -> str:
    """A TOML string: JSON's, but that TOML also escapes DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
