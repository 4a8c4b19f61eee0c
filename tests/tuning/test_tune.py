"""The search of settings: its first trial, budget and record, what it writes and never reads."""

import json
import signal
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("optuna")
pytest.importorskip("tomlkit")

from cadc_rec.config.file import load_experiment
from cadc_rec.data.dataset import Dataset
from cadc_rec.errors import CadcError
from cadc_rec.pipeline.pipeline import Pipeline
from cadc_rec.tuning import search as search_room
from cadc_rec.tuning.report import found_settings, verdict
from cadc_rec.tuning.search import Search

USERS = 60


@pytest.fixture
def measured(monkeypatch):
    """Ranks in place of training: `ranked(experiment)` says at which rank all users' items are."""
    seen = []

    def by(ranked, epochs=lambda _: ()):
        def rank(experiment, workdir, given, file, on_epoch):
            seen.append(experiment)
            for epoch, value in enumerate(epochs(experiment), 1):
                on_epoch({"epoch": epoch, "ndcg@10": value})
            ranks = np.full(USERS, ranked(experiment))
            table = pa.table({"user_id": np.arange(USERS), "item_id": ranks, "rank": ranks})
            file.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(table, file)

        monkeypatch.setattr(search_room, "rank_on_validation", rank)
        return seen

    return by


def test_the_own_settings_come_first_and_the_best_trial_is_what_the_config_says(
    measured, cli, tiny, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    seen = measured(lambda e: 1 if 0 < e.pretrain.l2 < 4 else 3)  # 0 is the default
    options = ("--workdir", tmp_path / "work", "--set", "train.epochs=1", "--json")
    first = cli("tune", tiny, "--trials", 3, *options)
    assert first.code == 0, first.err
    assert seen[0] == load_experiment(tiny, overrides=["train.epochs=1"]).model_copy(
        update={"tracking": seen[0].tracking}
    )
    found = json.loads(cli("tune", tiny, "--trials", 6, *options).out)
    assert len(seen) == 6  # the first three were not made again
    assert len(found["trials"]) == 6
    assert found["own"] == pytest.approx(1 / np.log2(4))  # rank 3
    best = found["trials"][found["best"]]
    assert (found["ndcg@10"], found["better"]) == (1.0, True)
    assert found["interval"] == pytest.approx([0.5, 0.5])  # all users gain as much
    # The config gives, without any option, the experiment of the best trial; nothing else changed.
    given = load_experiment(tmp_path / "tiny-tuned.toml")
    searched = seen[found["best"]]
    kept = {"tracking": given.tracking, "checkpoint": given.checkpoint}
    assert searched.model_copy(update=kept) == given
    assert 0 < given.pretrain.l2 == best["settings"]["pretrain.l2"] < 4
    assert given.train.epochs == 1
    page = (tmp_path / found["page"]).read_text()
    assert "+50.00 points (95% of the same 60 users: +50.00 to +50.00)" in page


def test_a_search_that_found_nothing_better_says_so_and_keeps_the_file(measured, tiny, tmp_path):
    measured(lambda e: 1)
    search = Search(tiny, tmp_path / "work")
    search.run(60, 3)
    assert verdict(search.record).startswith(
        "Nothing better than the file's own settings was found in 3 trials"
    )
    assert found_settings(search.record) == {}


def test_a_trial_under_way_at_the_end_is_stopped_and_pruned(measured, tiny, tmp_path):
    def rank(experiment):
        assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= 600
        if len(seen) == 2:
            signal.raise_signal(signal.SIGALRM)  # what the timer does at the end
        return 1

    seen = measured(rank)
    search = Search(tiny, tmp_path / "work")
    search.run(600, 2)
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
    ends = [(t.state, t.why, t.ndcg) for t in search.record.trials]
    assert ends == [("done", "", 1.0), ("pruned", "the time was up", None)]


def test_an_interrupted_search_leaves_what_it_found(measured, cli, tiny, tmp_path):
    def rank(experiment):
        if len(seen) == 3:
            raise KeyboardInterrupt
        return 1

    seen = measured(rank)
    out = tmp_path / "out.toml"
    ended = cli("tune", tiny, "--workdir", tmp_path / "work", "--out", out)
    assert ended.code == 130
    assert "Traceback" not in ended.err
    assert load_experiment(out).method == "cadc"
    (record,) = (tmp_path / "work" / "tune").glob("*/trials.jsonl")
    assert len(record.read_text().splitlines()) == 2


def test_what_is_behind_after_an_epoch_is_pruned_and_the_first_trial_never(
    measured, tiny, tmp_path
):
    places = iter(range(100))
    measured(lambda e: 5, epochs=lambda e: [1 / (1 + next(places))] * 2)
    search = Search(tiny, tmp_path / "work")
    search.run(60, 6)
    states = [t.state for t in search.record.trials]
    assert states[0] == "done"
    assert states[-1] == "pruned"  # each is worse than all before it
    assert search.record.trials[-1].why == "behind the others after epoch 1"


def test_a_line_that_was_torn_is_left_out_and_overwritten(measured, tiny, tmp_path):
    measured(lambda e: 2)
    search = Search(tiny, tmp_path / "work")
    search.run(60, 2)
    whole = search.record.file.read_bytes()
    search.record.file.write_bytes(whole + b'{"number": 2, "sett')
    again = Search(tiny, tmp_path / "work")
    assert again.record.file.read_bytes() == whole
    again.run(60, 3)
    assert [json.loads(line)["number"] for line in again.record.file.open()] == [0, 1, 2]


def test_a_file_that_the_search_did_not_write_is_never_overwritten(measured, cli, tiny, tmp_path):
    seen = measured(lambda e: 2)
    out = tmp_path / "mine.toml"
    out.write_text("# mine\n")
    options = ("--workdir", tmp_path / "work", "--out", out, "--trials", 1)
    refused = cli("tune", tiny, *options)
    assert (refused.code, seen) == (2, [])
    assert f"{out} already exists, and is not what this search wrote last" in refused.err
    assert out.read_text() == "# mine\n"
    assert cli("tune", tiny, *options, "--overwrite").code == 0
    assert cli("tune", tiny, *options).code == 0  # its own
    out.write_text(out.read_text() + "# edited\n")
    assert cli("tune", tiny, *options).code == 2


@pytest.mark.parametrize(
    ("method", "searched", "absent"),
    [
        ("als", {"pretrain.als.l2", "pretrain.als.alpha"}, {"pretrain.l2", "train.epochs"}),
        ("gold", {"train.learning_rate", "model.id_dropout"}, {"pretrain.factors", "select.kind"}),
        ("prior", {"transitions.window", "history.length"}, {"history.windows", "prior.decay"}),
    ],
)
def test_only_settings_that_the_method_uses_are_searched(
    method, searched, absent, tiny_recipe, tmp_path
):
    names = {s.name for s in Search(tiny_recipe, tmp_path, None, method).space}
    assert searched <= names
    assert not absent & names
    fixed = f"{min(searched)}={5.0 if 'als' in method else 1}"
    if method == "als":
        left = {s.name for s in Search(tiny_recipe, tmp_path, None, method, [fixed]).space}
        assert names - left == {min(searched)}


def test_a_method_without_settings_is_refused(tiny, tmp_path):
    with pytest.raises(CadcError, match="no settings to search with the method popularity"):
        Search(tiny, tmp_path, None, "popularity")


class _Unread:
    """Held-out test items that fail whoever looks at them."""

    def __getattr__(self, name):
        raise AssertionError(f"the test items were read: {name}")

    def __array__(self, *_, **__):
        raise AssertionError("the test items were read")

    __len__ = __getitem__ = __ge__ = __array__


@pytest.mark.parametrize("method", ["als", "prior", "recipe"])
def test_no_test_item_is_read_and_stages_are_shared(method, tiny_recipe, tmp_path, monkeypatch):
    opened = Dataset.open

    def without_test(artifact):
        return replace(opened(artifact), test_item=_Unread())

    monkeypatch.setattr(Dataset, "open", without_test)
    work = tmp_path / "work"
    search = Search(tiny_recipe, work, None, method, ["pretrain.als.iterations=2"])
    search.run(120, 3)
    assert [t.state for t in search.record.trials] == ["done"] * 3
    assert not (work / "evaluate").exists()
    assert len(list((work / "prepare").iterdir())) == 1
    # The first trial is what `run` makes: its ranks are those of the validation that run reports.
    monkeypatch.undo()
    experiment = load_experiment(
        tiny_recipe, method=method, overrides=["pretrain.als.iterations=2"]
    )
    made = Pipeline(experiment, work).run()
    learned = made["train" if method == "recipe" else "pretrain"]
    assert learned.cached
    assert made["evaluate"].info["validation"]["ndcg@10"] == search.record.trials[0].ndcg


def test_a_training_tells_each_epoch_and_can_be_ended(tiny, tmp_path):
    told = []
    made = Pipeline(load_experiment(tiny), tmp_path / "a", on_epoch=told.append).run("train")
    history = made["train"].info["history"]
    assert [entry["ndcg@10"] for entry in told] == [entry["ndcg@10"] for entry in history]

    def end(entry):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Pipeline(load_experiment(tiny), tmp_path / "b", on_epoch=end).run("train")
    assert not list((tmp_path / "b" / "train").glob("*"))
