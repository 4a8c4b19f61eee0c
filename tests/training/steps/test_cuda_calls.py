"""What is asked of CUDA around a step, and in which order; a stand-in notes it on CPU."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import pytest
import torch

from cadc_rec.config.experiment import ComputeConfig
from cadc_rec.distributed.processes import processes
from cadc_rec.training.steps.ahead import SideStream
from cadc_rec.training.steps.graph import CudaRecorder, NotRecordedError
from tests.distributed import toy

GPU = torch.device("cuda", 0)


class Stream:
    def __init__(self, cuda, name):
        self.cuda, self.name = cuda, name

    def wait_stream(self, other):
        self.cuda.told.append(f"{self.name} waits for {other.name}")

    def wait_event(self, event):
        self.cuda.told.append(f"{self.name} waits for {event.of}")


class Event:
    of = "nothing"

    def record(self, stream):
        self.of = f"what {stream.name} had then"


class Generator:
    """Its state is a name; a recording takes hold of it."""

    def __init__(self):
        self.state = SimpleNamespace(name="as it was", clone_state=lambda: "a copy")

    def graphsafe_get_state(self):
        return self.state

    def graphsafe_set_state(self, state):
        self.state = state


class Cuda:
    """Stands in for `torch.cuda`."""

    Event = Event

    def __init__(self):
        self.told, self.mode, self.fails = [], 0, False
        self.current, self.default_generators = Stream(self, "main"), [Generator()]
        self.rng = torch.zeros(1)
        self.CUDAGraph = lambda: SimpleNamespace(replay=lambda: self.told.append("replayed"))

    def Stream(self, device):
        return Stream(self, "side")

    def current_stream(self, device=None):
        return self.current

    def set_stream(self, stream):
        self.current = stream

    def current_device(self):
        return 0

    @contextlib.contextmanager
    def stream(self, stream):
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    @contextlib.contextmanager
    def graph(self, graph, stream, capture_error_mode):
        before, self.current = self.current, stream
        yield
        if self.fails:  # as torch's, which then leaves its stream the current one
            raise RuntimeError("operation failed\nin a long way")
        self.current = before

    def get_sync_debug_mode(self):
        return self.mode

    def set_sync_debug_mode(self, mode):
        self.mode = mode

    def get_rng_state(self, device):
        return self.rng.clone()

    def set_rng_state(self, state, device):
        self.rng = state


@pytest.fixture
def cuda(monkeypatch):
    made = Cuda()
    monkeypatch.setattr(torch, "cuda", made)
    return made


def test_steps_before_a_recording_run_on_its_stream_and_after_all_that_came_before(cuda):
    def work():
        cuda.told.append(f"work on {cuda.current.name}")
        return torch.ones(())

    assert CudaRecorder(GPU).run(work) == 1
    assert cuda.told == ["side waits for main", "work on side", "main waits for side"]
    assert cuda.current.name == "main"


def test_a_trial_draws_nothing_and_refuses_what_waits(cuda):
    recorder = CudaRecorder(GPU)

    def work():
        assert cuda.mode == "error"
        cuda.rng += 1
        return torch.ones(())

    recorder.trial(work)
    assert (cuda.rng.tolist(), cuda.mode) == ([0.0], 0)

    def waits():
        cuda.rng += 1
        raise RuntimeError("called a synchronizing operation.\nC++ frames")

    with pytest.raises(NotRecordedError, match=r"^called a synchronizing operation$"):
        recorder.trial(waits)
    assert (cuda.rng.tolist(), cuda.mode, cuda.current.name) == ([0.0], 0, "main")


def test_a_recording_that_fails_leaves_stream_and_generator_as_they_were(cuda):
    (generator,) = cuda.default_generators
    recorder = CudaRecorder(GPU)
    cuda.fails = True
    with pytest.raises(NotRecordedError, match=r"^operation failed$"):
        recorder.record(lambda: torch.ones(()))
    assert (cuda.current.name, generator.state.name) == ("main", "as it was")
    cuda.fails = False
    replay, result = recorder.record(lambda: torch.ones(()))
    assert (cuda.current.name, generator.state, float(result)) == ("main", "a copy", 1.0)
    replay()
    assert cuda.told == ["replayed"]


def test_rows_are_fetched_after_their_ids_and_used_after_they_came(cuda):
    beside, used = SideStream(GPU), []
    ids = SimpleNamespace(record_stream=lambda stream: used.append(("ids", stream.name)))
    rows = SimpleNamespace(record_stream=lambda stream: used.append(("rows", stream.name)))
    beside.mark()
    with beside.fetching([ids]):
        assert cuda.current.name == "side"
    beside.join([rows])
    assert cuda.told == ["side waits for what main had then", "main waits for side"]
    assert used == [("ids", "side"), ("rows", "main")]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("ids", ["init_frozen", "trainable", "prior"])
def test_recorded_steps_lose_what_eager_ones_lose_on_a_gpu(ids):
    with processes(ComputeConfig(device="cuda")) as alone:
        on, off = (
            toy.train(ids, "data_parallel", alone, graphs=graphs)["loss"]
            for graphs in ("on", "off")
        )
    assert on == pytest.approx(off, rel=1e-5)
