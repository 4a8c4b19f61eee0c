"""What is measured of a stage, each against something of known size or files that we wrote."""

import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from cadc_rec.store import costs
from cadc_rec.store.artifact import SoloGroup, run_stage
from cadc_rec.store.costs import Energy, Meter, of_ranks, of_stages

SETTINGS, INPUTS = {"epochs": 3}, {"raw": "0123abcd"}

# Another program says when it has used so much: not the counters that are tested.
BURN = "import time\nwhile time.process_time() < {}: pass"


def burn(seconds):
    """A child process that uses so much processor time, and ends."""
    subprocess.run([sys.executable, "-c", BURN.format(seconds)], check=True)


def test_processor_time_counts_children_that_ended_and_not_waiting():
    meter = Meter()
    burn(0.1)
    time.sleep(0.2)
    meter.stop()
    used = meter.costs["cpu_seconds"]
    assert 0.1 <= used < 1.5  # starting Python takes some, too
    assert meter.seconds >= 0.3
    assert sum(n * n for n in range(100_000)) > 0
    assert meter.costs["cpu_seconds"] == used


def test_bytes_are_those_of_read_and_write_calls(tmp_path):
    file = tmp_path / "file"
    meter = Meter()
    file.write_bytes(b"x" * 3_000_000)
    for _ in range(2):
        file.read_bytes()
    meter.stop()
    # What the meter itself reads of the kernel is under a thousand bytes.
    assert 6_000_000 <= meter.costs["read_bytes"] < 6_010_000
    assert 3_000_000 <= meter.costs["written_bytes"] < 3_010_000
    assert meter.costs["disk_read_bytes"] <= 6_000_000


def test_memory_is_the_stages_own_even_if_its_process_held_more_before():
    big = bytearray(b"x") * 200_000_000
    del big
    before = costs._held_bytes()
    with Meter() as meter:
        held = bytearray(b"x") * 50_000_000
        deadline = time.monotonic() + 60
        while meter._most < before + 45_000_000 and time.monotonic() < deadline:
            time.sleep(0.02)  # until the thread has looked
        del held
    most = meter.costs["peak_memory_bytes"]
    assert before + 45_000_000 <= most < before + 150_000_000
    assert most < costs.peak_memory_bytes()


def test_memory_that_the_process_never_held_before_is_seen_even_if_nobody_looked(monkeypatch):
    monkeypatch.setattr(costs, "peak_memory_bytes", lambda: 2**50)
    meter = Meter()
    assert meter.costs["peak_memory_bytes"] < 2**40  # what it holds, not what it once held
    monkeypatch.setattr(costs, "peak_memory_bytes", lambda: 2**50 + 4096)
    meter.stop()
    assert meter.costs["peak_memory_bytes"] == 2**50 + 4096


def zone(powercap, place, name, energy, most=262_143_328_850):
    """A zone of RAPL as the kernel shows it."""
    folder = powercap / place
    folder.mkdir(parents=True)
    for file, value in (("name", name), ("energy_uj", energy), ("max_energy_range_uj", most)):
        (folder / file).write_text(f"{value}\n")
    return folder / "energy_uj"


def test_energy_is_that_of_the_packages_and_counters_start_again(tmp_path):
    first = zone(tmp_path, "intel-rapl:0", "package-0", 1_000_000)
    second = zone(tmp_path, "intel-rapl:1", "package-1", 250_000_000, most=260_000_000)
    inside = zone(tmp_path, "intel-rapl:0:0", "core", 0)
    board = zone(tmp_path, "intel-rapl:2", "psys", 0)
    energy = Energy(tmp_path)
    first.write_text("3500000\n")
    second.write_text("5000000\n")  # 10 J to the end, and 5 J from 0
    inside.write_text("900000000\n")
    board.write_text("900000000\n")
    assert energy.joules() == pytest.approx(2.5 + 15)
    second.write_text("4000000\n")  # once more round: 259 J
    assert energy.joules() == pytest.approx(2.5 + 15 + 259)


@pytest.mark.parametrize("case", ["no zones", "refused at first", "refused later", "not a number"])
def test_energy_that_cannot_be_read_is_left_out(tmp_path, case, monkeypatch):
    energy_file = zone(tmp_path, "intel-rapl:0", "package-0", 1_000_000)
    if case == "no zones":
        meter = Meter(tmp_path / "nowhere")
    elif case == "refused at first":  # root may read what has no rights, so the file is absent
        energy_file.unlink()
        meter = Meter(tmp_path)
    else:
        meter = Meter(tmp_path)
        assert meter.costs["package_joules"] == 0.0
        energy_file.write_text("?") if case == "not a number" else energy_file.unlink()
    meter.stop()
    assert "package_joules" not in meter.costs
    assert meter.costs["cpu_seconds"] >= 0


def test_a_node_counts_its_energy_once(tmp_path, monkeypatch):
    counter = zone(tmp_path, "intel-rapl:0", "package-0", 0)
    monkeypatch.setattr(costs, "place_on_node", lambda: (1, 2))
    other = Meter(tmp_path)
    monkeypatch.setattr(costs, "place_on_node", lambda: (0, 2))
    first = Meter(tmp_path)
    counter.write_text("7000000\n")
    joined = of_ranks([first.costs, other.costs])
    assert (joined["package_joules"], joined["ranks"]) == (7.0, 2)


def test_a_gpu_counts_while_the_process_holds_it(monkeypatch):
    held = SimpleNamespace(cuda=SimpleNamespace(is_initialized=lambda: True))
    monkeypatch.setitem(sys.modules, "torch", held)
    meter = Meter()
    time.sleep(0.02)
    meter.stop()
    assert meter.costs["gpu_seconds"] == pytest.approx(meter.seconds, rel=0.5)
    assert meter.costs["gpu_seconds"] >= 0.02
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace())  # as while it is imported
    assert Meter().costs["gpu_seconds"] == 0.0


def test_ranks_add_up_and_stages_share_their_memory():
    first = {"ranks": 1, "cpu_seconds": 2.0, "peak_memory_bytes": 30, "package_joules": 5.0}
    second = {"ranks": 1, "cpu_seconds": 3.0, "peak_memory_bytes": 20}
    assert of_ranks([first, second]) == {"ranks": 2, "cpu_seconds": 5.0, "peak_memory_bytes": 50}
    assert of_stages([first, second]) == {"ranks": 1, "cpu_seconds": 5.0, "peak_memory_bytes": 30}
    assert of_stages([first, {}]) == of_stages([]) == {}  # of a sum, one part is not known


def test_the_manifest_has_the_costs_of_the_work_and_a_kept_stage_those_of_its_run(tmp_path):
    def build(draft):
        burn(0.1)
        (draft.path / "rows").write_bytes(b"x" * 2_000_000)

    made = run_stage(tmp_path, "train", SETTINGS, INPUTS, build)
    assert made.manifest["costs"] == made.costs
    assert 0.1 <= made.costs["cpu_seconds"] < 1.5
    assert 2_000_000 <= made.costs["written_bytes"] < 2_010_000
    # Checksums, for which the file is read again, are not the stage's.
    assert made.costs["read_bytes"] < 2_000_000
    kept = run_stage(tmp_path, "train", SETTINGS, INPUTS, build)
    assert kept.cached
    assert kept.costs == made.costs


class WithAnother(SoloGroup):
    """A rank beside another one, whose costs are known."""

    def all_gather(self, value):
        mine = [value]
        return [*mine, ({}, OTHER)] if isinstance(value, tuple) else mine


OTHER = {"ranks": 1, "cpu_seconds": 5000.0, "peak_memory_bytes": 2**50, "gpu_seconds": 7.0}


def test_the_costs_of_all_ranks_and_of_interrupted_runs_are_added_up(tmp_path):
    earlier = {"ranks": 3, "cpu_seconds": 300.0, "peak_memory_bytes": 2**40, "gpu_seconds": 1.0}

    def build(draft):
        draft.costs_before = before

    before = [earlier]
    told = run_stage(tmp_path, "train", SETTINGS, INPUTS, build, group=WithAnother()).costs
    assert told.keys() == OTHER.keys()  # the other did not say what it read
    assert (told["ranks"], told["gpu_seconds"]) == (3, 8.0)
    assert 2**50 < told["peak_memory_bytes"] < 2**50 + 2**40
    assert 5300 <= told["cpu_seconds"] < 5310
    before = [{}]  # of a checkpoint that does not tell
    again = run_stage(tmp_path, "train", SETTINGS, INPUTS, build, group=WithAnother(), force=True)
    assert again.costs == {}
