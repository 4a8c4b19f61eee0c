"""The scripted modules keep TorchRec's contract, in Python, without TorchRec, and in C++."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.slow

PAIRS = 30
OPERATORS = ("tbe_common", "tbe_cache", "tbe_inference", "py")  # fbgemm's libraries that it calls


def request_for(exported, users, items):
    """A batch of pairs, written out feature by feature with plain loops."""
    lengths, values = [], []

    def feature(lists):
        lengths.extend(len(ids) for ids in lists)
        values.extend(value for ids in lists for value in ids)

    def attributes(side, ids):
        for a in side.attributes:
            feature([a.values[a.indptr[i] : a.indptr[i + 1]].tolist() for i in ids])

    trained, dataset = exported.trained, exported.finished.dataset
    feature([[user] for user in users])
    attributes(trained.user, users)
    if trained.history_length:
        last = dataset.last_items(trained.history_length, with_validation=True)
        feature([[item for item in last[user].tolist() if item >= 0] for user in users])
    feature([[item] for item in items])
    attributes(trained.item, items)
    return {
        "id_list_features.lengths": torch.tensor(lengths, dtype=torch.int32),
        "id_list_features.values": torch.tensor(values, dtype=torch.int64),
        "float_features": torch.zeros(len(users), 0),
    }


@pytest.fixture(scope="module")
def pairs():
    draw = np.random.default_rng(1)
    return draw.integers(0, 60, PAIRS).tolist(), draw.integers(0, 40, PAIRS).tolist()


def scripted(exported, precision):
    from cadc_rec.serving.bundle.programs import load_scripted

    return load_scripted(exported.bundle, precision)


def expected_scores(exported, users, items):
    mine = exported.finished.vectors("user")[users].astype(np.float64)
    return (mine * exported.finished.vectors("item")[items]).sum(1)


@pytest.mark.parametrize(("precision", "off"), [("fp16", 0.01), ("int8", 0.02)])
def test_scores_are_those_of_the_float_model_but_for_the_tables_rounding(
    either, pairs, precision, off
):
    answer = scripted(either, precision)(request_for(either, *pairs))
    assert list(answer) == ["default"]
    expected = expected_scores(either, *pairs)
    assert np.abs(answer["default"].numpy() - expected).max() < off * np.abs(expected).max()


def test_int8_and_int4_tables_are_as_small_as_they_should_be(plain):
    """One byte an element, or half a one, and four for each row's scale and bias."""
    told = plain.bundle.model()["torchrec"]
    shapes = [tuple(table.weight.shape) for table in plain.trained.tables]
    assert told["float_table_bytes"] == sum(4 * rows * width for rows, width in shapes)
    for precision, share in (("int8", 1), ("int4", 0.5)):
        size = sum(rows * (width * share + 4) for rows, width in shapes)
        assert told["precisions"][precision]["table_bytes"] == size


def test_one_archive_scores_pairs_and_embeds_either_side(either, pairs):
    users, items = pairs
    module, trained = scripted(either, "fp16"), either.trained
    batch = request_for(either, users, items)
    per_side = len(users) * (1 + len(trained.user.features) + bool(trained.history_length))
    split = int(batch["id_list_features.lengths"][:per_side].sum())

    def part(lengths, values):
        return {
            "id_list_features.lengths": batch["id_list_features.lengths"][lengths],
            "id_list_features.values": batch["id_list_features.values"][values],
        }

    mine = module.query_vectors(part(slice(None, per_side), slice(None, split)))["default"]
    theirs = module.item_vectors(part(slice(per_side, None), slice(split, None)))["default"]
    scores = module(batch)["default"]
    assert torch.allclose((mine * theirs).sum(1), scores, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("wild", [10**12, -1, "one beyond"])
def test_an_unknown_id_is_as_one_without_a_value_and_nobodys(either, wild):
    """In each feature: ids of either side, attributes, items of the history."""
    from cadc_rec.export.predict import TwoTowerPredictFactory

    module, batch = scripted(either, "int8"), request_for(either, [1, 2], [2, 3])
    whole = TwoTowerPredictFactory(either.trained, "int8").create_predict_module()
    lengths, values = batch["id_list_features.lengths"], batch["id_list_features.values"]
    rows = [feature["rows"] for feature in either.bundle.model()["torchrec"]["methods"]["forward"]]
    starts = [0, *torch.cumsum(lengths, 0).tolist()]
    tried = 0
    for feature, size in enumerate(rows):
        if not lengths[2 * feature]:  # of the first row of the batch
            continue
        place, tried = starts[2 * feature], tried + 1
        other = {**batch, "id_list_features.values": values.clone()}
        other["id_list_features.values"][place] = size if wild == "one beyond" else wild
        left_out = lengths.clone()
        left_out[2 * feature] -= 1
        without = {
            **batch,
            "id_list_features.lengths": left_out,
            "id_list_features.values": torch.cat([values[:place], values[place + 1 :]]),
        }
        expected = module(without)["default"]
        assert torch.equal(module(other)["default"], expected)
        assert torch.equal(whole(other)["default"], whole(without)["default"])
        assert torch.isfinite(expected).all()
    assert tried >= 4


def as_server_sends(batch, n):
    """The tensors that TorchRec's server makes of a request's bytes, but for their device.

    See torchrec/inference/server.cpp: floats count the rows, all numbers have four bytes.
    """
    blobs = {name: batch[f"id_list_features.{name}"].numpy() for name in ("lengths", "values")}
    sent = {name: blob.astype(np.int32).tobytes() for name, blob in blobs.items()}
    floats = np.zeros((n, 1), np.float32).tobytes()
    made = {
        f"id_list_features.{name}": torch.frombuffer(bytearray(blob), dtype=torch.int32)
        for name, blob in sent.items()
    }
    rows = len(floats) // (4 * 1)
    return made | {
        "float_features": torch.frombuffer(bytearray(floats), dtype=torch.float32).view(rows, 1)
    }


WARM_UP = {
    "float_features": torch.ones(1, 13),
    "id_list_features.lengths": torch.ones(26, dtype=torch.int64),
    "id_list_features.values": torch.ones(26, dtype=torch.int64),
}


def test_it_answers_as_torchrecs_own_server_asks(either, pairs):
    module, batch = scripted(either, "int8"), request_for(either, *pairs)
    first = module(WARM_UP)["default"]
    assert (first.numel(), first.dtype) == (1, torch.float32)  # the server takes its item()
    assert torch.isnan(first).all()  # of a model of other features it is no answer
    answer = module(as_server_sends(batch, PAIRS))["default"]
    assert torch.equal(answer, module(batch)["default"])
    assert (answer.device.type, answer.dtype, answer.shape) == ("cpu", torch.float32, (PAIRS,))
    assert answer.is_contiguous()


def test_floats_and_lengths_that_disagree_are_refused(plain, pairs):
    module, batch = scripted(plain, "int8"), request_for(plain, *pairs)
    with pytest.raises(torch.jit.Error, match="another number of rows than lengths"):
        module(as_server_sends(batch, PAIRS - 1))
    short = {**batch, "id_list_features.lengths": batch["id_list_features.lengths"][1:]}
    with pytest.raises(torch.jit.Error, match="give one for each feature of each row"):
        module(short)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_module_for_a_gpu_is_made_on_one(plain, tmp_path):
    from cadc_rec.errors import CadcError
    from cadc_rec.export.predict import write_modules

    with pytest.raises(CadcError, match="--device cuda: torch finds no GPU here"):
        write_modules(plain.trained, tmp_path, ["int8"], "cuda")


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_on_a_gpu_the_scores_are_the_same(either, pairs, precision, tmp_path):
    from cadc_rec.export.predict import write_modules

    told = write_modules(either.trained, tmp_path, [precision], "cuda")
    assert told["device"] == "cuda"
    module = torch.jit.load(tmp_path / told["precisions"][precision]["file"])
    batch = request_for(either, *pairs)
    there = {name: part.cuda() for name, part in as_server_sends(batch, PAIRS).items()}
    assert torch.isnan(module({k: v.cuda() for k, v in WARM_UP.items()})["default"]).all()
    answer = module(there)["default"]
    assert answer.device.type == "cpu"
    expected = scripted(either, precision)(batch)["default"]
    assert torch.allclose(answer, expected, rtol=1e-3, atol=1e-4)


def test_the_factory_says_how_it_is_called(plain):
    from torchrec.inference.modules import PredictFactory, PredictModule

    from cadc_rec.export.predict import TwoTowerPredictFactory

    factory = TwoTowerPredictFactory(plain.trained)
    assert isinstance(factory, PredictFactory)
    assert isinstance(factory.create_predict_module(), PredictModule)
    assert json.loads(factory.batching_metadata_json()) == {
        "float_features": {"type": "dense", "device": "cpu", "pinned": []},
        "id_list_features": {"type": "sparse", "device": "cpu", "pinned": ["lengths", "values"]},
    }
    assert factory.result_metadata() == "dict_of_tensor"
    assert set(json.loads(factory.qualname_metadata_json())) == {"query_vectors", "item_vectors"}
    features = factory.model_inputs_data()["id_list_features"]
    assert features[0] == {"name": "user", "rows": 60, "most": 1}
    assert {"name": "item", "rows": 40, "most": 1} in features


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_sharded_tables_get_their_weights_back(either, pairs, precision):
    """TorchRec's shards come empty; two CPU devices stand for two that are too small for one."""
    from cadc_rec.export.predict import TwoTowerPredictFactory

    batch = request_for(either, *pairs)
    whole = TwoTowerPredictFactory(either.trained, precision).create_predict_module()
    factory = TwoTowerPredictFactory(either.trained, precision, world_size=2)
    sharded = factory.create_predict_module()
    expected = whole(batch)["default"]
    assert expected.abs().max() > 0.01
    assert torch.equal(sharded(batch)["default"], expected)
    module = factory.run_weights_dependent_transformations(
        factory.run_weights_independent_tranformations(sharded)
    )
    assert torch.allclose(module(batch)["default"], expected, rtol=1e-5, atol=1e-6)


_ALONE = """
import importlib.abc, sys
class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in ("torchrec", "cadc_rec", "torchx", "tensordict"):
            raise ImportError(name + " is not installed here")
sys.meta_path.insert(0, Refuse())
import torch, fbgemm_gpu
module = torch.jit.load(sys.argv[1])
batch = torch.load(sys.argv[2], weights_only=True)
torch.save(module(batch)["default"], sys.argv[3])
assert not any(name.split(".")[0] in ("torchrec", "cadc_rec") for name in sys.modules)
"""


def test_the_scripted_module_needs_torch_and_fbgemm_alone(either, pairs, tmp_path):
    batch = request_for(either, *pairs)
    torch.save(batch, tmp_path / "batch.pt")
    file = either.path / "torchrec" / "int8.pt"
    command = [sys.executable, "-c", _ALONE, file, tmp_path / "batch.pt", tmp_path / "scores.pt"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    scores = torch.load(tmp_path / "scores.pt", weights_only=True)
    assert torch.equal(scores, scripted(either, "int8")(batch)["default"])


@pytest.fixture(scope="session")
def predictor(tmp_path_factory):
    """The C++ program, built against the headers and libraries of torch's wheel."""
    build = tmp_path_factory.mktemp("predictor")
    source = Path(__file__).parent / "predictor"
    torch_there = f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}"
    configure = ["cmake", "-S", source, "-B", build, "-DCMAKE_BUILD_TYPE=Release", torch_there]
    for command in (configure, ["cmake", "--build", build]):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return build / "predictor"


def test_a_cpp_process_gets_pythons_scores(predictor, either, pairs, tmp_path):
    import fbgemm_gpu

    batch = request_for(either, *pairs)
    numbers = [batch["id_list_features.lengths"], batch["id_list_features.values"]]
    lines = (f"{len(given)} {' '.join(map(str, given.tolist()))}\n" for given in numbers)
    (tmp_path / "batch.txt").write_text("".join(lines))
    folder = Path(fbgemm_gpu.__file__).parent
    operators = [folder / f"fbgemm_gpu_{part}.so" for part in OPERATORS]
    module = either.path / "torchrec" / "int8.pt"
    expected = scripted(either, "int8")(batch)["default"]
    for as_server in ((), (f"--as-server={PAIRS}",)):
        command = [predictor, *as_server, module, tmp_path / "batch.txt", *operators]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        scores = torch.tensor([float(line) for line in done.stdout.split()])
        assert len(scores) == PAIRS
        assert (scores - expected).abs().max() < 1e-5
