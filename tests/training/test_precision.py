"""bfloat16 in training: where it runs, what it leaves alone, and how it is refused."""

import json
from pathlib import Path

import pytest
import torch

from cadc_rec.errors import CadcError
from cadc_rec.training.trainer import forward_precision, has_bfloat16, refuse_precision

CPU = torch.device("cpu")


def test_products_are_bfloat16_within_and_float32_after():
    weight = torch.ones(3, 3, requires_grad=True)
    with forward_precision("bfloat16", CPU):
        product = weight @ weight
    assert product.dtype == torch.bfloat16
    product.float().sum().backward()
    assert weight.grad.dtype == torch.float32
    assert (weight @ weight).dtype == torch.float32


def test_float32_is_left_alone():
    with forward_precision("float32", CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_bfloat16_is_refused_where_the_device_lacks_it_and_float32_never():
    refuse_precision("float32", CPU, supported=False)
    refuse_precision("bfloat16", CPU, supported=True)
    said = r"train\.precision = 'bfloat16': this CPU has no bfloat16 products; set it to 'float32'"
    with pytest.raises(CadcError, match=said):
        refuse_precision("bfloat16", CPU, supported=False)


def test_models_from_before_there_was_a_choice_keep_their_names(finished):
    manifest = Path(finished.result["artifacts"]["train"]) / "manifest.json"
    assert "precision" not in json.loads(manifest.read_text())["settings"]["train"]


def test_a_run_trains_with_it_or_says_that_this_processor_cannot(tiny, tmp_path, cli):
    shown = cli("train", tiny, "--workdir", tmp_path, "--set", "train.precision=bfloat16")
    if has_bfloat16(CPU):
        assert shown.code == 0
    else:
        assert shown.code == 2
        assert "error: train.precision = 'bfloat16': this CPU has no bfloat16" in shown.err
        assert not list((tmp_path / "train").iterdir())
