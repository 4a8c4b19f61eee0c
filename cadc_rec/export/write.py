"""Fills a bundle: everything that answers requests with the state in which it was evaluated.

In: an experiment, its artifacts, and the optional parts that are wanted. Out: a bundle's folder,
complete or not at all.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np
import pyarrow.parquet as pq
import torch
from safetensors.numpy import save

from cadc_rec import strict_json
from cadc_rec.data.dense import DESCRIBED, table_file
from cadc_rec.distributed.row_files import file_header
from cadc_rec.errors import CadcError
from cadc_rec.export.card import card_data, card_page, limits_of
from cadc_rec.export.finished import Finished
from cadc_rec.export.index import IndexKind, write_index
from cadc_rec.export.new_users import widths_of
from cadc_rec.export.programs import Program, compile_program, save_program, tower_programs
from cadc_rec.export.recorded import recorded_requests
from cadc_rec.export.trained import TrainedModel
from cadc_rec.export.withheld import Withheld
from cadc_rec.log import log, track
from cadc_rec.serving.bundle import layout
from cadc_rec.serving.bundle.bundle import manifest_of
from cadc_rec.serving.bundle.signing import signature_of
from cadc_rec.serving.predict.ids import id_arrays
from cadc_rec.serving.predict.texts import Texts
from cadc_rec.store.atomic import commit, folder_to_fill
from cadc_rec.versions import library_versions

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_BLOCK = 2**16  # vectors that are written at once


@dataclass(frozen=True)
class Wanted:
    """The optional parts of a bundle, and how to write it.

    Attributes:
        index: kind of the FAISS index.
        precisions: a TorchRec module for each of these: ``int8``, ``int4``, ``fp16``.
        device: where these modules have their tables: ``cpu`` or ``cuda``.
        aot: compile the float programs too.
        key: private key that signs the manifest; None signs nothing.
        replace: whether an existing bundle may be replaced.
        withheld: items that are left out of all answers.
    """

    index: IndexKind = "auto"
    precisions: Sequence[str] = ()
    device: str = "cpu"
    aot: bool = False
    key: Ed25519PrivateKey | None = None
    replace: bool = False
    withheld: Withheld = field(default_factory=Withheld)


def write_bundle(finished: Finished, out: Path, wanted: Wanted) -> dict[str, Any]:
    """Write the bundle of a finished experiment to `out`.

    Returns:
        Its manifest.

    Raises:
        CadcError: `out` exists or cannot be written, or an optional part cannot be made.
    """
    with folder_to_fill(out, replace=wanted.replace) as folder:
        for file in (layout.ITEM_VECTORS, layout.INDEX, layout.QUERY):
            (folder / file).parent.mkdir()
        with track("export", 5, "parts") as ticker:
            _write_data(finished, folder)
            withheld = _write_withheld(finished, folder, wanted.withheld)
            ticker.advance(1, "vectors and ids")
            described: dict[str, Any] = {
                "index": _write_index_and_test(finished, folder, wanted.index, withheld)
            }
            ticker.advance(1, "index")
            trained = finished.trained()
            programs = {} if trained is None else tower_programs(trained, finished.latest.scores)
            if finished.new_item_program is not None:
                programs["new_item"] = finished.new_item_program.program()
            made = finished.new_items
            described["new_items"] = {"codes": list(made.widths), "gain": made.gain}
            if finished.new_user_program is not None:
                programs["new_user"] = finished.new_user_program
            described["new_users"] = {"codes": widths_of(finished.new_user_program)}
            programs["newcomer"] = finished.newcomer_program
            described["sessions"] = finished.sessions
            width = finished.vectors("item").shape[1]
            described["programs"] = _write_programs(programs, width, folder, wanted.aot)
            ticker.advance(1, "programs")
            described["torchrec"] = _write_modules(trained, folder, wanted)
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
        ("user", layout.USER_VECTORS, changed or finished.state == "production"),
        ("item", layout.ITEM_VECTORS, changed or finished.dataset.n_untaken),
    ):
        if of_all:
            more = [] if side == "user" else [finished.untaken()]
            write_vectors(folder / name, [finished.vectors(side), *more])
        else:
            shutil.copyfile(evaluated / f"{side}_vectors.safetensors", folder / name)
    for source, name in (
        (prepared / "users.parquet", layout.USERS),
        (prepared / "items.parquet", layout.ITEMS),
        (prepared / "attributes.json", layout.ATTRIBUTES),
        (prepared / DESCRIBED, layout.DENSE),
    ):
        if source.exists():  # few datasets have vectors or numbers
            shutil.copyfile(source, folder / name)
    _write_ids(prepared, folder)
    vectors = [table for table in finished.dataset.item_dense if table.kind == "vector"]
    for place, table in enumerate(vectors):
        file = folder / layout.item_content(place)
        file.parent.mkdir(exist_ok=True)
        shutil.copyfile(table_file(prepared, "item", table.name), file)
    _write_json(folder / layout.COLUMNS, finished.columns.to_json())
    listed = finished.listed()
    if listed is not None:
        listed.lists.save(folder / layout.LISTS)
    recent = finished.recent_rows()
    if recent is not None:
        (folder / layout.RECENT).write_bytes(save(recent[1]))
    if finished.codes is not None:
        _write_json(folder / layout.CONTEXT, finished.codes.described())
        if of_users := finished.codes.arrays():
            (folder / layout.LAST).write_bytes(save(of_users))
    known = finished.known
    taken = known.items.astype(np.int32)
    every = finished.dataset.n_items + finished.dataset.n_untaken
    arrays = {
        "indptr": known.indptr.astype(np.int64),
        "items": taken,
        "popularity": np.bincount(taken, minlength=every).astype(np.int64),
    }
    if listed is not None:
        arrays["held_out"] = finished.held_out
    (folder / layout.KNOWN).write_bytes(save(arrays))  # save_file would hide it from other users


def write_vectors(file: Path, parts: Sequence[np.ndarray]) -> None:
    """Write parts of vectors one after the other to the bytes of safetensors, which copies them.

    Args:
        file: receives float32 ``[n, d]`` as ``vectors``.
        parts: float32 ``[m, d]`` each.
    """
    shape = sum(map(len, parts)), parts[0].shape[1]
    with file.open("wb") as opened:
        opened.write(file_header({"vectors": (torch.float32, shape)}))
        for part in parts:
            for start in range(0, len(part), _BLOCK):
                block = np.ascontiguousarray(part[start : start + _BLOCK], np.float32)
                opened.write(block.data)


def _write_withheld(finished: Finished, folder: Path, wanted: Withheld) -> np.ndarray:
    """Write the rows of the items that are left out of all answers, if any are.

    Raises:
        CadcError: none is left.
    """
    ids = pq.read_table(folder / layout.ITEMS, columns=["item_id"])["item_id"]
    forms = finished.experiment.data.id_forms
    rows, sold_out = wanted.rows(ids, forms), wanted.sold_out_rows(ids, forms)
    every = np.union1d(rows, sold_out)
    if len(every) == len(ids):
        raise CadcError("--available leaves no item to recommend; leave it out.")
    if len(every):
        arrays = {"rows": rows, **({"sold_out": sold_out} if len(sold_out) else {})}
        (folder / layout.WITHHELD).write_bytes(save(arrays))
    return every


def _write_ids(prepared: Path, folder: Path) -> None:
    """Ids and titles as arrays that a service searches where they lie."""
    (folder / layout.USER_IDS).parent.mkdir(exist_ok=True)
    for side, name in (("user", layout.USER_IDS), ("item", layout.ITEM_IDS)):
        table = pq.ParquetFile(prepared / f"{side}s.parquet")
        arrays = id_arrays(table.read([f"{side}_id"])[0])
        if side == "item" and "title" in table.schema_arrow.names:
            arrays |= Texts.of(table.read(["title"])[0].to_pylist()).arrays("title")
        (folder / name).write_bytes(save(arrays))


def _write_index_and_test(
    finished: Finished, folder: Path, kind: IndexKind, withheld: np.ndarray
) -> dict[str, Any]:
    """Write the index, and with it the self-test; describe the index."""
    users, items = finished.vectors("user"), finished.vectors("item")
    described = write_index(items, kind, folder / layout.INDEX)
    index = None
    if described["kind"] != "exact":
        index = faiss.read_index(str(folder / layout.INDEX), faiss.IO_FLAG_MMAP_IFC)
    data = finished.dataset
    recorded = recorded_requests(
        users,
        items,
        finished.known,
        data.user_ids(),
        data.item_ids(),
        index,
        finished.listed(),
        finished.moments(),
        data.forgotten.rows["user"],
        np.union1d(data.forgotten.rows["item"], withheld[withheld < len(items)]),
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


def _write_modules(trained: TrainedModel | None, folder: Path, wanted: Wanted) -> dict[str, Any]:
    if trained is None or not wanted.precisions:
        return {}
    from cadc_rec.export.predict import write_modules

    return write_modules(trained, folder, wanted.precisions, wanted.device)


def _write_descriptions(finished: Finished, described: dict[str, Any], folder: Path) -> None:
    card = card_data(
        finished.experiment,
        finished.artifacts,
        finished.state,
        finished.update,
        finished.evaluated,
    )
    if later := card["data"].get("not_known"):
        log.warning(
            "%s interactions came after their users' held-out ones (data.split = 'time'); the "
            "bundle does not know them, and may recommend what they took",
            f"{later:,}",
        )
    # Tables alone can have a history too: that of the prior.
    length, listed = finished.experiment.history.length, finished.listed()
    recent, ends, counting = finished.recent_rows(), finished.log_ends, finished.counting
    model = {
        "method": finished.experiment.method,
        "seed": finished.experiment.seed,
        "state": finished.state,
        **({"refit": card["refit"]} if "refit" in card else {}),
        **({} if finished.update is None else {"update": dict(finished.update)}),
        "users": finished.dataset.n_users,
        "items": finished.dataset.n_items,
        "untaken_items": finished.dataset.n_untaken,
        "dim": finished.vectors("item").shape[1],
        "history_length": length,
        "normalize_ids": list(finished.experiment.data.id_forms),
        "metrics": card["test"],
        **finished.forgotten(),
        **({} if listed is None else {"lists": listed.settings()}),
        **({} if counting is None else {"counted": counting.to_json()}),
        **({} if recent is None else {"recent": recent[0]}),
        **({} if ends is None else {"log_ends": ends}),
        **({} if finished.codes is None else {"context": finished.codes.inputs()}),
        **described,
    }
    _write_json(folder / layout.MODEL, model)
    _write_json(folder / layout.CARD_DATA, card)
    page = card_page(finished.name, card, limits_of(length))
    (folder / layout.CARD).write_text(page, "utf-8")


def _write_json(file: Path, value: Any) -> None:
    file.write_text(strict_json.dumps(value, indent=2) + "\n", "utf-8")
