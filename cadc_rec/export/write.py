"""Fills a bundle: everything that answers requests with the state in which it was evaluated.

In: an experiment, its artifacts, and the optional parts that are wanted. Out: a bundle's folder,
complete or not at all.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np
from safetensors.numpy import load_file, save

from cadc_rec import strict_json
from cadc_rec.config.experiment import Experiment
from cadc_rec.data.context import request_codes, requests_of_test_items
from cadc_rec.data.dataset import Dataset
from cadc_rec.data.recent_popularity import LatestScores
from cadc_rec.data.request_codes import RequestCodes
from cadc_rec.data.transition_lists import ListedScores
from cadc_rec.data.user_items import UserItems
from cadc_rec.export.card import card_data, card_page, limits_of
from cadc_rec.export.index import IndexKind, write_index
from cadc_rec.export.new_items import NewItemProgram, NewItems, new_item_program
from cadc_rec.export.newcomers import newcomer_program
from cadc_rec.export.programs import Program, compile_program, save_program, tower_programs
from cadc_rec.export.recorded import recorded_requests
from cadc_rec.export.trained import TrainedModel, trained_towers
from cadc_rec.log import track
from cadc_rec.pretrain.id_tables import Pretrained
from cadc_rec.pretrain.prior_fit import FittedPrior
from cadc_rec.serving.bundle import layout
from cadc_rec.serving.bundle.bundle import manifest_of
from cadc_rec.serving.bundle.signing import signature_of
from cadc_rec.store.artifact import Artifact
from cadc_rec.store.atomic import commit, folder_to_fill
from cadc_rec.versions import library_versions

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


@dataclass(frozen=True)
class Wanted:
    """The optional parts of a bundle, and how to write it.

    Attributes:
        index: kind of the FAISS index.
        precisions: a TorchRec module for each of these: ``int8``, ``int4``, ``fp16``.
        aot: compile the float programs too.
        key: private key that signs the manifest; None signs nothing.
        replace: whether an existing bundle may be replaced.
    """

    index: IndexKind = "auto"
    precisions: Sequence[str] = ()
    aot: bool = False
    key: Ed25519PrivateKey | None = None
    replace: bool = False


@dataclass(frozen=True)
class Finished:
    """A finished experiment.

    Attributes:
        experiment: its settings.
        artifacts: by stage.
        dataset: the prepared data.
        pretrained: pre-trained vectors where there are any.
        update: the update that the artifacts are of, for people: its ``day``, its ``number``, how
            many there are (``of``) and all that as ``text``; None for a run.
    """

    experiment: Experiment
    artifacts: Mapping[str, Artifact]
    dataset: Dataset
    pretrained: Pretrained
    update: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        """What its bundle is called."""
        e = self.experiment
        update = f"-update{self.update['number']}" if self.update else ""
        return f"{e.data.source}-{e.method}-seed{e.seed}{update}"

    def trained(self) -> TrainedModel | None:
        """The towers; None if tables are scored without any."""
        return trained_towers(
            self.experiment, self.artifacts, self.dataset, self.pretrained, self.listed()
        )

    def known(self) -> UserItems:
        """The items left out of a test item's candidates, for each user in order of time."""
        train = UserItems(self.dataset.user_indptr, self.dataset.train_item)
        return train.and_one_each(self.dataset.val_item)

    @cached_property
    def new_items(self) -> NewItems:
        """What gives vectors to items that no table has a row of."""
        learned = self.new_item_program
        widths = [] if learned is None else learned.widths
        data = self.dataset
        made = NewItems(
            data.item_attributes,
            self.vectors("item"),
            learned,
            widths,
            known_dense=data.item_dense,
        )
        return replace(made, gain=made.gain_for(self.vectors("user")))

    @cached_property
    def new_item_program(self) -> NewItemProgram | None:
        """What gives the learned part of their vectors, where anything reads attributes."""
        trained = self.trained()
        every = self.dataset.every_item_attributes()
        return None if trained is None else new_item_program(trained, every)

    def untaken(self) -> np.ndarray:
        """Vectors of the items that nobody took yet; zeros where a vector counts who took it."""
        count, known = self.dataset.n_untaken, self.vectors("item")
        if not count or self.experiment.pretrain.model == "popularity":
            return np.zeros((count, known.shape[1]), np.float32)
        data = self.dataset
        return self.new_items.vectors_of(data.untaken_attributes(), count, data.untaken_dense())

    def fitted(self) -> FittedPrior | None:
        """What was chosen of the prior; None where its settings stand."""
        made = self.artifacts.get("prior")
        return None if made is None else FittedPrior.open(made.path)

    def listed(self) -> ListedScores | None:
        """The scores that came on top of dot products when the test items were ranked."""
        stages = [stage for stage in ("evaluate", "transitions") if stage in self.artifacts]
        folders = [self.artifacts[stage].path for stage in stages]
        return ListedScores.of_evaluation(self.artifacts["evaluate"].info, folders)

    @cached_property
    def codes(self) -> RequestCodes | None:
        """What makes the codes of requests; None where no context had a part in the ranking."""
        features = self.artifacts["evaluate"].info.get("context")
        return request_codes(self.dataset, features) if features else None

    @cached_property
    def latest(self) -> LatestScores:
        """What had been taken just before the log ended, where that has a part in the score."""
        data, info = self.dataset, self.artifacts["evaluate"].info
        return LatestScores.of_evaluation(info, data.train_timestamp, data.train_item, data.n_items)

    def vectors(self, side: str) -> np.ndarray:
        """The vectors of ``user`` or ``item`` that ranked the test items, and what is `latest`."""
        vectors = self._evaluated(side)
        return self.latest.of_users(vectors) if side == "user" else self.latest.of_items(vectors)

    def every_item(self) -> np.ndarray:
        """The same of all items, those that nobody took yet last."""
        return np.concatenate([self.vectors("item"), self.untaken()])

    def _evaluated(self, side: str) -> np.ndarray:
        file = self.artifacts["evaluate"].path / f"{side}_vectors.safetensors"
        return load_file(file)["vectors"]


def write_bundle(finished: Finished, out: Path, wanted: Wanted) -> dict[str, Any]:
    """Write the bundle of a finished experiment to `out`.

    Returns:
        Its manifest.

    Raises:
        CadcError: `out` exists or cannot be written, or an optional part cannot be made.
    """
    experiment = finished.experiment
    with folder_to_fill(out, replace=wanted.replace) as folder:
        for file in (layout.ITEM_VECTORS, layout.INDEX, layout.QUERY):
            (folder / file).parent.mkdir()
        with track("export", 5, "parts") as ticker:
            _write_data(finished, folder)
            ticker.advance(1, "vectors and ids")
            described = {"index": _write_index_and_test(finished, folder, wanted.index)}
            ticker.advance(1, "index")
            trained = finished.trained()
            programs = {} if trained is None else tower_programs(trained, finished.latest.scores)
            if finished.new_item_program is not None:
                programs["new_item"] = finished.new_item_program.program()
            made = finished.new_items
            described["new_items"] = {"codes": list(made.widths), "gain": made.gain}
            programs["newcomer"] = newcomer_program(
                experiment.prior,
                experiment.history,
                experiment.pretrain.model == "als",
                finished.dataset,
                trained,
                finished.pretrained,
                finished.vectors("item"),
                finished.fitted(),
                finished.latest.scores is not None,
            )
            width = finished.vectors("item").shape[1]
            described["programs"] = _write_programs(programs, width, folder, wanted.aot)
            ticker.advance(1, "programs")
            described["torchrec"] = _write_modules(trained, folder, wanted.precisions)
            ticker.advance(1, "TorchRec modules")
            _write_descriptions(finished, described, folder)
            inputs = {stage: made.fingerprint for stage, made in finished.artifacts.items()}
            created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            manifest = manifest_of(folder, finished.name, inputs, library_versions(), created)
            contents = strict_json.dumps(manifest, indent=2) + "\n"
            (folder / layout.MANIFEST).write_text(contents, "utf-8")
            if wanted.key is not None:
                signature = signature_of(contents.encode(), wanted.key)
                (folder / layout.SIGNATURE).write_text(signature, "utf-8")
            commit(folder, out)
            ticker.advance(1, "manifest")
    return manifest


def _write_data(finished: Finished, folder: Path) -> None:
    evaluated, prepared = finished.artifacts["evaluate"].path, finished.artifacts["prepare"].path
    changed = finished.latest.scores is not None
    for side, name, of_all in (
        ("user", layout.USER_VECTORS, changed),
        ("item", layout.ITEM_VECTORS, changed or finished.dataset.n_untaken),
    ):
        if of_all:
            vectors = finished.vectors(side) if side == "user" else finished.every_item()
            (folder / name).write_bytes(save({"vectors": vectors}))
        else:
            shutil.copyfile(evaluated / f"{side}_vectors.safetensors", folder / name)
    for source, name in (
        (prepared / "users.parquet", layout.USERS),
        (prepared / "items.parquet", layout.ITEMS),
        (prepared / "attributes.json", layout.ATTRIBUTES),
    ):
        shutil.copyfile(source, folder / name)
    listed = finished.listed()
    if listed is not None:
        listed.lists.save(folder / layout.LISTS)
    if finished.codes is not None:
        _write_json(folder / layout.CONTEXT, finished.codes.described())
        if of_users := finished.codes.arrays():
            (folder / layout.LAST).write_bytes(save(of_users))
    known = finished.known()
    taken = known.items.astype(np.int32)
    every = finished.dataset.n_items + finished.dataset.n_untaken
    arrays = {
        "indptr": known.indptr.astype(np.int64),
        "items": taken,
        "popularity": np.bincount(taken, minlength=every).astype(np.int64),
    }
    (folder / layout.KNOWN).write_bytes(save(arrays))  # save_file would hide it from other users


def _write_index_and_test(finished: Finished, folder: Path, kind: IndexKind) -> dict[str, Any]:
    """Write the index, and with it the self-test; describe the index."""
    users, items = finished.vectors("user"), finished.vectors("item")
    described = write_index(items, kind, folder / layout.INDEX)
    index = None
    if described["kind"] != "exact":
        contents = np.frombuffer((folder / layout.INDEX).read_bytes(), np.uint8)
        index = faiss.deserialize_index(contents)
    data = finished.dataset
    recorded = recorded_requests(
        users,
        items,
        finished.known(),
        data.user_ids(),
        data.item_ids(),
        index,
        finished.listed(),
        None if finished.codes is None else requests_of_test_items(data, finished.codes),
    )
    _write_json(folder / layout.SELF_TEST, recorded)
    return {**described, "file": layout.INDEX, "recall": recorded["recall"]}


def _write_programs(
    programs: Mapping[str, Program], width: int, folder: Path, aot: bool
) -> dict[str, Any]:
    described = {}
    for name, program in programs.items():
        exported = program.exported()
        described[name] = {
            "file": layout.PROGRAMS[name],
            "inputs": [
                {
                    "name": given,
                    "dtype": "float32" if given in program.floats else "int64",
                    "shape": ["batch", *shape],
                }
                for given, shape in program.inputs.items()
            ],
            "outputs": [
                {"name": "vectors", "dtype": "float32", "shape": ["batch", program.width or width]}
            ],
        }
        if aot:
            compile_program(exported, folder / layout.compiled(name))
            described[name]["compiled"] = layout.compiled(name)
        save_program(exported, folder / layout.PROGRAMS[name])
    return described


def _write_modules(
    trained: TrainedModel | None, folder: Path, precisions: Sequence[str]
) -> dict[str, Any]:
    if trained is None or not precisions:
        return {}
    from cadc_rec.export.predict import write_modules

    return write_modules(trained, folder, precisions)


def _write_descriptions(finished: Finished, described: dict[str, Any], folder: Path) -> None:
    card = card_data(finished.experiment, finished.artifacts, finished.update)
    # Tables alone can have a history too: that of the prior.
    length, listed = finished.experiment.history.length, finished.listed()
    model = {
        "method": finished.experiment.method,
        "seed": finished.experiment.seed,
        **({} if finished.update is None else {"update": dict(finished.update)}),
        "users": finished.dataset.n_users,
        "items": finished.dataset.n_items,
        "untaken_items": finished.dataset.n_untaken,
        "dim": finished.vectors("item").shape[1],
        "history_length": length,
        "normalize_ids": list(finished.experiment.data.id_forms),
        "metrics": card["test"],
        **({} if listed is None else {"lists": listed.settings()}),
        **({} if finished.codes is None else {"context": finished.codes.inputs()}),
        **described,
    }
    _write_json(folder / layout.MODEL, model)
    _write_json(folder / layout.CARD_DATA, card)
    page = card_page(finished.name, card, limits_of(length))
    (folder / layout.CARD).write_text(page, "utf-8")


def _write_json(file: Path, value: Any) -> None:
    file.write_text(strict_json.dumps(value, indent=2) + "\n", "utf-8")
