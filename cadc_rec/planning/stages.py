"""What each stage holds of a process's host memory, libraries included.

In: the plan of pre-training and of the towers, sizes, settings. Out: bytes by stage, of the process
that holds most. Bytes of arrays are counted from their types; what libraries and the engine's rows
take was measured (`tools/row_memory.py`). Pages of mapped files are no part of it: the kernel takes
them back when memory is short. On GPUs the stages that train and rank are left out, since what CUDA
itself holds of the host's memory was not measured.
"""

from __future__ import annotations

from collections.abc import Iterable

from cadc_rec.config.experiment import Experiment
from cadc_rec.config.types import parse_memory
from cadc_rec.data.engine import MEMORY_CEILING, MEMORY_SHARE
from cadc_rec.data.select.sizes import wanted_rows
from cadc_rec.models.id_embedding import FrozenIds
from cadc_rec.models.two_tower import TwoTower
from cadc_rec.planning.layout import RankMemory
from cadc_rec.planning.pretraining import PretrainPlan
from cadc_rec.planning.selection import selection_bytes
from cadc_rec.planning.sizes import Machines, Sizes
from cadc_rec.planning.transitions import transition_bytes
from cadc_rec.training.kept import frozen_cache

_FLOAT, _ID = 4, 4
_LIBRARIES = {"prepare": 330, "transitions": 340, "select": 400, "pretrain": 380, "train": 400}
_LIBRARIES |= {"evaluate": 375}  # MiB, with little data
_RAW_ROW = 42  # bytes of a row in the preparing engine, as long as they fit into its memory
_USER = 220  # of one that is ranked: rows, targets, ranks, and what is held while it is written
_EXAMPLE = 3 * _ID


def host_by_stage(
    experiment: Experiment,
    sizes: Sizes,
    machines: Machines,
    pretrain: PretrainPlan | None,
    module: TwoTower | None,
    ranks: Iterable[RankMemory],
    validation: int,
) -> dict[str, int]:
    """Bytes by stage.

    Args:
        experiment: the settings.
        sizes: ids, and interactions.
        machines: the processes.
        pretrain: its plan.
        module: the towers, on the meta device; None without.
        ranks: what each holds of them.
        validation: what each holds beside while it ranks.
    """
    rows, world = sizes.interactions, machines.world_size
    limit = experiment.data.memory
    engine = parse_memory(limit) if limit else _engine(machines)
    found = {"prepare": min(engine, _RAW_ROW * rows) if rows else engine}
    width = experiment.pretrain.factors + 1
    found["select"] = selection_bytes(
        experiment.select, sizes, world, width, experiment.history.length
    )
    if experiment.transitions.window:
        found["transitions"] = transition_bytes(experiment.transitions, sizes, world)
    if machines.device == "cpu":
        if pretrain is not None:
            found["pretrain"] = pretrain.most
        if module is not None:
            most = max((rank.total for rank in ranks), default=0) + validation
            found["train"] = most + _of_examples(experiment, sizes, machines, module)
            tables = max((rank.tables + rank.mlps + rank.attributes for rank in ranks), default=0)
            found["evaluate"] = tables + validation + _USER * sizes.users
    return {
        stage: (_LIBRARIES[stage] << 20) + found[stage] for stage in _LIBRARIES if stage in found
    }


def _engine(machines: Machines) -> int:
    """What prepare's engine takes: it runs on one process, which asks for the whole machine's."""
    whole = machines.host_bytes * machines.local_world_size
    return min(int(MEMORY_SHARE * whole), MEMORY_CEILING)


def _of_examples(experiment: Experiment, sizes: Sizes, machines: Machines, module: TwoTower) -> int:
    """A rank's rows of D_sel, their histories, and the frozen vectors that it keeps of these."""
    if not sizes.interactions:
        return 0
    total, world = wanted_rows(experiment.select, sizes.interactions), machines.world_size
    mine, room = -(-total // world), frozen_cache(experiment, machines.memory)
    length = experiment.history.length
    held = mine * (_EXAMPLE + _ID * length)
    frozen = isinstance(module.user.ids, FrozenIds) and world > 1
    users = min(sizes.users, mine) * experiment.model.id_dim * _FLOAT if frozen else 0
    users = users if users <= room else 0
    histories = mine * module.history_width * _FLOAT if length else 0
    histories = histories if histories <= room else 0
    # Rows are read from Parquet and copied; those of users are fetched in pieces and joined.
    return max(2 * held, held + 2 * users, held + users + histories)
