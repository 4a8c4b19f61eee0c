"""Tables alone with lists, on two ranks as on one."""

import pyarrow.parquet as pq
import pytest

from tests import zygote

SETS = ("data.generated.users=260", "data.generated.interactions=3000", "pretrain.factors=7",
        "transitions.form=lists", "prior.fit=validation", "prior.recent=true")  # fmt: skip


def ranks(workdir):
    (made,) = (workdir / "evaluate").iterdir()
    return [pq.read_table(made / f"{name}ranks.parquet") for name in ("", "validation_")]


@pytest.mark.distributed
@pytest.mark.slow
def test_two_ranks_rank_as_one(tiny, spawn, tmp_path):
    told = ["run", tiny, "--method", "prior", *(part for one in SETS for part in ("--set", one))]
    port = zygote.free_port()
    alone = spawn(*told, "--workdir", tmp_path / "one")
    pair = [
        spawn(*told, "--workdir", tmp_path / "two", **zygote.of_rank(rank, 2, port))
        for rank in range(2)
    ]
    for process in (alone, *pair):
        _, said = process.communicate(120)
        assert process.returncode == 0, said
    assert ranks(tmp_path / "one") == ranks(tmp_path / "two")
