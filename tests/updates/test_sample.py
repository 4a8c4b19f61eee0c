"""The refreshed sample is a uniform one, by counting what many draws give."""

from itertools import combinations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cadc_rec.updates.changes import Changes, items_of
from cadc_rec.updates.sample import refreshed_sample, write_rows_of_day
from tests.updates.stand_ins import dataset_of

# Old rows 0..5; row 4 is lost; the others stand at 1, 2, 3, 5, 6 of seven new rows.
CHANGES = Changes(
    place=np.array([1, 2, 3, 5, -1, 6]),
    came=np.array([True, False, False, False, True, False, False]),
    users=np.array([0]),
    items=np.array([0]),
)


def old_sample(draw, size):
    return np.sort(draw.choice(6, size, replace=False))


@pytest.mark.parametrize(("before", "wanted"), [(3, 3), (2, 3), (4, 2), (6, 4), (3, 7)])
def test_every_sample_of_the_wanted_size_is_as_likely(before, wanted):
    """All subsets of seven rows are counted; chi-square, with a bound of one in a million."""
    draw, draws = np.random.default_rng(1), 2000
    subsets = dict.fromkeys(combinations(range(7), wanted), 0)
    for place in range(draws):
        rows = refreshed_sample(old_sample(draw, before), CHANGES, wanted, (0, place))
        assert (np.diff(rows) > 0).all()
        subsets[tuple(rows.tolist())] += 1
    expected = draws / len(subsets)
    chi = sum((count - expected) ** 2 / expected for count in subsets.values())
    freedom = len(subsets) - 1
    assert chi <= freedom + 5 * (2 * freedom) ** 0.5 + 15


def test_a_sample_refreshed_twice_is_still_uniform():
    draw, draws, wanted = np.random.default_rng(2), 3000, 3
    # the seven rows become nine: two more come first, none is lost
    second = Changes(
        place=np.arange(2, 9),
        came=np.arange(9) < 2,
        users=np.array([0]),
        items=np.array([0]),
    )
    pairs = np.zeros((9, 9))
    for place in range(draws):
        once = refreshed_sample(old_sample(draw, 3), CHANGES, wanted, (0, place))
        twice = refreshed_sample(once, second, wanted, (1, place))
        pairs[np.ix_(twice, twice)] += 1
    single = np.diag(pairs) / draws
    assert np.abs(single - wanted / 9).max() < 5 * (1 / 3 * 2 / 3 / draws) ** 0.5
    both = pairs[np.triu_indices(9, 1)] / draws
    share = wanted * (wanted - 1) / (9 * 8)
    assert np.abs(both - share).max() < 5 * (share * (1 - share) / draws) ** 0.5


def test_the_rows_that_stay_are_mostly_those_there_were():
    """Of 10,000 rows 100 are lost and 150 come: a tenth is kept but for about its root."""
    draw = np.random.default_rng(3)
    place = np.arange(10_000)
    place[draw.choice(10_000, 100, replace=False)] = -1
    place[place >= 0] = np.arange(9_900)
    changes = Changes(place, np.arange(10_050) >= 9_900, np.array([0]), np.array([0]))
    sample = np.sort(draw.choice(10_000, 1_000, replace=False))
    rows = refreshed_sample(sample, changes, 1_005, (0, 1))
    assert len(np.unique(rows)) == 1_005
    kept = np.isin(rows, place[sample]).sum()
    assert kept > 1_005 - 15 - 4 * 1_000**0.5


def test_the_same_key_gives_the_same_sample_and_another_does_not():
    sample = np.array([0, 2, 3])
    draws = [refreshed_sample(sample, CHANGES, 4, (0, n)).tolist() for n in (1, 1, 2, 3, 4, 5)]
    assert draws[0] == draws[1]
    assert len({tuple(rows) for rows in draws}) > 1


def test_the_rows_of_a_day_are_those_that_came_and_as_many_others_by_chance(tmp_path):
    rows = np.arange(0, 40, 2)  # of D_full's; 20 of them in two shards
    schema = {"user": rows.astype(np.int32), "row": rows}
    for shard in (0, 1):
        some = {name: values[10 * shard : 10 * shard + 10] for name, values in schema.items()}
        pq.write_table(pa.table(some), tmp_path / f"shard-{shard:05d}-of-00002.parquet")
    came = np.isin(np.arange(40), [3, 4, 18, 30, 39])  # 3 and 39 are not in the sample
    draws, seen = 300, np.zeros(40)
    for place in range(draws):
        folder = tmp_path / str(place)
        folder.mkdir()
        assert write_rows_of_day(tmp_path, folder, came, (0, place)) == 3
        (file,) = folder.iterdir()
        found = pq.read_table(file)["row"].to_numpy()
        assert len(found) == 6
        assert (np.diff(found) > 0).all()
        assert {4, 18, 30} < set(found.tolist())
        seen[found] += 1
    others = seen[[row for row in rows if row not in (4, 18, 30)]] / draws
    assert np.abs(others - 3 / 17).max() < 5 * (3 / 17 * 14 / 17 / draws) ** 0.5


def test_of_a_day_that_brought_nothing_to_the_sample_there_are_no_rows(tmp_path):
    pq.write_table(pa.table({"row": np.arange(3)}), tmp_path / "shard-00000-of-00001.parquet")
    (tmp_path / "out").mkdir()
    assert write_rows_of_day(tmp_path, tmp_path / "out", np.zeros(3, bool), (0, 1)) == 0
    (file,) = (tmp_path / "out").iterdir()
    assert not len(pq.read_table(file))


def a_dataset(pairs, n_users, n_items):
    users, items = (np.array(side, np.int32) for side in zip(*sorted(pairs), strict=True))
    return dataset_of(users, items, n_users, n_items)


def test_changes_name_the_rows_that_came_and_went_and_whose_they_are():
    old = a_dataset([(0, 0), (0, 1), (1, 1), (2, 2)], 3, 4)
    #        (1, 1) went; (0, 3), (3, 0) and (2, 4) came; user 3 and item 4 are new
    new = a_dataset([(0, 0), (0, 1), (0, 3), (2, 2), (2, 4), (3, 0)], 4, 5)
    changes = Changes.between(old, new)
    assert changes.place.tolist() == [0, 1, -1, 3]
    assert changes.came.tolist() == [False, False, True, False, True, True]
    assert changes.users.tolist() == [0, 1, 2, 3]
    assert changes.items.tolist() == [0, 1, 3, 4]
    assert items_of(new, np.array([0, 3])).tolist() == [0, 1, 3]


def test_nothing_changed_is_no_change():
    data = a_dataset([(0, 0), (0, 1), (1, 1)], 2, 2)
    changes = Changes.between(data, data)
    assert not changes.came.any()
    assert len(changes.users) == len(changes.items) == 0
