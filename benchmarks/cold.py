"""What new items reach: tables with content, a study with cold items, and its tables in the docs.

    python -m benchmarks.cold --workdir work --data-dir DATA    # goes on where it was stopped
    python -m benchmarks.cold --workdir work --docs             # what is measured, into the docs
    python -m benchmarks.cold --study features ...              # what each set of features adds

In: ``ml-1m.zip``, ``ml-1m-text/items.csv`` (facts and plots of its films) and ``online-retail/`` of
the data folder; ``configs/study/cold.toml``. Out: the tables in ``WORKDIR/cold``,
``WORKDIR/studies/cold`` and its report. Neither is a public archive, so a dataset whose files are
not there is left out: its cells are recorded as not available.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv
import pyarrow.parquet as pq

from benchmarks.recorded.docs import Docs
from benchmarks.study_command import study_command
from cadc_rec.config.data import DataConfig
from cadc_rec.data.engine import open_engine
from cadc_rec.data.sources.public_datasets import read_movielens_1m
from cadc_rec.data.sources.raw_input import find_raw
from cadc_rec.errors import CadcError
from cadc_rec.log import log
from cadc_rec.study.report.cold import cold_table
from cadc_rec.study.report.features import features_table
from cadc_rec.study.report.groups import Comparisons
from cadc_rec.study.report.markdown import markdown_table
from cadc_rec.study.report.study_data import Study
from cadc_rec.study.report.tables import TableView, study_table

PAGE = "docs/accuracy.md"
_LISTED = ("director", "actors", "country")


def films(movies: pa.Table, facts: pa.Table) -> pa.Table:
    """The films of MovieLens 1M with what else is known of them, but nothing that counts tastes.

    Votes, ratings and awards are left out: they say what people took later.

    Args:
        movies: item_id, title, genres (lists).
        facts: item_id, director, actors, country (names with commas between), plot; ``N/A`` and
            nothing are missing.
    """
    of = {row["item_id"]: row for row in facts.to_pylist()}
    rows = []
    for movie in movies.to_pylist():
        fact = of.get(movie["item_id"], {})
        row = {name: movie[name] for name in ("item_id", "title", "genres")}
        year = re.search(r"\((\d{4})\)\s*$", movie["title"])
        row["year"] = int(year[1]) if year else None
        row |= {name: _names(fact.get(name)) for name in _LISTED}
        plot = (fact.get("plot") or "").strip()
        rows.append(row | {"plot": plot if plot not in ("", "N/A") else None})
    return pa.Table.from_pylist(rows)


def _names(text: str | None) -> list[str]:
    """Each name once; what stands in brackets behind it is a role."""
    names = (part.split("(")[0].strip() for part in (text or "").split(","))
    return list(dict.fromkeys(name for name in names if name and name != "N/A"))


def products(items: pa.Table) -> pa.Table:
    """Products with the words of their titles as a list; their number of rows is left out."""
    titles = pc.utf8_trim_whitespace(items["title"].cast(pa.string()))
    words = [
        sorted(set(re.findall(r"[^\W\d_]{2,}", (title or "").lower())))
        for title in titles.to_pylist()
    ]
    listed = pa.array(words, pa.list_(pa.string()))
    ids = items["item_id"].cast(pa.string())
    return pa.table({"item_id": ids, "title": titles, "words": listed})


def write_tables(folder: Path, data_dir: Path | None) -> None:
    """The tables of both datasets under `folder`; those that are there are kept.

    A dataset whose files are not in the data folder is left out, with a warning.
    """
    found = data_dir or Path(os.environ.get("CADC_REC_DATA", "."))
    text = found / "ml-1m-text" / "items.csv"
    try:
        raw = find_raw(DataConfig(source="movielens-1m"), data_dir)
    except CadcError as error:
        log.warning("MovieLens 1M is left out: %s", error)
        raw = None
    if raw is not None and raw.path is not None and _is_there(text):
        _write_films(folder / "ml-1m", raw.path, text)
    retail = found / "online-retail"
    if _is_there(retail / "items.csv"):
        out = folder / "online-retail"
        out.mkdir(parents=True, exist_ok=True)
        if not (out / "items.parquet").exists():
            log_of = pq.read_table(
                retail / "interactions.parquet", columns=["user_id", "item_id", "timestamp"]
            )
            pq.write_table(log_of, out / "interactions.parquet")
            as_text = pcsv.ConvertOptions(column_types={"item_id": pa.string()})
            read = pcsv.read_csv(retail / "items.csv", convert_options=as_text)
            pq.write_table(products(read), out / "items.parquet")


def _write_films(out: Path, archive: Path, text: Path) -> None:
    if (out / "items.parquet").exists():
        return
    scratch = out / ".scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    with open_engine(scratch) as backend:
        tables = read_movielens_1m(backend, archive, scratch)
        assert tables.users is not None
        assert tables.items is not None
        ratings = tables.interactions.order_by("row").select("user_id", "item_id", "timestamp")
        pq.write_table(ratings.to_pyarrow(), out / "ratings.parquet")
        users = tables.users.order_by("user_id").to_pyarrow().drop_columns(["zip_code"])
        pq.write_table(users, out / "users.parquet")
        movies = tables.items.order_by("item_id").to_pyarrow()
    quoted = pcsv.ParseOptions(newlines_in_values=True)
    facts = pcsv.read_csv(text, parse_options=quoted)
    pq.write_table(films(movies, facts), out / "items.parquet")


def _is_there(path: Path) -> bool:
    if not path.exists():
        log.warning("%s: is not there; its dataset is left out", path)
    return path.exists()


def cold_tables(page: Comparisons) -> dict[str, str]:
    """What cold items reach, and the others in the same runs; Markdown by mark."""
    (study,) = page.studies
    return {
        "cold": _markdown(study, cold_table(study, page)),
        "cold-warm": _markdown(study, study_table(study, page)),
    }


def features_tables(page: Comparisons) -> dict[str, str]:
    """What sets of features add; Markdown by mark."""
    (study,) = page.studies
    return {"features": _markdown(study, features_table(study, page))}


def _markdown(study: Study, table: TableView | None) -> str:
    return "Not measured yet." if table is None else markdown_table(study, table).strip()


DOCS = {
    "cold": Docs(studies=("cold",), marks={"cold": PAGE, "cold-warm": PAGE}, tables=cold_tables),
    "features": Docs(studies=("features",), marks={"features": PAGE}, tables=features_tables),
}


def main() -> None:
    """Write the tables, run a study of them, report."""

    def data(workdir: Path, raw: Path | None) -> Path:
        tables = workdir / "cold"
        tables.mkdir(parents=True, exist_ok=True)
        write_tables(tables, raw)
        return tables

    study_command(__doc__, DOCS, data, lambda studies, name: studies / name)


if __name__ == "__main__":
    main()
