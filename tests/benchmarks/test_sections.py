"""The measurement itself, on a world so small that it takes seconds."""

import math
import sys
from importlib import import_module

import numpy as np
import pytest
import torch

from benchmarks.peers import __main__ as command
from benchmarks.peers import peers, sections, towers, workload
from benchmarks.peers.ceilings import measure_ceilings, pair_flops, tower_flops
from benchmarks.peers.factorization import best_value, seconds_to
from benchmarks.peers.ours import WITHOUT_EXTRAS, OurTraining, plain_batches, unique_counts
from benchmarks.peers.peers import MissingPeer, peer
from benchmarks.peers.plain_torch import padded_codes
from benchmarks.peers.record import Report
from benchmarks.peers.workload import Workload, sampled_rows
from cadc_rec.data.dataset import Attribute
from cadc_rec.distributed.processes import processes
from cadc_rec.errors import CadcError


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A short workload of 200 users; without peers, whatever is installed here."""
    monkeypatch.setitem(workload._SIZES, "short", (200, 100, 4000))
    small = workload._SETTINGS.replace("batch_size = 8192", "batch_size = 256")
    monkeypatch.setattr(workload, "_SETTINGS", small)

    def installed(name):
        if name.split(".")[0] in ("torch_rechub", "pandas"):
            raise ModuleNotFoundError(name=name.split(".")[0])
        return import_module(name)

    monkeypatch.setattr(peers, "import_module", installed)
    return Workload(tmp_path, short=True, repeats=2, rows=20_000)


def test_a_peer_that_is_not_installed_is_named_as_such(monkeypatch):
    with pytest.raises(MissingPeer, match=r"^not installed$"):
        peer("no_such_library.at_all")
    monkeypatch.setitem(sys.modules, "json", None)
    with pytest.raises(MissingPeer):
        peer("json")


def test_a_peer_that_needs_another_says_which(tmp_path, monkeypatch):
    (tmp_path / "half_a_peer.py").write_text("import no_such_library\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingPeer, match="not installed: it needs no_such_library"):
        peer("half_a_peer")


def test_a_peer_that_breaks_while_it_loads_is_no_failure_of_ours(tmp_path, monkeypatch):
    (tmp_path / "old_peer.py").write_text("import numpy\nnumpy.float_\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingPeer, match="cannot be imported"):
        peer("old_peer")


@pytest.mark.slow
def test_towers_lose_what_plain_pytorch_and_plain_torchrec_lose(tiny):
    section = towers.measure(tiny)
    assert len(section.checks) == 3
    assert all(check.holds for check in section.checks), section.checks
    assert set(section.entries) == {
        "ours-trainable",
        "ours-frozen",
        "plain-trainable",
        "plain-frozen",
        "torchrec-trainable",
    }
    assert section.missing == {"torch-rechub": "not installed"}
    assert {(r.ours, r.other) for r in section.ratios} >= {("ours-frozen", "plain-frozen")}
    for entry in section.entries.values():
        assert len(entry.figures.rounds) == 2
        assert entry.share is not None
        assert entry.share > 0


@pytest.mark.slow
def test_a_session_adds_its_sections_to_what_is_there_of_the_same_workload(tiny, monkeypatch):
    first = sections.run(tiny, ["ranking"])
    assert set(first.sections) == {"ranking"}
    assert all(check.holds for check in first.sections["ranking"].checks)
    both = sections.run(tiny, ["selection"])
    assert list(both.sections) == ["ranking", "selection"]
    assert both.sections["ranking"] == first.sections["ranking"]
    assert both.sections["selection"].missing == {"pandas": "not installed"}
    # Beside a busy core: kept elsewhere, with the idle rounds and what is left of them.
    beside = sections.run(tiny, ["ranking"], busy=True)
    assert beside.sections["ranking"].busy.rates.keys() == beside.sections["ranking"].entries.keys()
    assert Report.read(sections.results_path(tiny.workdir, True, busy=True)) == beside
    assert Report.read(sections.results_path(tiny.workdir, True)).sections["ranking"].busy is None
    with pytest.raises(CadcError, match="section 'speed' is unknown; choose of towers,"):
        sections.run(tiny, ["speed"])
    # Of another workload nothing is kept.
    monkeypatch.setitem(workload._SIZES, "short", (201, 100, 4000))
    again = sections.run(Workload(tiny.workdir, short=True, repeats=1, rows=20_000), ["selection"])
    assert list(again.sections) == ["selection"]


def test_plain_batches_hold_the_pairs_of_our_loader(tiny):
    experiment = tiny.experiment("gold", [*WITHOUT_EXTRAS, "train.batch_size=500"])
    with processes(experiment.compute) as alone:
        ours = OurTraining(experiment, tiny.dataset, 1000, alone)
        steps, batches = list(ours.loader.epoch(1)), plain_batches(ours.loader)
        users, items = unique_counts(ours.loader)
    assert [len(batch.users) for batch in batches] == [500, 500]
    for step, batch in zip(steps, batches, strict=True):
        pairs = []
        for row, user in enumerate(step.users):
            first, last = step.pattern.crow[row], step.pattern.crow[row + 1]
            pairs += [(user, step.items[c]) for c in step.pattern.col[first:last]]
        flat = zip(np.repeat(batch.users, 5), batch.items.flatten(), strict=True)
        assert [(int(u), int(i)) for u, i in flat] == pairs
    assert users == np.mean([len({int(u) for u in batch.users}) for batch in batches])
    assert items == np.mean([len(set(batch.items.flatten().tolist())) for batch in batches])
    positives = {
        (int(u), int(i)) for b in batches for u, i in zip(b.users, b.items[:, 0], strict=True)
    }
    chosen = sampled_rows(tiny.dataset, 1000)
    assert positives == set(zip(chosen.users.tolist(), chosen.items.tolist(), strict=True))


def test_codes_are_padded_with_the_code_after_the_last():
    attribute = Attribute("a", "multi", 4, np.array([0, 2, 2, 3]), np.array([1, 3, 2], np.int32))
    assert padded_codes(attribute).tolist() == [[1, 3], [4, 4], [2, 4]]


def test_arithmetic_of_a_tower_is_that_of_its_products():
    # 10 rows; 6 of ids and 2 of features to 4 to 3. Forward 8*4 + 4*3 = 44 multiply-adds a row,
    # backward of weights the same, of inputs 4*3, and of the first layer 2*4 or 8*4.
    assert tower_flops(10, 6, 2, [4, 3], learns=False) == 2 * 10 * (44 + 44 + 12 + 8)
    assert tower_flops(10, 6, 2, [4, 3], learns=True) == 2 * 10 * (44 + 44 + 12 + 32)
    assert pair_flops(100, 3) == 3 * 2 * 100 * 3


def test_ceilings_are_positive_and_finite():
    before = torch.get_num_threads()
    found = measure_ceilings([32, 16])
    assert set(found) == {"tower GFLOP/s", "square GFLOP/s", "copy GB/s"}
    assert all(0 < value < math.inf for value in found.values())
    assert torch.get_num_threads() == before


def test_losses_that_are_not_finite_differ_infinitely():
    assert towers.largest_difference([1.0, 2.2], [1.0, 2.0]) == pytest.approx(0.1)
    assert towers.largest_difference([1.0, math.nan], [1.0, 2.0]) == math.inf


def test_a_curve_reaches_a_target_at_its_first_point_there():
    curve = [(1.0, 0.01), (2.0, 0.05), (3.0, 0.04), (4.0, 0.06)]
    assert best_value(curve) == 0.06
    assert seconds_to(curve, 0.04) == 2.0
    with pytest.raises(ValueError, match="never reaches"):
        seconds_to(curve, 0.07)


def test_the_command_prints_one_report_and_keeps_it(tiny, capsys, monkeypatch):
    def ended(*arguments):
        monkeypatch.setattr(sys, "argv", ["peers", *map(str, arguments)])
        monkeypatch.setattr(command, "set_up_logging", lambda: None)
        with pytest.raises(SystemExit) as end:
            command.main()
        return end.value.code, capsys.readouterr()

    options = [
        "--workdir",
        tiny.workdir,
        "--short",
        "--rows",
        20_000,
        "--repeats",
        1,
        "--section",
        "selection",
    ]
    code, told = ended(*options, "--json")
    assert code is None
    printed = Report.model_validate_json(told.out)
    assert printed == Report.read(sections.results_path(tiny.workdir, short=True))
    assert len(printed.sections["selection"].entries["ours"].figures.rounds) == 1
    code, told = ended("--section", "speed")
    assert code == 2
    assert "invalid choice: 'speed'" in told.err


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_are_started_and_told_of(tiny):
    from benchmarks.peers.two_processes import SPAWNED, Spawned

    steps = {"ours-frozen-2x1-sharded": 2, "ours-frozen-2x1-divided": 1, "ours-trainable-1x1": 1}
    for name, of_usual_size in steps.items():
        work = Spawned(tiny, name, SPAWNED[name]).turn()
        assert work.units == tiny.steps * 256 * of_usual_size
        assert work.seconds is not None
        assert work.seconds > 0


@pytest.mark.slow
def test_every_section_runs_on_a_tiny_world(tiny):
    report = sections.run(tiny, [name for name in sections.SECTIONS if name != "towers"])
    assert not report.broken()
    for section in report.sections.values():
        assert section.entries
        for entry in section.entries.values():
            assert len(entry.figures.rounds) == 2
            assert min(entry.figures.rounds) > 0
