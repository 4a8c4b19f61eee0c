"""Small raw files in the genuine formats, and the stages run on them."""

from __future__ import annotations

import bz2
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from cadc_rec.config.experiment import DataConfig, SelectConfig
from cadc_rec.data.prepare.build_dataset import build_dataset
from cadc_rec.data.select.build_selection import build_selection
from cadc_rec.data.sources.raw_input import DATA_VARIABLE, find_raw
from cadc_rec.store.artifact import Artifact, run_stage
from tests.data.own_tables import INTERACTIONS

MakeZip = Callable[[Mapping[str, str | bytes]], Path]
Prepare = Callable[..., Artifact]
Select = Callable[..., Artifact]


@pytest.fixture(autouse=True)
def _no_folders_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def raw_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    return folder


@pytest.fixture
def zip_1m(raw_folder: Path) -> MakeZip:
    def make(members: Mapping[str, str | bytes], name: str = "ml-1m.zip") -> Path:
        path = raw_folder / name
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for member, text in members.items():
                archive.writestr(member, text)
        return path

    return make


@pytest.fixture
def epinions(raw_folder: Path) -> Callable[[str], Path]:
    def make(text: str) -> Path:
        path = raw_folder / "ratings_data.txt.bz2"
        path.write_bytes(bz2.compress(text.encode()))
        return path

    return make


@pytest.fixture
def prepare(tmp_path: Path, raw_folder: Path) -> Prepare:
    """prepare(source=..., k_core=..., ...): the prepare stage on `raw_folder`."""

    def run(workdir: str = "work", **settings: object) -> Artifact:
        config = DataConfig.model_validate({"source": "movielens-1m", **settings})
        raw = find_raw(config, raw_folder)
        return run_stage(
            tmp_path / workdir,
            "prepare",
            config.decisive(),
            {"raw": raw.fingerprint},
            lambda draft: build_dataset(config, raw, draft),
        )

    return run


@pytest.fixture
def tables(prepare: Prepare, raw_folder: Path) -> Prepare:
    """tables("log.csv", users={...}): the prepare stage on it; `content` is written."""

    def run(path: str = "log.csv", content: str | bytes | None = None, **sections: Any) -> Artifact:
        if content is not None:
            data = content if isinstance(content, bytes) else content.encode()
            (raw_folder / path).parent.mkdir(parents=True, exist_ok=True)
            (raw_folder / path).write_bytes(data)
        interactions = {"path": path, **INTERACTIONS, **sections.pop("interactions", {})}
        outer = {key: sections.pop(key) for key in [*sections] if key in DataConfig.model_fields}
        return prepare(
            sections.pop("workdir", "work"),
            source="tables",
            tables={"interactions": interactions, **sections},
            **outer,
        )

    return run


@pytest.fixture
def select(tmp_path: Path) -> Select:
    """select(dataset, seed=..., ratio=..., ...): the select stage."""

    def run(dataset: Artifact, seed: int = 0, **settings: object) -> Artifact:
        config = SelectConfig.model_validate(settings)
        return run_stage(
            tmp_path / "work",
            "select",
            {**config.decisive(), "seed": seed},
            {"dataset": dataset},
            lambda draft: build_selection(config, seed, dataset, draft),
        )

    return run
