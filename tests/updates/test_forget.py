"""Forgotten users and items are in no file that is kept, and do not come back.

Unusual ids, titles, values and vectors are planted; then every byte of every file is searched for
them, those inside Parquet, archives and safetensors too.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from cadc_rec.config.experiment import DataConfig, Experiment
from cadc_rec.config.ids import IdsConfig
from cadc_rec.data.dataset import Dataset
from cadc_rec.data.forgotten import KEY_FILE, hashes_of, stand_ins
from cadc_rec.errors import CadcError
from cadc_rec.export.finished import Finished
from cadc_rec.export.write import Wanted, write_bundle
from cadc_rec.log import log
from cadc_rec.pipeline.pipeline import Pipeline
from cadc_rec.serving.bundle.bundle import Bundle
from cadc_rec.serving.bundle.delta import write_delta
from cadc_rec.serving.predict.predictor import Predictor
from cadc_rec.store.artifact import open_artifact, run_stage
from cadc_rec.store.pruned import is_pruned
from cadc_rec.updates.chain import take_update
from cadc_rec.updates.forget import build_forgotten_dataset, read_request
from cadc_rec.updates.update import carry_on
from tests.updates.conftest import base_dataset, settings, split_by_hand, split_of, write_table

USER, ITEM, TITLE, PLAN = "zq-USER-7041", "zq-ITEM-5113", "Zq Title 8807", "zq-plan-2209"
USERS = [USER, *(f"u{n}" for n in range(29))]
ITEMS = [ITEM, *(f"i{n}" for n in range(19))]
PICTURES = np.random.default_rng(3).normal(size=(len(ITEMS), 4))


def rows(seed=0, start=100):
    draw = np.random.default_rng(seed)
    taken = [(u, i) for u in USERS for i in draw.choice(ITEMS, 9, replace=False)]
    times = start + draw.permutation(len(taken))
    return [(u, i, int(t)) for (u, i), t in zip(taken, times, strict=True)]


def experiment(folder, **sections):
    tree = settings(folder, **sections)
    tables = tree["data"]["tables"]
    tables["users"] = {"path": str(folder / "users.parquet"), "categorical": ["plan"]}
    tables["items"] |= {"multi": ["tags"], "vector": ["picture"]}
    tables["on_bad_row"] = "reject"
    return Experiment.model_validate(tree)


@pytest.fixture
def marked(tmp_path):
    """A shop in which one user and one item cannot be mistaken."""
    folder = tmp_path / "shop"
    write_table(folder / "interactions.parquet", rows(), ("user_id", "item_id", "at"))
    plans = [(u, PLAN if u == USER else "free") for u in USERS]
    write_table(folder / "users.parquet", plans, ("user_id", "plan"))
    items = {
        "item_id": ITEMS,
        "title": [TITLE if i == ITEM else f"Item {i}" for i in ITEMS],
        "tags": [["zq-tag"] if i == ITEM else ["red"] for i in ITEMS],
        "picture": PICTURES.tolist(),
    }
    pq.write_table(pa.table(items), folder / "items.parquet")
    return folder


def pieces(file):
    """What a file holds, uncompressed."""
    yield file.read_bytes()
    if file.suffix == ".parquet":
        yield repr(pq.read_table(file).to_pylist()).encode()
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            yield from (archive.read(name) for name in archive.namelist())


def found(folders, planted):
    """Which of the planted stand in which file."""
    files = [f for folder in folders for f in sorted(folder.rglob("*")) if f.is_file()]
    return {
        (name, str(file))
        for file in files
        for piece in pieces(file)
        for name, pattern in planted.items()
        if pattern in piece
    }


def planted(base):
    """Ids and texts, and the rows of vectors that the run learned and kept of these two."""
    data = Dataset.open(base["prepare"])
    places = {
        "user": data.user_ids().to_pylist().index(USER),
        "item": data.item_ids().to_pylist().index(ITEM),
    }
    patterns = {name: name.encode() for name in (USER, ITEM, TITLE, PLAN, "zq-tag")}
    picture = np.asarray(data.item_dense[0].values[places["item"]])
    np.testing.assert_allclose(picture, PICTURES[0] / np.linalg.norm(PICTURES[0]), rtol=1e-3)
    patterns["picture"] = picture.tobytes()
    for side, place in places.items():
        learned = load_file(base["pretrain"].path / f"{side}.safetensors")["weight"]
        served = load_file(base["evaluate"].path / f"{side}_vectors.safetensors")["vectors"]
        patterns[f"{side} row"], patterns[f"{side} vector"] = (
            table[place].tobytes() for table in (learned, served)
        )
        for name, weight in load_file(base["train"].path / "model.safetensors").items():
            if name.startswith(f"{side}.ids.") and ".embedding_bags." in name:
                patterns[name] = weight[place].tobytes()
    for file in (
        base["transitions"].path.glob("item_*.safetensors") if "transitions" in base else []
    ):
        patterns[file.stem] = load_file(file)["weight"][places["item"]].tobytes()
    return patterns


def lists(tmp_path, user=USER, item=ITEM):
    """Files that name whom to forget."""
    files = {"user": tmp_path / "users.txt", "item": tmp_path / "items.txt"}
    for side, name in (("user", user), ("item", item)):
        files[side].write_text(f"{name}\n")
    return files


def exported(e, workdir, out):
    taken = take_update(Pipeline(e, workdir))
    p = taken.pipeline
    finished = Finished(e, p.run(), p.dataset, p.pretrained, taken.document())
    write_bundle(finished, out, Wanted(precisions=("int8",)))
    return Bundle.open(out)


def forgotten(marked, tmp_path, **sections):
    """A run in a work folder, and what came of forgetting the two; nothing there has them."""
    e, workdir = experiment(marked, **sections), tmp_path / "work"
    base = Pipeline(e, workdir).run()
    patterns = planted(base)
    assert {name for name, _ in found([workdir], patterns)} == set(patterns)
    outcome = carry_on(e, workdir, None, forget=lists(tmp_path), purge_holders=True)
    assert {path.parent.name for path in outcome.holders.own} >= {"prepare", "evaluate"}
    assert found([workdir], patterns) == set()
    return e, workdir, patterns


def test_no_artifact_holds_them_and_they_do_not_come_back(marked, tmp_path):
    e, workdir, patterns = forgotten(marked, tmp_path)
    taken = take_update(Pipeline(e, workdir)).pipeline.run()
    # The others' split is that of a log without them, by hand.
    others = [row for row in rows() if USER not in row and ITEM not in row]
    by_hand, split = split_by_hand(others), split_of(taken["prepare"])
    assert {part: sorted(pairs) for part, pairs in split.items()} == {
        part: sorted(pairs) for part, pairs in by_hand.items()
    }
    data = Dataset.open(taken["prepare"])
    assert (data.n_users, data.n_items) == (len(USERS), len(ITEMS))  # dense ids stay
    for side in ("user", "item"):
        (row,) = data.forgotten.rows[side]
        learned = load_file(taken["pretrain"].path / f"{side}.safetensors")["weight"]
        served = load_file(taken["evaluate"].path / f"{side}_vectors.safetensors")["vectors"]
        assert not learned[row].any()
        assert not served[row].any()

    # The next day brings them back, and nothing is learned of them.
    day = tmp_path / "day"
    fresh = [(USER, "i3", 900), ("u1", ITEM, 901), ("u2", "i99", 902), ("new", "i4", 903)]
    fresh.append((USER, "i5", None))  # rejected
    write_table(day / "interactions.parquet", fresh, ("user_id", "item_id", "at"))
    plans = [(USER, PLAN), ("new", "free"), (USER, PLAN)]  # the last is rejected
    write_table(day / "users.parquet", plans, ("user_id", "plan"))
    update = carry_on(e, workdir, day).update
    assert update.report["day"]["of_forgotten"] == 2
    rejected = workdir / update.artifacts["prepare"] / "rejected"
    whole = [(pq.read_table(f).column_names, len(pq.read_table(f))) for f in rejected.iterdir()]
    assert whole == [(["file", "line", "reason"], 1)] * 2
    known = len(data.train_item) + (data.val_item >= 0).sum() + (data.test_item >= 0).sum()
    after = Dataset.open(open_artifact(workdir / update.artifacts["prepare"]))
    here = len(after.train_item) + (after.val_item >= 0).sum() + (after.test_item >= 0).sum()
    assert here == known + update.report["day"]["interactions"]
    assert after.user_ids().to_pylist()[-1] == "new"
    assert after.forgotten.rows["user"].tolist() == data.forgotten.rows["user"].tolist()
    assert found([workdir], patterns) == set()

    # A day that names nobody else has nothing new.
    of_them = tmp_path / "of-them"
    fresh = [(USER, "i3", 1900), (USER, "i4", 1901)]
    write_table(of_them / "interactions.parquet", fresh, ("user_id", "item_id", "at"))
    outcome = carry_on(e, workdir, of_them)
    assert outcome.update is None
    assert outcome.counts["of_forgotten"] == 2


@pytest.mark.slow
def test_no_bundle_and_no_delta_holds_them_or_answers_with_them(marked, tmp_path):
    e, workdir = experiment(marked), tmp_path / "work"
    patterns = planted(Pipeline(e, workdir).run())
    old = exported(e, workdir, tmp_path / "old")
    planted_here = {name for name, _ in found([old.path], patterns)}
    assert planted_here >= {USER, ITEM, TITLE, PLAN, "user vector", "item vector", "item row"}
    carry_on(e, workdir, None, forget=lists(tmp_path), purge_holders=True)
    new = exported(e, workdir, tmp_path / "new")
    write_delta(old, new, tmp_path / "delta")
    assert found([new.path, tmp_path / "delta"], patterns) == set()

    predictor = Predictor.of(new)
    row = int(new.model()["forgotten"]["items"][0])
    for item in (ITEM, predictor.items.ids[row]):
        assert predictor.items.rows([item])[0] == -1
    answers = predictor.recommend([*USERS[1:], USER], k=len(ITEMS))
    assert row not in answers.rows
    assert row not in predictor.similar_items(ITEMS[1:], k=len(ITEMS) - 1).rows
    asked = new.json("self_test.json")["requests"]
    assert len(asked) == len(USERS) - 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "sections",
    [
        {"model": {"id_embedding": "hybrid", "id_dim": 8, "feature_dim": 4, "tower": [8]}},
        {
            "pretrain": {"model": "als", "factors": 7},
            "transitions": {"window": 3, "form": "lists"},
            "history": {"length": 3},
            "prior": {"use": True, "fit": "none"},
        },
        {
            "pretrain": {"model": "als", "factors": 7},
            "transitions": {"window": 3, "form": "factors", "dim": 4},
            "history": {"length": 3, "windows": [1, 3]},
        },
    ],
    ids=["trained ids", "lists", "factors"],
)
def test_whatever_the_model_keeps(marked, tmp_path, sections):
    forgotten(marked, tmp_path, **sections)


def killed_at(folder):
    """`Path.unlink` of a process that is killed at the first file of this folder."""
    unlink = Path.unlink

    def of_killed(path, *args, **options):
        if path.parent == folder:
            raise KeyboardInterrupt
        unlink(path, *args, **options)

    return of_killed


def test_without_purge_what_holds_them_is_named_and_stays(marked, tmp_path, monkeypatch):
    e, workdir = experiment(marked), tmp_path / "work"
    base = Pipeline(e, workdir).run()
    other = experiment(marked, train={"epochs": 1, "batch_size": 64})
    shared = Pipeline(other, workdir).run()
    outcome = carry_on(e, workdir, None, forget=lists(tmp_path))
    own = {base[stage].path for stage in ("train", "evaluate")}
    assert set(outcome.holders.own) == own
    assert set(outcome.holders.others) == {made.path for made in shared.values()}
    assert open_artifact(base["train"].path)
    # The same command again forgets nobody twice, and can purge, also where it was killed at it.
    evaluated = base["evaluate"].path
    with monkeypatch.context() as killed:
        killed.setattr("cadc_rec.store.pruned.Path.unlink", killed_at(evaluated))
        with pytest.raises(KeyboardInterrupt):
            carry_on(e, workdir, None, forget=lists(tmp_path), purge_holders=True)
    assert is_pruned(evaluated)
    vectors = evaluated / "user_vectors.safetensors"
    assert vectors.exists()
    named = carry_on(e, workdir, None, forget=lists(tmp_path)).holders
    assert evaluated in named.own
    again = carry_on(e, workdir, None, forget=lists(tmp_path), purge_holders=True)
    assert again.kept
    assert {file.name for file in evaluated.iterdir()} == {"PRUNED", "manifest.json"}
    assert not carry_on(e, workdir, None, forget=lists(tmp_path)).holders.own
    with pytest.raises(CadcError, match="forgotten users or items were in them"):
        open_artifact(base["train"].path)
    assert open_artifact(shared["train"].path)


def test_without_the_key_nothing_is_learned(marked, tmp_path):
    e, workdir = experiment(marked), tmp_path / "work"
    Pipeline(e, workdir).run()
    carry_on(e, workdir, None, forget=lists(tmp_path))
    assert (workdir / KEY_FILE).stat().st_mode & 0o077 == 0
    key = (workdir / KEY_FILE).read_text()
    (workdir / KEY_FILE).unlink()
    day = tmp_path / "day"
    write_table(day / "interactions.parquet", [("u1", "i99", 900)], ("user_id", "item_id", "at"))
    with pytest.raises(CadcError, match=r"holds no key, without which forgotten users"):
        carry_on(e, workdir, day)
    # Nor does the next request get a key of its own, by which the first would be unknown.
    more = lists(tmp_path, "u3", "i3")
    with pytest.raises(CadcError, match="holds no key"):
        carry_on(e, workdir, None, forget=more)
    (workdir / KEY_FILE).write_text(key[::-1].strip() + "\n")
    for folder, request in ((day, None), (None, more)):
        with pytest.raises(CadcError, match=r"is not the key that users and items were forgotten"):
            carry_on(e, workdir, folder, forget=request)


@pytest.fixture
def numbered(tmp_path):
    """A dataset of whole numbers as ids, with an item that nobody took, and what forgets of it."""
    taken = [(u, 100 + (u + n) % 6, 10 * n + u) for u in range(1, 7) for n in range(5)]
    write_table(tmp_path / "log.parquet", taken, ("user_id", "item_id", "at"))
    stock = [(100 + n, "zq" if n == 7 else "red") for n in range(8)]
    write_table(tmp_path / "items.parquet", stock, ("item_id", "kind"))
    tables = {
        "interactions": {"path": str(tmp_path / "log.parquet"), "timestamp": "at"},
        "items": {"path": str(tmp_path / "items.parquet"), "categorical": ["kind"], "keep": "all"},
    }
    before = base_dataset(
        tmp_path, DataConfig.model_validate({"source": "tables", "tables": tables})
    )
    file = tmp_path / "gone.txt"

    def forget(text, **sides):
        file.write_text(text)
        files = dict.fromkeys(("user", "item")) | dict.fromkeys(sides, file)
        request = read_request(files, (), before, tmp_path / "work")
        return run_stage(
            tmp_path / "work",
            "prepare",
            {"forget": 1},
            {"before": before, "whom": request.fingerprint},
            lambda draft: build_forgotten_dataset(IdsConfig(), before, request, draft),
        )

    return forget


def test_whole_numbers_and_an_item_that_nobody_took(numbered, monkeypatch):
    warned = []
    monkeypatch.setattr(log, "warning", lambda text, *of: warned.append(text % of))
    after = numbered("107\n101\n555\n", item=True)
    counts = after.info["update"]
    assert counts["forgotten_items"] == 2
    assert counts["forgotten_unknown"] == 1
    assert warned == ["1 of the item ids to forget are not in the dataset"]
    assert counts["forgotten_interactions"] == 5  # five of six users took each item
    items = pq.read_table(after.path / "items.parquet")
    assert items["item_id"].to_pylist() == [100, -(2**63) + 1, 102, 103, 104, 105, 106]
    assert after.info["untaken_items"] == 1
    assert b"zq" not in b"".join(f.read_bytes() for f in after.path.rglob("*.json"))
    data = Dataset.open(after)
    assert 1 not in {*data.train_item, *data.val_item, *data.test_item}
    assert data.item_counts[1] == 0


def test_a_user_with_all_rows_gone_stays_without_any(numbered):
    data = Dataset.open(numbered("3\n", user=True))
    assert data.user_ids().to_pylist() == [1, 2, -(2**63) + 2, 4, 5, 6]
    assert (data.val_item[2], data.test_item[2]) == (-1, -1)
    assert data.user_indptr[2] == data.user_indptr[3]


def test_text_where_ids_are_numbers_is_one_sentence(numbered):
    for wrong in ("x17", "1_000", "\u0663", "+4", "3\x0b4"):
        with pytest.raises(CadcError, match=r"gone.txt: line 3 is .*, and user ids are whole num"):
            numbered(f"3\r\n\n{wrong}\n", user=True)


@pytest.mark.parametrize(
    ("text", "words"),
    [(None, "cannot be read as UTF-8 text"), ("\n\n", "names nobody; write an id on each line")],
)
def test_a_list_that_names_nobody_is_one_sentence(cli, config, workdir, tmp_path, text, words):
    file = tmp_path / "gone.txt"
    if text is not None:
        file.write_text(text)
    ended = cli("update", config, "--workdir", workdir, "--forget-users", file)
    assert ended.code == 2
    assert words in ended.err
    assert not (workdir / "updates").exists() or not list((workdir / "updates").iterdir())


@pytest.mark.parametrize("options", [[], ["--new", "day", "--forget-users", "f"], ["--purge"]])
def test_one_of_both_is_asked_for(cli, config, options):
    ended = cli("update", config, *options)
    assert ended.code == 2
    assert "give either --new DIR, or --forget-users or --forget-items FILE" in ended.err


def test_stand_ins_are_ids_that_nobody_has():
    ids = pa.array(["forgotten:1", "a", "b"])
    assert stand_ins(ids, np.array([1])).to_pylist() == ["forgotten::1"]
    assert stand_ins(pa.array([5, 6]), np.array([0, 1])).to_pylist() == [-(2**63), -(2**63) + 1]


def test_hashes_differ_by_key_and_side():
    key, other = b"k" * 32, b"o" * 32
    hashes = {
        hashes_of(side, [one], of)[0]
        for side in ("user", "item")
        for of in (key, other)
        for one in (7, "eight")
    }
    assert len(hashes) == 8
