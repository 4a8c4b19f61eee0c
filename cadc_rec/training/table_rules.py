"""How every table of a two-tower model may be sharded and stored, by the experiment's settings.

In: a model, its tables on the meta device. Out: a rule for each table. Both what is trained and
what `cadc-rec plan` prints come from here.
"""

from __future__ import annotations

from cadc_rec.config.experiment import ShardingConfig
from cadc_rec.distributed.planner import TableRule
from cadc_rec.errors import CadcError
from cadc_rec.models.id_embedding import HybridIds
from cadc_rec.models.two_tower import TwoTower


def table_rules(model: TwoTower, config: ShardingConfig, world_size: int) -> dict[str, TableRule]:
    """Table name to its rule.

    Args:
        model: two towers.
        config: sharding types and kernels.
        world_size: processes in all.
    """
    frozen = config.frozen
    if frozen == "auto" and world_size == 1 and config.frozen_kernel == "auto":
        # Nothing to divide: the planner's choice would pay for exchanges with nobody.
        frozen = "data_parallel"
    share = config.cache_share
    of_frozen = TableRule(frozen, config.frozen_kernel, share, config.frozen_storage)
    of_trained = TableRule(config.trainable, config.trainable_kernel, share)
    rules: dict[str, TableRule] = {}
    for side, tower in (("user", model.user), ("item", model.item)):
        rules[side] = of_frozen if tower.ids.frozen else of_trained
        if isinstance(tower.ids, HybridIds):
            rules[tower.ids.free_name] = of_trained
        if tower.features is not None:
            # A few hundred rows: copying them to every rank is cheaper than sending lookups.
            rules.update(dict.fromkeys(tower.features.names, TableRule("data_parallel")))
    frozen_tables = model.frozen_tables()
    for prefix in ("sources", "targets"):
        if prefix in frozen_tables:
            rules[frozen_tables[prefix].name] = rules["item"]
    return rules


def store_frozen_tables(model: TwoTower, config: ShardingConfig) -> None:
    """Before wrapping: have frozen tables stored as ``sharding.frozen_storage`` says.

    Raises:
        CadcError: as int8, which no table of a training can be yet.
    """
    if config.frozen_storage == "int8":
        raise CadcError(
            "sharding.frozen_storage = 'int8' can be planned (cadc-rec plan) and not yet be "
            "trained with; set it to 'fp16' or 'fp32'."
        )
    if config.frozen_storage == "fp16":
        for table in model.frozen_tables().values():
            table.store_as_half()
