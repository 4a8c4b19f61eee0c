import numpy as np
import pytest

from cadc_rec.config.file import load_experiment
from cadc_rec.study import law as laws
from cadc_rec.study.report.figures import study_figures
from cadc_rec.study.report.fitted import fitted_curve
from cadc_rec.study.report.groups import Comparisons
from cadc_rec.study.report.study_data import load_studies

HITS = {100.0: 50, 50.0: 58, 20.0: 66, 10.0: 70, 2.0: 78}


@pytest.fixture
def groups_of(tiny, new_study, monkeypatch):
    """Groups of CADC, and all comparisons, of a study with these configs; MF finds 80 of 1,000."""
    monkeypatch.setattr(laws, "DRAWS", 1000)
    configs = {m: load_experiment(tiny, method=m).model_dump(mode="json") for m in ("cadc", "mf")}

    def make(hits=HITS, base=True, config=configs["cadc"]):
        study = new_study()
        for seed in (0, 1):
            for ratio, found in hits.items():
                place = ("ml-1m", "cadc", "init_frozen", ratio, seed)
                study.add_done(*place, found, (1.0, 0.1, 9.0), config=config)
            if base:
                study.add_done("ml-1m", "mf", None, 1.0, seed, 80, (1.0, 0.0, 0.0))
        comparisons = Comparisons(load_studies(study.folder))
        groups = comparisons.groups(comparisons.studies[0])
        return comparisons, [group for group in groups if group.method == "cadc"]

    return make


def test_the_fit_goes_through_what_was_measured_and_on_to_everything(groups_of):
    band = fitted_curve(*groups_of())
    assert band.shares[0] == pytest.approx(0.01)
    assert band.shares[-1] == pytest.approx(1.0)
    assert (np.diff(band.value) > 0).all()
    for ratio, hits in HITS.items():
        # Each point is the mean of two seeds: sqrt(0.93 / (0.07 1000) / 2) = 8% at most.
        assert np.interp(1 / ratio, band.shares, band.value) == pytest.approx(hits / 10, rel=0.08)
    assert (band.low < band.value).all()
    assert (band.value < band.high).all()


def test_there_is_none_without_a_base(groups_of):
    assert fitted_curve(*groups_of(base=False)) is None


def test_there_is_none_of_one_ratio(groups_of):
    assert fitted_curve(*groups_of(hits={10.0: 70})) is None


def test_there_is_none_of_records_that_do_not_say_what_a_method_is(groups_of):
    assert fitted_curve(*groups_of(config={"train": {"epochs": 3}})) is None


@pytest.mark.parametrize(
    ("hits", "base", "drawn"),
    [(HITS, True, True), (HITS, False, False), ({10.0: 7, 2.0: 9}, True, False)],
)
def test_the_law_is_drawn_through_four_ratios_and_more(groups_of, hits, base, drawn):
    comparisons, _ = groups_of(hits=hits, base=base)
    figure = study_figures(comparisons.studies[0], comparisons)[0]
    assert figure.name == "figure1"
    assert ("the law that is fitted" in figure.caption) is drawn
