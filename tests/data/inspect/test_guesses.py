"""What `inspect` makes of columns that people name and write in odd ways, and what it says."""

from __future__ import annotations

import tomllib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cadc_rec.data.formats.lines import USUAL, TextFormat
from cadc_rec.data.inspect.inspect import inspect_path
from tests.data.own_tables import json_lines, quick_first


def looked_at(path, layout=USUAL):
    found = inspect_path(str(path), layout, None)
    return found, tomllib.loads(found.config(path if path.is_dir() else path.parent))["data"]


def log(columns: str, rows) -> str:
    return columns + "\n" + "".join(",".join(map(str, row)) + "\n" for row in rows)


def a_log(times, name="when", columns="user_id,item_id"):
    rows = [(f"u{n % 4}", f"i{n % 7}", time) for n, time in enumerate(times)]
    return log(f"{columns},{name}", rows)


@pytest.mark.parametrize(
    ("columns", "user", "item"),
    quick_first(
        [
            ("session_id,user_id,product_id", "user_id", "product_id"),
            ("sessionId,itemCategoryId,userId,itemId", "userId", "itemId"),
            ("visitor_id,customer_id,sku", "customer_id", "sku"),
            ("session_id,item_id", "session_id", "item_id"),
        ]
    ),
)
def test_a_users_id_wins_over_a_sessions(columns, user, item, raw_folder):
    wide = len(columns.split(","))
    rows = [[f"{(n * (k + 2)) % 9}x" for k in range(wide)] for n in range(30)]
    (raw_folder / "log.csv").write_text(log(columns, rows))
    found, _ = looked_at(raw_folder / "log.csv")
    assert (found.roles.user, found.roles.item) == (user, item)


DAYS = [(2024, month, day) for month in (1, 2, 11) for day in (3, 15, 28)]
FORMS = {
    "%m/%d/%Y": [f"{m}/{d}/{y}" for y, m, d in DAYS],
    "%d.%m.%Y": [f"{d:02}.{m:02}.{y}" for y, m, d in DAYS],
    "%d/%m/%Y %H:%M": [f"{d}/{m}/{y} 9:05" for y, m, d in DAYS],
    "%m/%d/%y": [f"{m}/{d}/{y % 100}" for y, m, d in DAYS],
    "%d %b %Y": [f"{d} {['', 'Jan', 'Feb', *'abcdefgh', 'Nov'][m]} {y}" for y, m, d in DAYS],
    "%Y%m%d": [f"{y}{m:02}{d:02}" for y, m, d in DAYS],
}


@pytest.mark.parametrize("form", quick_first(FORMS))
def test_the_form_of_a_date_is_written_to_the_config(form, raw_folder, prepare):
    (raw_folder / "log.csv").write_text(a_log(FORMS[form], name="ordered_at"))
    found, settings = looked_at(raw_folder)
    assert settings["tables"]["interactions"]["timestamp"] == "ordered_at"
    assert settings["tables"]["interactions"]["format"] == form
    assert not found.warnings
    artifact = prepare(**settings)
    assert artifact.info["rows_read"] == len(DAYS)
    assert artifact.info["order"] == "time"


@pytest.mark.parametrize(
    ("times", "forms"),
    quick_first(
        [
            (["1/2/2024", "11/12/2024"], ("%m/%d/%Y", "%d/%m/%Y")),
            (["01-02-2024 10:00", "03-04-2024 11:30"], ("%d-%m-%Y %H:%M", "%m-%d-%Y %H:%M")),
            (["1/2/24", "3/4/24", "5/5/25"], ("%m/%d/%y", "%d/%m/%y")),
        ]
    ),
)
def test_days_and_months_that_cannot_be_told_apart_are_named(times, forms, raw_folder):
    (raw_folder / "log.csv").write_text(a_log(times * 6))
    found, settings = looked_at(raw_folder)
    assert settings["tables"]["interactions"]["format"] == forms[0]
    (sentence,) = found.warnings
    assert f"when is {forms[0]} or {forms[1]}" in sentence
    assert f'"{forms[1]}": days and months cannot be told apart' in found.config()


def test_whole_numbers_of_parquet_may_be_dates(raw_folder):
    days = [int(day) for day in FORMS["%Y%m%d"]]
    users = [n % 3 for n in range(len(days))]
    pq.write_table(
        pa.table({"user": users, "item": users[::-1], "date": days}), raw_folder / "a.parquet"
    )
    _, settings = looked_at(raw_folder)
    assert settings["tables"]["interactions"]["format"] == "%Y%m%d"


def test_a_time_in_no_known_form_is_named(raw_folder):
    (raw_folder / "log.csv").write_text(a_log(["week 3", "week 4"] * 6, name="order_date"))
    found, settings = looked_at(raw_folder)
    assert "timestamp" not in settings["tables"]["interactions"]
    (sentence,) = found.warnings
    assert "order_date looks like a time" in sentence
    assert "'week 3'" in sentence


@pytest.mark.parametrize("form", quick_first(["csv", "parquet", "jsonl"]))
def test_seconds_beside_milliseconds_are_warned_of(form, raw_folder):
    times = [1_700_000_000 + n for n in range(8)] + [1_700_000_100_000] * 4
    rows = [(f"u{n % 3}", f"i{n % 5}", time) for n, time in enumerate(times)]
    columns = dict(zip(("user", "item", "ts"), map(list, zip(*rows, strict=True)), strict=True))
    if form == "parquet":
        pq.write_table(pa.table(columns), raw_folder / "log.parquet")
    elif form == "csv":
        (raw_folder / "log.csv").write_text(log("user,item,ts", rows))
    else:
        lines = [f'{{"user": "{u}", "item": "{i}", "ts": {t}}}\n' for u, i, t in rows]
        (raw_folder / "log.jsonl").write_text("".join(lines))
    found, settings = looked_at(raw_folder)
    (sentence,) = found.warnings
    assert "ts mixes units" in sentence
    assert "seconds in 8 rows and milliseconds in 4 rows" in sentence
    assert "unit" not in settings["tables"]["interactions"]
    assert "# Note: " in found.config()


@pytest.mark.parametrize("word", quick_first(["nan", "NULL", "None"]))
def test_an_id_that_means_nothing_is_warned_of(word, raw_folder):
    rows = [(f"u{n % 4}" if n % 5 else word, f"i{n % 7}", n) for n in range(20)]
    (raw_folder / "log.csv").write_text(log("user_id,item_id,ts", rows))
    items = [*((f"i{n}", "a" if n % 2 else "b") for n in range(12)), (word, "a")]
    (raw_folder / "items.csv").write_text(log("item_id,kind", items))
    found, _ = looked_at(raw_folder)
    assert [f"user_id is an id, and holds 4 {word!r}" in s for s in found.warnings] == [True, False]
    assert f"item_id is an id, and holds 1 {word!r}" in found.warnings[1]


@pytest.mark.parametrize("extra", quick_first(["title", "title genre", "user_id stars"]))
def test_a_log_given_as_items_table_is_warned_of(extra, raw_folder):
    (raw_folder / "log.csv").write_text(a_log(range(40), name="ts"))
    rows = [(f"i{n % 6}", *(f"{name} {n % 3}" for name in extra.split())) for n in range(24)]
    (raw_folder / "movies.csv").write_text(log(",".join(("item_id", *extra.split())), rows))
    found, settings = looked_at(raw_folder)
    assert found.roles.items is None
    assert "items" not in settings["tables"]
    (sentence,) = found.warnings
    assert "movies.csv: is no table of items" in sentence
    assert "its item_id has 6 values in 24 rows" in sentence


@pytest.mark.parametrize("content", quick_first([b"", b"\n\n", b"\xef\xbb\xbf", b" \r\n"]))
def test_an_empty_stray_file_is_named_and_passed_over(content, raw_folder):
    (raw_folder / "log.csv").write_text(a_log(range(20), name="ts"))
    (raw_folder / "empty.csv").write_bytes(content)
    (raw_folder / "_hidden.csv").write_bytes(b"")
    (raw_folder / "notes.docx").write_bytes(b"x")
    found, settings = looked_at(raw_folder)
    assert [table.rows for table in found.tables] == [20]
    assert found.warnings[0] == f"{raw_folder}/empty.csv: is empty; it was passed over"
    assert found.warnings[1].startswith("not looked at: notes.docx (")
    assert settings["tables"]["interactions"]["path"] == "log.csv"


GENRES = ["Action", "Comedy", "It's", "Sci Fi"]
LISTS = {
    "python": lambda n: str([GENRES[n % 4], GENRES[n % 3]]),
    "json": lambda n: '["' + GENRES[n % 4] + '", "' + GENRES[n % 3] + '"]',
    "bare": lambda n: f"[{GENRES[n % 2]}, {GENRES[n % 3 // 2]}]",
}


@pytest.mark.slow
@pytest.mark.parametrize("form", LISTS)
def test_lists_as_text_are_read_as_lists(form, raw_folder, prepare):
    (raw_folder / "log.csv").write_text(a_log(range(40), name="ts"))
    rows = [(f"i{n}", '"' + LISTS[form](n).replace('"', '""') + '"') for n in range(12)]
    (raw_folder / "items.csv").write_text(log("item_id,genres", rows))
    _, settings = looked_at(raw_folder)
    assert settings["tables"]["items"]["lists"] == ["genres"]
    described = (prepare(**settings).path / "attributes.json").read_text("utf-8")
    assert all(genre in described for genre in GENRES[: 2 if form == "bare" else 4])
    assert "[\\" not in described
    (raw_folder / "items.csv").write_text(log("item_id,genres", [*rows, ("i99", "Action")]))
    found, settings = looked_at(raw_folder)
    assert "lists" not in settings["tables"]["items"]
    assert "# left out: genres (lists as text, but 1 of 13 are none)" in found.config()


@pytest.mark.slow
def test_how_text_was_read_is_written_to_the_config(raw_folder, prepare):
    rows = [(f"ü{n % 4}", f"i{n % 7}", n) for n in range(40)]
    content = "".join("::".join(map(str, row)) + "\n" for row in rows)
    (raw_folder / "log.dat").write_bytes(content.encode("utf-16"))
    layout = TextFormat("::", "utf-16", ("who", "item", "ts"))
    found, settings = looked_at(raw_folder, layout)
    assert (found.roles.user, found.roles.item, found.roles.timestamp) == ("who", "item", "ts")
    tables = settings["tables"]
    assert (tables["delimiter"], tables["encoding"]) == ("::", "utf-16")
    assert tables["interactions"]["columns"] == ["who", "item", "ts"]
    assert prepare(**settings).info["rows_read"] == 40


@pytest.mark.slow
def test_a_first_line_that_is_a_row_is_suspected(raw_folder):
    (raw_folder / "u.csv").write_text("1,2,5,881250949\n" * 3)
    found = inspect_path(str(raw_folder), USUAL, None)
    assert "looks like a row" in found.warnings[0]
    (raw_folder / "u.csv").write_text(a_log(range(9)).replace(",", ";"))
    found = inspect_path(str(raw_folder), USUAL, None)
    assert "if ';' separates the fields, name it (--delimiter)" in found.warnings[0]


def test_numbers_that_are_missing_are_no_greatest_and_no_value_of_their_own(raw_folder):
    rows = {
        "user_id": [1, 1, 2, 2],
        "item_id": [5, 6, 5, 7],
        "price": [2.5, float("nan"), 0.5, 2.5],
    }
    pq.write_table(pa.table(rows), raw_folder / "log.parquet")
    (table,) = inspect_path(str(raw_folder), USUAL, None).tables
    (price,) = [column for column in table.columns if column.name == "price"]
    assert (price.known, price.distinct, price.least, price.greatest) == (3, 2, "0.5", "2.5")


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_whole_numbers_of_19_digits_are_shown_with_all_of_them(form, raw_folder):
    least, most = 1_700_000_000_123_456_789, 2**63 - 1
    times = [least, least + 2, most - 2, most]
    rows = [(least + n % 2, f"i{n // 2}", time) for n, time in enumerate(times)]
    content = log("user_id,item_id,time", rows)
    if form == "jsonl":
        names = ("user_id", "item_id", "time")
        content = json_lines(rows, names)
    (raw_folder / f"log.{form}").write_text(content)
    found, config = looked_at(raw_folder / f"log.{form}")
    (table,) = found.tables
    time, user = table.column("time"), table.column("user_id")
    assert (time.least, time.greatest) == (str(least), str(most))
    assert (user.least, user.greatest) == (str(least), str(least + 1))
    assert config["tables"]["interactions"]["unit"] == "ns"
