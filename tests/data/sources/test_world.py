"""The generated world: exact in size, the same every time, and with something to learn in it."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest

from cadc_rec.config.experiment import GeneratedConfig
from cadc_rec.data.dataset import Dataset
from cadc_rec.data.sources import world as world_module
from cadc_rec.data.sources.generated import write_generated
from cadc_rec.data.sources.world import PERIODS, STRENGTH, World
from cadc_rec.errors import CadcError

SMALL = {"users": 300, "items": 120, "interactions": 3000, "seed": 3}


def everything(world: World) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    blocks = [world.rows(block) for block in range(world.blocks())]
    return (
        np.concatenate([block.user for block in blocks]),
        np.concatenate([block.item for block in blocks]),
        np.concatenate([block.timestamp for block in blocks]),
    )


@pytest.mark.parametrize("exact", [True, False])
def test_as_many_rows_as_asked_for_none_twice_and_time_ascends(exact, monkeypatch):
    if not exact:  # draw from candidates, as for large catalogues
        monkeypatch.setattr(world_module, "_EXACT_ITEMS", 0)
        monkeypatch.setattr(world_module, "_CANDIDATE_USER_ROWS", 30)
    world = World(GeneratedConfig.model_validate(SMALL))
    user, item, timestamp = everything(world)
    counts = np.bincount(user, minlength=300)
    assert len(user) == 3000
    assert counts.min() >= 3
    assert counts.max() > 5 * np.median(counts) / 2  # a heavy tail
    assert len({*zip(user.tolist(), item.tolist(), strict=True)}) == 3000
    assert item.min() >= 0
    assert item.max() < 120
    same_user = user[1:] == user[:-1]
    assert (np.diff(timestamp)[same_user] > 0).all()
    assert (np.diff(user) >= 0).all()


def test_files_are_the_same_every_time_and_differ_by_seed(tmp_path):
    config = GeneratedConfig.model_validate(SMALL)
    for folder, seed in (("a", 3), ("b", 3), ("c", 4)):
        write_generated(config.model_copy(update={"seed": seed}), tmp_path / folder)
    for name in ("interactions.parquet", "users.parquet", "items.parquet"):
        a, b, c = ((tmp_path / folder / name).read_bytes() for folder in "abc")
        assert a == b
        assert a != c


def test_a_block_does_not_depend_on_those_drawn_before_it():
    world, other = (World(GeneratedConfig.model_validate(SMALL)) for _ in range(2))
    for block in range(world.blocks()):
        world.rows(block)
    np.testing.assert_array_equal(world.rows(1).item, other.rows(1).item)


def test_tables_hold_ids_from_one_and_attributes(tmp_path):
    write_generated(GeneratedConfig.model_validate(SMALL), tmp_path / "out")
    users, items, rows = (
        pq.read_table(tmp_path / "out" / f"{name}.parquet")
        for name in ("users", "items", "interactions")
    )
    assert users["user_id"].to_pylist() == list(range(1, 301))
    assert items["item_id"].to_pylist() == list(range(1, 121))
    assert rows["row"].to_pylist() == list(range(3000))
    assert {len(genres) for genres in items["genres"].to_pylist()} == {1, 2, 3}
    years = [int(title[-5:-1]) for title in items["title"].to_pylist()]
    assert [year // 10 * 10 for year in years] == items["decade"].to_pylist()


def test_it_is_prepared_like_any_source(prepare):
    artifact = prepare(source="generated", generated=SMALL)
    dataset = Dataset.open(artifact)
    assert artifact.info["duplicates_dropped"] == 0
    assert len(dataset.train_user) == 3000 - 2 * 300
    assert (dataset.test_item >= 0).all()
    assert [a.name for a in dataset.user_attributes] == ["segment", "age_group"]
    assert [a.name for a in dataset.item_attributes] == ["genres", "decade"]


def hit_rate(scores: np.ndarray, seen: np.ndarray, target: np.ndarray) -> float:
    scores = np.where(seen, -np.inf, scores)
    reached = scores[np.arange(len(target)), target][:, None]
    return float(((scores >= reached).sum(axis=1) <= 10).mean())


def test_tastes_beat_popularity_threefold_and_attributes_carry_signal():
    """The default world, its last interactions ranked by one who knows the true vectors."""
    config = GeneratedConfig()
    world = World(config)
    user, item, _ = everything(world)
    last = np.append(user[1:] != user[:-1], True)
    seen = np.zeros((config.users, config.items), dtype=bool)
    seen[user[~last], item[~last]] = True
    people = [world.user_block(block) for block in range(world.blocks())]
    taste = np.concatenate([block.taste(PERIODS - 1) for block in people])
    popularity = np.bincount(item[~last], minlength=config.items).astype(float)

    oracle = hit_rate(
        STRENGTH * taste @ world.item_vectors.T + world.log_popularity, seen, item[last]
    )
    popular = hit_rate(np.broadcast_to(popularity, seen.shape), seen, item[last])
    assert oracle > 3 * popular

    # the popularity among users of one's own segment knows more than that among all
    segment = np.concatenate([block.segment for block in people])
    by_segment = np.zeros((world_module.SEGMENTS, config.items))
    np.add.at(by_segment, (segment[user[~last]], item[~last]), 1)
    assert hit_rate(by_segment[segment], seen, item[last]) > 1.3 * popular


def test_drift_moves_tastes_and_no_drift_does_not():
    still = World(GeneratedConfig(drift=0)).user_block(0)
    np.testing.assert_allclose(still.taste(PERIODS - 1), still.taste(0), atol=1e-6)
    moved = World(GeneratedConfig(drift=0.5)).user_block(0)
    cosine = (moved.taste(PERIODS - 1) * moved.taste(0)).sum(axis=1)
    assert cosine.max() < 0.999
    assert cosine.mean() > 0.4


def test_popularity_skew_of_zero_is_flat():
    flat = World(GeneratedConfig(popularity_skew=0)).log_popularity
    np.testing.assert_allclose(flat, np.log(1 / 1000), rtol=1e-5)


@pytest.mark.parametrize("interactions", [299, 5001])
def test_sizes_that_cannot_be_are_refused(interactions):
    with pytest.raises(CadcError) as caught:
        World(GeneratedConfig(users=100, items=100, interactions=interactions))
    assert f"data.generated.interactions = {interactions} cannot be had" in str(caught.value)
    assert "choose 300 (three a user) to 5000" in str(caught.value)
