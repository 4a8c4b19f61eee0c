"""A study that never ran: every kind of cell, with numbers that can be counted by hand."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cadc_rec.study.report.report import write_report

DATASETS = {"ml-1m": "MovieLens 1M", "epinions-20core": "Epinions, 20-core"}
# Method: integration, ratio, hits per thousand users, seconds of pretrain, select, train.
METHODS = {
    "random": ("trainable", 10.0, 40, (0.0, 0.1, 42.0)),
    "over-sampling": ("trainable", 10.0, 8, (0.0, 0.3, 44.0)),
    "under-sampling": ("trainable", 10.0, 20, (0.0, 0.3, 41.0)),
    "logq": ("trainable", 10.0, 44, (0.0, 0.1, 45.0)),
    "cadc-mlp": ("init_frozen", 10.0, 62, (80.0, 0.1, 36.0)),
    "cadc": ("init_frozen", 10.0, 68, (10.0, 0.1, 34.0)),
    "gold": ("trainable", 1.0, 70, (0.0, 0.1, 344.0)),
    "popularity": (None, 1.0, 18, (0.2, 0.0, 0.0)),
    "mf": (None, 1.0, 55, (10.0, 0.0, 0.0)),
}
INTEGRATIONS = {
    "hybrid": 60,
    "init": 63,
    "init_frozen": 68,
    "linear": 67,
    "mlp": 69,
    "residual": 66,
}
RATIOS = (2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
USERS = 1000
EPOCHS = 6
MACHINE = {"cpu": "Toy CPU", "cores": 2, "memory_bytes": 8 << 30, "device": "cpu", "threads": 1}
VERSIONS = {"python": "3.11.9", "torch": "2.13.0"}


def ranks_with(hits, seed):
    """1,000 ranks of which `hits` are 1 to 10, most of them those of the same users each time."""
    random = np.random.default_rng(seed)
    ease = np.arange(USERS) + random.normal(0, 15, USERS)
    ranks = np.full(USERS, 50) + random.integers(0, 900, USERS)
    ranks[np.argsort(ease)[:hits]] = 1 + np.arange(hits) % 10
    return ranks


class StudyFolder:
    """Writes a study's folder cell by cell."""

    def __init__(self, folder, layout="table1", title="Table 1: everything", **head):
        self.folder, self.wanted = folder, []
        self.head = {"schema_version": 1, "name": layout, "title": title, "layout": layout}
        self.head |= {"baseline": "gold"} | head
        (folder / "cells").mkdir(parents=True)
        (folder / "ranks").mkdir()

    def add(self, dataset, method, integration, ratio, seed, status=None, variant="", **content):
        """Want a cell; with a status, write its file. Returns its id."""
        name = f"{dataset}-{method}-{integration or 'none'}-{ratio:g}-{variant}{seed}"
        place = {"id": name, "dataset": dataset, "dataset_title": DATASETS[dataset]}
        place |= {"method": method, "integration": integration, "ratio": ratio, "seed": seed}
        place |= {"variant": variant} if variant else {}
        self.wanted.append(place)
        (self.folder / "study.json").write_text(json.dumps(self.head | {"cells": self.wanted}))
        if status:
            cell = place | {"schema_version": 1, "status": status, "error": None} | content
            self.path(name).write_text(json.dumps(cell))
        return name

    def path(self, name):
        return self.folder / "cells" / f"{name}.json"

    def add_done(self, dataset, method, integration, ratio, seed, hits, seconds, **content):
        """Want a cell and finish it: `hits` users of 1,000 have ranks 1 to 10."""
        variant = content.get("variant", "")
        name = f"{dataset}-{method}-{integration or 'none'}-{ratio:g}-{variant}{seed}"
        ranks = ranks_with(hits, seed)
        users = pa.array(np.arange(USERS) + 1)
        file = f"ranks/{name}.parquet"
        table = pa.table({"user_id": users, "item_id": users, "rank": pa.array(ranks)})
        pq.write_table(table, self.folder / file)
        gains = np.where(ranks <= 10, 1 / np.log2(ranks + 1.0), 0)
        metrics = {"hr@10": hits / USERS, "ndcg@10": float(gains.mean())}
        pretrain, select, train = seconds
        validation = 5.0 if train else 0.0
        history = [
            {"epoch": e, "loss": 1 / e}
            | ({k: v * (1 - 0.6**e) for k, v in metrics.items()} if e != 2 else {})
            for e in range(1, EPOCHS + 1)
        ]
        measured = {
            "metrics": metrics,
            "validation": metrics,
            "seconds": {
                "prepare": 3.0,
                "pretrain": pretrain,
                "select": select,
                "train": train + validation,
                "evaluate": 2.0,
                "validation": validation,
            },
            "rows": {"train": 50_000, "selected": round(50_000 / ratio)},
            "users": USERS,
            "items": 400,
            "split": "time" if dataset.startswith("ml") else "seeded random, split_seed=0",
            "interactions_per_second": 12_345.6,
            "peak_memory_bytes": 1 << 30,
            "history": history if train or pretrain else [],
            "ranks": file,
            "config": {"train": {"epochs": EPOCHS}},
            "versions": VERSIONS,
            "machine": MACHINE,
            "finished": "2026-01-02T03:04:05Z",
        }
        measured["seconds"] |= content.pop("more_seconds", {})
        measured |= content
        return self.add(dataset, method, integration, ratio, seed, "done", **measured)


@pytest.fixture
def new_study(tmp_path):
    """An empty study folder of a name."""

    def make(name="study", **head):
        return StudyFolder(tmp_path / name, **head)

    return make


def fill_table_1(study):
    """All methods, two datasets, two seeds; one cell failed, one unavailable, one missing."""
    for dataset in DATASETS:
        for method, (integration, ratio, hits, seconds) in METHODS.items():
            for seed in (0, 1):
                place = (dataset, method, integration, ratio, seed)
                if (*place[:2], seed) == ("ml-1m", "logq", 1):
                    study.add(*place, "failed", error="loss is <script>alert(1)</script> nan")
                elif place[:2] == ("epinions-20core", "over-sampling"):
                    status = "unavailable" if seed == 0 else None
                    study.add(*place, status, **({"error": "no archive"} if status else {}))
                else:
                    study.add_done(*place, hits + 2 * seed, seconds)


def fill_table_2(study):
    """All integration techniques on one dataset, two seeds."""
    for technique, hits in INTEGRATIONS.items():
        for seed in (0, 1):
            seconds = (10.0, 0.1, 33.0 + hits / 60)
            study.add_done("ml-1m", "cadc", technique, 10.0, seed, hits + seed, seconds)


def fill_figure_1(study):
    """Two methods at six filtering ratios, two seeds; gold is left to Table 1's study."""
    for ratio in RATIOS:
        for method, hits in (("random", 80 / ratio**0.5), ("cadc", 75 - ratio / 3)):
            for seed in (0, 1):
                integration, _, _, (pretrain, select, _) = METHODS[method]
                place = ("ml-1m", method, integration, ratio, seed)
                seconds = (pretrain, select, 340 / ratio)
                study.add_done(*place, round(hits) + 2 * seed, seconds)


def write_whole_study(folder):
    """Three studies in folders below one."""
    fill_table_1(StudyFolder(folder / "table1"))
    fill_table_2(StudyFolder(folder / "table2", layout="table2", title="Table 2: integration"))
    fill_figure_1(StudyFolder(folder / "figure1", layout="figure1", title="Figure 1: ratios"))
    return folder


@pytest.fixture(scope="session")
def whole_study(tmp_path_factory):
    """The folder with Table 1, Table 2 and Figure 1 below it (read only!)."""
    return write_whole_study(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="session")
def whole_report(whole_study):
    """Its report."""
    return write_report(whole_study)


@pytest.fixture
def small_study(new_study):
    """CADC and gold, one seed each."""
    study = new_study()
    study.add_done("ml-1m", "gold", None, 1.0, 0, 70, (0.0, 0.0, 100.0))
    study.add_done("ml-1m", "cadc", "init_frozen", 10.0, 0, 60, (1.0, 0.0, 9.0))
    return study
