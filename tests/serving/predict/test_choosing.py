"""What a request chooses is what striking out, adding and sorting by hand would choose.

By hand: plain Python over the toy's items (item n has the kind n % 4, the tags of n, a year), and
float64 products. The index of these tests proposes the truly best rows, so that nothing that a
filter loses can be blamed on it.
"""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cadc_rec.errors import CadcError
from cadc_rec.serving.predict.catalogue import CodedAttribute
from cadc_rec.serving.predict.choosing import Search
from cadc_rec.serving.predict.filters import DEPTH, TESTS, condition_of
from cadc_rec.serving.predict.numbers import NumericAttribute
from cadc_rec.serving.predict.retrieval import IndexSearch
from cadc_rec.serving.predict.rules import Boost, Rules
from tests.serving.toy import toy

N = 300
VALUES = {
    "kind": lambda n: {f"kind {n % 4}"},
    "tags": lambda n: {"odd" if n % 2 else "even"} | ({"third"} if n % 3 == 0 else set()),
    "year": lambda n: {1980 + n % 11} if n % 7 else set(),
}
YEARS = st.integers(1980, 1990)
SIGNS = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


class Truth:
    """An index that knows the best rows."""

    def __init__(self, vectors):
        self.vectors = vectors.astype(np.float64)

    def search(self, queries, k, params=None):
        scores = queries.astype(np.float64) @ self.vectors.T
        if params is not None and params.sel is not None:
            scores[:, [not params.sel.is_member(row) for row in range(len(self.vectors))]] = -np.inf
        return None, np.argsort(-scores, axis=1, kind="stable")[:, :k]


def by_index(items):
    return IndexSearch(Truth(items.vectors), items, step=0)


EXACT, INDEXED = toy(n_items=N), toy(n_items=N, retrieval=by_index)
UNTAKEN = toy(n_items=N, untaken=30, retrieval=by_index)
PREDICTORS = st.sampled_from([EXACT, INDEXED, UNTAKEN])


def some_of(values):
    return st.lists(st.sampled_from(values), min_size=1, max_size=3)


def one_test(values):
    kinds = {"in": some_of(values), "not in": some_of(values)}
    return st.sampled_from(list(kinds)).flatmap(
        lambda test: st.fixed_dictionaries({test: kinds[test]})
    )


KINDS, TAGS = [f"kind {n}" for n in range(4)], ["even", "odd", "third"]
LEAVES = st.one_of(
    st.fixed_dictionaries({"kind": some_of(KINDS) | one_test(KINDS)}),
    st.fixed_dictionaries({"tags": some_of(TAGS) | one_test(TAGS)}),
    st.fixed_dictionaries({"year": some_of(list(range(1980, 1991)))}),
    st.fixed_dictionaries(
        {"year": st.dictionaries(st.sampled_from(list(SIGNS)), YEARS, min_size=1)}
    ),
    st.fixed_dictionaries({"kind": some_of(KINDS), "tags": one_test(TAGS)}),
)
FILTERS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.fixed_dictionaries({"and": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"or": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"not": inner}),
    ),
    max_leaves=6,
)


def passes(wanted, n):
    """Whether a filter lets item n through."""
    for key, value in wanted.items():
        if key == "and":
            good = all(passes(one, n) for one in value)
        elif key == "or":
            good = any(passes(one, n) for one in value)
        elif key == "not":
            good = not passes(value, n)
        else:
            mine = VALUES[key](n)
            tests = value if isinstance(value, dict) else {"in": value}
            good = all(
                bool(mine & set(b)) if test == "in"
                else not mine & set(b) if test == "not in"
                else any(SIGNS[test](a, b) for a in mine)
                for test, b in tests.items()
            )  # fmt: skip
        if not good:
            return False
    return True


def by_hand(predictor, user, wanted=None, candidates=None, block=(), rules=None):
    """Rows and scores of one user's candidates, the best first, and all rows' scores."""
    rules = rules or Rules()
    scores = predictor.item_vectors.vectors.astype(float) @ predictor.user_vectors[user].astype(
        float
    )
    for boost in rules.boosts:
        scores += [boost.add * passes(boost.filter, n) for n in range(N)]
    asked = wanted is not None or candidates is not None
    out = {*predictor.known.of(user).tolist(), *block}
    out |= set() if asked else set(range(N - predictor.untaken, N))
    rows = [n for n in range(N) if n not in out and (wanted is None or passes(wanted, n))]
    rows = [n for n in rows if candidates is None or n in candidates]
    rows = [n for n in rows if rules.min_score is None or scores[n] >= rules.min_score]
    return sorted(rows, key=lambda n: (-scores[n], n)), scores


def found(answer, place=0):
    return answer.rows[place, : answer.counts[place]].tolist()


@settings(max_examples=30, deadline=None)
@given(FILTERS)
def test_a_condition_has_the_rows_that_pass_by_hand(wanted):
    condition = condition_of(wanted, EXACT.attributes, N)
    rows = [n for n in range(N) if passes(wanted, n)]
    assert condition.rows().tolist() == rows
    assert np.flatnonzero(condition.bitmap().mask()).tolist() == rows
    some = np.random.default_rng(0).permutation(N)[:50]
    assert condition.holds(some).tolist() == [passes(wanted, n) for n in some.tolist()]
    assert condition.least <= len(rows) <= condition.most


@settings(max_examples=30, deadline=None)
@given(
    PREDICTORS, FILTERS, st.lists(st.integers(0, 19), min_size=1, max_size=6), st.integers(1, 40)
)
def test_a_filter_leaves_the_best_that_pass(predictor, wanted, users, k):
    answer = predictor.recommend([100 + user for user in users], k, filter=wanted)
    for place, user in enumerate(users):
        rows, scores = by_hand(predictor, user, wanted)
        assert found(answer, place) == rows[:k]
        np.testing.assert_allclose(answer.scores[place, : len(rows[:k])], scores[rows[:k]])


@settings(max_examples=30, deadline=None)
@given(
    PREDICTORS,
    st.lists(st.integers(-20, N + 20), max_size=200),
    st.lists(st.integers(-20, N + 20), max_size=50),
    st.none() | FILTERS,
    st.booleans(),
)
def test_candidates_and_blocked_items_are_of_all_users_or_of_each(
    predictor, candidates, block, wanted, each
):
    users = [100, 107, 113, 5]
    ids, blocked = [1000 + n for n in candidates], [1000 + n for n in block]
    if each:
        ids, blocked = [ids, ids[::2], ids[1::2], ids], [blocked, blocked[::2], [], []]
    answer = predictor.recommend(users, 30, filter=wanted, candidates=ids, block=blocked)
    for place, user in enumerate((0, 7, 13)):
        mine, out = (ids[place], blocked[place]) if each else (ids, blocked)
        rows, _ = by_hand(
            predictor, user, wanted, {i - 1000 for i in mine}, {i - 1000 for i in out}
        )
        assert found(answer, place) == rows[:30]
    out = set() if each else set(block)
    popular = [n for n in {*candidates} - out if 0 <= n < N and (not wanted or passes(wanted, n))]
    popular.sort(key=lambda n: (-predictor.popularity[n], n))
    assert found(answer, 3) == popular[:30]


@settings(max_examples=30, deadline=None)
@given(
    PREDICTORS,
    st.lists(st.tuples(LEAVES, st.floats(-5, 5, width=32)), max_size=3),
    st.none() | st.floats(-3, 3),
    st.none() | LEAVES,
    st.integers(0, 19),
)
def test_boosts_are_added_and_what_is_below_the_floor_is_left_out(
    predictor, boosts, least, wanted, user
):
    rules = Rules(boosts=[Boost(*one) for one in boosts], min_score=least)
    answer = predictor.recommend([100 + user], 25, filter=wanted, rules=rules)
    rows, scores = by_hand(predictor, user, wanted, rules=rules)
    assert found(answer) == rows[:25]
    np.testing.assert_allclose(answer.scores[0, : len(rows[:25])], scores[rows[:25]], atol=1e-12)


def greedy(rows, k, max_per):
    """The first k of rows that leave room for each value."""
    counts, taken = {}, []
    for n in rows:
        values = [(name, value) for name in max_per for value in VALUES[name](n)]
        if len(taken) < k and all(counts.get(v, 0) < max_per[v[0]] for v in values):
            taken.append(n)
            counts |= {v: counts.get(v, 0) + 1 for v in values}
    return taken


@settings(max_examples=30, deadline=None)
@given(
    PREDICTORS,
    st.dictionaries(st.sampled_from(list(VALUES)), st.integers(1, 4), min_size=1),
    st.integers(1, 20),
    st.none() | LEAVES,
    st.none() | st.floats(-2, 2),
)
def test_of_one_value_no_more_come_than_may(predictor, max_per, k, wanted, least):
    rules = Rules(max_per=max_per, min_score=least)
    answer = predictor.recommend([104, 111, 5], k, filter=wanted, rules=rules)
    for place, user in enumerate((4, 11)):
        rows, _ = by_hand(predictor, user, wanted, rules=rules)
        assert found(answer, place) == greedy(rows, k, max_per)
    most = N if wanted else N - predictor.untaken
    popular = [n for n in range(most) if not wanted or passes(wanted, n)]
    popular.sort(key=lambda n: (-predictor.popularity[n], n))
    assert found(answer, 2) == greedy(popular, k, max_per)


def test_values_of_many_items_each_take_few_rounds(monkeypatch):
    """The best 60 items have one value, the next 60 another, and so on."""
    predictor, rounds = toy(n_items=3000), []
    best = np.argsort(-predictor.item_vectors.vectors @ predictor.user_vectors[3], kind="stable")
    codes = np.zeros(3000, np.int32)
    codes[best] = np.arange(3000) // 60 + 1
    maker = CodedAttribute("maker", {n: n for n in range(1, 51)}, np.arange(3001), codes)
    predictor = dataclasses.replace(predictor, attributes={"maker": maker})
    search = Search.of_one
    monkeypatch.setattr(Search, "of_one", lambda *given: rounds.append(1) or search(*given))
    taken = predictor.known.of(3).tolist()
    left = [row for row in best.tolist() if row not in taken]
    first = [next(row for row in left if codes[row] == code) for code in range(1, 41)]
    assert found(predictor.recommend([103], 40, rules=Rules(max_per={"maker": 1}))) == first
    assert len(rounds) <= 6  # the pool has 400, rounds 40, 80, 160, ...


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("predictor", [EXACT, INDEXED])
def test_diversity_is_maximal_marginal_relevance(predictor, weight):
    k = 12
    answer = predictor.recommend([100, 108], k, rules=Rules(diversity=weight))
    unit = predictor.item_vectors.vectors.astype(float)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    for place, user in enumerate((0, 8)):
        rows, scores = by_hand(predictor, user)
        pool = rows[: 10 * k]
        low, high = min(scores[pool]), max(scores[pool])
        chosen = []
        while len(chosen) < k:
            worth = [
                (1 - weight) * (scores[n] - low) / (high - low)
                - weight * max((unit[n] @ unit[m] for m in chosen), default=0.0)
                for n in pool
            ]
            best = max((n for n in pool if n not in chosen), key=lambda n: worth[pool.index(n)])
            chosen.append(best)
        assert found(answer, place) == chosen
        np.testing.assert_allclose(answer.scores[place], scores[chosen])


def test_diversity_and_room_for_a_value_hold_together():
    rules = Rules(max_per={"kind": 2}, diversity=0.5)
    rows = found(EXACT.recommend([103], 10, rules=rules))
    assert len(rows) == 8
    assert np.bincount(np.array(rows) % 4).tolist() == [2, 2, 2, 2]


def test_withheld_items_are_no_answer_to_anybody():
    rows = np.arange(0, N, 3)
    predictor = dataclasses.replace(EXACT, withheld=rows)
    for arguments in ({}, {"filter": {"tags": ["third"]}}, {"candidates": [1000, 1001]}):
        answer = predictor.recommend([100, 5], 20, **arguments)
        assert not set(answer.rows[answer.rows >= 0].tolist()) & set(rows.tolist())
    assert not (predictor.similar_items([1001], 50).rows % 3 == 0).any()


def test_what_is_withheld_while_it_runs_is_all_that_was_named_last():
    predictor = dataclasses.replace(INDEXED, withheld=np.array([7]))
    for rows in ([3, 12], [12, 40], []):
        predictor.withhold(np.array(rows, np.int64))
        best, _ = by_hand(predictor, 2, block=[7, *rows])
        assert found(predictor.recommend([102], 20)) == best[:20]
        assert found(predictor.recommend([102], N)) == best


def nested(depth):
    return {"kind": ["kind 1"]} if not depth else {"not": nested(depth - 1)}


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (nested(DEPTH + 1), "nested more than 8 times"),
        ({"or": [{"kind": ["kind 1"]}] * (TESTS + 1)}, "at most 100 lists and bounds"),
        ({"year": [1980] * 1001}, "at most 1,000 values"),
        ({"or": [{"year": {"in": [1980] * 600}}] * 2}, "at most 1,000 values"),
        ({"or": []}, "give a list of filters for 'or'"),
        ({"and": {"kind": ["kind 1"]}}, "give a list of filters for 'and'"),
        ({"not": ["kind 1"]}, "an object such as"),
        ({"kind": {"like": "k%"}}, "kind has no test 'like'; there are: in, not in, <, <=, >, >="),
        ({"kind": {"<": 3}}, "kind has values that are text, and '<' compares numbers"),
        ({"year": {"<": "1990"}}, "'<' of year takes a number, not '1990'"),
        ({"year": {"<": True}}, "'<' of year takes a number, not True"),
        ({"year": {"<": float("nan")}}, "'<' of year takes a number, not nan"),
        ({"year": {"<": 10**400}}, "'<' of year takes a number, not 1000"),
        ({"year": ["1990"]}, "year has numbers, not '1990'"),
        ({"year": [1999]}, "no item has year = 1999"),
        ({"kind": [True]}, "no item has kind = True"),
        ({"kind": {}}, "give a list of values for kind"),
    ],
)
def test_a_filter_that_is_none_is_refused_by_what_is_wrong(wanted, message):
    with pytest.raises(CadcError, match=message):
        EXACT.recommend([100], 5, filter=wanted)


def test_a_filter_of_every_depth_that_is_allowed_is_taken():
    assert len(found(EXACT.recommend([100], 5, filter=nested(DEPTH)))) == 5


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (Rules(max_per={"color": 1}), "max_per: items have no attribute 'color'"),
        (Rules(max_per={"kind": 0}), "max_per: kind = 0 is not a whole number from 1 on"),
        (Rules(diversity=1.5), "diversity = 1.5 is not between 0 and 1"),
        (Rules(diversity=float("nan")), "diversity is a number from 0 to 1, not nan"),
        (Rules(min_score=float("inf")), "min_score is a number, not inf"),
        (Rules(boosts=[Boost({"kind": ["kind 1"]}, 1e4)]), "boost: 10000.0 is not between"),
        (Rules(boosts=[Boost({"kind": ["x"]}, 1.0)]), "no item has kind = 'x'"),
        (Rules(boosts=[Boost({"or": [{"kind": ["kind 1"]}] * 60}, 1.0)] * 2), "at most 100 lists"),
        (Rules(boosts=[Boost({"year": [1980] * 600}, 1.0)] * 2), "at most 1,000 values"),
        (Rules(boosts=[Boost({"kind": ["kind 1"]}, 1.0)] * 17), "17 boosts; at most 16"),
    ],
)
def test_rules_that_are_none_are_refused(rules, message):
    with pytest.raises(CadcError, match=message):
        EXACT.recommend([100], 5, rules=rules)


def test_what_was_read_once_is_not_read_again(monkeypatch):
    asked, one_of = [], NumericAttribute.one_of
    monkeypatch.setattr(
        NumericAttribute, "one_of", lambda *given: asked.append(1) or one_of(*given)
    )
    rules = Rules(boosts=[Boost({"year": [1981, 1981, 1985]}, 2.0)])
    wanted = {"year": {"not in": [1984, 1984]}}
    read = EXACT.read_choice(wanted, rules, 40)
    for users in ([104, 109], [111]):
        answer = EXACT.recommend(users, 20, filter=read[0], rules=read[1])
        for place, user in enumerate(users):
            best, _ = by_hand(EXACT, user - 100, wanted, rules=rules)
            assert found(answer, place) == best[:20]
    assert len(asked) == 2
    similar = EXACT.similar_items([1001], 50, filter=read[0]).rows.tolist()
    assert similar == EXACT.similar_items([1001], 50, filter=wanted).rows.tolist()


def test_lists_that_are_put_together_item_by_item_are_bounded():
    with pytest.raises(CadcError, match="at most 10,000 places"):
        EXACT.recommend([100] * 101, 100, rules=Rules(diversity=0.5))


@pytest.mark.parametrize("name", ["candidates", "block"])
@pytest.mark.parametrize("ids", [[[1000]], [[1000], 1001], "1000"])
def test_lists_of_other_users_are_refused(name, ids):
    with pytest.raises(CadcError, match=name):
        EXACT.recommend([100, 101], 5, **{name: ids})
