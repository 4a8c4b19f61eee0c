"""Hashed attributes: codes that follow from the text alone, and no list of values."""

from __future__ import annotations

import hashlib
import json

import pyarrow.parquet as pq

from cadc_rec.data.dataset import Dataset
from cadc_rec.data.inspect.profile import ColumnProfile
from cadc_rec.data.inspect.roles import guess_attribute
from tests.data.own_tables import text

USERS = "name,plan\nAna,pro\nBo,\nCy,NA\nDee,é\n"
ROWS = [(who, "x", 1) for who in ("Ana", "Bo", "Cy", "Dee")]


def by_hand(value: str, codes: int) -> int:
    number = hashlib.blake2b(value.encode("utf-8"), digest_size=8).hexdigest()
    return 1 + int("".join(number[n : n + 2] for n in range(14, -2, -2)), 16) % codes


def test_a_hashed_value_has_the_code_of_its_text_and_a_missing_one_none(tables, raw_folder):
    (raw_folder / "users.csv").write_text(USERS, "utf-8")
    users = {"path": "users.csv", "id": "name", "hashed": ["plan"], "hash_codes": 7}
    artifact = tables("log.csv", text(ROWS), users={**users, "missing": ["NA"]})
    codes = pq.read_table(artifact.path / "users.parquet")["plan"].to_pylist()
    assert codes == [by_hand("pro", 7), 0, 0, by_hand("é", 7)]
    described = json.loads((artifact.path / "attributes.json").read_text("utf-8"))
    assert described["user"] == [{"name": "plan", "kind": "hashed", "size": 8, "vocabulary": []}]
    (attribute,) = Dataset.open(artifact).user_attributes
    assert (attribute.size, attribute.values.tolist()) == (8, codes)


def test_numbers_are_hashed_as_their_text(tables, raw_folder):
    (raw_folder / "users.csv").write_text("name,shop\nAna,12\nBo,-3\n")
    users = {"path": "users.csv", "id": "name", "hashed": ["shop"]}
    artifact = tables("log.csv", text(ROWS), users=users)
    codes = pq.read_table(artifact.path / "users.parquet")["shop"].to_pylist()
    assert codes == [by_hand("12", 10_000), by_hand("-3", 10_000), 0, 0]


def test_inspection_hashes_what_has_very_many_values():
    def guess(distinct):
        profile = ColumnProfile("city", "text", False, 10_000_000, distinct, "a", "z")
        return guess_attribute(profile)

    assert guess(100_000).kind == "categorical"
    assert (guess(100_001).kind, guess(100_001).why) == (
        "hashed",
        "100,001 values in 10,000,000 rows",
    )
