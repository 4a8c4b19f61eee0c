import json
import logging
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from cadc_rec.data.dataset import Dataset
from cadc_rec.errors import CadcError
from cadc_rec.study import law as laws
from cadc_rec.study.run.advice_text import (
    advice_as_json,
    cautions,
    parse_share,
    run_advise,
    sentence,
    spent,
)
from cadc_rec.study.run.advise import advise
from cadc_rec.study.run.cheap_runs import Measured

ROWS, USERS = 1_000_000, 20_000


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    monkeypatch.setattr(laws, "DRAWS", 1500)


class FakeRuns:
    """HR@10 is 0.2 on everything and falls to 55% of that; ten epochs, a microsecond a row."""

    kind, method, base_method, seed = "frozen", "cadc", "mf", 0

    def __init__(self, knee=0.01, rows=ROWS, tables=0.1, beside=0.0, base=0.2):
        self.knee, self.of, self.tables, self.beside = knee, rows, tables, beside
        self.of_base, self.calls = base, []

    def value(self, share):
        of_knee = self.knee**0.8
        height = share**0.8 * (1 + of_knee) / (share**0.8 + of_knee)
        return 0.2 * math.exp(-0.6 * (1 - height))

    def __call__(self, ratio, seed):
        self.calls.append((ratio, seed))
        rows = round(self.of / ratio)
        return Measured(
            value=self.value(1 / ratio),
            users=USERS,
            rows=rows,
            of=self.of,
            epochs=10,
            steps=rows // 100,
            everything_steps=self.of // 100,
            tables_seconds=self.tables,
            fixed_seconds=self.beside,
            training_seconds=rows * 10 / 1e6,
        )

    def base(self, seed):
        return self.of_base

    def rows(self):
        return self.of

    def advise(self, tolerance=0.05, **options):
        return advise(Path("unread"), tolerance, Path("unused"), run=self, **options)


def test_a_curve_is_foreseen_from_shares_that_cost_a_twentieth():
    runs = FakeRuns()
    advice = runs.advise()
    shares = [1 / ratio for ratio, _ in runs.calls]
    assert sum(shares) <= 0.05
    assert advice.cost.share == pytest.approx(sum(shares) + 0.1 / 10, rel=1e-3)
    assert 0.04 < advice.cost.share <= 0.05
    assert shares == sorted(shares)
    assert max(shares) > 0.02
    for one in advice.predicted:
        low, high = one.interval
        assert low <= runs.value(1 / one.ratio) <= high
        assert high - low < 0.4 * one.value
    # 0.6 (1 - H) is log(1 / 0.95) where s^0.8 is 0.2075, so at 1 in 7.1.
    assert advice.chosen.ratio == 5.0
    assert advice.tried[0].share == pytest.approx(max(shares), rel=1e-4)


@pytest.mark.parametrize(("knee", "least", "most"), [(0.0005, 20.0, 100.0), (0.3, 1.0, 2.0)])
def test_a_curve_that_saturates_early_needs_less(knee, least, most):
    assert least <= FakeRuns(knee=knee).advise().chosen.ratio <= most


def test_a_larger_tolerance_never_asks_for_more():
    chosen = [FakeRuns().advise(t).chosen.ratio for t in (0.0, 0.02, 0.05, 0.1, 0.2, 0.5)]
    assert chosen == sorted(chosen)
    assert chosen[0] < chosen[-1]


def test_sure_is_a_chance_of_nineteen_in_twenty():
    for one in FakeRuns().advise(0.1).predicted:
        sure = "surely" if one.chance >= 0.95 else "probably" if one.chance >= 0.5 else "no"
        assert one.standing == sure
        if sure == "surely":
            assert one.loss_interval[1] <= 0.1 + 1e-9  # the upper end of 90% is 95% of the curves
    everything = FakeRuns().advise(0.1).predicted[0]
    assert everything.standing == "surely"
    assert everything.loss == 0.0


def test_tables_take_at_most_half_of_the_budget_from_the_runs():
    runs = FakeRuns(tables=5.0)
    advice = runs.advise()  # everything takes 10 s, so the tables alone take half of that
    assert 0.015 < sum(1 / ratio for ratio, _ in runs.calls) <= 0.025
    assert advice.cost.share > 0.5
    assert "The budget of 5% was exceeded" in cautions(advice)[0]
    assert "5.0 s of tables" in spent(advice)
    assert "of the 10 s that training on everything is estimated to take" in spent(advice)
    assert "(budget 5%)" in spent(advice)


def test_three_shares_are_run_whatever_they_cost():
    runs = FakeRuns(beside=3.0)
    advice = runs.advise()
    assert [ratio for ratio, _ in runs.calls] == [500.0, 250.0, 130.0]
    assert advice.cost.share > 0.9
    assert len(cautions(advice)) == 1


def test_a_budget_of_the_users_own_is_kept():
    runs = FakeRuns(tables=0.0)
    runs.advise(budget=0.2)
    assert 0.16 < sum(1 / ratio for ratio, _ in runs.calls) <= 0.2


def test_time_is_tables_and_the_share_of_everything():
    advice = FakeRuns(tables=2.0).advise()
    fifth = next(one for one in advice.predicted if one.ratio == 5.0)
    assert advice.time_share(fifth) == pytest.approx((2.0 + 10 / 5) / (2.0 + 10))
    assert fifth.rows == 200_000


def test_seeds_share_the_budget_and_are_averaged():
    runs = FakeRuns()
    advice = runs.advise(seeds=(3, 4))
    assert {seed for _, seed in runs.calls} == {3, 4}
    assert sum(1 / ratio for ratio, _ in runs.calls) <= 0.1  # of two trainings on everything
    assert advice.cost.share <= 0.05
    assert advice.cost.everything == pytest.approx(20.0)


def test_tables_within_the_tolerance_are_named():
    near = advice_as_json(FakeRuns(base=0.2).advise(0.2))
    assert near["base"]["method"] == "mf"
    assert near["base"]["loss"] == pytest.approx(0.0, abs=0.08)  # everything reaches it, too
    assert "The tables alone (--method mf) lose" in near["cautions"][0]
    assert not FakeRuns(base=0.2).advise(0.0).base_loss[2] <= 0.0


def test_a_share_with_few_steps_is_advised_with_a_smaller_batch():
    class LargeBatches(FakeRuns):
        def __call__(self, ratio, seed):
            return replace(super().__call__(ratio, seed), everything_steps=800)

    told = cautions(LargeBatches(tables=0.0).advise())  # 1 in 5: 160 steps
    assert "set train.batch_size=10000 there" in told[0]  # 200,000 rows, 10 epochs, 200 steps
    assert not any("train.batch_size" in one for one in cautions(FakeRuns().advise()))


def test_json_holds_what_is_printed():
    advice = FakeRuns().advise()
    told = advice_as_json(advice)
    assert told["advice"]["ratio"] == 5.0
    assert told["advice"]["within"] in ("surely", "probably")
    assert told["sentence"].startswith(
        "Advice: keep 1 in 5 (200,000 of 1,000,000 labelled examples)"
    )
    assert told["sentence"].endswith("--set select.ratio=5, or select.ratio = 5 in the file.")
    assert [run["ratio"] for run in told["runs"]] == [trial.ratio for trial in advice.tried]
    assert told["cost"]["share"] == pytest.approx(advice.cost.share)
    json.dumps(told)


def test_nothing_smaller_within_the_tolerance_is_said():
    assert "use everything" in sentence(FakeRuns(knee=3.0).advise(0.01))
    none = FakeRuns(knee=3.0).advise(0.01, ratios=(20.0, 50.0))
    assert none.chosen is None
    assert "no ratio asked for stays within 1%" in sentence(none)


def test_too_few_rows_are_refused():
    with pytest.raises(CadcError, match=r"only 300 training interactions, too few"):
        FakeRuns(rows=300).advise(ratios=(1000.0,))


def test_a_ratio_that_leaves_no_row_is_refused_before_anything_runs():
    runs = FakeRuns()
    with pytest.raises(CadcError, match=r"--ratios 1e\+09: there are only 1,000,000 training"):
        runs.advise(ratios=(2.0, 1e9))
    assert not runs.calls


def test_a_base_that_finds_nothing_is_refused():
    with pytest.raises(CadcError, match=r"mf has a validation HR@10 of 0"):
        FakeRuns(base=0.0).advise()


@pytest.mark.parametrize(
    ("text", "expected"), [("5%", 0.05), ("0.05", 0.05), ("0%", 0), ("2.5 %", 0.025)]
)
def test_a_share_is_a_percentage_or_a_fraction(text, expected):
    assert parse_share("--tolerance", text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["abc", "-1%", "150%", "5", "100%", "nan", "", "%", "inf"])
def test_any_other_share_is_refused_in_one_sentence(text):
    with pytest.raises(CadcError) as refused:
        parse_share("--budget", text)
    assert str(refused.value) == (
        f"--budget {text}: must be a share from 0% to below 100%; write 5% or 0.05."
    )


@pytest.fixture
def ask(tiny, tmp_path, monkeypatch, capsys):
    """``cadc-rec advise`` on the tiny world; what it prints."""
    monkeypatch.delenv("CADC_REC_DATA", raising=False)
    logging.getLogger("cadc_rec").setLevel(logging.WARNING)

    def run(**changed):
        options = {
            "method": None,
            "sets": [],
            "budget": "5%",
            "seeds": "",
            "ratios": "2,5",
            "as_json": True,
        }
        run_advise(tiny, "30%", tmp_path, None, **(options | changed))
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize(
    ("option", "value"),
    [("ratios", "0.5"), ("ratios", "two"), ("ratios", ","), ("seeds", "-1"), ("budget", "5")],
)
def test_options_that_cannot_be_are_refused_by_name(ask, option, value):
    with pytest.raises(CadcError, match=rf"^--{option} {value}(:| is) .*\.$"):
        ask(**{option: value})


@pytest.mark.parametrize("method", ["gold", "mf", "recipe-gold", "prior"])
def test_a_method_without_a_sample_is_refused(ask, method):
    with pytest.raises(CadcError, match=rf"method {method} trains no towers on a sample.* cadc,"):
        ask(method=method)


def test_it_decides_on_validation_whatever_the_test_items_are(ask, tmp_path, monkeypatch):
    before = ask()
    advice = json.loads(before)
    told = {run["hr@10"] for run in (advice["base"], *advice["runs"])}
    found = {
        file.parent.name: np.mean(pq.read_table(file)["rank"].to_numpy() <= 10)
        for file in tmp_path.glob("evaluate/*/validation_ranks.parquet")
    }
    assert told == {max(value, 0.5 / advice["runs"][0]["users"]) for value in found.values()}
    assert len(found) == 1 + len(advice["runs"])
    tests = {name: (tmp_path / "evaluate" / name / "ranks.parquet").read_bytes() for name in found}
    assert len(list((tmp_path / "prepare").iterdir())) == 1
    assert len(list((tmp_path / "pretrain").iterdir())) == 1

    # Every user gets another's test item, and everything is ranked anew.
    honest = Dataset.open

    def permuted(artifact):
        dataset = honest(artifact)
        return replace(dataset, test_item=np.roll(dataset.test_item, 7))

    shutil.rmtree(tmp_path / "evaluate")
    monkeypatch.setattr(Dataset, "open", permuted)
    assert ask() == before
    for name, ranks in tests.items():
        assert (tmp_path / "evaluate" / name / "ranks.parquet").read_bytes() != ranks

    shown = ask(as_json=False)
    assert advice["sentence"] in shown
    assert "1 in 2" in shown


def test_tables_that_towers_add_to_are_measured_by_the_runs_themselves(ask):
    advice = json.loads(ask(method="recipe"))
    assert advice["base"]["method"] == "prior"
    assert 0 < advice["base"]["hr@10"] < 1
    assert math.isfinite(advice["cost"]["share"])
