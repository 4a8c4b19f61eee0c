from __future__ import annotations
from pathlib import Path
from ibis.backends.duckdb import Backend
from cadc_rec.config import GeneratedConfig
from cadc_rec.data.sources.raw_tables import RawTables


def read_generated(config: GeneratedConfig, backend: Backend, scratch: Path) -> RawTables:
    raise NotImplementedError
