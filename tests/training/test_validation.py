"""The ranks that training keeps are those of the epoch that it keeps."""

from types import SimpleNamespace

import numpy as np
import torch

from cadc_rec.data.transition_lists import ListedScores, TransitionLists
from cadc_rec.training.kept_reads import KeptReads
from cadc_rec.training.validation import Validation, kept_ranks

# Three users and four items; each has taken item 0, and item 1 is held out.
DATASET = SimpleNamespace(
    n_users=3,
    n_items=4,
    user_indptr=np.array([0, 1, 2, 3]),
    train_item=np.zeros(3, np.int32),
    val_item=np.array([1, 1, 1], np.int32),
)


class Model:
    """Whose weights are the scores of items 1, 2 and 3, for everybody."""

    def __init__(self, processes):
        self.processes, self.scores = processes, [0.0, 0.0, 0.0]

    def user_vectors(self, history, sample, request=None, kept=None):
        return torch.ones(3 if sample is None else len(sample), 1)

    def listed(self, length):
        return None

    def recent(self):
        return None

    def item_vectors(self):
        return torch.tensor([[9.0], *([score] for score in self.scores)])


EPOCHS = {1: [1.0, 5.0, 5.0], 2: [3.0, 1.0, 5.0], 3: [0.0, 5.0, 5.0]}  # ranks 3, 2, 3


def fit(validation, model, epochs):
    for epoch in epochs:
        model.scores = EPOCHS[epoch]
        validation.after_epoch({"epoch": epoch, **validation()})
    model.scores = EPOCHS[2]  # the best weights come back
    return validation.best_ranks()


def test_they_are_those_of_the_best_epoch(alone):
    model = Model(alone)
    assert fit(Validation(model, DATASET, 0, None), model, [1, 2, 3]).tolist() == [2, 2, 2]
    assert fit(Validation(model, DATASET, 0, np.array([0, 2])), model, [1, 2]).tolist() == [2, 2]


def test_an_epoch_before_a_resumed_checkpoint_is_ranked_again(alone):
    model = Model(alone)
    validation = Validation(model, DATASET, 0, None)
    for epoch, ndcg in ((1, 0.5), (2, 0.63)):  # told of by the checkpoint
        validation.after_epoch({"epoch": epoch, "ndcg@10": ndcg})
    assert fit(validation, model, [3]).tolist() == [2, 2, 2]


def test_an_equal_epoch_after_the_best_is_not_taken_for_it(alone):
    model = Model(alone)
    validation = Validation(model, DATASET, 0, None)
    model.scores = EPOCHS[1]
    measured = validation()
    validation.after_epoch({"epoch": 1, **measured})
    first = validation.best_ranks()
    model.scores = EPOCHS[3]
    assert validation() == measured
    validation.after_epoch({"epoch": 2, **measured})
    assert validation.best_ranks() is first


def test_weights_that_were_changed_after_it_are_ranked_again(alone):
    model = Model(alone)
    validation = Validation(model, DATASET, 0, None)
    fit(validation, model, [1, 2])
    model.scores = EPOCHS[1]
    validation.changed()
    assert validation.best_ranks().tolist() == [3, 3, 3]


def test_an_epoch_without_validation_is_passed_over(alone):
    model = Model(alone)
    validation = Validation(model, DATASET, 0, None)
    validation.after_epoch({"epoch": 1, "loss": 0.5})
    assert fit(validation, model, [2]).tolist() == [2, 2, 2]


class ModelWithLists(Model):
    """Whose lists lead from item 0 to item 2, with a factor that is learned."""

    factor, given = 0.0, None
    lists = TransitionLists(np.array([0, 1, 1, 1, 1]), np.int32([2]), np.float32([1.0]))

    def user_vectors(self, history, sample, request=None, kept=None):
        self.given = [*(self.given or []), kept]
        return super().user_vectors(history, sample)

    def listed(self, length):
        return ListedScores(self.lists, 0.5, self.factor, length)


def test_from_one_validation_to_the_next_histories_and_scores_are_kept(alone):
    """Item 2 overtakes the target, item 1, when the factor is 3."""
    asked = []

    def last_items(length, with_validation, users):
        asked.append(list(users))
        return np.zeros((len(users), length), np.int32)

    model = ModelWithLists(alone)
    model.scores = [2.0, 0.0, 0.0]
    dataset = SimpleNamespace(**vars(DATASET), last_items=last_items)
    validation = Validation(model, dataset, 1, None, limit_bytes=2**20)
    for model.factor, expected in ((1.0, [1, 1, 1]), (3.0, [2, 2, 2])):
        assert validation.ranks().tolist() == expected
    assert asked == [[0, 1, 2]]
    assert isinstance(model.given[0], KeptReads)
    assert model.given[0] is model.given[1]
    forgetful = Validation(model, dataset, 1, None)
    for _ in range(2):
        forgetful.ranks()
    assert asked == [[0, 1, 2]] * 3


def test_an_artifact_without_them_is_ranked_anew(tmp_path):
    assert kept_ranks(tmp_path, 3) is None
