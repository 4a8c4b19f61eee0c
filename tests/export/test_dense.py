"""Vectors and numbers in every exported form: programs, TorchRec modules, items nobody took."""

import io
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cadc_rec.data.dataset import Attribute
from cadc_rec.data.dense import DenseAttribute
from cadc_rec.distributed.state import gather_state
from cadc_rec.export.new_items import new_item_program
from cadc_rec.export.new_users import NewUsers, new_user_program
from cadc_rec.export.newcomers import HistoryNewcomer
from cadc_rec.export.predict import TwoTowerPredictFactory
from cadc_rec.export.programs import save_program, tower_programs
from cadc_rec.export.towers import batch_of, history_features, side_features
from cadc_rec.export.trained import trained_model
from cadc_rec.models.forward import user_vectors
from cadc_rec.planning.plan import plan_experiment
from cadc_rec.planning.sizes import Machines, PlannedDense, Sizes
from cadc_rec.serving.predict.cold_items import NewItems
from cadc_rec.training.build import build_model
from tests.distributed import toy

HISTORY = torch.from_numpy(toy.histories(toy.USERS)).long()
USERS, ITEMS = torch.arange(toy.USERS), torch.arange(toy.ITEMS)


@pytest.fixture(scope="module")
def alone():
    from cadc_rec.config.experiment import ComputeConfig
    from cadc_rec.distributed.processes import processes

    with processes(ComputeConfig(device="cpu", threads=1)) as joined:
        yield joined


@pytest.fixture(scope="module")
def made(alone, tmp_path_factory):
    """A model with a history, vectors and numbers; its checkpoint read back for export."""
    return built("history", alone, tmp_path_factory.mktemp("checkpoint"))


def built(ids, alone, folder):
    experiment = toy.experiment(f"dense-{ids}", "data_parallel")
    dataset, given = toy.dataset(dense=True), toy.pretrained(ids)
    model = build_model(experiment, dataset, given, alone)
    with torch.no_grad():
        for tower in (model.module.user, model.module.item):
            tower.dense.layers.layers[0].missing.fill_(0.7)  # 0 in the beginning
    save_file(gather_state(model.wrapped, alone, model.trains), folder / "model.safetensors")
    sections = experiment.model, experiment.history, "fp32", dataset, given, None
    trained = trained_model(*sections, SimpleNamespace(path=folder), experiment.context)
    return SimpleNamespace(
        experiment=experiment, dataset=dataset, model=model.module, trained=trained
    )


@torch.no_grad()
@pytest.mark.slow
def test_a_bundles_programs_give_trainings_vectors(made, tmp_path):
    for name, program in tower_programs(made.trained).items():
        save_program(program.exported(), tmp_path / f"{name}.pt2")
    query, item = (
        torch.export.load(io.BytesIO((tmp_path / f"{name}.pt2").read_bytes())).module()
        for name in ("query", "item")
    )
    users = made.model.user_vectors(USERS, HISTORY)
    torch.testing.assert_close(query(USERS, HISTORY), users, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(item(ITEMS), made.model.item_vectors(ITEMS), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_torchrec_module_scores_with_them(made):
    users = USERS[: toy.ITEMS]
    mine = side_features(users.numpy(), made.trained.user.attributes)
    theirs = side_features(ITEMS.numpy(), made.trained.item.attributes)
    request = batch_of([*mine, *history_features(HISTORY[users].numpy()), *theirs])
    user = made.model.user_vectors(users, HISTORY[users])
    expected = (user * made.model.item_vectors(ITEMS)).sum(1)
    factory = TwoTowerPredictFactory(made.trained, "fp16")
    found = factory.create_predict_module()(request)["default"]
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)


@torch.no_grad()
def test_an_item_nobody_took_is_known_by_its_vector(made):
    """With the row of another item in place of the mean it would be that item."""
    data = made.dataset
    program = new_item_program(made.trained, data.item_attributes)
    exported = program.program().exported().module()
    known = made.model.item_vectors(ITEMS).numpy()
    dense = data.item_dense
    new = NewItems(data.item_attributes, known, exported, program.widths, known_dense=dense)
    vectors = new.vectors_of(data.item_attributes, toy.ITEMS, dense)
    tower = made.model.item
    _, features = tower.look_up(ITEMS)
    rows = toy.pretrained("history")
    mean = rows.ids.item.mean(0).expand(toy.ITEMS, -1)
    target = rows.transitions.target.mean(0).expand(toy.ITEMS, -1)
    expected, _ = tower(mean, features, [target])
    np.testing.assert_allclose(vectors[:, : expected.shape[1]], expected.numpy(), atol=1e-5)


@torch.no_grad()
def test_a_user_nobody_knew_is_told_by_attributes_and_history(made):
    """As training's tower gives a user of those, the id's row left out."""
    data = made.dataset
    program = new_user_program(made.trained, None, data.user_attributes, latest=False)
    users = NewUsers.of_programs(program, program)
    users = replace(users, program=program.exported().module())
    histories = [row[row >= 0] for row in HISTORY.numpy()]
    found = users.vectors_of(data.user_attributes, data.user_dense, histories)
    rows, features = made.model.user.look_up(USERS)
    read = made.model.read(HISTORY)
    expected = user_vectors(made.model.user, 0 * rows, features, read)
    expected = expected.joined(made.model.prior_factors())
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


@torch.no_grad()
def test_without_histories_a_new_user_is_an_average_row_with_its_attributes(alone, tmp_path):
    """By NumPy: group 2 and a vector, and a user of whom nothing is known."""
    plain = built("init_frozen", alone, tmp_path)
    program = new_user_program(plain.trained, None, plain.dataset.user_attributes, latest=True)
    assert list(program.inputs) == ["codes", "dense"]
    users = NewUsers.of_programs(program, program)
    users = replace(users, program=program.exported().module())
    face = np.random.default_rng(4).normal(size=(2, 12)).astype(np.float32)
    face[1] = 0
    group = Attribute("group", "categorical", 4, np.arange(3), np.array([2, 0], np.int32))
    dense = [DenseAttribute("face", "vector", face)]
    found = users.vectors_of([group], dense, [np.zeros(0, np.int64)] * 2)

    tower = plain.model.user
    layer, groups = tower.dense.layers.layers[0].layer, plain.trained.user.features[0].weight
    seen = face @ layer.weight.numpy().T + layer.bias.numpy()
    seen[1] = 0.7  # as `built` fills it
    row = np.tile(toy.tables().user.numpy().mean(0), (2, 1))
    read = np.concatenate([row, groups.numpy()[[2, 0]], seen], 1)
    first, last = tower.join, tower.last_layer()
    hidden = np.maximum(read @ first.weight.numpy().T + first.bias.numpy(), 0)
    expected = hidden @ last.weight.numpy().T + last.bias.numpy()
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(found[:, :-1], expected, atol=1e-5)
    assert found[:, -1].tolist() == [1, 1]  # what was taken just before counts for all alike


@torch.no_grad()
def test_of_an_unknown_user_the_vector_is_missing(made):
    newcomer = HistoryNewcomer(made.trained, None)
    assert newcomer.features[4:].tolist() == pytest.approx([0.7] * 32)


def test_fifty_million_vectors_of_768_in_fp16_have_a_plan(made):
    image = PlannedDense("image", "vector", 768, half=True)
    sizes = Sizes(1_000_000, 50_000_000, "the test", item_dense=(image,))
    experiment = made.experiment.model_copy(
        update={"sharding": made.experiment.sharding.model_copy(update={"frozen": "auto"})}
    )
    plan = plan_experiment(experiment, sizes, Machines(8, 8, "cuda", 80 * 2**30, 200 * 2**30))
    table = next(t for t in plan.tables if t.name == "dense_item_image")
    stored = sum(shard.device_bytes + shard.host_bytes for shard in table.shards)
    assert 50_000_000 * 768 * 2 <= stored < 1.2 * 50_000_000 * 768 * 2


@pytest.mark.slow
@torch.no_grad()
def test_a_scripted_module_of_bytes_has_them_too(made):
    users = USERS[: toy.ITEMS]
    mine = side_features(users.numpy(), made.trained.user.attributes)
    request = batch_of([*mine, *history_features(HISTORY[users].numpy())])
    module = TwoTowerPredictFactory(made.trained, "int8").scripted()
    found = module.query_vectors(request)["default"]
    expected = made.model.user_vectors(users, HISTORY[users])
    assert (found - expected).abs().max() < 0.05 * expected.abs().max()
