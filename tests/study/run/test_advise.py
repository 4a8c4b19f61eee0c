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
from cadc_rec.study.run.advice_text import (
    advice_as_json,
    parse_tolerance,
    run_advise,
    sentence,
)
from cadc_rec.study.run.advise import RATIOS, advise, largest_within
from cadc_rec.study.run.short_runs import Measured

ROWS, USERS, GOLD_HITS = 100_000, 1000, 500


class FakeRuns:
    """CADC hits `losses` of gold's users fewer; an epoch takes a millisecond a row."""

    def __init__(self, losses, users=USERS, hits=GOLD_HITS, improving=()):
        self.losses, self.users, self.hits, self.calls = losses, users, hits, []
        self.improving = improving

    def __call__(self, method, ratio, seed):
        self.calls.append((method, ratio, seed))
        loss = 0.0 if method == "gold" else self.losses[ratio]
        loss = loss[seed] if isinstance(loss, tuple) else loss
        hits = round(self.hits * (1 - loss))
        rows = ROWS if method == "gold" else round(ROWS / ratio)
        return Measured(
            users=np.arange(self.users),
            ranks=np.where(np.arange(self.users) < hits, 10, 11),
            rows=rows,
            of=ROWS,
            epochs=2,
            full_epochs=10,
            fixed_seconds=0.0 if method == "gold" else 30.0,
            training_seconds=2 * rows / 1000,
            improving=ratio in self.improving,
        )

    def advise(self, tolerance=0.05, **options):
        return advise(Path("unread"), tolerance, Path("unused"), run=self, **options)


def growing(within):
    """Losses of which the first `within` ratios' are small."""
    return {r: 0.01 * n / 7 if n < within else 0.2 + 0.01 * n for n, r in enumerate(RATIOS)}


@pytest.mark.parametrize("within", range(len(RATIOS) + 1))
def test_the_largest_ratio_within_the_tolerance_is_found_in_few_runs(within):
    runs = FakeRuns(growing(within))
    advice = runs.advise()
    assert (advice.chosen and advice.chosen.ratio) == (RATIOS[within - 1] if within else None)
    assert len(runs.calls) == len(set(runs.calls)) == 4  # 8 outcomes: 3 runs of CADC, and gold
    assert runs.calls[0] == ("cadc", 10.0, 0)
    tried = [trial.ratio for trial in advice.tried]
    assert tried == sorted(tried)
    if within < len(RATIOS):
        assert RATIOS[within] in tried  # and was seen to lose too much
    assert ("use everything" in sentence(advice)) == (within <= 1)


@pytest.mark.parametrize("count", [1, 2, 3, 8, 20])
def test_bisection_asks_few_wherever_it_starts(count):
    ratios = list(range(1, count + 1))
    for start in [*ratios, 0]:
        for limit in [0, *ratios]:
            asked = []

            def within(ratio, asked=asked, limit=limit):
                asked.append(ratio)
                return ratio <= limit

            assert largest_within(ratios, within, start) == (limit or None)
            assert len(asked) == len(set(asked)) <= math.ceil(math.log2(count)) + 2


def test_noise_is_lived_with_and_said():
    losses = {1.0: 0.03, 2.0: 0.0, 5.0: 0.06, 10.0: 0.04, 20.0: 0.01, 50.0: 0.3, 100.0: 0.02}
    advice = FakeRuns(losses).advise()
    assert advice.chosen.ratio == 20.0
    assert [trial.ratio for trial in advice.tried] == [10.0, 20.0, 50.0]
    assert any("within noise" in caution for caution in advice_as_json(advice)["cautions"])


@pytest.mark.parametrize("seed", range(20))
def test_whatever_the_noise_the_choice_was_seen_to_hold_and_the_next_to_fail(seed):
    noise = np.random.default_rng(seed).uniform(0, 0.1, len(RATIOS))
    losses = dict(zip(RATIOS, noise, strict=True))
    advice = FakeRuns(losses).advise()
    tried = {trial.ratio: trial.loss for trial in advice.tried}
    place = RATIOS.index(advice.chosen.ratio) if advice.chosen else -1
    if place >= 0:
        assert tried[RATIOS[place]] <= 0.05
    if place + 1 < len(RATIOS):
        assert tried[RATIOS[place + 1]] > 0.05


def test_a_loss_of_exactly_the_tolerance_is_within_it():
    advice = FakeRuns(dict.fromkeys(RATIOS, 0.05)).advise()
    assert advice.chosen.ratio == 100.0


def test_sure_is_what_the_whole_interval_says():
    losses = dict.fromkeys(RATIOS, 0.04)
    # Of 500 hits 20 are lost: 4% with a standard error of sqrt(20) / 500 = 0.9%.
    few = FakeRuns(losses).advise().chosen
    assert few.standing(0.05) == "probably"
    assert few.loss == pytest.approx(0.04)
    assert few.loss_interval == pytest.approx((0.04 - 1.96 * 0.009, 0.04 + 1.96 * 0.009), abs=2e-3)
    # Of 50,000 hits 2,000: the standard error is a tenth of that.
    many = FakeRuns(losses, users=100_000, hits=50_000).advise().chosen
    assert many.standing(0.05) == "surely"
    assert many.standing(0.03) == "no"


@pytest.mark.parametrize(("budget", "expected"), [(201.0, "gold"), (199.0, "cadc")])
def test_gold_too_dear_makes_full_data_cadc_the_reference(budget, expected):
    runs = FakeRuns(growing(3))  # 2 epochs of 100,000 rows, a millisecond each: 200 seconds
    advice = runs.advise(budget_seconds=budget)
    assert advice.reference.method == expected
    assert advice.reference.ratio == 1.0
    assert advice.chosen.ratio == 5.0
    assert {method for method, _, _ in runs.calls} == {"cadc", expected}
    assert "3.3 minutes" in advice.reason
    assert ("CADC on everything" in sentence(advice)) == (expected == "cadc")


def test_cadc_as_the_reference_is_no_candidate():
    runs = FakeRuns(growing(1))
    advice = runs.advise(reference="cadc")
    assert advice.chosen is None
    assert 1.0 not in [trial.ratio for trial in advice.tried]
    assert runs.calls.count(("cadc", 1.0, 0)) == 1
    assert "no ratio tried stays within 5% of CADC on everything's HR@10" in sentence(advice)


def test_a_reference_asked_for_is_taken_whatever_it_takes():
    assert FakeRuns(growing(3)).advise(reference="gold", budget_seconds=0).reason == "asked for"


def test_time_is_scaled_to_all_epochs_and_pretraining_is_not():
    advice = FakeRuns(growing(5)).advise()
    assert advice.chosen.ratio == 20.0
    # 10 epochs of 5,000 rows and 30 seconds before them, over 10 epochs of 100,000 rows.
    assert advice.time_share(advice.chosen) == pytest.approx((50 + 30) / 1000)
    assert advice.chosen.seconds == pytest.approx(10 + 30)
    assert sentence(advice).startswith("Advice: keep 1 in 20 (5,000 of 100,000 labelled examples)")
    assert "about 0.08 of its time (estimated for 10 epochs)" in sentence(advice)


def test_seeds_are_averaged():
    runs = FakeRuns(dict.fromkeys(RATIOS, (0.02, 0.06)))
    advice = runs.advise(tolerance=0.045, seeds=(0, 1))
    assert advice.chosen.ratio == 100.0
    assert advice.chosen.loss == pytest.approx(0.04)
    assert advice.chosen.value == pytest.approx(0.48)
    assert {seed for _, _, seed in runs.calls} == {0, 1}


def test_runs_cut_short_are_said_to_be():
    told = advice_as_json(FakeRuns(growing(4), improving=(1.0, 20.0)).advise())["cautions"]
    assert told == [
        "Short runs (2 epochs instead of 10) order the ratios, but give large ratios few steps; "
        "only full runs give the final accuracy.",
        "Still improving in the last epoch: gold, 1 in 20; more --epochs may change their order.",
    ]


def test_a_gain_is_no_loss():
    advice = FakeRuns(dict.fromkeys(RATIOS, -0.02)).advise(tolerance=0.0)
    assert advice.chosen.ratio == 100.0
    assert "lose nothing (loss -2.0%" in sentence(advice)


def test_a_reference_that_finds_nothing_is_refused():
    with pytest.raises(CadcError, match=r"gold on everything has a validation HR@10 of 0"):
        FakeRuns(dict.fromkeys(RATIOS, 0.0), hits=0).advise()


@pytest.mark.parametrize(
    ("text", "expected"), [("5%", 0.05), ("0.05", 0.05), ("0%", 0), ("2.5 %", 0.025)]
)
def test_a_tolerance_is_a_percentage_or_a_fraction(text, expected):
    assert parse_tolerance(text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["abc", "-1%", "150%", "5", "100%", "nan", "", "%", "inf"])
def test_any_other_tolerance_is_refused_in_one_sentence(text):
    with pytest.raises(CadcError) as refused:
        parse_tolerance(text)
    assert str(refused.value) == (
        f"--tolerance {text}: must be a share from 0% to below 100%; write 5% or 0.05."
    )


@pytest.fixture
def ask(tiny, tmp_path, monkeypatch, capsys):
    """``cadc-rec advise`` on the tiny world; what it prints."""
    monkeypatch.delenv("CADC_REC_DATA", raising=False)
    logging.getLogger("cadc_rec").setLevel(logging.WARNING)

    def run(**changed):
        options = {
            "epochs": None,
            "sets": [],
            "reference": "auto",
            "budget_minutes": 30.0,
            "seeds": "",
            "ratios": "2,5",
            "as_json": True,
        }
        run_advise(tiny, "30%", tmp_path, None, **(options | changed))
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize(
    ("option", "value"),
    [("ratios", "0.5"), ("ratios", "two"), ("ratios", ","), ("seeds", "-1"), ("reference", "mf")],
)
def test_options_that_cannot_be_are_refused_by_name(ask, option, value):
    with pytest.raises(CadcError, match=f"^--{option} {value}(:| is) .*\\.$"):
        ask(**{option: value})


def test_it_decides_on_validation_whatever_the_test_items_are(ask, tmp_path, monkeypatch):
    before = ask()
    advice = json.loads(before)
    told = {trial["hr@10"] for trial in (advice["reference"], *advice["tried"])}
    found = {
        file.parent.name: np.mean(pq.read_table(file)["rank"].to_numpy() <= 10)
        for file in tmp_path.glob("evaluate/*/validation_ranks.parquet")
    }
    assert told == set(found.values())
    assert len(found) == 1 + len(advice["tried"])
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
