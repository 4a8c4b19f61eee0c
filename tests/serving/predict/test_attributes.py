"""Users whom a bundle does not know, by what a request tells of them: codes and numbers by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cadc_rec.errors import CadcError
from cadc_rec.serving.predict.answers import Source
from cadc_rec.serving.predict.attributes import UserAttributes
from tests.serving.toy import ranking, toy

DESCRIBED = [
    {"name": "group", "kind": "categorical", "size": 3, "vocabulary": ["a", "b"]},
    {"name": "zone", "kind": "categorical", "size": 4, "vocabulary": [10, 20, 30]},
    {"name": "age", "kind": "numeric", "size": 4, "vocabulary": [1.0, 18.0, 40.0]},
    {"name": "likes", "kind": "multi", "size": 4, "vocabulary": ["x", "y", "z"]},
]
DENSE = [
    {"name": "face", "kind": "vector", "width": 2, "table_width": 4, "precision": "float32"},
    {
        "name": "continuous",
        "kind": "numbers",
        "table_width": 4,
        "precision": "float32",
        "columns": [{"name": "income", "log": False, "knots": [10.0, 5.0]}],
    },
]
WIDTHS = [1, 1, 1, 2]
KINDS = ["group", "zone", "age", "likes", "face", "income"]


def with_attributes(seen, history=True):
    """A toy whose vectors say what the program was given."""

    def program(*given):
        seen.append([each.tolist() for each in given])
        vectors = torch.zeros(len(given[-1]), 8)
        vectors[:, :5] = given[-2].float()  # the codes
        return vectors

    inputs = {"history": 3} if history else {}
    inputs |= {"codes": 5, "dense": 8}
    return replace(toy(), user_attributes=UserAttributes(DESCRIBED, DENSE, WIDTHS, inputs, program))


def test_values_become_the_codes_and_numbers_of_training():
    seen = []
    predictor = with_attributes(seen)
    assert list(predictor.user_attributes.kinds) == KINDS
    told = {
        "group": ["b", "never seen", None],
        "zone": [20, None, 99],
        "age": [39.5, 40, None],
        "likes": [["z", "x"], ["y", "new"], None],
        "face": [[3.0, 4.0], None, [0.0, 2.0]],
        "income": [20.0, None, 10],
    }
    found = predictor.recommend([-1, -2, -3], 5, attributes=told)
    history, codes, dense = seen[0]
    assert history == [[-1, -1, -1]] * 3
    assert codes == [[2, 2, 2, 3, 1], [0, 0, 3, 2, -1], [0, 0, 0, -1, -1]]
    expected = [
        [0.6, 0.8, 0, 0, 2.0, 1, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0],
        [0, 1.0, 0, 0, 0.0, 1, 0, 0],
    ]
    np.testing.assert_allclose(dense, expected, rtol=1e-6)
    assert found.sources.tolist() == [Source.ATTRIBUTES] * 3
    assert Source.ATTRIBUTES.word == "attributes"
    for n in range(3):
        vector = np.zeros(8, np.float32)
        vector[:5] = codes[n]
        assert found.rows[n].tolist() == ranking(predictor, vector, [])[0][:5]


def test_a_session_is_read_with_them_and_left_out():
    seen = []
    predictor = with_attributes(seen)
    found = predictor.recommend(
        [-1, 100, -2, -3],
        50,
        history=[[1003, 1007], [], [1004], []],
        attributes={"group": ["a", "b", None, None]},
    )
    popular = Source.POPULARITY  # this toy folds no histories
    assert found.sources.tolist() == [Source.ATTRIBUTES, Source.KNOWN, popular, popular]
    assert [part[0] for part in seen[0]] == [[7, 3, -1], [1, 0, 0, -1, -1], [0.0] * 8]
    assert len(seen) == 1
    assert len(seen[0][0]) == 1  # of the known user and those without a value nothing is made
    assert not {3, 7} & set(found.rows[0].tolist())
    known = predictor.recommend([100], 50)
    assert found.rows[1].tolist() == known.rows[0].tolist()


def test_a_model_without_histories_reads_attributes_alone():
    seen = []
    predictor = with_attributes(seen, history=False)
    predictor.recommend([-1], 5, history=[[1003]], attributes={"zone": [30]})
    assert seen == [[[[0, 3, 0, -1, -1]], [[0.0] * 8]]]


@pytest.mark.parametrize(
    ("attributes", "named"),
    [
        ({"color": ["red"]}, "reads no 'color' of users; there are: group, zone, age"),
        ({"group": ["a", "b"]}, "one value of 'group' for each of the 1 users"),
        ({"group": "a"}, "one value of 'group' for each"),
        ({"group": [3]}, "values of 'group' are text; got 3"),
        ({"zone": ["10"]}, "values of 'zone' are whole numbers; got '10'"),
        ({"zone": [2**64]}, "is no number of 64 bits"),
        ({"age": ["old"]}, "'age' has numbers, not 'old'"),
        ({"age": [float("inf")]}, "'age' has numbers, not inf"),
        ({"income": [1e300]}, r"a number \(income\) is too large for the model"),
        ({"face": [[1e300, 1.0]]}, "1e[+]300 is too large for a vector 'face'"),
        ({"likes": ["x"]}, "'likes' has a list of values a user, not 'x'"),
        ({"likes": [["x", "y", "z"]]}, "a user has 3 values of 'likes', and the model takes 2"),
        ({"face": [[1.0]]}, "'face' has 2 numbers, not 1"),
        ([1], "give the values by attribute"),
    ],
)
def test_what_the_model_cannot_read_is_refused(attributes, named):
    with pytest.raises(CadcError, match=named):
        with_attributes([]).recommend([-1], 5, attributes=attributes)


def test_a_long_vocabulary_is_gone_through_once():
    class Words(list):
        passes = 0

        def __iter__(self):
            self.passes += 1
            return super().__iter__()

    words = Words(range(100, 200))
    described = [{"name": "zone", "kind": "categorical", "size": 101, "vocabulary": words}]
    attributes = UserAttributes(described, [], [1], {"codes": 1}, None)
    zones = [n % 100 + 100 for n in range(1000)]
    assert attributes.told({"zone": zones}, 1000) == {"zone": zones}
    assert words.passes == 1


def test_a_model_that_reads_nothing_of_users_says_so():
    with pytest.raises(CadcError, match="this model reads none of users"):
        toy().recommend([-1], 5, attributes={"group": ["a"]})
