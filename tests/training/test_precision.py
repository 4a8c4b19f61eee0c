"""bfloat16 in training: where it runs, what it leaves alone, and how it is refused."""

import pytest
import torch

from cadc_rec.config.experiment import ComputeConfig
from cadc_rec.distributed import processes as processes_module
from cadc_rec.distributed.processes import matmul_precision, processes
from cadc_rec.errors import CadcError
from cadc_rec.training import trainer as trainer_module
from cadc_rec.training.steps import step as step_module
from cadc_rec.training.steps.step import forward_precision, has_bfloat16, refuse_precision

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


@pytest.fixture
def tf32_everywhere():
    """As NVIDIA's containers have it."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.usefixtures("tf32_everywhere")
def test_a_gpus_processes_are_exact_but_where_a_step_asks_for_tensor_cores(monkeypatch):
    """A device's name stands in for a GPU: nothing is multiplied."""
    gpu, now = torch.device("cuda"), torch.get_float32_matmul_precision
    monkeypatch.setattr(processes_module, "choose_device", lambda *_: gpu)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setattr(processes_module, "join_alone", lambda _: None)
    monkeypatch.setattr(processes_module.dist, "destroy_process_group", lambda: None)
    with processes(ComputeConfig(device="auto")):
        assert now() == "highest"
        with matmul_precision("tf32", gpu):
            assert now() == "high"
        assert now() == "highest"
    assert now() == "high"
    with matmul_precision("float32", CPU):
        assert now() == "high"


def test_a_step_multiplies_as_compute_matmul_says_forward_and_backward(monkeypatch):
    from contextlib import contextmanager
    from types import SimpleNamespace

    within, seen = [], []

    @contextmanager
    def noted(precision, device):
        within.append((precision, device.type))
        yield
        within.pop()

    class Model(torch.nn.Linear):
        def forward(self, batch, loss):
            scores = super().forward(torch.ones(3, 2))
            scores.register_hook(lambda _: seen.append(("backward", *within)))
            seen.append(("forward", *within))
            return loss(scores, batch)

    class Objective:
        terms = staticmethod(float)

        @staticmethod
        def loss(scores, batch):
            return scores.sum()

    monkeypatch.setattr(step_module, "matmul_precision", noted)
    model = Model(2, 1)
    trainer = trainer_module.Trainer(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        SimpleNamespace(steps=1),
        SimpleNamespace(precision="float32", epochs=1),
        SimpleNamespace(device=CPU, world_size=1),
        lambda name: True,
        Objective(),
        matmul="tf32",
    )
    trainer.step(SimpleNamespace(positives=3))
    assert seen == [("forward", ("tf32", "cpu")), ("backward", ("tf32", "cpu"))]
    assert within == []


def test_a_run_trains_with_it_or_says_that_this_processor_cannot(tiny, tmp_path, cli):
    shown = cli("train", tiny, "--workdir", tmp_path, "--set", "train.precision=bfloat16")
    if has_bfloat16(CPU):
        assert shown.code == 0
    else:
        assert shown.code == 2
        assert "error: train.precision = 'bfloat16': this CPU has no bfloat16" in shown.err
        assert not list((tmp_path / "train").iterdir())
