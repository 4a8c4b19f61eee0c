"""How stages grow, by sums done by hand."""

import json

import pytest

from benchmarks import growth, growth_rounds
from benchmarks.growth import DOCS, Growth, Point, document, from_document, read_growth, table
from benchmarks.growth_rounds import make_rounds, read_rounds
from cadc_rec.config.file import load_experiment
from cadc_rec.errors import CadcError
from cadc_rec.pipeline.pipeline import Pipeline
from cadc_rec.store.artifact import open_artifact


def keep(study, rows, method, seconds, peak=None, **more):
    """A finished cell; stages named in `more` lie in artifacts of those names."""
    record = {
        "status": "done",
        "method": method,
        "config": {"data": {"source": "generated", "generated": {"interactions": rows}}},
        "seconds": seconds,
        "artifacts": {stage: more.get(stage, f"/{stage}/{method}/{rows}") for stage in seconds},
        "costs": {stage: {"peak_memory_bytes": peak} for stage in seconds} if peak else {},
        "machine": {"threads": 1},
    }
    (study / "cells").mkdir(parents=True, exist_ok=True)
    (study / "cells" / f"{method}.{rows}.json").write_text(json.dumps(record))


def test_growth_is_the_cost_of_a_row_over_that_of_the_size_before(tmp_path):
    for rows, seconds in ((1_000_000, 5.0), (3_000_000, 9.0), (10_000_000, 30.0)):
        keep(tmp_path, rows, "cadc", {"train": seconds}, peak=rows * 100)
    (one,) = read_growth(tmp_path)
    assert one.costs == pytest.approx([2e-6, 3e-6])  # 4 s over 2M rows, 21 s over 7M
    assert one.growth == pytest.approx(1.5)
    seconds, peak = one.at(1e9)
    assert seconds == pytest.approx(30 + 3e-6 * 990e6)
    assert peak == pytest.approx(1e11)
    text = table([one], 1e9)
    assert "| 1M: s, GiB | 3M: s, GiB | 10M: s, GiB | ns a row | growth | 1B on paper" in text
    assert "| 3,000 | **1.50** | 0.83, 93.13 |" in text


def test_linear_growth_is_not_marked_and_few_sizes_give_none():
    points = tuple(Point(rows, 2.0 + 1e-6 * rows, None) for rows in (10**6, 3 * 10**6, 10**7))
    linear = Growth("train", ("cadc",), points)
    assert linear.growth == pytest.approx(1.0)
    assert "| 1,000 | 1.00 |" in table([linear], None)
    assert Growth("train", ("cadc",), points[:2]).growth is None
    assert Growth("train", ("cadc",), points[:1]).at(1e9) is None
    assert Growth("train", ("cadc",), points[:2]).at(1e9) == (pytest.approx(1002.0), None)


def test_what_is_recorded_is_read_again_and_shown(tmp_path):
    points = tuple(Point(rows, 2.0 + 1e-6 * rows, 2**30) for rows in (10**6, 3 * 10**6))
    grown = [Growth("train", ("cadc", "recipe"), points)]
    recorded = json.loads(json.dumps(document(grown)))
    assert from_document(recorded) == grown
    assert "1B on paper" in DOCS.tables(recorded)["growth"]


def test_a_stage_that_methods_share_has_one_row(tmp_path):
    for rows in (1_000_000, 3_000_000):
        for method in ("prior", "recipe"):
            seconds = {"prepare": 2.0, "train": 4.0}
            keep(tmp_path, rows, method, seconds, prepare=f"/prepare/{rows}")
    keep(tmp_path, 5, "real", {"train": 1.0})
    file = tmp_path / "cells" / "real.5.json"
    file.write_text(file.read_text().replace('"generated", "gen', '"tables", "gen'))
    found = [(one.stage, one.methods, len(one.points)) for one in read_growth(tmp_path)]
    assert found == [
        ("prepare", ("prior", "recipe"), 2),
        ("train", ("prior",), 2),
        ("train", ("recipe",), 2),
    ]


def test_a_cell_that_is_missing_at_one_size_splits_no_series(tmp_path):
    """`recipe` lacks the middle size; its stage is the one that `prior` made at the others."""
    for rows, methods in ((1, ("prior", "recipe")), (2, ("prior",)), (3, ("prior", "recipe"))):
        for method in methods:
            keep(tmp_path, rows, method, {"pretrain": 2.0}, pretrain=f"/pretrain/{rows}")
    found = [(one.methods, len(one.points)) for one in read_growth(tmp_path)]
    assert found == [(("prior", "recipe"), 3)]


def test_a_study_without_generated_logs_is_named(tmp_path, capsys):
    with pytest.raises(CadcError, match="has no finished cell of a generated log"):
        read_growth(tmp_path)
    with pytest.raises(SystemExit) as ended:
        growth.main([str(tmp_path)])
    assert str(ended.value).startswith(f"error: {tmp_path}: has no")


def test_a_size_that_is_no_number_is_named_with_what_one_looks_like(capsys):
    with pytest.raises(SystemExit):
        growth.main(["anywhere", "--on-paper", "xB"])
    assert "--on-paper: 'xB' is no number such as 50M, 2.5B or 3000" in capsys.readouterr().err


def test_what_takes_no_longer_has_no_cost_of_a_row(tmp_path):
    points = (Point(10**6, 22.0, None), Point(3 * 10**6, 18.0, None), Point(10**7, 16.0, None))
    flat = Growth("prior", ("prior",), points)
    assert flat.growth is None
    assert "| – | – |" in table([flat], None)
    assert flat.at(1e9) == (16.0, None)


def test_a_method_that_was_run_twice_at_a_size_is_refused(tmp_path):
    keep(tmp_path, 1_000_000, "cadc", {"train": 5.0})
    (file,) = (tmp_path / "cells").glob("*.json")
    again = json.loads(file.read_text()) | {"artifacts": {"train": "/another"}}
    file.with_name("other-ratio.json").write_text(json.dumps(again))
    with pytest.raises(CadcError, match="a second train of cadc on 1,000,000 rows"):
        read_growth(tmp_path)


def test_the_code_that_was_measured_is_recorded(tmp_path):
    keep(tmp_path, 1_000_000, "cadc", {"train": 5.0})
    (file,) = (tmp_path / "cells").glob("*.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"commit": "abc"}))
    ((point,),) = [one.points for one in read_growth(tmp_path)]
    assert point.commit == "abc"


def test_stages_are_made_again_size_by_size_and_medians_are_taken(tmp_path, monkeypatch):
    study = tmp_path / "studies" / "growth"
    for rows, seconds in ((10**6, 9.0), (3 * 10**6, 5.0), (10**7, 9.0), (3 * 10**7, 26.0)):
        for method in ("cadc", "recipe"):
            keep(study, rows, method, {"pretrain": seconds}, pretrain=f"/pretrain/{rows}")
    took = iter([4.0, 8.0, 32.0, 3.0, 10.0, 28.0])
    made = []

    def again(record, workdir, stage):
        made.append((record["config"]["data"]["generated"]["interactions"], stage))
        assert workdir == tmp_path
        return next(took)

    monkeypatch.setattr(growth_rounds, "_made_again", again)
    make_rounds(study, 2, [], ["pretrain", "train"])
    sizes = [3 * 10**6, 10**7, 3 * 10**7]  # the largest three, one of the methods that share them
    assert made == 2 * [(rows, "pretrain") for rows in sizes]
    assert read_rounds(study).keys() == {f"/pretrain/{rows}" for rows in sizes}
    (one,) = read_growth(study)
    assert [point.rounds for point in one.points] == [(9,), (5, 4, 3), (9, 8, 10), (26, 32, 28)]
    assert [point.seconds for point in one.points] == [9, 4, 9, 28]
    # 19 s of 20M rows over 5 s of 7M; single rounds 17 over 4, 24 over 4, and 18 over 7.
    assert one.growth == pytest.approx(19 / 20 / (5 / 7))
    assert one.of_rounds == pytest.approx([1.4875, 2.1, 0.9])
    assert "**1.33** (0.90 to 2.10)" in table([one], None)
    assert from_document(json.loads(json.dumps(document([one])))) == [one]
    (study / "rounds.json").write_text("[{}]")
    with pytest.raises(CadcError, match=r"rounds\.json: cannot be used"):
        read_growth(study)


@pytest.mark.slow
def test_a_stage_that_is_made_again_is_the_same(tiny, tmp_path):
    experiment = load_experiment(tiny, method="mf")
    made = Pipeline(experiment, tmp_path).run("pretrain")["pretrain"]
    record = {"id": "t", "config": experiment.model_dump(mode="json")}
    assert growth_rounds._made_again(record, tmp_path, "pretrain") > 0
    again = open_artifact(made.path)
    assert again.fingerprint == made.fingerprint
    assert again.manifest["created"] != made.manifest["created"]
    with pytest.raises(CadcError, match="t: train was not made again: "):
        growth_rounds._made_again(record, tmp_path, "train")
