"""TorchRec's contract for inference: the predict module, and the factory that makes it.

In: a trained model, the precision of its tables, the devices it is to be spread over. Out: what a
TorchRec predictor process expects: a module that takes ``id_list_features.lengths``,
``id_list_features.values`` and ``float_features`` and answers under ``"default"``.
"""

import contextlib
import logging
import typing
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from fbgemm_gpu.split_table_batched_embeddings_ops_inference import (
    IntNBitTableBatchedEmbeddingBagsCodegen,
)
from torch import nn
from torchrec import EmbeddingBagCollection, KeyedJaggedTensor
from torchrec.distributed.fused_params import (
    FUSED_PARAM_BOUNDS_CHECK_MODE,
    FUSED_PARAM_QUANT_STATE_DICT_SPLIT_SCALE_BIAS,
    FUSED_PARAM_REGISTER_TBE_BOOL,
)
from torchrec.distributed.global_settings import set_propogate_device
from torchrec.distributed.quant_embeddingbag import QuantEmbeddingBagCollectionSharder
from torchrec.distributed.types import BoundsCheckMode
from torchrec.fx import Tracer
from torchrec.inference.modules import (
    BatchingMetadata,
    PredictFactory,
    PredictModule,
    QualNameMetadata,
    assign_weights_to_tbe,
    get_table_to_weights_from_tbe,
    quantize_inference_model,
    shard_quant_model,
)
from torchrec.quant.embedding_modules import quant_prep_customize_row_alignment

from cadc_rec.errors import CadcError
from cadc_rec.export.known_ids import KnownIds
from cadc_rec.export.lists import ListScores
from cadc_rec.export.scripted import ScriptedTwoTower, ScriptedWithLists
from cadc_rec.export.towers import (
    HISTORY,
    ITEM,
    Collections,
    ItemTower,
    PairScores,
    QueryTower,
    item_keys,
    query_keys,
    request_keys,
)
from cadc_rec.export.trained import ItemForward, TrainedModel, UserForward
from cadc_rec.serving.bundle import layout

PRECISIONS = {"int8": torch.qint8, "int4": torch.quint4x2, "fp16": torch.float16}
LENGTHS, VALUES, FLOATS = "id_list_features.lengths", "id_list_features.values", "float_features"
ANSWER = "default"
# FX writes annotations into the code it generates: it knows no dict[...], and no annotations that
# are strings, which is why this file does without `from __future__ import annotations`.
Tensors = typing.Dict[str, torch.Tensor]  # noqa: UP006

_TABLES = IntNBitTableBatchedEmbeddingBagsCodegen.__name__
# `KnownIds` lets no id beyond a table through; this is a second look, which TorchRec's own settings
# leave out. fp16 has no scales to split off.
_SHARDED = {
    FUSED_PARAM_REGISTER_TBE_BOOL: True,
    FUSED_PARAM_BOUNDS_CHECK_MODE: BoundsCheckMode.WARNING,
    FUSED_PARAM_QUANT_STATE_DICT_SPLIT_SCALE_BIAS: False,
}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what torch warns of in TorchRec's and fbgemm's code while it is traced."""
    log = logging.getLogger("torch.fx._symbolic_trace")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The TorchScript type system doesn't support")
            warnings.filterwarnings("ignore", "TorchScript will treat type annotations")
            yield
    finally:
        log.setLevel(before)


class TwoTowerPredictModule(PredictModule):
    """Towers, or their scores, behind TorchRec's calling convention.

    Args:
        module: takes a `KeyedJaggedTensor` with its `keys`, gives one row each.
        rows: of the table of each key.
        device: where the tables are.
    """

    def __init__(
        self,
        module: QueryTower | ItemTower | PairScores,
        rows: Mapping[str, int],
        device: str = "cpu",
    ) -> None:
        super().__init__(module, device)
        self.keys = module.keys
        self.known = KnownIds([rows[key] for key in self.keys], device)

    def forward(self, batch: Tensors) -> Tensors:
        """`predict_forward` in inference mode; its types are what is scripted."""
        answer: dict[str, torch.Tensor] = super().forward(batch)
        return answer

    def predict_forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Answer a batch of n rows.

        Args:
            batch: ``id_list_features.lengths``, int32 ``[features * n]``, the rows of the first
                feature first; ``id_list_features.values``, int64 or int32, in the same order; on
                any device. The model has no ``float_features``: they may be there, and are not
                read.

        Returns:
            ``default``: float32 ``[n]`` scores, or ``[n, d]`` vectors of a tower alone; on the CPU,
            where TorchRec's server reads them.
        """
        known = self.known(batch[LENGTHS], batch[VALUES])
        request = KeyedJaggedTensor(keys=self.keys, values=known[1], lengths=known[0])
        return {ANSWER: self._module(request).float().cpu()}


class TwoTowerPredictFactory(PredictFactory):
    """Makes predict modules of a trained model, and says how they are to be called.

    Args:
        trained: the model.
        precision: of its tables: ``int8``, ``int4`` or ``fp16``.
        world_size: devices that the tables are spread over, each whole table on one.
        device: kind of device, ``cpu`` or ``cuda``; requests and dense layers are on the first.
        device_memory: bytes a device may hold; default what it has.
    """

    def __init__(
        self,
        trained: TrainedModel,
        precision: str = "int8",
        world_size: int = 1,
        device: str = "cpu",
        device_memory: int | None = None,
    ) -> None:
        if precision not in PRECISIONS:
            raise CadcError(f"precision {precision!r}: choose one of {', '.join(PRECISIONS)}.")
        self.trained, self.precision = trained, precision
        self.world_size, self.device, self.device_memory = world_size, device, device_memory
        listed = trained.listed
        self.lists = None if listed is None else ListScores(listed).to(device)
        self._traced: dict[nn.Module, nn.Module] = {}  # dense layers, once for all that share them

    def table_bytes(self) -> int:
        """What the quantized tables take, scales included."""
        weights = get_table_to_weights_from_tbe(self._tables()).values()
        parts = [part for pair in weights for part in pair if part is not None]
        return sum(part.numel() * part.element_size() for part in parts)

    def create_predict_module(self) -> TwoTowerPredictModule:
        """The pair scores over quantized tables; sharded where there are several devices."""
        return self._predict(self._towers(self._tables()))

    def _predict(self, part: PairScores | QueryTower | ItemTower) -> TwoTowerPredictModule:
        rows = {feature["name"]: feature["rows"] for feature in self.features()}
        return TwoTowerPredictModule(part, rows, self.device)

    def _tables(self) -> Collections:
        tables: nn.Module = Collections(self.trained)
        if (
            self.device == "cpu"
        ):  # vector registers of a GPU want rows of 16 bytes; here they need not
            quant_prep_customize_row_alignment(tables, [EmbeddingBagCollection], 1)
        tables = quantize_inference_model(tables, quantization_dtype=PRECISIONS[self.precision])
        if self.world_size > 1 or self.device != "cpu":
            # Quantized on the CPU, so that no device needs room for whole float tables.
            tables = self._sharded(tables)
        assert isinstance(tables, Collections)
        return tables

    def _sharded(self, tables: nn.Module) -> nn.Module:
        """Spread over devices. Shards come empty: the weights are put back by table."""
        weights = get_table_to_weights_from_tbe(tables)
        set_propogate_device(True)
        sharder = QuantEmbeddingBagCollectionSharder(fused_params=_SHARDED)
        sharded, _ = shard_quant_model(
            tables,
            world_size=self.world_size,
            compute_device=self.device,
            sharding_device=self.device,
            sharders=[sharder],
            device_memory_size=self.device_memory,
        )
        assign_weights_to_tbe(sharded, weights)
        return sharded

    def dense_layers(self) -> tuple[UserForward, ItemForward]:
        """The layers behind the tables of either side, on the device."""
        model, device = self.trained.model, torch.device(self.device)
        return UserForward(model).on(device), ItemForward(model).on(device)

    def _towers(self, tables: Collections) -> PairScores:
        of_users, of_items = self.dense_layers()
        device = torch.device(self.device)
        query = QueryTower(self.trained, tables, of_users, device)
        item = ItemTower(self.trained, tables, of_items, device)
        pairs = PairScores(query, item, self.lists)
        # The first call fixes the order of features; made while tracing, it would fix a proxy.
        lengths = torch.zeros(len(pairs.keys), dtype=torch.int32, device=self.device)
        pairs(KeyedJaggedTensor(keys=pairs.keys, values=lengths[:0].long(), lengths=lengths))
        return pairs

    def batching_metadata(self) -> dict[str, BatchingMetadata]:
        """How rows of several requests are joined into one batch."""
        return {
            FLOATS: BatchingMetadata(type="dense", device=self.device, pinned=[]),
            "id_list_features": BatchingMetadata(
                type="sparse", device=self.device, pinned=["lengths", "values"]
            ),
        }

    def result_metadata(self) -> str:
        """How an answer is divided among requests."""
        return "dict_of_tensor"

    def qualname_metadata(self) -> dict[str, QualNameMetadata]:
        """Further methods of the scripted module, see `ScriptedTwoTower`."""
        named = ["query_vectors", "item_vectors"]
        if self.lists is not None:
            named += ["list_scores", "all_list_scores"]
        return {name: QualNameMetadata(need_preproc=False) for name in named}

    def model_inputs_data(self) -> dict[str, Any]:
        """Features in order, the rows of their tables, and the most ids a row has of each."""
        return {"id_list_features": self.features(), FLOATS: {"width": 0}}

    def features(self) -> list[dict[str, Any]]:
        """The features of a request, in order."""
        trained, found = self.trained, []
        for side in (trained.user, trained.item):
            found.append({"name": side.name, "rows": side.rows, "most": 1})
            for table, attribute in zip(side.features, side.attributes, strict=True):
                most = None if attribute.kind == "multi" else 1
                found.append({"name": table.name, "rows": len(table.weight), "most": most})
            if side is trained.user and trained.history_length:
                found.append(
                    {"name": "history", "rows": trained.item.rows, "most": trained.history_length}
                )
            if side is trained.user:
                for key, size in zip(request_keys(trained), trained.request.values(), strict=True):
                    found.append({"name": key, "rows": size, "most": 1})
        return found

    def run_weights_independent_tranformations(self, predict_module: nn.Module) -> nn.Module:
        """Trace the module; lookups and dense layers stay whole. The name is TorchRec's."""
        own = [module.__name__ for module in (UserForward, ItemForward, ListScores, KnownIds)]
        tracer = Tracer(leaf_modules=[_TABLES, *own])
        with _quiet():
            return torch.fx.GraphModule(predict_module, tracer.trace(predict_module))

    def run_weights_dependent_transformations(self, predict_module: nn.Module) -> nn.Module:
        """Script what was traced by the step before."""
        for name, layers in list(predict_module.named_modules()):
            if isinstance(layers, (UserForward, ItemForward)):
                parent, _, own = name.rpartition(".")
                if layers not in self._traced:
                    # Unchecked: torch would compare bits, and conjugate gradients differ in theirs.
                    rows = tuple(each.to(self.device) for each in layers.example(self.trained))
                    self._traced[layers] = torch.jit.trace(layers, rows, check_trace=False)
                setattr(predict_module.get_submodule(parent), own, self._traced[layers])
        with _quiet():
            return torch.jit.script(predict_module)

    def scripted(self) -> torch.jit.ScriptModule:
        """The whole model for a process without Python: scores, and each tower's vectors."""
        pairs = self._towers(self._tables())
        scores, query, item = (
            self.run_weights_dependent_transformations(
                self.run_weights_independent_tranformations(self._predict(part))
            )
            for part in (pairs, pairs.query, pairs.item)
        )
        with _quiet():
            features = len(pairs.keys)
            if self.lists is None:
                return torch.jit.script(ScriptedTwoTower(scores, query, item, features))
            return torch.jit.script(ScriptedWithLists(scores, query, item, features, self.lists))


def require_device(device: str) -> None:
    """Raise if modules for `device` cannot be made here.

    Raises:
        CadcError: it is ``cuda``, and there is no GPU that torch can use.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise CadcError(
            "--device cuda: torch finds no GPU here, and the tables are placed on one; export on a "
            "machine that has one (`cadc-rec doctor` says what it finds)."
        )


def write_modules(
    trained: TrainedModel, folder: Path, precisions: Sequence[str], device: str = "cpu"
) -> dict[str, Any]:
    """Write a scripted module for each precision; the entry ``torchrec`` of ``model.json``.

    Args:
        trained: the model.
        folder: the bundle's.
        precisions: of the tables.
        device: where the tables are.

    Raises:
        CadcError: there is no such device here.
    """
    require_device(device)
    files = {}
    for precision in precisions:
        factory = TwoTowerPredictFactory(trained, precision, device=device)
        file = folder / layout.torchrec_module(precision)
        file.parent.mkdir(exist_ok=True)
        torch.jit.save(factory.scripted(), file)
        files[precision] = {
            "file": layout.torchrec_module(precision),
            "table_bytes": factory.table_bytes(),
        }
    features = {feature["name"]: feature for feature in factory.features()}
    return {
        "device": device,
        "precisions": files,
        "float_table_bytes": sum(4 * table.weight.numel() for table in trained.tables),
        "inputs": [
            {"name": LENGTHS, "dtype": "int32", "shape": ["features * batch"]},
            {"name": VALUES, "dtype": "int64", "shape": ["values"]},
            {"name": FLOATS, "dtype": "float32", "shape": ["batch", 0]},
        ],
        "outputs": [{"name": ANSWER, "dtype": "float32"}],
        "methods": {
            "forward": [features[key] for key in (*query_keys(trained), *item_keys(trained))],
            "query_vectors": [features[key] for key in query_keys(trained)],
            "item_vectors": [features[key] for key in item_keys(trained)],
            **({} if trained.listed is None else _of_lists(features)),
        },
        "batching": {k: vars(v) for k, v in factory.batching_metadata().items()},
        "result": factory.result_metadata(),
    }


def _of_lists(features: Mapping[str, Any]) -> dict[str, Any]:
    """What the methods of `ScriptedWithLists` take."""
    candidates = {**features[ITEM], "most": None}
    return {
        "list_scores": [features[HISTORY], candidates],
        "all_list_scores": [features[HISTORY]],
    }
