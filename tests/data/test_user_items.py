"""Items by user: each way to ask for them against plain lists."""

import numpy as np
import pytest

from cadc_rec.data.user_items import AndOneEach, UserItems

LISTS = [[4, 1], [], [2, 2, 0], [3], []]
N_ITEMS = 5


def made(lists=LISTS) -> UserItems:
    return UserItems.of_lists([np.array(each, np.int32) for each in lists])


def lists_of(known: UserItems) -> list[list[int]]:
    return [known.of(user).tolist() for user in range(len(known))]


def test_each_user_has_the_items_of_its_list():
    assert lists_of(made()) == LISTS
    assert made().indptr.dtype == np.int64
    assert lists_of(made([])) == []


@pytest.mark.parametrize(("start", "stop"), [(0, 5), (1, 4), (2, 3), (4, 5), (2, 2)])
def test_a_slice_is_a_view_that_answers_as_the_whole_does(start, stop):
    part, lists = made().slice(start, stop), LISTS[start:stop]
    assert lists_of(part) == lists
    marked = np.zeros((len(lists), N_ITEMS), int)
    marked.reshape(-1)[part.flat(N_ITEMS)] = 1
    assert [np.flatnonzero(row).tolist() for row in marked] == [sorted(set(x)) for x in lists]
    extra = np.array([0, -1, 3, 1, 2][: len(lists)], np.int32)
    grown = [
        [*each, *([one] if one >= 0 else [])]
        for each, one in zip(lists, extra.tolist(), strict=True)
    ]
    assert lists_of(part.and_one_each(extra)) == grown


def test_several_users_items_come_end_to_end_with_their_rows():
    row, items = made().joined(np.array([2, 1, 0, 2]))
    assert row.tolist() == [0, 0, 0, 2, 2, 3, 3, 3]
    assert items.tolist() == [2, 2, 0, 4, 1, 2, 2, 0]


def test_ascending_sorts_within_each_user():
    assert lists_of(made().ascending()) == [sorted(each) for each in LISTS]


def test_one_more_item_each_is_the_same_formed_for_all_or_for_those_asked_for():
    extra = np.array([3, -1, 4, 0, 2])
    users = np.array([4, 2, 1])
    assert lists_of(AndOneEach(made(), extra).some(users)) == [[2], [2, 2, 0, 4], []]
    whole = made().and_one_each(extra).some(users)
    assert lists_of(whole) == lists_of(AndOneEach(made(), extra).some(users))
