"""The whole command on a small shop: chains, repetitions, kills; nothing held out is learned."""

import json
import shutil
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from cadc_rec.config.experiment import Experiment, UpdateConfig
from cadc_rec.data.dataset import Dataset
from cadc_rec.errors import CadcError
from cadc_rec.pipeline import runner
from cadc_rec.pipeline.pipeline import Pipeline
from cadc_rec.pipeline.stages import evaluate
from cadc_rec.store.artifact import Artifact, SoloGroup, open_artifact
from cadc_rec.store.atomic import empty_folder
from cadc_rec.updates import learning, towers
from cadc_rec.updates import update as update_module
from cadc_rec.updates.chain import Update, line_of, take_update, updates_of
from cadc_rec.updates.table import fit_users
from cadc_rec.updates.update import carry_on
from tests.updates.conftest import (
    INTERACTIONS,
    as_toml,
    day_rows,
    item,
    settings,
    shop_rows,
    split_by_hand,
    user,
    write_table,
)

STAGES = ["prepare", "pretrain", "select", "train", "evaluate"]


def folders(workdir):
    """Every artifact in a work folder, each whole."""
    found = [path.parent for path in workdir.glob("*/*/manifest.json")]
    return {str(open_artifact(path).path.relative_to(workdir)) for path in found}


def test_an_update_leaves_ordinary_artifacts_and_a_record(workdir, experiment, day):
    before = folders(workdir)
    outcome = carry_on(experiment(), workdir, day())
    update = outcome.update
    assert update.number == 1
    assert list(update.artifacts) == STAGES
    made = folders(workdir)
    assert before < made
    assert made - before == {*update.artifacts.values(), f"updates/{update.path.name}"}
    evaluation = workdir / update.artifacts["evaluate"]
    ranks = pq.read_table(evaluation / "ranks.parquet").to_pydict()
    pairs = zip(ranks["user_id"], ranks["item_id"], strict=True)
    expected = split_by_hand([*shop_rows(), *day_rows()])["test"]
    assert sorted(pairs) == sorted(expected)
    assert json.loads((update.path / "update.json").read_text()) == update.report


def test_its_inputs_are_the_artifacts_before(workdir, experiment, day):
    base = Pipeline(experiment(), workdir).run()
    update = carry_on(experiment(), workdir, day()).update
    made = {s: open_artifact(workdir / f) for s, f in update.artifacts.items()}
    inputs = {s: a.manifest["inputs"] for s, a in made.items()}
    assert inputs["prepare"]["dataset_before"] == base["prepare"].fingerprint
    assert inputs["pretrain"]["tables_before"] == base["pretrain"].fingerprint
    assert inputs["select"]["selection_before"] == base["select"].fingerprint
    assert inputs["train"]["checkpoint_before"] == base["train"].fingerprint
    assert inputs["evaluate"]["checkpoint"] == made["train"].fingerprint


def test_the_same_command_again_does_nothing(workdir, experiment, day):
    first = carry_on(experiment(), workdir, day())
    there = folders(workdir)
    again = carry_on(experiment(), workdir, day())
    assert (first.kept, again.kept) == (False, True)
    assert again.update == first.update
    assert folders(workdir) == there


def test_updates_follow_each_other(workdir, experiment, day):
    one = carry_on(experiment(), workdir, day(name="one")).update
    second = [(user(8), item(200), 350), (user(99), item(4), 360)]
    two = carry_on(experiment(), workdir, day(second, "two")).update
    assert (one.number, two.number) == (1, 2)
    base = Pipeline(experiment(), workdir).run()
    assert [u.number for u in updates_of(workdir, line_of(base))] == [1, 2]
    assert two.report["day"]["interactions"] == 2
    known = len(shop_rows())
    total = len({row[:2] for row in [*shop_rows(), *day_rows(), *second]}) - known
    assert two.report["new_share_since_full_build"] == pytest.approx(total / known)
    there = folders(workdir)
    for number, artifacts in ((0, None), (1, one.artifacts), ("newest", two.artifacts)):
        made = take_update(Pipeline(experiment(), workdir), number).pipeline.run()
        wanted = artifacts or {s: f"{s}/{a.path.name}" for s, a in base.items()}
        assert {s: f"{s}/{a.path.name}" for s, a in made.items()} == dict(wanted)
    assert folders(workdir) == there
    with pytest.raises(CadcError, match="has no update 3"):
        take_update(Pipeline(experiment(), workdir), 3)
    assert carry_on(experiment(), workdir, day(name="one")).update.number == 1


def test_another_experiment_in_the_same_folder_has_updates_of_its_own(workdir, experiment, day):
    carry_on(experiment(), workdir, day())
    Pipeline(experiment(seed=1), workdir).run()
    other = carry_on(experiment(seed=1), workdir, day())
    assert other.update.number == 1
    assert not other.kept


def test_a_day_of_known_rows_changes_nothing(workdir, experiment, day):
    there = folders(workdir)
    outcome = carry_on(experiment(), workdir, day(shop_rows()[:7]))
    assert outcome.update is None
    assert outcome.counts["duplicates"] == 7
    assert folders(workdir) == there


def test_nothing_that_learns_looks_at_what_the_day_holds_out(workdir, experiment, day):
    """Give the users' new test items to others: tables and sample keep every byte."""
    users = sorted({row[0] for row in day_rows()})
    # Two items that stand in held-out rows only, whoever gets them; user 20 has both either way.
    extra = [(user(20), item(81), 401), (user(20), item(80), 402)]
    made = []
    for flip in (0, 1):
        tests = [(who, item(80 + (n + flip) % 2), 400) for n, who in enumerate(users)]
        folder = shutil.copytree(workdir, workdir.parent / f"work-{flip}")
        rows = [*day_rows(), *tests, *extra]
        update = carry_on(experiment(), folder, day(rows, f"day-{flip}")).update
        made.append({s: open_artifact(folder / f) for s, f in update.artifacts.items()})
    for stage in ("pretrain", "select"):
        assert made[0][stage].fingerprint == made[1][stage].fingerprint
    assert made[0]["prepare"].fingerprint != made[1]["prepare"].fingerprint


@pytest.mark.parametrize(
    ("at_work", "stage"),
    [(learning, "build_updated_tables"), (towers, "build_updated_towers")],
    ids=["tables", "towers"],
)
def test_an_update_that_ended_half_way_has_no_effect_and_goes_on(
    workdir, experiment, day, monkeypatch, at_work, stage
):
    there = folders(workdir)

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(at_work, stage, stop)
        with pytest.raises(KeyboardInterrupt):
            carry_on(experiment(), workdir, day())
    base = Pipeline(experiment(), workdir).run()
    assert all(artifact.cached for artifact in base.values())
    assert updates_of(workdir, line_of(base)) == []
    half = folders(workdir) - there
    assert half
    update = carry_on(experiment(), workdir, day()).update
    assert half < folders(workdir) - there
    assert half <= set(update.artifacts.values())


def test_two_updates_of_one_experiment_at_once_are_refused(workdir, experiment, day):
    line = line_of(Pipeline(experiment(), workdir).run())
    with (
        empty_folder(workdir, "updates", f"line-{line}"),
        pytest.raises(CadcError, match="another job"),
    ):
        carry_on(experiment(), workdir, day())
    assert carry_on(experiment(), workdir, day()).update.number == 1


def test_towers_that_are_kept_keep_their_bits(workdir, experiment, day):
    base = Pipeline(experiment(), workdir).run()
    users = [("u99", "gold", 21.0)]  # a new value: one row more in the table of plans
    kept = experiment(update={"towers": "keep", "epochs": 2})
    update = carry_on(kept, workdir, day(users=users)).update
    before = load_file(base["train"].path / "model.safetensors")
    after = load_file(workdir / update.artifacts["train"] / "model.safetensors")
    assert before.keys() == after.keys()
    grew = "user.features.tables.embedding_bags.user_plan.weight"
    for name, weight in before.items():
        np.testing.assert_array_equal(
            after[name][: len(weight)] if name == grew else after[name], weight
        )
    assert len(after[grew]) == len(before[grew]) + 1
    np.testing.assert_array_equal(after[grew][-1], before[grew][0])  # starts as the unknown value
    assert update.report["vectors"]["user"]["unchanged"]["cosine"] == pytest.approx(1)


def test_the_ranks_that_training_keeps_are_those_of_its_rounded_weights(
    workdir, experiment, day, monkeypatch
):
    monkeypatch.setattr(evaluate, "kept_ranks", lambda *_: None)  # so they are ranked again
    update = carry_on(experiment(update={"round_changes": 1.0}), workdir, day()).update
    kept, again = (
        pq.read_table(workdir / update.artifacts[stage] / "validation_ranks.parquet")
        for stage in ("train", "evaluate")
    )
    assert kept.equals(again)


def test_no_rank_leaves_before_all_removed_their_rows_of_the_day(tmp_path, monkeypatch):
    """The first rank of a node sends what is in the draft."""
    removed = []
    names = ("load_file", "_without_forgotten", "write_rows_of_day", "build_checkpoint")
    for name in names:
        monkeypatch.setattr(towers, name, lambda *_, **__: {})
    processes = SimpleNamespace(
        rank=1, world_size=2, barrier=lambda: removed.append(not list(tmp_path.iterdir()))
    )
    sample = Artifact(tmp_path, {"info": {"selected": 9}})
    towers.build_updated_towers(
        Experiment(),
        SimpleNamespace(forgotten=None),
        sample,
        None,
        Artifact(tmp_path, {"info": {}}),
        processes,
        SimpleNamespace(path=tmp_path),
        came=np.ones(1, bool),
    )
    assert removed == [True]


def test_a_rank_reads_what_rank_0_tells_of_in_its_own_work_folder(
    workdir, experiment, day, monkeypatch
):
    """Each node may have its cache of a store by another path."""

    def elsewhere(value):
        if isinstance(value, Mapping):
            return {name: elsewhere(each) for name, each in value.items()}
        if isinstance(value, list):
            return [elsewhere(each) for each in value]
        if isinstance(value, update_module._Begun):
            parts = (elsewhere(each) for each in (value.base, value.done, value.latest))
            base, done, latest = parts
            return replace(value, base=base, done=done, latest=latest)
        if isinstance(value, Artifact | Update):
            path = Path("/of/rank/0", value.path.parent.name, value.path.name)
            return replace(value, path=path)
        return value

    class Told(SoloGroup):
        def broadcast(self, value):
            return elsewhere(value)

    for module in (update_module, runner):
        monkeypatch.setattr(module, "SoloGroup", Told)
    first = carry_on(experiment(), workdir, day()).update
    again = carry_on(experiment(), workdir, day())
    assert (again.kept, again.update.path) == (True, first.path)
    assert workdir in first.path.parents
    second = carry_on(experiment(), workdir, day([(user(8), item(200), 350)], "tuesday")).update
    assert second.number == 2


def test_an_update_may_rank_a_sample_whose_ranks_are_those_of_all(workdir, experiment, day):
    made = {}
    for most in (0, 15):
        folder = shutil.copytree(workdir, workdir.parent / f"ranks-{most}")
        # Towers that went on would keep the epoch that is best on fewer validation items.
        few = {"users": most, "towers": "keep"}
        update = carry_on(experiment(update=few), folder, day()).update
        made[most] = folder / update.artifacts["evaluate"], update.report
    every, some = (
        {row["user_id"]: (row["item_id"], row["rank"]) for row in rows.to_pylist()}
        for rows in (pq.read_table(folder / "ranks.parquet") for folder, _ in made.values())
    )
    assert len(every) > len(some) == 15
    assert all(every[who] == rank for who, rank in some.items())
    info = open_artifact(made[15][0]).info
    hits = [rank <= 10 for _, rank in some.values()]
    assert info["test"]["hr@10"] == pytest.approx(sum(hits) / 15)
    assert info["test_sample"]["users"] == info["users"] == 15
    assert info["test_sample"]["of"] == len(every)
    for name in ("user_vectors.safetensors", "item_vectors.safetensors"):
        assert (made[0][0] / name).read_bytes() == (made[15][0] / name).read_bytes()
    held_out = [report["new_held_out"] for _, report in made.values()]
    assert held_out[0]["users"] > (held_out[1] or {"users": 0})["users"]
    foreseen = made[0][1]["progressive"]
    assert foreseen["users"] == foreseen["of"] == made[15][1]["progressive"]["of"] <= 15


def test_towers_of_a_day_see_what_came_and_as_much_of_what_was(workdir, experiment, day):
    base = Pipeline(experiment(), workdir).run()
    of_day = experiment(update={"towers": "day", "train_epochs": 2, "epochs": 2})
    update = carry_on(of_day, workdir, day()).update
    made = {stage: open_artifact(workdir / place) for stage, place in update.artifacts.items()}
    old = Dataset.open(base["prepare"])
    had = set(zip(old.train_user.tolist(), old.train_item.tolist(), strict=True))
    pairs = [
        (row["user"], row["item"])
        for file in made["select"].path.glob("shard-*.parquet")
        for row in pq.read_table(file).to_pylist()
    ]
    came = sum(pair not in had for pair in pairs)
    assert 0 < 2 * came < len(pairs)
    info = made["train"].info
    assert info["positives"] == 2 * came
    assert [set(epoch) for epoch in info["history"]] == 2 * [{"epoch", "loss"}]
    assert info["best_epoch"] == 2
    before, after = (load_file(of["train"].path / "model.safetensors") for of in (base, made))
    same = [name for name, weight in before.items() if after[name].shape == weight.shape]
    assert any((after[name] != before[name]).any() for name in same)
    assert not list(made["train"].path.glob(".scratch*"))


def test_what_cannot_be_carried_on_is_made_anew_and_said(workdir, experiment, day):
    pretrain = {"model": "mlp", "factors": 7, "mlp": {"epochs": 1}}
    Pipeline(experiment(pretrain=pretrain), workdir).run()
    update = carry_on(experiment(pretrain=pretrain), workdir, day()).update
    assert "pretrain.model = 'mlp'" in update.report["rebuilt"]
    assert update.report["rebuild"] == []
    assert update.report["new_share_since_full_build"] == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "sections",
    [
        {"pretrain": {"model": "none"}, "model": {"id_embedding": "trainable", "id_dim": 8}},
        {
            "pretrain": {"model": "als", "factors": 7, "scale": "unit", "als": {"half_life": 5.0}},
            "transitions": {"window": 3, "dim": 8},
            "history": {"length": 4, "windows": [1, 4]},
            "prior": {"use": True},
            "select": {"kind": "recent", "ratio": 3, "shards": 2},
        },
        {
            "pretrain": {"model": "mf", "loss": "softmax", "epochs": 3, "factors": 7},
            "select": {"kind": "hard", "ratio": 3},
        },
        {"pretrain": {"model": "popularity"}, "model": {"kind": "tables"}},
        {
            "pretrain": {"model": "als", "factors": 7},
            "transitions": {"window": 3, "form": "lists"},
            "history": {"length": 4},
            "prior": {"use": True, "fit": "validation"},
            "model": {"kind": "tables"},
        },
    ],
    ids=["learned ids", "recipe", "softmax and hard rows", "popularity", "fitted lists"],
)
def test_other_methods_are_carried_on_too(tmp_path, experiment, day, sections):
    workdir = tmp_path / "work"
    base = Pipeline(experiment(**sections), workdir)
    base.run()
    update = carry_on(experiment(**sections), workdir, day()).update
    assert update.report["rebuilt"] == ""
    made = take_update(base).pipeline.run()
    assert {s: f"{s}/{a.path.name}" for s, a in made.items()} == dict(update.artifacts)
    assert set(take_update(base, 0).pipeline.run()) == set(made)


@pytest.mark.parametrize(
    ("came", "asked", "users"),
    [(10, 0, 1000), (100_000, 0, 2000), (10**6, 0, 4000), (500, 300, 300)],
)
def test_the_users_whom_the_prior_is_fitted_on_are_in_proportion_to_the_day(came, asked, users):
    made = SimpleNamespace(info={"update": {"interactions": came}})
    settings = SimpleNamespace(update=UpdateConfig(fit_users=asked))
    assert fit_users(SimpleNamespace(experiment=settings, artifact=lambda _: made)) == users


def test_the_prior_is_not_fitted_on_so_few_that_it_would_choose_nothing(experiment):
    with pytest.raises(ValueError, match=r"update\.fit_users = 199: .* on 200 users at least"):
        experiment(update={"fit_users": 199})
    assert experiment(update={"fit_users": 200}).update.fit_users == 200


def test_a_generated_worlds_day_is_a_table_with_its_columns(tmp_path):
    world = {"users": 30, "items": 20, "interactions": 300}
    sections = settings(tmp_path) | {"data": {"generated": world}}
    experiment = Experiment.model_validate(sections)
    folder = tmp_path / "day"
    folder.mkdir()
    (folder / "interactions.csv").write_text(
        "user_id,item_id,timestamp\n1,500,2000000000\n500,1,2000000001\n"
    )
    (folder / "users.csv").write_text("user_id,segment,age_group\n500,segment-0,20\n")
    Pipeline(experiment, tmp_path / "work").run()
    update = carry_on(experiment, tmp_path / "work", folder).update
    assert update.report["day"]["new_users"] == update.report["day"]["new_items"] == 1
    table = pq.read_table(tmp_path / "work" / update.artifacts["prepare"] / "users.parquet")
    last = table.slice(table.num_rows - 1).to_pylist()[0]
    assert last["user_id"] == 500
    assert last["segment"] > 0
    assert last["age_group"] == 2  # the second of 10, 20, ...


@pytest.mark.parametrize(
    ("folder", "words"),
    [
        ("nowhere", "no such folder; correct --new"),
        (".", "holds no table of interactions"),
    ],
)
def test_what_cannot_be_done_is_said_before_any_work(workdir, experiment, tmp_path, folder, words):
    there = folders(workdir)
    with pytest.raises(CadcError, match=words):
        carry_on(experiment(), workdir, tmp_path / folder)
    assert folders(workdir) == there


def test_the_command_prints_its_report_and_lists_its_updates(cli, tmp_path, shop, workdir, day):
    config = tmp_path / "shop.toml"
    config.write_text(as_toml(settings(shop)))
    assert tomllib.loads(config.read_text())["pretrain"]["factors"] == 7
    done = cli("update", config, "--new", day(), "--workdir", workdir)
    assert done.code == 0, done.err
    assert "new interactions" in done.out
    listed = cli("updates", config, "--workdir", workdir, "--json")
    (one,) = json.loads(listed.out)
    assert one["number"] == 1
    assert set(one["artifacts"]) == set(STAGES)
    again = cli("update", config, "--new", day(), "--workdir", workdir, "--json")
    assert json.loads(again.out)["kept"] is True
    nothing = cli("update", config, "--new", day(shop_rows()[:3], "old"), "--workdir", workdir)
    assert "holds no new interaction" in nothing.out
    wrong = cli("update", config, "--new", tmp_path / "none", "--workdir", workdir)
    assert wrong.code == 2
    assert "error: " in wrong.err
    assert "no such folder" in wrong.err
    write_table(tmp_path / "bad" / "interactions.parquet", [("u1", "i1", None)], INTERACTIONS)
    wrong = cli("update", config, "--new", tmp_path / "bad", "--workdir", workdir)
    assert wrong.code == 2


def test_a_run_on_several_processes_is_carried_on_as_it_is(workdir, experiment, day):
    """Its train artifact is looked for under its own key, and never made anew on one process."""
    several = experiment(compute={"device": "cpu", "threads": 1, "processes": 2})
    there = folders(workdir)
    with pytest.raises(CadcError, match=r"--set compute\.processes=1 \(asked: compute"):
        carry_on(several, workdir, day())
    assert folders(workdir) == there
