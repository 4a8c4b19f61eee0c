"""A bundle's answer to attributes of somebody new is that of the user tower, to the place."""

import numpy as np
import pytest

from cadc_rec.data.dataset import Attribute
from cadc_rec.export.new_users import NewUsers
from cadc_rec.serving.bundle import layout
from cadc_rec.serving.predict.answers import Source
from cadc_rec.serving.predict.predictor import Predictor

pytestmark = pytest.mark.slow


def some(attribute, users):
    """The attribute of some users alone; each has one value."""
    values = np.array([attribute.values[attribute.indptr[user]] for user in users], np.int32)
    indptr = np.arange(len(users) + 1)
    return Attribute(attribute.name, attribute.kind, attribute.size, indptr, values)


def test_attributes_of_a_known_user_told_of_somebody_new(either):
    """What `cadc-rec embed` gives that user without a row, which is tested beside training's."""
    bundle, data = either.bundle, either.finished.dataset
    predictor = Predictor.load(either.path)
    entries = bundle.json(layout.ATTRIBUTES)["user"]
    users = list(range(12))
    told = {}
    for entry, attribute in zip(entries, data.user_attributes, strict=True):
        words = [None, *entry["vocabulary"]]
        told[entry["name"]] = [words[attribute.values[attribute.indptr[user]]] for user in users]
    assert set(told) == {"segment", "age_group"}
    history = [predictor.items.ids[[user, user + 3]].tolist() for user in users]
    for sessions in (None, history):
        read = [np.array([], np.int64)] * len(users)
        if sessions is not None:
            read = [np.array([user + 3, user]) for user in users]
        attributes = [some(attribute, users) for attribute in data.user_attributes]
        vectors = NewUsers.of_bundle(bundle).vectors_of(attributes, [], read)
        scores = vectors.astype(np.float64) @ predictor.item_vectors.vectors.T
        if sessions is not None:
            for row, taken in enumerate(read):
                scores[row, taken] = -np.inf
        found = predictor.recommend(
            [-1 - user for user in users], 8, history=sessions, attributes=told
        )
        assert found.sources.tolist() == [Source.ATTRIBUTES] * len(users)
        assert found.rows.tolist() == np.argsort(-scores, 1, kind="stable")[:, :8].tolist()
    assert np.abs(vectors - vectors[0]).max() > 1e-3
