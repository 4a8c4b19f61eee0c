"""Items that come, change and go while a bundle is served: every answer by hand, in float64."""

from dataclasses import replace
from types import SimpleNamespace

import faiss
import numpy as np
import pytest
from scipy import sparse

from cadc_rec.data.dataset import Attribute
from cadc_rec.data.transition_lists import ListedScores, TransitionLists
from cadc_rec.errors import CadcError
from cadc_rec.serving.predict.answers import Source
from cadc_rec.serving.predict.attributes import TellableAttributes
from cadc_rec.serving.predict.events import Event
from cadc_rec.serving.predict.new_items import NewItemsOfBundle, PutItem
from cadc_rec.serving.predict.retrieval import IndexSearch
from cadc_rec.serving.predict.rules import Boost, Rules
from tests.serving.predict.test_events import LOG, with_recent
from tests.serving.predict.test_events import scores_at as recent_by_hand
from tests.serving.toy import toy

KINDS, TAGS = [f"kind {n}" for n in range(4)], ["even", "odd", "third"]
DESCRIBED = [
    {"name": "kind", "kind": "categorical", "size": 5, "vocabulary": KINDS},
    {"name": "tags", "kind": "multi", "size": 4, "vocabulary": TAGS},
    {"name": "year", "kind": "numeric", "size": 3, "vocabulary": [1980.0, 1988.0]},
]
N, WIDTH = 50, 8


def embedding(weights):
    """A tower that is a table: the vector of an item is the sum of rows of its codes."""

    def vectors_of(attributes: list[Attribute], count, dense):
        found = np.zeros((count, WIDTH), np.float32)
        for at, attribute in enumerate(attributes):
            for row in range(count):
                for code in attribute.values[attribute.indptr[row] : attribute.indptr[row + 1]]:
                    found[row] += weights[at, code]
        return found

    return SimpleNamespace(vectors_of=vectors_of)


def predictor_of(seed=3, why_not=None, **options):
    made = toy(n_items=N, seed=seed, **options)
    weights = np.random.default_rng(9).standard_normal((3, 6, WIDTH)).astype(np.float32)
    tellable = TellableAttributes(DESCRIBED, [], [1, 16, 1])
    new = NewItemsOfBundle(tellable, why_not, lambda: embedding(weights))
    return replace(made, new_items=new), weights


class ByHand:
    """Items as a list of what each has, by their original ids."""

    def __init__(self, predictor):
        self.predictor = predictor
        self.items = {
            1000 + n: SimpleNamespace(
                vector=predictor.item_vectors.vectors[n].astype(np.float64),
                kind=KINDS[n % 4],
                tags={"odd" if n % 2 else "even", *(["third"] if n % 3 == 0 else [])},
                year=1980 + n % 11 if n % 7 else None,
                count=int(predictor.popularity[n]),
                title=f"Title {n}" if n else "",
            )
            for n in range(N)
        }
        self.order = list(self.items)  # of equal scores the first comes first

    def put(self, item, vector=None, **changes):
        if item not in self.items:
            self.items[item] = SimpleNamespace(kind=None, tags=set(), year=None, count=0, title="")
            self.order.append(item)
        if vector is not None:
            self.items[item].vector = np.asarray(vector, np.float64)
        self.items[item].__dict__.update(changes)

    def ranked(self, query, without=(), passes=lambda item: True, boost=lambda item: 0.0):
        scores = {
            one: float(item.vector @ query.astype(np.float64)) + boost(item)
            for one, item in self.items.items()
            if one not in set(without) and passes(item)
        }
        return sorted(scores, key=lambda one: (-scores[one], self.order.index(one))), scores

    def taken(self, user):
        return [1000 + row for row in self.predictor.known.of(user - 100).tolist()]


def vector(seed):
    return np.random.default_rng(seed).standard_normal(WIDTH).astype(np.float32)


@pytest.fixture(params=["exact", "index", "untaken"])
def world(request):
    """A predictor with six items told of, and the same by hand."""
    options = {}
    if request.param == "index":

        def retrieval(items):
            index = faiss.IndexFlatIP(WIDTH)
            index.add(items.vectors)
            return IndexSearch(index, items)

        options = {"retrieval": retrieval}
    elif request.param == "untaken":
        options = {"untaken": 6}
    bundle, weights = predictor_of(**options)
    hand = ByHand(bundle)
    now = bundle.with_items(
        [
            PutItem(2000, vector=vector(1).tolist(), attributes={"kind": "kind 1", "year": 1999}),
            PutItem(2001, {"kind": "kind 2", "tags": ["odd", "third"], "year": 1981}),
            PutItem(2002, {"kind": "kind new"}, vector(2), title="New one"),
            PutItem(2003, vector=2 * vector(3)),
            PutItem(1004, vector=3 * vector(4), title="Changed"),
            PutItem(1005, {"kind": "kind 0", "tags": [], "year": None}),
        ],
        remove=[1007, 31, 2003],
    )
    now = now.with_items([PutItem(2000, {"tags": ["even"]}), PutItem(2004, vector=vector(5))])
    hand.put(2000, vector(1), kind="kind 1", year=1999, tags={"even"})
    codes = [(0, 3), (1, 2), (1, 3), (2, 1)]  # 1981 lies in the first of two buckets
    hand.put(2001, sum(weights[at, code] for at, code in codes), kind="kind 2", year=1981)
    hand.put(2001, tags={"odd", "third"})
    hand.put(2002, vector(2), kind="kind new", title="New one")
    hand.put(1004, 3 * vector(4), title="Changed")
    hand.put(1005, kind="kind 0", tags=set(), year=None)
    hand.put(2004, vector(5))
    del hand.items[1007]
    hand.untaken = {1000 + n for n in range(N - bundle.untaken, N)}
    return SimpleNamespace(bundle=bundle, now=now, hand=hand)


def test_every_user_is_recommended_them_with_the_others(world):
    now, hand = world.now, world.hand
    for users in ([103], list(range(100, 120))):
        found = now.recommend(users, 50)
        for line, user in enumerate(users):
            out = [*hand.taken(user), *hand.untaken]
            wanted, scores = hand.ranked(now.user_vectors[user - 100], out)
            assert found.lists()[line] == wanted[:50]
            mine = found.scores[line, : len(wanted)]
            np.testing.assert_allclose(mine, [scores[one] for one in wanted], rtol=1e-6)
    assert {2000, 2001, 2002, 2004} <= set(now.recommend([103], 50).lists()[0])
    assert 2000 not in world.bundle.recommend([103], 50).lists()[0], "the one before stays"
    assert 1007 in {*world.bundle.recommend([103], 50).lists()[0], *hand.taken(103)}


@pytest.mark.parametrize(
    ("filter", "passes"),
    [
        ({"kind": ["kind 1", "kind new"]}, lambda one: one.kind in ("kind 1", "kind new")),
        ({"tags": ["odd"]}, lambda one: "odd" in one.tags),
        ({"kind": {"not in": ["kind 0"]}}, lambda one: one.kind != "kind 0"),
        ({"year": {">=": 1985}}, lambda one: one.year is not None and one.year >= 1985),
        ({"year": [1999, 1983]}, lambda one: one.year in (1999, 1983)),
        ({"not": {"tags": ["even"]}, "year": {"<": 1983}}, lambda one: "even" not in one.tags
         and one.year is not None and one.year < 1983),
    ],
)  # fmt: skip
def test_filters_and_boosts_see_what_they_have_now(world, filter, passes):
    now, hand = world.now, world.hand
    for user in (101, 109, 116):
        query, out = now.user_vectors[user - 100], hand.taken(user)
        wanted, _ = hand.ranked(query, out, passes)
        assert now.recommend([user], 50, filter=filter).lists()[0] == wanted
        rules = Rules(boosts=[Boost(filter, 1.5)], min_score=0.5)
        wanted, scores = hand.ranked(
            query, {*out, *hand.untaken}, boost=lambda one: 1.5 * passes(one)
        )
        wanted = [one for one in wanted if scores[one] >= 0.5]
        assert now.recommend([user], 50, rules=rules).lists()[0] == wanted


def test_at_most_so_many_of_a_value_counts_theirs(world):
    now, hand = world.now, world.hand
    for user in (100, 107, 118):
        order, _ = hand.ranked(now.user_vectors[user - 100], {*hand.taken(user), *hand.untaken})
        wanted, counts = [], {}
        for one in order:
            kind = hand.items[one].kind
            if kind is None or counts.get(kind, 0) < 2:
                counts[kind] = counts.get(kind, 0) + 1
                wanted.append(one)
        found = now.recommend([user], 12, rules=Rules(max_per={"kind": 2}))
        assert found.lists()[0] == wanted[:12]


def test_candidates_blocked_ids_histories_and_what_is_popular(world):
    now, hand = world.now, world.hand
    query, out = now.user_vectors[4], hand.taken(104)
    few = [2000, 2003, 1007, 1000, 2004, 1049, 5]
    wanted, _ = hand.ranked(query, {*out, *(set(hand.items) - set(few))})
    assert now.recommend([104], 20, candidates=few).lists()[0] == wanted
    wanted, _ = hand.ranked(query, {*out, *hand.untaken, 2000, 2002})
    assert now.recommend([104], 20, block=[2000, 2002, 1007]).lists()[0] == wanted[:20]
    assert now.recommend([104], 20, block=[[2000, 2002]]).lists()[0] == wanted[:20]
    wanted, _ = hand.ranked(query, {*out, *hand.untaken, 2004})
    assert now.recommend([104], 20, history=[[2004, 1007]]).lists()[0] == wanted[:20]
    popular = sorted(set(hand.items) - hand.untaken, key=lambda one: (-hand.items[one].count, one))
    found = now.recommend([7], 50)
    assert found.sources.tolist() == [Source.POPULARITY]
    assert found.lists()[0] == popular[:50]
    own = [one for one in popular if one in (2000, 2004, 1003)]
    assert now.recommend([7], 50, candidates=[[2000, 2004, 1003, 1007]]).lists()[0] == own


def test_similar_items_scores_vectors_and_titles(world):
    now, hand = world.now, world.hand
    for asked in (2000, 1004, 1000):
        like = {
            one: float(
                item.vector @ hand.items[asked].vector
                / np.linalg.norm(item.vector) / np.linalg.norm(hand.items[asked].vector)
            )
            for one, item in hand.items.items()
            if one != asked and one not in hand.untaken
        }  # fmt: skip
        wanted = sorted(like, key=lambda one: (-like[one], hand.order.index(one)))
        assert now.similar_items([asked], 50).lists()[0] == wanted[:50]
    with pytest.raises(CadcError, match="no item has the id 1007"):
        now.similar_items([1007])
    query = now.user_vectors[3].astype(np.float64)
    scores = now.score([(103, one) for one in (2001, 1004, 1007, 2003, 1001)])
    wanted = [hand.items[one].vector @ query for one in (2001, 1004, 1001)]
    np.testing.assert_allclose(scores[[0, 1, 4]], wanted, rtol=1e-6)
    assert np.isnan(scores[[2, 3]]).all()
    vectors, known = now.vectors_of_items([2001, 1004, 1007, 1001])
    assert known.tolist() == [True, True, False, True]
    for line, one in ((0, 2001), (1, 1004), (3, 1001)):
        np.testing.assert_allclose(vectors[line], hand.items[one].vector, rtol=1e-6)
    rows = np.array([[now.items.rows([2002])[0], now.items.rows([1004])[0]], [0, -1]])
    assert now.titles_of(rows).tolist() == [["New one", "Changed"], ["", ""]]


def test_what_is_withheld_or_taken_by_an_event_is_left_out(world):
    now, hand = world.now, world.hand
    row = int(now.items.rows([2000])[0])
    world.bundle.withhold(np.array([2, row]))
    now.count([Event(2002, 100.0, user=103), Event(2001, 101.0)])
    wanted, _ = hand.ranked(now.user_vectors[3], {*hand.taken(103), *hand.untaken})
    wanted = [one for one in wanted if one not in (1002, 2000, 2002)]
    assert now.recommend([103], 50).lists()[0] == wanted
    world.bundle.withhold(np.array([], np.int64))
    assert 2000 in now.recommend([103], 50).lists()[0]


@pytest.mark.parametrize("k", [5, 40, 130])  # by compiled loops for few and many, or by a sort
def test_a_predictor_without_an_item_is_not_disturbed_by_events_on_it(k):
    """Where requests wait while an item comes, they are answered without it: see its row."""
    bundle = toy(n_items=150, untaken=6)
    users, wide = list(range(100, 106)), {"kind": {"not in": []}}
    before = bundle.recommend(users, k, filter=wide)
    now = bundle.with_items([PutItem(2000 + n, vector=vector(n)) for n in range(150)])
    # In an array of all users' scores, each of these rows is the best item of the next user.
    took = [2000 + row for row in before.rows[1:, 0].tolist()]
    now.count([Event(item, 10.0, user=user) for item, user in zip(took, users[:-1], strict=True)])
    assert bundle.recommend(users, k, filter=wide).rows.tolist() == before.rows.tolist()
    for user, mine in zip(users, before.rows.tolist(), strict=True):
        assert bundle.recommend([user], k, filter=wide).rows.tolist() == [mine]
    assert took[0] not in now.recommend([100], 150, filter=wide).lists()[0]


def test_what_is_withheld_is_sorted_when_that_changes_and_by_no_request(world, monkeypatch):
    now, hand = world.now, world.hand
    world.bundle.withhold(np.arange(10, 40))
    later = now.with_items([PutItem(2005, vector=vector(9)), PutItem(1012, vector=vector(10))])
    hand.put(2005, vector(9))
    hand.put(1012, vector(10))
    longest = []

    def counted(sort):
        def counting(*arrays, **options):
            longest.extend(map(np.size, arrays))
            return sort(*arrays, **options)

        return counting

    for name in ("unique", "union1d"):
        monkeypatch.setattr(np, name, counted(getattr(np, name)))
    gone = {*range(1010, 1040), *hand.untaken}
    for block in (None, [1049, 1002, 1002, 1011]):
        out = [*hand.taken(103), *gone, *(block or [])]
        wanted, _ = hand.ranked(now.user_vectors[3], out)
        assert later.recommend([103], 50, block=block).lists()[0] == wanted[:50]
    assert not gone & set(later.similar_items([2005], 50).lists()[0])
    assert max(longest) < 30


def test_an_item_that_nobody_took_stays_out_of_plain_lists_whatever_is_told_of_it():
    bundle, _ = predictor_of(untaken=6)
    hand = ByHand(bundle)
    untaken = set(range(1044, 1050))
    now = bundle.with_items(
        [
            PutItem(1045, {"kind": "kind 2"}, vector(1)),
            PutItem(1046, {"kind": "kind 2"}),
            PutItem(2000, vector=vector(2)),
        ]
    )
    hand.put(1045, vector(1), kind="kind 2")
    hand.put(1046, kind="kind 2")
    hand.put(2000, vector(2))
    for user in (101, 107):
        query, taken = now.user_vectors[user - 100], hand.taken(user)
        wanted, _ = hand.ranked(query, {*taken, *untaken})
        assert now.recommend([user], 51).lists()[0] == wanted
        wanted, scores = hand.ranked(query, taken, lambda one: one.kind == "kind 2")
        assert now.recommend([user], 51, filter={"kind": ["kind 2"]}).lists()[0] == wanted
        assert {1045, 1046} <= set(wanted)
        np.testing.assert_allclose(now.score([(user, 1045)]), scores[1045], rtol=1e-6)
    assert not untaken & set(now.similar_items([1045], 51).lists()[0])
    assert not untaken & set(now.recommend([7], 51).lists()[0])


def test_a_removed_item_comes_back_as_the_bundle_has_it(world):
    now = world.now.with_items(remove=[1004, 2000, 2002, 2001, 2004])
    now = now.with_items([PutItem(1004), PutItem(1007), PutItem(1005, {"kind": "kind 1"})])
    assert now.beside.removed == frozenset()
    plain = world.bundle
    user = next(u for u in range(100, 120) if not {4, 5, 7} & set(plain.known.of(u - 100).tolist()))
    assert now.recommend([user], 50).lists() == plain.recommend([user], 50).lists()
    again = now.with_items([PutItem(2004, vector=vector(6))])
    assert again.items.rows([2004]) == world.now.items.rows([2004]), "its row stays its own"
    with pytest.raises(CadcError, match="no item has kind = 'kind new'"):
        now.recommend([103], filter={"kind": ["kind new"]})
    with pytest.raises(CadcError, match="no item has year = 1999"):
        now.recommend([103], filter={"year": [1983, 1999]})


def test_text_ids_and_those_of_other_forms(world):
    made = toy(text_ids=True)
    now = made.with_items([PutItem("a longer id than any", vector=vector(1))])
    assert now.items.longest == len("a longer id than any")
    found = now.recommend(["u3"], 51)
    assert "a longer id than any" in found.lists()[0]
    assert now.items.of_rows(np.array([50, 0, -1])).tolist() == ["a longer id than any", "i0", ""]


@pytest.mark.parametrize(
    ("put", "message"),
    [
        (PutItem(2000), "put[0]: give a new item's attributes, or its vector."),
        (PutItem("x", vector=vector(1)), "put[0]: item ids are whole numbers in this bundle"),
        (PutItem(2**70, vector=vector(1)), "cannot be the id of an item"),
        (PutItem(2000, vector=[1.0, 2.0]), "put[0]: a vector has 8 numbers in this bundle, not 2."),
        (PutItem(2000, vector=[float("nan")] * 8), "a vector's numbers are finite"),
        (PutItem(2000, vector=[1e39] * 8), "a vector's numbers are finite"),
        (PutItem(2000, vector="12345678"), "a vector is a list of 8 numbers."),
        (PutItem(2000, vector=[[1.0]] * 8), "a vector has 8 numbers in this bundle, not 2 dim"),
        (PutItem(2000, {"colour": "red"}), "items have no 'colour'; there are: kind, tags, year."),
        (PutItem(2000, {"kind": 5}), "put[0]: attributes: values of 'kind' are text; got 5."),
        (PutItem(2000, {"tags": "odd"}), "'tags' has a list of values an item, not 'odd'"),
        (PutItem(2000, {"tags": [f"t{n}" for n in range(101)]}), "an item has 100 at most"),
        (PutItem(2000, {"year": "old"}), "attributes: 'year' has numbers, not 'old'."),
        (PutItem(2000, vector=vector(1), title="x" * 2000), "a title is text of up to 1024"),
    ],
)
def test_what_is_no_item_is_refused_in_one_sentence(put, message):
    predictor, _ = predictor_of()
    with pytest.raises(CadcError) as refused:
        predictor.with_items([put])
    assert message in str(refused.value)
    assert str(refused.value).count(". ") == 0


def test_a_bundle_that_makes_no_vectors_takes_given_ones():
    predictor, _ = predictor_of(why_not="this bundle describes no attributes of items; give a one")
    with pytest.raises(CadcError, match=r"put\[0\]: this bundle describes no attributes"):
        predictor.with_items([PutItem(2000, {"kind": "kind 1"})])
    now = predictor.with_items([PutItem(2000, {"kind": "kind 1"}, vector(1))])
    assert now.recommend([103], 51, filter={"kind": ["kind 1"]}).lists()[0].count(2000) == 1
    assert toy().with_items([PutItem(2000, vector=vector(1))]).items.rows([2000]) == [50]
    with pytest.raises(CadcError, match="this bundle describes none of items"):
        toy().with_items([PutItem(2000, {"kind": "kind 1"}, vector(1))])


def test_lists_and_recent_popularity_know_nothing_of_a_new_item_and_stand_for_a_changed_one():
    made = with_recent()
    draw = np.random.default_rng(4)
    steps = (draw.random((N, N)) * (draw.random((N, N)) < 0.2)).astype(np.float32)
    flat = sparse.csr_array(steps)
    lists = TransitionLists(flat.indptr.astype(np.int64), flat.indices, flat.data)
    bundle = replace(made, listed=ListedScores(lists, 0.7, 2.0, 3))
    new, changed = vector(7), vector(8)
    now = bundle.with_items([PutItem(2000, vector=new), PutItem(1009, vector=changed)], [1004])
    vectors = np.concatenate([made.item_vectors.vectors, new[None]])
    vectors[9, :-1], vectors[50, -1] = changed[:-1], 0
    for events in ((), ((1001.0, 3), (1002.0, 3), (1003.0, 9))):
        now.count([Event(1000 + item, time) for time, item in events])
        now.count([Event(2000, 1004.0)] if events else [])
        for user in range(20):
            taken = made.known.of(user)
            weights = 0.7 ** np.arange(min(3, len(taken)))
            listed = np.zeros(N + 1)
            listed[:N] = 2.0 * (weights / weights.sum()) @ steps[taken[::-1][:3]]
            mine = vectors.copy()
            mine[:N, -1] = recent_by_hand([*LOG, *events])
            scores = mine.astype(np.float64) @ made.user_vectors[user].astype(np.float64) + listed
            scores[[*taken, 4]] = -np.inf
            order = np.argsort(-scores, kind="stable")[: N - len(taken)]
            found = now.recommend([100 + user], len(order))
            assert found.rows[0].tolist() == order.tolist()
            np.testing.assert_allclose(found.scores[0], scores[order], rtol=1e-5, atol=1e-5)
            pair = now.score([(100 + user, 2000), (100 + user, 1009)])
            both = (mine.astype(np.float64) @ made.user_vectors[user] + listed)[[50, 9]]
            np.testing.assert_allclose(pair, both, rtol=1e-5, atol=1e-5)
