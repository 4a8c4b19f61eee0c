"""A prepared dataset in which nothing is held out: what a model for production is fitted on.

In: a prepare artifact. Out: a prepare artifact like any other, whose D_full has the validation and
test items, too, each user's behind what came before them. Ids, attributes and vectors stay as they
are. Every value of a context that held-out rows alone had is now learned like any other.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq

from cadc_rec import strict_json
from cadc_rec.data.cold_items import FILE as COLD
from cadc_rec.data.columns import train_files, write_columns
from cadc_rec.data.dense import DESCRIBED
from cadc_rec.data.dense import FOLDER as DENSE
from cadc_rec.data.forgotten import FILE as FORGOTTEN
from cadc_rec.data.ids.living import FOLDER as IDS
from cadc_rec.data.prepare.again import NO_ROWS, clock_of, merged, write_train
from cadc_rec.data.prepare.chosen import as_table
from cadc_rec.data.sources.raw_tables import CONTEXT_FILE
from cadc_rec.data.streams import write_parquet
from cadc_rec.errors import CadcError
from cadc_rec.store.artifact import Artifact, Draft

_KEPT = ("users.parquet", "items.parquet", "attributes.json", DESCRIBED, DENSE, FORGOTTEN, IDS)
_OF_SPLIT = ("update", "cold")  # what is said of a day, or of what was held out


def require_whole(dataset: Artifact) -> None:
    """Refuse a dataset of whose held-out rows something is not kept.

    Raises:
        CadcError: its interactions have weights, or it has cold items.
    """
    if (dataset.path / COLD).is_file():
        raise CadcError(
            "--refit learns from all rows, and data.cold_items keeps those of some items out of "
            "the model; set it to 0 and run again, or leave --refit out."
        )
    if "weight" in pq.read_schema(train_files(dataset.path)[0]).names:
        raise CadcError(
            "--refit learns from held-out rows, too, and their weights "
            "(data.tables.interactions.weight, data.duplicates = 'sum') are not kept; leave "
            "--refit out."
        )


def build_whole_log(parent: Artifact, draft: Draft) -> None:
    """Fill the draft of the prepare stage.

    Args:
        parent: a dataset with held-out rows, which `require_whole` takes; its rows are streamed.
        draft: its ``info`` receives what the parent's says, with the counts of its own rows.
    """
    folder, info = draft.path, parent.info
    context = _learn_all_values(parent.path, folder)
    train = write_train(folder, merged(parent.path, context=context), context)
    for part in ("val", "test"):
        write_parquet(folder / f"{part}.parquet", as_table(NO_ROWS, context))
    scratch = folder / ".scratch"
    scratch.mkdir()
    write_columns(folder, int(info["users"]), int(info["items"]), scratch, clock_of(info))
    shutil.rmtree(scratch)
    for name in _KEPT:
        source = parent.path / name
        if source.is_dir():
            shutil.copytree(source, folder / name)
        elif source.exists():
            shutil.copyfile(source, folder / name)
    draft.rows = train
    draft.info = {
        **{name: said for name, said in info.items() if name not in _OF_SPLIT},
        "train": train,
        "val": 0,
        "test": 0,
        "users_train_only": int(info["users"]),
    }


def _learn_all_values(parent: Path, folder: Path) -> list[str]:
    """Describe the context's columns, all of whose values are learned; their names."""
    file = parent / CONTEXT_FILE
    if not file.is_file():
        return []
    described = json.loads(file.read_text("utf-8"))
    for entry in described:
        entry["size"] = len(entry["vocabulary"]) + 1
    text = strict_json.dumps(described, indent=2, ensure_ascii=False) + "\n"
    (folder / CONTEXT_FILE).write_text(text, "utf-8")
    return [entry["name"] for entry in described]
