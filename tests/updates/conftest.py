"""A small shop: its tables, a day of new ones, and an experiment that was run on the first."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cadc_rec.config.experiment import DataConfig, Experiment
from cadc_rec.data.dataset import Dataset
from cadc_rec.data.prepare.build_dataset import build_dataset
from cadc_rec.data.sources.raw_input import find_raw
from cadc_rec.pipeline.pipeline import Pipeline
from cadc_rec.store.artifact import Artifact, open_artifact, run_stage
from cadc_rec.updates.dataset import build_updated_dataset
from cadc_rec.updates.day import find_day

Row = tuple[str, str, int]
USERS, ITEMS, EACH = 40, 30, 12


def user(number: int) -> str:
    """Ids whose order as text is not that of the numbers."""
    return f"u{number}"


def item(number: int) -> str:
    return f"i{number}"


def shop_rows(seed: int = 0) -> list[Row]:
    """Every user takes twelve different items, at times 100 to 199, in no order of the file."""
    random = np.random.default_rng(seed)
    rows = [
        (user(u), item(i), int(random.integers(100, 200)))
        for u in range(USERS)
        for i in random.choice(ITEMS, EACH, replace=False)
    ]
    return [rows[n] for n in random.permutation(len(rows))]


def day_rows(seed: int = 1) -> list[Row]:
    """Five known users, a new one and a new item; times 200 to 299."""
    random = np.random.default_rng(seed)
    rows = [
        (user(u), item(i), int(random.integers(200, 300)))
        for u in (1, 7, 12, 30, 39, 99)
        for i in (*random.choice(ITEMS, 5, replace=False), 77)
    ]
    return [rows[n] for n in random.permutation(len(rows))]


def write_table(path: Path, rows: list[tuple[Any, ...]], names: tuple[str, ...]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(dict(zip(names, zip(*rows, strict=True), strict=True))), path)


INTERACTIONS = ("user_id", "item_id", "at")
COLUMNS = {
    "users": ("user_id", "plan", "age"),
    "items": ("item_id", "title", "tags"),
}


def user_table(numbers: Any) -> list[tuple[Any, ...]]:
    return [(user(n), ("free", "pro", None)[n % 3], float(20 + n % 5)) for n in numbers]


def item_table(numbers: Any) -> list[tuple[Any, ...]]:
    return [(item(n), f"Item {n}", ["red", "blue"][: 1 + n % 2]) for n in numbers]


def settings(folder: Path, **sections: Any) -> dict[str, Any]:
    """A tiny experiment on the tables in `folder`."""
    tables = {
        "interactions": {"path": str(folder / "interactions.parquet"), "timestamp": "at"},
        "users": {
            "path": str(folder / "users.parquet"),
            "categorical": ["plan"],
            "numeric": ["age"],
            "buckets": 3,
        },
        "items": {"path": str(folder / "items.parquet"), "title": "title", "multi": ["tags"]},
    }
    return {
        "data": {"source": "tables", "tables": tables},
        "pretrain": {"model": "mf", "epochs": 5, "factors": 7},
        "select": {"ratio": 3, "shards": 2},
        "model": {"id_embedding": "init_frozen", "id_dim": 8, "feature_dim": 4, "tower": [8, 4]},
        "train": {"epochs": 2, "batch_size": 64},
        "update": {"epochs": 3, "train_epochs": 1},
        "compute": {"device": "cpu", "threads": 1},
        "tracking": {"tensorboard": False},
    } | sections


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    write_table(folder / "interactions.parquet", shop_rows(), INTERACTIONS)
    write_table(folder / "users.parquet", user_table(range(USERS)), COLUMNS["users"])
    write_table(folder / "items.parquet", item_table(range(ITEMS)), COLUMNS["items"])
    return folder


@pytest.fixture
def experiment(shop: Path) -> Callable[..., Experiment]:
    def make(**sections: Any) -> Experiment:
        return Experiment.model_validate(settings(shop, **sections))

    return make


@pytest.fixture
def config(tmp_path: Path, shop: Path) -> Path:
    """The experiment as a file, without what its method decides."""
    tree, path = settings(shop), tmp_path / "shop.toml"
    del tree["pretrain"]["model"], tree["model"]["id_embedding"]
    path.write_text(as_toml(tree))
    return path


@pytest.fixture(scope="session")
def _run_once(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("base") / "work"
    Pipeline(Experiment.model_validate(settings(shop)), workdir).run()
    return workdir


@pytest.fixture
def workdir(_run_once: Path, tmp_path: Path) -> Path:
    """A work folder in which the plain experiment was run."""
    return Path(shutil.copytree(_run_once, tmp_path / "work"))


@pytest.fixture
def day(tmp_path: Path) -> Callable[..., Path]:
    """day(rows, users=..., items=...): a folder with the new tables."""

    def make(rows: list[Row] | None = None, name: str = "day", **tables: Any) -> Path:
        folder = tmp_path / name
        write_table(
            folder / "interactions.parquet", day_rows() if rows is None else rows, INTERACTIONS
        )
        for table, content in tables.items():
            write_table(folder / f"{table}.parquet", content, COLUMNS[table])
        return folder

    return make


@pytest.fixture(scope="session")
def _base_dataset(_run_once: Path) -> Artifact:
    (folder,) = (_run_once / "prepare").iterdir()
    return open_artifact(folder)


@pytest.fixture
def prepared(
    tmp_path: Path, experiment: Callable[..., Experiment], _base_dataset: Artifact
) -> Callable[..., SimpleNamespace]:
    """prepared(folder, ...): the dataset before a day and the one after it."""

    def make(folder: Path, **data: Any) -> SimpleNamespace:
        config = experiment().data.model_copy(update=data)
        before = base_dataset(tmp_path, config) if data else _base_dataset
        return SimpleNamespace(before=before, after=after_day(tmp_path, config, before, folder))

    return make


def base_dataset(tmp_path: Path, config: DataConfig) -> Artifact:
    raw = find_raw(config)
    return run_stage(
        tmp_path / "work",
        "prepare",
        config.decisive(),
        {"raw": raw.fingerprint},
        lambda draft: build_dataset(config, raw, draft),
    )


def after_day(tmp_path: Path, config: DataConfig, before: Artifact, folder: Path) -> Artifact:
    found = find_day(config, folder, before)
    return run_stage(
        tmp_path / "work",
        "prepare",
        {
            "update": 1,
            "k_core": config.k_core,
            "tables": found.config.decisive(),
            "ids": config.ids.model_dump(mode="json"),
        },
        {"before": before, "day": found.fingerprint},
        lambda draft: build_updated_dataset(config, before, found, draft),
    )


def split_by_hand(rows: list[Row]) -> dict[str, list[tuple[str, str]]]:
    """Leave-last-two of rows in file order, by plain Python: each part's (user, item) pairs."""
    found: dict[str, list[tuple[str, str]]] = {"train": [], "val": [], "test": []}
    for who in dict.fromkeys(row[0] for row in rows):
        mine = sorted((row for row in rows if row[0] == who), key=lambda row: row[2])
        items = list(dict.fromkeys(row[1] for row in mine))
        held = items[-2:] if len(items) > 2 else []
        found["train"] += [(who, one) for one in items[: len(items) - len(held)]]
        for part, one in zip(("val", "test"), held, strict=False):
            found[part].append((who, one))
    return found


def split_of(artifact: Artifact) -> dict[str, list[tuple[str, str]]]:
    """The same of a prepared dataset, by original ids."""
    dataset = Dataset.open(artifact)
    users, items = dataset.user_ids().to_pylist(), dataset.item_ids().to_pylist()
    train = zip(dataset.train_user, dataset.train_item, strict=True)
    found = {"train": [(users[u], items[i]) for u, i in train]}
    for part in ("val", "test"):
        held = getattr(dataset, f"{part}_item")
        found[part] = [(users[u], items[i]) for u, i in enumerate(held) if i >= 0]
    return found


def as_toml(tree: dict[str, Any], prefix: str = "") -> str:
    """Sections as TOML: JSON's strings, numbers, booleans and arrays are TOML's too."""
    lines = [f"{k} = {json.dumps(v)}" for k, v in tree.items() if not isinstance(v, dict)]
    below = [as_toml(v, f"{prefix}{k}.") for k, v in tree.items() if isinstance(v, dict)]
    head = [f"[{prefix.rstrip('.')}]"] if prefix else []
    return "\n".join([*head, *lines, *below])
