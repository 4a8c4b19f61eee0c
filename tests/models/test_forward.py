"""What a vector is made of is said once: whoever makes vectors or scores follows a change there."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cadc_rec.data.load.batches import Batch
from cadc_rec.data.transition_lists import ListedScores, TransitionLists
from cadc_rec.distributed.state import gather_state
from cadc_rec.export.predict import TwoTowerPredictFactory
from cadc_rec.export.programs import tower_programs
from cadc_rec.export.towers import batch_of, history_features, side_features
from cadc_rec.export.trained import trained_model
from cadc_rec.models import forward
from cadc_rec.planning.plan import plan_experiment
from cadc_rec.planning.sizes import Machines, Sizes
from cadc_rec.pretrain.tables_alone import prior_alone, tables_alone
from cadc_rec.training.build import build_model
from tests.distributed import toy

HISTORY = torch.from_numpy(toy.histories(toy.USERS))
IDS = torch.arange(toy.ITEMS)


@pytest.fixture(scope="module", params=["history", "prior"])
def made(request, alone, tmp_path_factory):
    """A model with histories, its checkpoint read back for export, and its settings."""
    experiment = toy.experiment(request.param, "data_parallel")
    dataset, given = toy.dataset(), toy.pretrained(request.param)
    model = build_model(experiment, dataset, given, alone)
    with torch.no_grad():
        model.module.user.mlp[1].bias.fill_(0.5)  # a prior's user tower begins at zero
    folder = tmp_path_factory.mktemp("checkpoint")
    save_file(gather_state(model.wrapped, alone, model.trains), folder / "model.safetensors")
    tables = tables_alone(experiment.prior, experiment.history, dataset, given)
    sections = experiment.model, experiment.history
    checkpoint = SimpleNamespace(path=folder)
    rest = "fp32", dataset, given, tables, checkpoint, experiment.context
    trained = trained_model(*sections, *rest)
    return SimpleNamespace(
        experiment=experiment, dataset=dataset, given=given, model=model, trained=trained
    )


def twice(*given):
    """Every learned part stands twice in a vector; a model without towers has its prior twice."""
    whole = ORIGINAL(*given)
    if whole.learned is None:
        return replace(whole, prior=tuple(torch.cat([part, part], 1) for part in whole.prior))
    return replace(whole, learned=torch.cat([whole.learned, whole.learned], 1))


ORIGINAL = forward.side_vectors


@torch.no_grad()
def learned_scores(made):
    """Scores of pairs less the prior's, by every way there is to form them."""
    model, trained, users = made.model.module, made.trained, IDS[: toy.ITEMS]
    history = HISTORY[users]
    read, factors = model.read(history), model.prior_factors()
    of_prior = torch.zeros(len(users), len(IDS))
    for place, part in enumerate(read.prior()):
        tables = (made.given.ids.item, made.given.transitions.target)
        of_prior += factors[place] * (part @ tables[place].T)
    training = model(Batch(users, IDS), read)
    evaluation = model.user_vectors(users, history) @ model.item_vectors(IDS).T
    programs = tower_programs(trained)
    program = programs["query"].module(users, history.long()) @ programs["item"].module(IDS).T
    mine = side_features(users.numpy(), trained.user.attributes)
    theirs = side_features(IDS.numpy(), trained.item.attributes)
    request = batch_of([*mine, *history_features(history.numpy()), *theirs])
    module = TwoTowerPredictFactory(trained, "fp16").create_predict_module()
    torchrec = module(request)["default"]
    return {
        "training": training - of_prior,
        "evaluation": evaluation - of_prior,
        "program": program - of_prior,
        "torchrec": torchrec - of_prior.diagonal(),
    }


def widths(made):
    """Elements of a vector, as vectors have them and as the plan counts them."""
    sizes = Sizes(toy.USERS, toy.ITEMS, "the test")
    machines = Machines(1, 1, "cpu", 0, 2**34)
    plan = plan_experiment(made.experiment, sizes, machines)
    vectors = made.model.module.item_vectors(IDS)
    return vectors.shape[1], plan.validation / (4 * (toy.USERS + 2 * toy.ITEMS))


def test_a_change_of_the_vector_reaches_training_evaluation_export_and_planning(made, monkeypatch):
    before, (width, planned) = learned_scores(made), widths(made)
    assert all(scores.abs().max() > 0.01 for scores in before.values())
    monkeypatch.setattr(forward, "side_vectors", twice)
    after, (changed, replanned) = learned_scores(made), widths(made)
    for way, scores in before.items():
        tolerance = 0.02 if way == "torchrec" else 1e-3
        torch.testing.assert_close(after[way], 2 * scores, rtol=tolerance, atol=tolerance)
    learned = made.experiment.model.tower[-1]
    assert changed - width == learned
    assert replanned - planned == pytest.approx(learned)


@torch.no_grad()
def test_a_torchrec_module_adds_the_scores_of_lists(made):
    """The history of a pair is the jagged feature that its lists are found by."""
    listed = ListedScores(random_lists(), 0.7, 1.3, made.trained.history_length)
    users = np.arange(toy.ITEMS)
    items, history = users[::-1].copy(), HISTORY[users].numpy()
    mine = side_features(users, made.trained.user.attributes)
    theirs = side_features(items, made.trained.item.attributes)
    request = batch_of([*mine, *history_features(history), *theirs])
    scores = [
        TwoTowerPredictFactory(trained, "fp16").create_predict_module()(request)["default"]
        for trained in (made.trained, replace(made.trained, listed=listed))
    ]
    added = listed.of(history).toarray()[users, items]
    assert added.any()
    torch.testing.assert_close(scores[1], scores[0] + torch.from_numpy(added))


def random_lists():
    """Every item has eight targets."""
    draw = np.random.default_rng(3)
    targets = np.concatenate([draw.permutation(toy.ITEMS)[:8] for _ in range(toy.ITEMS)])
    weights = draw.random(len(targets)).astype(np.float32)
    return TransitionLists(np.arange(toy.ITEMS + 1) * 8, targets.astype(np.int32), weights)


def test_a_plan_counts_every_element_of_a_vector(made):
    """The tower's, and with a prior those of the item table and of the transitions."""
    _, planned = widths(made)
    config = made.experiment
    prior = config.model.id_dim + config.transitions.dim if config.prior.use else 0
    assert planned == pytest.approx(config.model.tower[-1] + prior)


def test_the_change_reaches_tables_that_are_scored_without_towers(monkeypatch):
    experiment, given = toy.experiment("prior", "data_parallel"), toy.pretrained("prior")
    history = HISTORY.numpy()
    dataset = SimpleNamespace(last_items=lambda length, with_validation, users: history[users])

    def scores():
        model = prior_alone(experiment.prior, experiment.history, dataset, given)
        items = model.every_item().joined()
        return model(HISTORY) @ items.T / sum(model.factors), model.users(HISTORY).prior[0]

    before, vectors = scores()
    monkeypatch.setattr(forward, "side_vectors", twice)
    after, widened = scores()
    assert widened.shape[1] == 2 * vectors.shape[1]
    # The factors bring the doubled scores back to the same spread.
    torch.testing.assert_close(after, 2 * before, rtol=1e-4, atol=1e-4)
