"""The configuration that `inspect --out` writes: what was guessed, with the reasons as comments."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from cadc_rec.data.formats.lines import USUAL, TextFormat
from cadc_rec.data.id_forms import ID_FORMS
from cadc_rec.data.inspect.paths import path_of
from cadc_rec.data.inspect.profile import TableProfile
from cadc_rec.data.inspect.roles import Entities, Roles
from cadc_rec.data.meetings import Meeting
from cadc_rec.data.sources.raw_tables import guess_unit
from cadc_rec.data.sources.times import Gaps
from cadc_rec.errors import CadcError

_WHOLE = re.compile(r"-?[0-9]{1,19}")


def starting_config(
    roles: Roles,
    data_dir: Path | None,
    layout: TextFormat = USUAL,
    notes: Sequence[str] = (),
    meetings: Sequence[Meeting] = (),
    gaps: Gaps | None = None,
) -> str:
    """A TOML file that `cadc-rec run` takes.

    Args:
        roles: what the tables were taken for.
        data_dir: the folder that paths in a configuration are relative to, where there is one.
        layout: how the text files were read.
        notes: sentences to stand at its head.
        meetings: how the tables' ids meet.
        gaps: between users' times, where they were counted.

    Raises:
        CadcError: no table of interactions was found, or no path leads to a table's files alone.
    """
    if roles.interactions is None:
        raise CadcError(
            "no table names both a user and an item, so there is nothing to start from; write the "
            "sections of docs/your-data.md by hand."
        )
    lines = [
        "# Written by `cadc-rec inspect`: guesses from names and counts. Read and correct them.",
        *(f"# Note: {_line(note)}." for note in notes),
        'seed = 0\nmethod = "auto"\n',
        '[data]\nsource = "tables"\n',
        *_tables(layout, meetings),
        "[data.tables.interactions]",
        f"path = {_text(path_of(roles.interactions.files, data_dir))}",
        *_columns(roles.interactions, layout),
        f"user = {_text(roles.user)}",
        f"item = {_text(roles.item)}",
        f"timestamp = {_text(roles.timestamp)}"
        if roles.timestamp
        else '# timestamp = "..." # none was found: the order of a user\'s rows is a seeded draw',
    ]
    lines += _format(roles)
    lines += [f"# {column} looks like a time too" for column in roles.times]
    lines += _unit(roles)
    if gaps is not None:
        lines.append(f"timestamp_kind = {_text(gaps.kind)} # {gaps.why}")
    if roles.rating:
        lines += [
            f"rating = {_text(roles.rating)}",
            "# min_rating = 4.0 # unset, every row is an interaction, whatever its rating",
        ]
    for side, entities in (("users", roles.users), ("items", roles.items)):
        if entities is not None:
            columns = _columns(entities.table, layout)
            lines += ["", f"[data.tables.{side}]", *columns, *_entities(entities, data_dir)]
    if gaps is not None and gaps.kind == "clock":
        lines += ["", "[prior]", "recent = true # what was taken in the hours before, by the clock"]
    return "\n".join(lines) + "\n"


def _tables(layout: TextFormat, meetings: Sequence[Meeting]) -> Iterator[str]:
    """How all tables are read, where that is not the usual way."""
    settings = {"delimiter": layout.delimiter, "encoding": layout.encoding}
    usual = {"delimiter": USUAL.delimiter, "encoding": USUAL.encoding}
    lines = [f"{key} = {_text(text)}" for key, text in settings.items() if text != usual[key]]
    # The forms that let tables meet, where few of their ids do as they are.
    forms = [form for form in ID_FORMS if any(form in met.reason for met in meetings)]
    if forms:
        lines += [f"# {met.side} ids: {met.why()}" for met in meetings if met.reason]
        lines.append(f"normalize_ids = [{', '.join(map(_text, forms))}]")
    if lines:
        yield from ["[data.tables]", *lines, ""]


def _columns(table: TableProfile, layout: TextFormat) -> Iterator[str]:
    """The names that the files do not give."""
    if layout.columns and table.files.format == "text":
        yield f"columns = [{', '.join(map(_text, layout.columns))}]"


def _format(roles: Roles) -> Iterator[str]:
    """How a time that is not ISO is written."""
    assert roles.interactions is not None
    column = roles.interactions.column(roles.timestamp) if roles.timestamp else None
    if column is not None and column.readings is not None:
        form, *other = [_text(form) for form in column.readings.forms]
        why = f", or {other[0]}: days and months cannot be told apart" if other else ""
        yield f"format = {form} # as in {_line(column.readings.example)}{why}"


def _unit(roles: Roles) -> Iterator[str]:
    """What whole numbers of a time count, where their size tells it."""
    assert roles.interactions is not None
    column = roles.interactions.column(roles.timestamp) if roles.timestamp else None
    if column is None or column.readings is not None:
        return
    if not (_WHOLE.fullmatch(column.least) and _WHOLE.fullmatch(column.greatest)):
        return
    least, greatest = int(column.least), int(column.greatest)
    unit = guess_unit(least, greatest)
    if unit:
        day = datetime.fromtimestamp(least // 10 ** {"s": 0, "ms": 3, "us": 6, "ns": 9}[unit], UTC)
        yield f"unit = {_text(unit)} # by their size; the first is of {day.date()}"


def _entities(entities: Entities, data_dir: Path | None) -> Iterator[str]:
    yield f"path = {_text(path_of(entities.table.files, data_dir))}"
    yield f"id = {_text(entities.id)}"
    if entities.title:
        yield f"title = {_text(entities.title)}"
    separators = [guess.separator for guess in entities.guesses if guess.separator]
    separator = max(separators, key=separators.count, default="")
    missing: list[str] = []
    for kind in ("categorical", "multi", "lists", "numeric", "hashed"):
        named = [
            guess
            for guess in entities.guesses
            if kind == ("lists" if guess.text_list else guess.kind)
            and guess.separator in ("", separator)
        ]
        yield from (f"# {_line(guess.column)}: {_line(guess.why)}" for guess in named)
        if named:
            yield f"{kind} = [{', '.join(_text(guess.column) for guess in named)}]"
        missing += [text for guess in named for text in guess.missing if text not in missing]
    if separator:
        yield f"separator = {_text(separator)}"
    if missing:
        yield f"missing = [{', '.join(map(_text, missing))}]"
    for guess in entities.guesses:
        if guess.kind is None or guess.separator not in ("", separator):
            yield f"# left out: {_line(guess.column)} ({_line(guess.why)})"


def _line(text: str) -> str:
    """A text as a part of a comment: on one line, without what TOML forbids there."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _text(value: str) -> str:
    """A TOML string: JSON's, but that TOML also escapes DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
