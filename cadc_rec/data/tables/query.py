"""What a query of the configuration may say: one SELECT over tables that it names.

In: its text. Out: the same, parsed. The database is asked within a read-only transaction besides;
what is refused here are functions that read files, run further SQL or leave the database, and
statements that a read-only transaction still allows.
"""

from __future__ import annotations

from typing import Literal

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from cadc_rec.data.tables.scan import first_line
from cadc_rec.errors import CadcError

Dialect = Literal["postgres", "sqlite"]

_NOT_READING = (exp.DML, exp.DDL, exp.Command, exp.Into, exp.Lock, exp.Copy, exp.Pragma, exp.Attach)
# Reading functions that sqlglot has no class for. Every other function it does not know is refused:
# among them are query_to_xml, dblink and pg_read_file.
_KNOWN = ("age", "julianday", "printf", "unixepoch")


def checked_query(text: str, dialect: Dialect, key: str) -> exp.Query:
    """The one SELECT that `text` is.

    Args:
        text: the query.
        dialect: of the database.
        key: the setting it comes from, for messages.

    Raises:
        CadcError: it is none, or several, or it may do more than read the tables it names.
    """
    try:
        statements = sqlglot.parse(text, dialect=dialect)
    except SqlglotError as error:
        raise CadcError(f"{key}: cannot be parsed as SQL ({first_line(error)}); mend it.") from None
    only = statements[0] if len(statements) == 1 else None
    if only is None or not isinstance(only, exp.Query):
        raise CadcError(f"{key}: has to be one SELECT and nothing else; write it so.")
    for node in only.walk():
        if isinstance(node, exp.Select | exp.SetOperation | exp.Subquery):
            continue  # queries count among what can be a statement
        if isinstance(node, _NOT_READING):
            raise CadcError(
                f"{key}: holds {type(node).__name__.upper()}, and a query may only read; take it "
                "out."
            )
        if isinstance(node, exp.Anonymous) and node.name.lower() not in _KNOWN:
            raise CadcError(
                f"{key}: calls {node.name}, which is not among the functions known to read nothing "
                "but their arguments; use a standard function, or put it into a view."
            )
    return only
