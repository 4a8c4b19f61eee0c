"""`inspect` leaves out columns that look like counts or averages of interactions."""

import numpy as np
import pandas as pd
import pytest

from cadc_rec.data.formats.lines import USUAL
from cadc_rec.data.inspect.inspect import inspect_path


@pytest.fixture(scope="module")
def inspection(tmp_path_factory):
    """40 items; of item i there are i + 1 interactions, each with a rating around i / 10."""
    folder, draw = tmp_path_factory.mktemp("shop"), np.random.default_rng(0)
    items = np.repeat(np.arange(40), np.arange(40) + 1)
    log = pd.DataFrame({"user_id": draw.integers(0, 50, len(items)), "item_id": items})
    log["rating"] = (39 - items) / 10 + draw.normal(0, 0.01, len(items))
    log["time"] = 1_700_000_000 + draw.integers(0, 10**6, len(items))
    log.to_csv(folder / "log.csv", index=False)
    table = pd.DataFrame({"item_id": np.arange(40)})
    table["total"] = (table["item_id"] + 1) ** 2 + draw.integers(0, 9, 40)  # as the counts order
    table["liked"] = 100.0 - table["item_id"] / 7  # as the mean ratings order
    table["imdb_votes"] = [f"{n},{n:03d}" for n in draw.integers(100, 999, 40)]
    table["metascore"] = draw.integers(0, 99, 40)
    table["awards"] = ["Won 1 Oscar", "2 wins"] * 20
    table["price"] = draw.permutation(40) + 0.5
    table["rated"] = ["PG", "R"] * 20
    table["country"] = ["US", "NO"] * 20
    table.to_csv(folder / "items.csv", index=False)
    return inspect_path(str(folder), USUAL, folder)


def test_names_and_orders_tell_what_was_made_of_interactions(inspection):
    kinds = {guess.column: guess.kind for guess in inspection.roles.items.guesses}
    assert [name for name, kind in kinds.items() if kind is not None] == [
        "price",
        "rated",
        "country",
    ]
    config = inspection.config()
    for column in ("total", "liked", "imdb_votes", "metascore", "awards"):
        assert f"# left out: {column} (" in config


def test_each_is_warned_of_with_the_reason(inspection):
    said = {column: next(w for w in inspection.warnings if f": {column} " in w)
            for column in ("total", "liked", "imdb_votes")}  # fmt: skip
    assert "total orders rows as the number of their interactions does" in said["total"]
    assert "imdb_votes is called like a count or an average" in said["imdb_votes"]
    assert all("it may tell what is held out, so it was left out" in text for text in said.values())
    assert not any("price" in warning for warning in inspection.warnings)
