"""The overview: what is compared with what, and sentences with numbers worked out by hand."""

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from cadc_rec.study.law import Band
from cadc_rec.study.report import overview as module
from cadc_rec.study.report.groups import Comparisons
from cadc_rec.study.report.kept import kept
from cadc_rec.study.report.overview import overview
from cadc_rec.study.report.sentences import sentences_of_many, sentences_of_one
from cadc_rec.study.report.study_data import load_studies
from tests.study.report.conftest import DATASETS, StudyFolder

FAST = (0.0, 0.1, 9.9)


def add(study, method, ratio, hits, seconds=FAST, dataset="ml-1m", **more):
    """A cell without ranks, so that there is nothing to resample."""
    more = {"ranks": None} | more
    study.add_done(dataset, method, "init_frozen", ratio, 0, hits, seconds, **more)


def comparisons_of(study):
    return Comparisons(load_studies(study.folder))


def told(study):
    """The sentences, by the words that lead each."""
    found = kept(comparisons_of(study))
    said = sentences_of_many(found) if len(found) > 1 else sentences_of_one(found[0])
    return {one.lead: one.text for one in said}


@pytest.fixture
def curve(new_study):
    """Gold hits 80 of 1,000; CADC 84, 78 and 40 at 1/2, 1/20 and 1/100, with pre-training."""
    study = new_study()
    add(study, "gold", 1.0, 80, (0.0, 0.0, 200.0))
    for ratio, hits, train in ((100.0, 40, 2.0), (2.0, 84, 100.0), (20.0, 78, 10.0)):
        add(study, "cadc", ratio, hits, (6.0, 0.0, train))
    return study


def test_of_one_set_the_smallest_share_that_keeps_enough_is_told(curve):
    """78 of 80 are 97.5%; 1/20 is 5%; 6 + 10 seconds of 200 are 8%."""
    said = told(curve)
    assert list(said) == ["What can be left out", "What it costs", "What it saves"]
    out, cost, saved = said.values()
    assert out.startswith("On MovieLens 1M, CADC keeps 97.5% of the HR@10 that Gold standard ")
    assert "on 1/20 of the labelled examples (2,500 of 50,000), the smallest" in out
    assert out.endswith(
        "share that keeps 95% on validation, as all larger ones do: 7.80% against 8.00%."
    )
    assert cost.startswith("It costs 2.5% of the HR@10; no ranks of both are kept to compare")
    assert "6.0 s of pre-training" in cost
    assert saved == (
        "95.0% of the labelled examples are not needed, and all the training takes 16 s in place "
        "of 200 s (8.0% of the time)."
    )


def test_a_share_that_keeps_too_little_is_told_as_the_nearest(new_study):
    """60 of 80 are 75%."""
    study = new_study()
    add(study, "gold", 1.0, 80)
    for ratio, hits in ((10.0, 60), (100.0, 20)):
        add(study, "cadc", ratio, hits)
    out = told(study)["What can be left out"]
    assert out.startswith(
        "On MovieLens 1M, the largest measured share of the labelled examples does not"
    )
    assert "the nearest, CADC on 1/10 (5,000 of 50,000), keeps 75.0% on test: 6.00%" in out


def test_the_users_verdict_and_the_interval_stand_beside_what_is_kept(new_study):
    study = new_study()
    add(study, "gold", 1.0, 70, ranks="ranks/ml-1m-gold-init_frozen-1-0.parquet")
    add(study, "cadc", 10.0, 69, ranks="ranks/ml-1m-cadc-init_frozen-10-0.parquet")
    said = told(study)
    assert "the 1,000 tested users cannot tell the two apart" in said["What it costs"]
    assert "7.00% (95% interval " in said["What can be left out"]


def test_over_several_sets_the_median_and_the_range_are_told(new_study, monkeypatch):
    """Kept 100%, 97.5% and 50%; left out 90%, 50% and 90%; time 50%, 25% and 10%."""
    monkeypatch.setitem(DATASETS, "third", "Third")
    study = new_study()
    sets = ("ml-1m", 80, 10.0, 50.0), ("epinions-20core", 78, 2.0, 25.0), ("third", 40, 10.0, 10.0)
    for dataset, hits, ratio, seconds in sets:
        add(study, "gold", 1.0, 80, (0.0, 0.0, 100.0), dataset)
        add(study, "random", ratio, hits, (0.0, 0.0, seconds), dataset)
    out, cost, saved = told(study).values()
    assert out == (
        "On 2 of 3 sets, a measured part of the labelled examples keeps at least 95% of the HR@10 "
        "that all of them reach on validation (the smallest: MovieLens 1M: Random, 1/10; "
        "Epinions, 20-core: Random, 1/2); the nearest on the others keep 50.0% on test: "
        "Third: Random, 1/10."
    )
    assert cost == "There, the loss of HR@10 is 2.5% (0.0% to 50.0%) in the median set."
    assert saved == (
        "The median set does without 90.0% (50.0% to 90.0%) of its labelled examples, and its "
        "training takes 25.0% (10.0% to 50.0%) of the time."
    )


@pytest.mark.parametrize(
    ("kept_by", "on_everything", "told_of_them", "told_of_everything"),
    [
        (["tables", "tables"], ["towers", "towers"], True, False),
        (["tables", "tables"], ["tables", "tables"], True, True),
        (["tables", "towers"], ["towers", "towers"], False, False),
        (["tables", "towers"], ["towers"], True, False),  # seed 0 alone is in both
    ],
)
def test_where_no_tower_was_kept_no_labelled_example_is_said_to_count(
    kept_by, on_everything, told_of_them, told_of_everything, new_study
):
    study = new_study(layout="grid")
    for method, ratio, kinds in (("recipe-gold", 1.0, on_everything), ("recipe", 100.0, kept_by)):
        for seed, kind in enumerate(kinds):
            place = ("ml-1m", method, "init_frozen", ratio, seed)
            study.add_done(*place, 198, FAST, ranks=None, kept=kind)
    cost = told(study)["What it costs"]
    assert ("were better than with towers, so they are what is kept" in cost) == told_of_them
    assert ("nor in what all of them reach" in cost) == told_of_everything


def test_over_several_sets_those_without_towers_are_named(new_study):
    study = new_study(layout="grid")
    for dataset, which in (("ml-1m", "towers"), ("epinions-20core", "tables")):
        add(study, "recipe-gold", 1.0, 200, dataset=dataset)
        add(study, "recipe", 10.0, 199, dataset=dataset, kept=which)
    cost = told(study)["What it costs"]
    assert "; on 1 set (Epinions, 20-core) the tables alone were better on validation" in cost


def test_what_is_kept_is_of_the_seeds_that_both_have(new_study):
    """Gold has seed 0 alone, and 80 hits; the tenth 76 of these and 40, on validation 98% and 0."""
    study = new_study()
    add(study, "gold", 1.0, 80, validation={"hr@10": 0.100})
    for seed, hits, validated in ((0, 76, 0.098), (1, 40, 0.0)):
        more = {"ranks": None, "validation": {"hr@10": validated}}
        study.add_done("ml-1m", "cadc", "init_frozen", 10.0, seed, hits, FAST, **more)
    comparisons = comparisons_of(study)
    (one,) = kept(comparisons)
    assert one.shown.kept == pytest.approx(95.0)
    assert one.shown.validated == pytest.approx(98.0)
    ((_, entries),) = overview(comparisons).rows
    assert entries[1].text == "95.0"
    assert (entries[3].text, entries[3].second) == ("7.60", "8.00")
    assert sentences_of_one(one)[0].text.endswith(": 7.60% against 8.00%.")


def test_sets_split_by_time_are_in_the_table_alone(new_study):
    study = new_study()
    for dataset, split in (("ml-1m", "leave-last-two"), ("epinions-20core", "time")):
        config = {"data": {"split": split}, "train": {"epochs": 1}}
        add(study, "gold", 1.0, 80, dataset=dataset, config=config)
        add(study, "cadc", 10.0, 79, dataset=dataset, config=config)
    found = overview(comparisons_of(study))
    assert found.sentences == found.of_set["ml-1m"]
    assert [one.title for one, _ in found.rows] == ["MovieLens 1M", "Epinions, 20-core"]
    assert found.figure.caption.endswith(
        "Sets split by time, another task, are in the table alone."
    )
    assert "Epinions" not in found.figure.svg


def test_the_share_is_chosen_on_validation_and_told_by_test(new_study):
    """On validation a hundredth keeps 96 of 100, on test 30 of 80: 37.5%."""
    study = new_study()
    add(study, "gold", 1.0, 80, validation={"hr@10": 0.100})
    add(study, "cadc", 10.0, 79, validation={"hr@10": 0.095})
    add(study, "cadc", 100.0, 30, validation={"hr@10": 0.096})
    (one,) = kept(comparisons_of(study))
    assert one.shown.group.ratio == 100.0
    assert one.shown.kept == pytest.approx(37.5)
    assert "keeps 37.5% of the HR@10" in told(study)["What can be left out"]


def test_a_small_share_that_keeps_enough_where_a_larger_does_not_is_taken_for_luck(new_study):
    study = new_study()
    add(study, "gold", 1.0, 80, validation={"hr@10": 0.100})
    for ratio, validated in ((5.0, 0.097), (10.0, 0.096), (20.0, 0.094), (100.0, 0.098)):
        add(study, "cadc", ratio, 70, validation={"hr@10": validated})
    (one,) = kept(comparisons_of(study))
    assert one.shown.group.ratio == 10.0
    assert "on validation, as all larger ones do" in told(study)["What can be left out"]


def test_a_recipe_is_measured_against_the_recipe_on_everything(new_study):
    """190 of 200, not of gold's 70; and the study's baseline is that of other methods."""
    study = new_study(layout="grid")
    add(study, "gold", 1.0, 70)
    add(study, "recipe-gold", 1.0, 200)
    add(study, "recipe", 100.0, 190)
    (one,) = kept(comparisons_of(study))
    assert one.everything.method == "recipe-gold"
    assert [sample.kept for sample in one.samples] == [pytest.approx(95.0)]
    assert one.least is one.samples[0]


def test_a_recipe_without_everything_leaves_the_place_to_a_line_that_has_it(new_study):
    """The recipe at 270% of gold says nothing; CADC keeps 90% of it."""
    study = new_study(layout="grid")
    add(study, "gold", 1.0, 70)
    add(study, "recipe", 10.0, 189)
    add(study, "cadc", 10.0, 63)
    (one,) = kept(comparisons_of(study))
    assert one.method == "CADC"
    assert one.shown.kept == pytest.approx(90.0)


def test_a_recipe_without_everything_is_measured_against_gold_where_nothing_else_is(new_study):
    study = new_study(layout="grid")
    add(study, "gold", 1.0, 70)
    add(study, "recipe", 10.0, 189)
    (one,) = kept(comparisons_of(study))
    assert one.shown.kept == pytest.approx(270.0)


def test_without_a_method_for_everything_the_recipe_is_measured_against_itself(new_study):
    study = new_study(layout="grid")
    add(study, "gold", 1.0, 70)
    for ratio, hits in ((1.0, 200), (10.0, 180)):
        add(study, "recipe", ratio, hits)
    (one,) = kept(comparisons_of(study))
    assert [sample.kept for sample in one.samples] == [pytest.approx(90.0)]
    out = told(study)["What can be left out"]
    assert "Recipe on everything reaches on all, on validation; the nearest" in out


def test_the_line_is_chosen_on_validation_never_on_test(new_study):
    study = new_study()
    add(study, "gold", 1.0, 80)
    add(study, "random", 10.0, 70, validation={"hr@10": 0.03, "ndcg@10": 0.01})
    add(study, "cadc", 10.0, 60, validation={"hr@10": 0.05, "ndcg@10": 0.02})
    assert [one.method for one in kept(comparisons_of(study))] == ["CADC"]


def test_more_shares_come_before_more_accuracy_and_variants_last(new_study):
    study = new_study(layout="grid")
    add(study, "gold", 1.0, 80)
    add(study, "cadc", 10.0, 79)
    for ratio in (10.0, 20.0):
        add(study, "random", ratio, 40)
    for ratio in (5.0, 10.0, 20.0):
        add(study, "recipe", ratio, 79, variant="uniform")
    assert [one.method for one in kept(comparisons_of(study))] == ["Random"]


def test_tables_without_towers_are_not_everything(new_study):
    """`prior` reads every row and trains no tower: gold is what a sample is measured against."""
    study = new_study(layout="grid", baseline="prior")
    add(study, "prior", 1.0, 90)
    add(study, "gold", 1.0, 80)
    add(study, "cadc", 10.0, 40)
    (one,) = kept(comparisons_of(study))
    assert one.everything.method == "gold"
    assert one.samples[0].kept == pytest.approx(50.0)


def test_another_studys_run_counts_only_on_the_same_rows(tmp_path):
    """Two studies may cut a set of one name otherwise: a page has to stand with both of them."""
    for folder, users in (("same", {}), ("other", {"users": 900})):
        samples = StudyFolder(tmp_path / folder / "samples", layout="grid")
        add(samples, "cadc", 10.0, 40)
        add(StudyFolder(tmp_path / folder / "whole"), "gold", 1.0, 80, **users)
    same, other = (kept(Comparisons(load_studies(tmp_path / name))) for name in ("same", "other"))
    assert [one.everything.method for one in same] == ["gold"]
    assert other == []


@pytest.mark.parametrize("method", ["gold", "cadc"])
def test_without_both_sides_nothing_is_claimed(new_study, method):
    study = new_study()
    add(study, method, 1.0 if method == "gold" else 10.0, 80)
    found = overview(comparisons_of(study))
    assert found.figure is None
    assert found.rows == ()
    assert [one.lead for one in found.sentences] == ["Nothing to compare yet"]


def test_the_picture_has_a_mark_for_every_share_and_the_fit_has_none(curve, monkeypatch):
    """Four shares, in both panels, and the level line of each."""
    band = Band(
        np.array([0.01, 1.0]), *(np.array([4.0 * part, 8.0 * part]) for part in (1, 0.9, 1.1))
    )
    fitted = []

    def law(comparisons, groups, seeds):
        fitted.append([group.ratio for group in groups])
        return band

    monkeypatch.setattr(module, "fitted_curve", law)
    figure = overview(comparisons_of(curve)).figure
    assert (fitted, "the law that is fitted" in figure.caption) == ([], False)  # of three shares
    add(curve, "cadc", 10.0, 79, (6.0, 0.0, 20.0))
    figure = overview(comparisons_of(curve)).figure
    assert sorted(fitted[0]) == [2.0, 10.0, 20.0, 100.0]
    assert "A line without marks is the law that is fitted" in figure.caption
    root = ElementTree.fromstring(figure.svg)
    tips = [e.get("aria-label") for e in root.iter() if e.get("aria-roledescription") == "value"]
    assert len(tips) == 2 * (4 + 1)
    assert (
        "MovieLens 1M, CADC on 1/20\nHR@10 kept: 97.5%\n5% of the labelled examples, 8% of the time"
    ) in tips
