"""The delta of an update: small where few rows moved, and the same bytes as the whole bundle."""

import numpy as np
import pytest

from cadc_rec.config.experiment import Experiment
from cadc_rec.pipeline.pipeline import Pipeline
from cadc_rec.pretrain.id_tables import IdTables
from cadc_rec.serving.bundle import layout
from cadc_rec.serving.bundle.delta import apply_delta, size_of, write_delta
from cadc_rec.store.artifact import open_artifact
from cadc_rec.updates.chain import take_update
from cadc_rec.updates.update import carry_on
from tests.updates.conftest import settings, write_table

USERS, ITEMS, EACH = 4_000, 1_000, 6

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A shop of some size; in its day a hundredth of the users come back, each for two items."""
    folder, draw = tmp_path_factory.mktemp("large"), np.random.default_rng(0)
    items = np.argsort(draw.random((USERS, ITEMS)), axis=1)[:, : EACH + 2]
    rows = [(u, int(i), 100 + n) for u in range(USERS) for n, i in enumerate(items[u, :EACH])]
    day = [
        (u, int(i), 200 + n) for u in range(0, USERS, 100) for n, i in enumerate(items[u, EACH:])
    ]
    columns = ("user_id", "item_id", "at")
    write_table(folder / "interactions.parquet", rows, columns)
    write_table(folder / "users.parquet", [(u, "free") for u in range(USERS)], ("user_id", "plan"))
    items = [(i, ["red", "blue"][i % 2 :]) for i in range(ITEMS)]
    write_table(folder / "items.parquet", items, ("item_id", "tags"))
    write_table(folder / "day" / "interactions.parquet", day, columns)
    return folder


def experiment(folder, **sections):
    config = settings(folder)
    tables = config["data"]["tables"]
    del tables["users"]["numeric"], tables["users"]["buckets"], tables["items"]["title"]
    config["pretrain"]["factors"] = 31
    config["model"] |= {"id_dim": 32, "tower": [32, 16]}
    config["update"]["towers"] = "keep"
    for section, values in sections.items():
        config[section] = config.get(section, {}) | values
    return Experiment.model_validate(config)


def exported(e, workdir, folder):
    from cadc_rec.export.finished import Finished
    from cadc_rec.export.write import Wanted, write_bundle
    from cadc_rec.serving.bundle.bundle import Bundle

    pipeline = take_update(Pipeline(e, workdir)).pipeline
    finished = Finished(
        e, pipeline.run(), pipeline.dataset, pipeline.pretrained, state="production"
    )
    write_bundle(finished, folder, Wanted(precisions=("int8",)))
    return Bundle.open(folder)


def contents(folder):
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


@pytest.mark.parametrize("with_history", [False, True], ids=["rows", "history"])
def test_a_delta_of_an_update_is_of_what_moved(shop, tmp_path, with_history):
    pytest.importorskip("faiss")
    # With histories every item that a user took last is read by the program for its vector.
    more = {"history": {"length": 4}} if with_history else {}
    e, workdir = experiment(shop, **more), tmp_path / "work"
    Pipeline(e, workdir).run()
    monday = exported(e, workdir, tmp_path / "monday")
    update = carry_on(e, workdir, shop / "day").update
    tuesday = exported(e, workdir, tmp_path / "tuesday")
    delta = write_delta(monday, tuesday, tmp_path / "delta")
    apply_delta(monday.path, delta, tmp_path / "applied")
    assert contents(tmp_path / "applied") == contents(tuesday.path)
    # What follows from other files is not sent.
    patches = delta.manifest["patches"]
    ways = {name: [t.get("foreseen") for t in p.get("tables", [])] for name, p in patches.items()}
    assert ways[layout.torchrec_module("int8")] == ["bytes of user", "bytes of item"]
    assert ways[layout.ITEM_VECTORS] == ["vectors of item"]
    assert patches[layout.INDEX]["bytes"] < 1_000
    if with_history:
        assert ways[layout.USER_VECTORS] == ["vectors of user"]
    assert size_of(delta.path) < 0.05 * size_of(tuesday.path)

    # What was learned is a whole number of steps from where it was, for rows that changed alone.
    before = IdTables.open(Pipeline(e, workdir).found()["pretrain"])
    after = IdTables.open(open_artifact(workdir / update.artifacts["pretrain"]))
    change = (after.item - before.item).double().numpy()
    moved = change[change.any(1)]
    assert 0 < len(moved) < 100
    step = 2.0 ** np.floor(np.log2(0.125 * np.sqrt((moved**2).mean())))
    assert np.abs(moved / step - np.rint(moved / step)).max() < 1e-3
    assert np.abs(np.rint(moved / step)).max() > 8


def test_a_delta_of_tables_alone_brings_neither_lists_nor_users_vectors(shop, tmp_path):
    """Both change everywhere: the prior's factors do, and all counts are brought to one mean."""
    pytest.importorskip("faiss")
    e = experiment(
        shop,
        pretrain={"model": "als", "als": {"alpha": 4.0}},
        transitions={"window": 5, "form": "lists", "normalization": 0.3},
        history={"length": 10},
        prior={"use": True, "fit": "validation"},
        model={"kind": "tables"},
    )
    workdir = tmp_path / "work"
    Pipeline(e, workdir).run()
    monday = exported(e, workdir, tmp_path / "monday")
    carry_on(e, workdir, shop / "day")
    tuesday = exported(e, workdir, tmp_path / "tuesday")
    users = [each.arrays(layout.USER_VECTORS)["vectors"] for each in (monday, tuesday)]
    assert users[0].shape != users[1].shape or (users[0] != users[1]).any(1).mean() > 0.9
    delta = write_delta(monday, tuesday, tmp_path / "delta")
    apply_delta(monday.path, delta, tmp_path / "applied")
    assert contents(tmp_path / "applied") == contents(tuesday.path)
    patches = delta.manifest["patches"]
    for name, share in ((layout.LISTS, 0.01), (layout.USER_VECTORS, 0.06)):
        assert patches[name]["bytes"] < share * (tuesday.path / name).stat().st_size
    assert patches[layout.LISTS]["foreseen"] == "lists"
    assert size_of(delta.path) < 0.05 * size_of(tuesday.path)
