"""The memory that a process may fill, where control groups limit it."""

import os

import pytest

from cadc_rec import machine

PHYSICAL = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Sets limits by file, and the groups of this process and of its parent."""
    monkeypatch.setattr(machine, "_GROUPS", tmp_path)

    def put(limits: dict[str, str], mine: str, parents: str) -> None:
        for file, text in limits.items():
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).write_text(text + "\n")
        told = {os.getpid(): mine, os.getppid(): parents}
        monkeypatch.setattr(machine, "_control_groups", told.__getitem__)

    return put


@pytest.mark.parametrize(
    ("line", "name"),
    [("0::{}", "{}/memory.max"), ("4:cpu,memory:{}", "memory/{}/memory.limit_in_bytes")],
)
def test_a_group_of_ones_own_is_not_divided_and_one_shared_with_the_launcher_is(line, name, groups):
    job, rank = (name.format(each).replace("//", "/") for each in ("job", "job/rank0"))
    mine, launchers = (line.format(f"/{each}") + "\n2:freezer:/x" for each in ("job/rank0", "job"))
    groups({job: str(8 << 20), rank: str(3 << 20)}, mine, launchers)
    assert machine.memory_bytes(2) == 3 << 20  # of the job's 8 each has 4
    assert machine.memory_bytes(4) == 2 << 20
    groups({}, mine, mine)
    assert machine.memory_bytes(2) == (3 << 20) // 2


def test_a_limit_is_divided_where_the_parents_group_cannot_be_read(groups):
    groups({"job/memory.max": str(8 << 20)}, "0::/job", "")
    assert machine.memory_bytes(2) == 4 << 20


def test_without_a_limit_it_is_a_part_of_the_machines(groups):
    groups({"job/memory.max": "max"}, "0::/job", "0::/job")
    assert machine.memory_bytes(3) == PHYSICAL // 3


def test_a_containers_limit_stands_at_the_root_whatever_the_host_calls_the_group(groups):
    groups({"memory.max": str(5 << 20)}, "0::/kubepods/pod7", "0::/kubepods/pod7")
    assert machine.memory_bytes() == 5 << 20
