import json
import logging
import signal
import sys

import pytest

from cadc_rec.config.file import load_experiment
from cadc_rec.errors import CadcError
from cadc_rec.pipeline import runner as stage_runner
from cadc_rec.pipeline.pipeline import STAGES as EVERY_STAGE
from cadc_rec.pipeline.pipeline import Pipeline, launched
from cadc_rec.store.artifact import Artifact, artifact_key

STAGES = tuple(s for s in EVERY_STAGE if s not in ("transitions", "prior"))  # those of cadc

# Of the artifacts that are not made: what later stages ask them for.
_INFO = {"users": 60, "items": 40, "train": 780, "val": 60, "selected": 78}


@pytest.fixture
def keys(tmp_path, monkeypatch):
    """The keys of all stages' artifacts of an experiment; nothing is built.

    A stage's contents are taken to be others whenever its key is, so a key tells everything that
    its stage and the ones before it depend on.
    """

    def fake_stage(workdir, stage, settings, inputs, build, **_):
        json.dumps(settings)  # what cannot be written could not be compared
        key = artifact_key(stage, settings, inputs)
        manifest = {"stage": stage, "fingerprint": key, "seconds": 1.0, "info": _INFO}
        return Artifact(workdir / stage / key, manifest)

    monkeypatch.setattr(stage_runner, "run_stage", fake_stage)
    path = tmp_path / "experiment.toml"
    path.write_text("")

    def of(*overrides, method=None):
        made = Pipeline(load_experiment(path, method=method, overrides=overrides), tmp_path).run()
        return {stage: artifact.path.name for stage, artifact in made.items()}

    return of


@pytest.mark.parametrize(
    ("override", "first"),
    [
        ("data.generated.users=70", "prepare"),
        ("data.generated.seed=1", "prepare"),
        ("data.k_core=2", "prepare"),
        ("pretrain.epochs=3", "pretrain"),
        ("pretrain.learning_rate=0.5", "pretrain"),
        ("pretrain.l2=3", "pretrain"),
        ("select.ratio=20", "select"),
        ("select.shards=4", "select"),
        ("model.tower=[16, 8]", "train"),
        ("train.epochs=3", "train"),
        ("train.learning_rate=0.5", "train"),
        ("train.precision=bfloat16", "train"),
        ("sharding.frozen=table_wise", "train"),
        ("compute.processes=2", "train"),
        ("evaluate.k=[5, 10]", "evaluate"),
        ("evaluate.metrics=['mrr']", "evaluate"),
        ("evaluate.users=59", "train"),
    ],
)
def test_a_setting_makes_its_own_stage_and_those_after_it_anew_and_no_other(keys, override, first):
    before, after = keys(), keys(override)
    changed = [stage for stage in STAGES if before[stage] != after[stage]]
    # pretrain and select stand side by side: neither reads the other
    later = STAGES[STAGES.index(first) :]
    assert changed == [s for s in later if not (first == "pretrain" and s == "select")]


def test_the_seed_governs_everything_but_the_data(keys):
    before, after = keys(), keys("seed=1")
    assert [s for s in STAGES if before[s] == after[s]] == ["prepare"]
    before, after = keys(method="gold"), keys("seed=1", method="gold")
    assert [s for s in before if before[s] == after[s]] == ["prepare", "select"]


def test_counting_draws_nothing_so_the_seed_makes_no_popularity_anew(keys):
    assert keys("seed=1", method="popularity") == keys(method="popularity")


@pytest.mark.parametrize(
    "override",
    [
        "compute.threads=3",
        "compute.device=cpu",
        "compute.timeout_seconds=9",
        "pretrain.evaluate_every=5",
        "evaluate.users=60",  # all there are, as by default
        "evaluate.users=0",
    ],
)
def test_where_and_how_it_runs_makes_nothing_anew(keys, override):
    assert keys(override) == keys()


@pytest.mark.parametrize("override", ["select.ratio=3", "pretrain.epochs=3"])
def test_gold_has_no_use_for_the_ratio_nor_for_pretraining(keys, override):
    assert keys(override, method="gold") == keys(method="gold")
    assert keys(override) != keys()


def test_methods_share_what_they_have_in_common(keys):
    cadc, random, gold = keys(), keys(method="random"), keys(method="gold")
    assert list(cadc) == list(STAGES)
    assert list(random) == list(gold) == ["prepare", "select", "train", "evaluate"]
    assert cadc["prepare"] == random["prepare"] == gold["prepare"]
    assert cadc["select"] == random["select"] != gold["select"]
    assert len({cadc["train"], random["train"], gold["train"]}) == 3


def test_data_equal_in_content_is_worked_on_once(tiny, tmp_path):
    experiment = load_experiment(tiny)
    plain = Pipeline(experiment, tmp_path)
    selected = plain.artifact("select")
    # Every user and item has two interactions, so this keeps them all: other settings, same bytes.
    same = load_experiment(tiny, overrides=["data.k_core=2"])
    again = Pipeline(same, tmp_path)
    assert again.artifact("prepare").path != plain.artifact("prepare").path
    assert again.artifact("select").path == selected.path
    assert again.artifact("select").cached


def test_a_stage_is_made_with_those_before_it_and_none_after(tiny, tmp_path, caplog):
    logging.getLogger("cadc_rec").propagate = True
    with caplog.at_level(logging.INFO, "cadc_rec"):
        made = Pipeline(load_experiment(tiny, method="gold"), tmp_path).run(until="select")
    assert list(made) == ["prepare", "select"]
    assert sorted(p.name for p in tmp_path.iterdir()) == [".tmp", "prepare", "select"]
    lines = [record.getMessage() for record in caplog.records]
    assert [line.split(":")[0] for line in lines] == ["prepare", "select"]
    for line, artifact in zip(lines, made.values(), strict=True):
        assert "made in" in line
        assert str(artifact.path) in line
    with caplog.at_level(logging.INFO, "cadc_rec"):
        Pipeline(load_experiment(tiny, method="gold"), tmp_path).run(until="select")
    assert [r.getMessage() for r in caplog.records[2:]] == [
        f"{stage}: kept, {artifact.path}" for stage, artifact in made.items()
    ]


def test_damaged_data_is_found_before_anything_is_built_on_it(tiny, tmp_path):
    experiment = load_experiment(tiny)
    prepared = Pipeline(experiment, tmp_path).artifact("prepare")
    part = prepared.path / "train" / "part-00000.parquet"
    damaged = bytearray(part.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    part.write_bytes(damaged)
    with pytest.raises(CadcError, match="changed since it was written") as caught:
        Pipeline(experiment, tmp_path).artifact("select")
    assert str(part) in str(caught.value)
    assert not (tmp_path / "select").exists()


def test_workers_are_started_only_for_a_train_stage_that_is_not_there(tiny, finished):
    def launch(_):
        raise AssertionError("nothing had to be trained")

    made = Pipeline(load_experiment(tiny), finished.workdir, launch=launch).run()
    assert all(artifact.cached for artifact in made.values())


@pytest.mark.parametrize(
    ("environ", "expected"),
    [({}, False), ({"WORLD_SIZE": "1"}, False), ({"WORLD_SIZE": "2"}, True)],
)
def test_a_launched_process_knows_it_by_its_world_size(monkeypatch, environ, expected):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert launched() is expected


def test_several_processes_without_a_launcher_are_refused(tiny, tmp_path):
    experiment = load_experiment(tiny, overrides=["compute.processes=2"])
    with pytest.raises(CadcError, match=r"compute\.processes = 2 needs a launcher"):
        Pipeline(experiment, tmp_path / "work").artifact("train")


ON_GPUS = ("sharding.frozen=row_wise", "compute.device=auto")


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("until", ["train", "evaluate"])
@pytest.mark.parametrize(
    ("sets", "sentence"),
    [
        (ON_GPUS, "sharding 'row_wise' of table user needs CUDA; on CPU choose one of"),
        ((*ON_GPUS, "compute.processes=2"), "sharding 'row_wise' of table user needs CUDA"),
        (["sharding.frozen_storage=int8"], "sharding.frozen_storage = 'int8' can be planned"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_made(
    tiny, tmp_path, until, sets, sentence
):
    pipeline = Pipeline(load_experiment(tiny, overrides=sets), tmp_path, launch=print)
    with pytest.raises(CadcError, match=sentence):
        pipeline.run(until)
    assert not (tmp_path / "prepare").exists()


@pytest.mark.usefixtures("no_gpu")
def test_what_gpus_will_train_is_prepared_anywhere(tiny, tmp_path):
    made = Pipeline(load_experiment(tiny, overrides=ON_GPUS), tmp_path).run(until="select")
    assert list(made) == ["prepare", "pretrain", "select"]


@pytest.mark.usefixtures("no_gpu")
def test_what_gpus_have_trained_is_found_anywhere(keys, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(stage_runner, "stage_exists", lambda *_: True)
    assert keys(*ON_GPUS)["train"] != keys()["train"]


def test_a_mismatched_trio_is_said_before_torch_is_imported(tiny, tmp_path, monkeypatch):
    def mismatch():
        raise CadcError("torch 2.13 needs fbgemm 1.8")

    monkeypatch.setattr("cadc_rec.pipeline.runner.require_trio", mismatch)
    monkeypatch.setitem(sys.modules, "cadc_rec.pipeline.stages.pretrain", None)  # no import
    pipeline = Pipeline(load_experiment(tiny), tmp_path / "work")
    with pytest.raises(CadcError, match=r"torch 2\.13 needs fbgemm"):
        pipeline.artifact("pretrain")
    assert not list((tmp_path / "work" / "pretrain").glob("*"))


@pytest.mark.usefixtures("hears_ctrl_c")
def test_ctrl_c_while_libraries_load_is_kept_for_the_end():
    loaded = []

    def load():
        with stage_runner._interruptible_later():
            signal.raise_signal(signal.SIGINT)
            loaded.append("the rest")  # a library's bare `except:` would have swallowed it here

    with pytest.raises(KeyboardInterrupt):
        load()
    assert loaded == ["the rest"]
    with pytest.raises(KeyboardInterrupt):  # and afterwards it is itself again
        signal.raise_signal(signal.SIGINT)


RECIPE = {"method": "recipe"}


def test_a_recipe_has_a_stage_more_and_shares_the_data_with_the_others(keys):
    recipe = keys(**RECIPE)
    assert list(recipe) == list(EVERY_STAGE)
    assert recipe["prepare"] == keys()["prepare"]
    on_everything = keys(method="recipe-gold")
    for shared in ("prepare", "pretrain", "transitions"):
        assert on_everything[shared] == recipe[shared]
    assert on_everything["select"] != recipe["select"]


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("pretrain.als.l2=7.0", {"pretrain", "prior", "train", "evaluate"}),
        ("pretrain.learning_rate=0.5", set()),
        ("transitions.decay=0.5", {"transitions", "prior", "train", "evaluate"}),
        ("history.length=3", {"prior", "select", "train", "evaluate"}),
        ("history.windows=[1, 2]", {"train", "evaluate"}),
        ("select.half_life=3.0", set()),
        ("select.kind=hard", {"select", "train", "evaluate"}),
        ("select.centres=9", set()),
        ("train.temperature=0.5", {"train", "evaluate"}),
    ],
)
def test_a_setting_of_a_recipe_makes_anew_what_it_concerns(keys, override, changed):
    before, after = keys(**RECIPE), keys(override, **RECIPE)
    assert {stage for stage in EVERY_STAGE if before[stage] != after[stage]} == changed


@pytest.mark.parametrize("kind", ["hard", "gradient-norm", "k-centres"])
def test_a_selection_by_vectors_depends_on_them(keys, kind):
    plain = keys(f"select.kind={kind}", **RECIPE)
    other = keys(f"select.kind={kind}", "pretrain.als.l2=7.0", **RECIPE)
    assert plain["select"] != other["select"]
    more = keys(f"select.kind={kind}", "select.centres=9", **RECIPE)
    assert (plain["select"] != more["select"]) == (kind == "k-centres")


FITTED = ("transitions.form=lists", "prior.fit=validation")


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("transitions.targets=7", {"transitions", "prior", "evaluate"}),
        ("transitions.dim=7", set()),
        ("prior.alpha=3.0", {"prior", "evaluate"}),
        ("history.length=3", {"prior", "evaluate"}),
        ("seed=1", {"pretrain", "transitions", "prior", "evaluate"}),
    ],
)
def test_a_fitted_prior_has_a_stage_of_its_own(keys, override, changed):
    before, after = (keys(*FITTED, *more, method="prior") for more in ((), (override,)))
    assert list(before) == ["prepare", "pretrain", "transitions", "prior", "evaluate"]
    assert {stage for stage in before if before[stage] != after[stage]} == changed
