"""The lines under a table: Holm's correction and power, by hand."""

import pytest

from cadc_rec.evaluation.statistics import Comparison
from cadc_rec.study.report.many import corrected, power
from cadc_rec.study.report.report import write_report


def comparison(p=0.5, deviation=0.3, reference=0.1, users=1000):
    verdict = "better" if p < 0.05 else "cannot tell"
    return Comparison(0.01, (0, 1), 1.0, None, verdict, users, p, deviation, reference)


def test_verdicts_that_do_not_stand_are_named():
    """Holm's p values are 0.03, 0.06, 0.06 and 0.02."""
    chances = {"A": 0.01, "B": 0.04, "C": 0.03, "D": 0.005}
    (line,) = corrected([(name, comparison(p)) for name, p in chances.items()])
    assert line == (
        "Many comparisons: of 4 in this table, 4 say better or worse by their own interval, and 2 "
        "after Holm's correction for their number (5% for all together). Not after it: B; C."
    )
    (line,) = corrected([("A", comparison(0.001)), ("B", comparison(0.9))])
    assert line.endswith("1 say better or worse by their own interval, and 1 after Holm's "
                         "correction for their number (5% for all together).")  # fmt: skip


def test_that_resamples_are_too_few_for_so_many_comparisons_is_said():
    """The least p of 10,000 resamples is 2/10,001; 250 times that is 0.04999."""
    least = [("A", comparison(2 / 10_001))]
    assert "With 10,000 resamples no p" not in corrected(250 * least)[0]
    assert "and 250 after" in corrected(250 * least)[0]
    assert "With 10,000 resamples no p is small enough" in corrected(251 * least)[0]
    assert "and 0 after" in corrected(251 * least)[0]


@pytest.mark.parametrize("compared", [[], [("A", comparison(0.01))]])
def test_one_comparison_is_not_many(compared):
    assert corrected(compared) == ()


def test_users_that_tell_two_percent_are_told_for_each_metric():
    """(1.95996 + 0.84162) squared is 7.849; over 0.002 and 0.001 squared, and so on."""
    hr = [comparison(deviation=0.3), comparison(deviation=0.1), comparison(deviation=0.2)]
    ndcg = [comparison(deviation=0.1, reference=0.05)]
    (line,) = power("Films", "gold", {"hr@10": hr, "ndcg@10": ndcg})
    assert line == (
        # 7.849 x 0.04 / 0.000004, with 0.01 and 0.09; 2.8016 x 0.2 / sqrt(1000) / 0.1
        "Films: to tell a difference of 2% with 80% power takes of HR@10 78,000 users (20,000 to "
        "180,000), where the 1,000 tested ones tell 17.7%; "
        # 7.849 x 0.01 / 0.000001; 2.8016 x 0.1 / sqrt(1000) / 0.05
        "of NDCG@10 78,000 users, where the 1,000 tested ones tell 17.7% (median and range over 3 "
        "comparisons with gold)."
    )


def test_a_baseline_without_hits_tells_nothing():
    nothing = [comparison(reference=0.0)]
    assert power("Films", "gold", {"hr@10": nothing, "ndcg@10": []}) == ()


def test_two_runs_that_rank_alike_do_not_say_how_many_users_it_takes():
    """Gold and random on everything are one run: no user differs, and none would be needed."""
    same = comparison(deviation=0.0)
    lines = power("Films", "gold", {"hr@10": [same, comparison(deviation=0.3), same]})
    assert lines == power("Films", "gold", {"hr@10": [comparison(deviation=0.3)]})
    assert power("Films", "gold", {"hr@10": [same]}) == ()


def test_the_report_says_so_under_each_table(whole_report):
    """Against gold 8 methods have both metrics, against random 8 have HR@10.

    On Epinions over-sampling is not available.
    """
    said = f"Many comparisons: of {8 * 2 + 8 + 7 * 2 + 7} in this table, "
    page = whole_report.page.read_text("utf-8")
    table = (whole_report.page.parent / "table1.md").read_text("utf-8")
    assert said in page
    assert said in table
    for dataset in ("MovieLens 1M", "Epinions, 20-core"):
        assert f"{dataset}: to tell a difference of 2% with 80% power takes of HR@10 " in page
        assert f"- {dataset}: to tell a difference of 2% with 80% power" in table


def test_a_study_with_nothing_to_compare_says_nothing(new_study):
    study = new_study()
    study.add_done("ml-1m", "gold", None, 1.0, 0, 70, (0.0, 0.0, 100.0))
    page = write_report(study.folder).page.read_text("utf-8")
    assert "Many comparisons: of" not in page
    assert "80% power takes" not in page
