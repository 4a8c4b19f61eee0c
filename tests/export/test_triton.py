"""The model repository is one that Triton's libtorch backend would take (no server runs here)."""

import numpy as np
import pytest
import torch

from cadc_rec.export.triton import config_text

# The schema of Triton's own client: in the environment of the service's tests (`make serve-test`).
model_config = pytest.importorskip("tritonclient.grpc.model_config_pb2")
from google.protobuf import text_format  # noqa: E402  (comes with the client)


def parsed(text):
    return text_format.Parse(text, model_config.ModelConfig())


def test_a_config_says_what_it_was_given():
    given = [("TYPE_INT64", [1]), ("TYPE_INT64", [50])]
    config = parsed(config_text("query", given, ("TYPE_FP32", [64]), 1024))
    assert (config.name, config.platform) == ("query", "pytorch_libtorch")
    assert config.max_batch_size == 1024
    assert [(i.name, i.data_type, list(i.dims)) for i in config.input] == [
        ("INPUT__0", model_config.TYPE_INT64, [1]),
        ("INPUT__1", model_config.TYPE_INT64, [50]),
    ]
    assert [(o.name, o.data_type, list(o.dims)) for o in config.output] == [
        ("OUTPUT__0", model_config.TYPE_FP32, [64])
    ]
    assert config.HasField("dynamic_batching")


def test_a_model_whose_batches_cannot_be_joined_says_so():
    config = parsed(config_text("score", [("TYPE_INT32", [-1])], ("TYPE_FP32", [-1]), 0))
    assert config.max_batch_size == 0
    assert not config.HasField("dynamic_batching")


_DTYPES = {
    model_config.TYPE_INT64: torch.int64,
    model_config.TYPE_INT32: torch.int32,
    model_config.TYPE_FP32: torch.float32,
}


@pytest.mark.slow
def test_every_model_takes_and_gives_what_its_config_says(either, tmp_path):
    from cadc_rec.export.triton import write_repository

    write_repository(either.trained, tmp_path / "models")
    folders = {folder.name: folder for folder in (tmp_path / "models").iterdir()}
    assert set(folders) == {"query", "item", "score"}
    for name, folder in folders.items():
        config = parsed((folder / "config.pbtxt").read_text())
        assert config.name == name
        assert [file.name for file in (folder / "1").iterdir()] == ["model.pt"]
        if not config.max_batch_size:
            continue
        module = torch.jit.load(folder / "1" / "model.pt")
        inputs = [torch.zeros(5, *i.dims, dtype=_DTYPES[i.data_type]) for i in config.input]
        answer = module(*inputs)
        (output,) = config.output
        assert answer.shape == (5, *output.dims)
        assert answer.dtype == _DTYPES[output.data_type]


@pytest.mark.slow
def test_models_answer_as_the_bundle_does(plain, tmp_path):
    from cadc_rec.export.triton import write_repository

    write_repository(plain.trained, tmp_path / "models")
    items = torch.jit.load(tmp_path / "models" / "item" / "1" / "model.pt")
    answer = items(torch.arange(40)[:, None]).numpy()
    assert np.allclose(answer, plain.finished.vectors("item"), rtol=1e-5, atol=1e-6)
