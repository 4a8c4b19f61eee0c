"""The raw tables of whichever source the configuration names."""

from __future__ import annotations

from pathlib import Path

from ibis.backends.duckdb import Backend

from cadc_rec.config.experiment import DataConfig
from cadc_rec.data.sources.archives import RawInput
from cadc_rec.data.sources.epinions import read_epinions
from cadc_rec.data.sources.generated import read_generated
from cadc_rec.data.sources.movielens import read_movielens_1m, read_movielens_10m
from cadc_rec.data.sources.raw_tables import RawTables
from cadc_rec.data.sources.tables import read_tables

_ARCHIVED = {
    "movielens-1m": read_movielens_1m,
    "movielens-10m": read_movielens_10m,
    "epinions": read_epinions,
}


def read_source(config: DataConfig, raw: RawInput, backend: Backend, scratch: Path) -> RawTables:
    """The raw tables of `config.source`.

    Args:
        config: names the source, and describes it when it is generated.
        raw: from `find_raw`.
        backend: will run the expressions.
        scratch: a folder for extracted or generated files, kept until the tables were used.
    """
    if config.source == "generated":
        return read_generated(config.generated, backend, scratch)
    if config.source == "tables":
        assert raw.tables is not None
        return read_tables(config.tables, raw.tables, backend, scratch)
    assert raw.path is not None
    return _ARCHIVED[config.source](backend, raw.path, scratch)
