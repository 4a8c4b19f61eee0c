"""Contenders take turns within limits, go on where they were stopped, and stand in one table."""

import json
import re
import sys
import types
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import pytest

from benchmarks.time_to_quality.__main__ import checkpoints, main, of_peers, take
from benchmarks.time_to_quality.contenders import CONTENDERS, Peer, contender
from benchmarks.time_to_quality.page import DOCS, STYLES, means, picture, table
from benchmarks.time_to_quality.record import Record, Run, go_on, in_turns, plain, read
from benchmarks.time_to_quality.watched import Ended, Limits, run
from cadc_rec.errors import CadcError

LIMITS = {"memory_gib": 12.0, "cpu_hours": 2.0}
ROOMY = Limits(memory_gib=8, cpu_hours=1)


def a_run(name="sasrec", seed=0, points=(), **more):
    title = CONTENDERS[name].title
    first = Run(name, title, seed, {"width": 64}, [10.0, 20.0], LIMITS, points=list(points))
    return replace(first, **{"whole": True, "peak_bytes": 2**30, **more})


def point(seconds, ndcg, **more):
    both = {"hr@10": 2 * ndcg, "ndcg@10": ndcg}
    return {"cpu_seconds": seconds, "validation": both, "test": both, **more}


def test_checkpoints_halve():
    assert checkpoints(640.0) == [10, 20, 40, 80, 160, 320, 640]


def test_all_have_their_turn_with_one_seed_before_the_next_and_none_is_always_first():
    turns = in_turns(["a", "b", "c"], [5, 6])
    assert turns == [("a", 5), ("b", 5), ("c", 5), ("b", 6), ("c", 6), ("a", 6)]


def test_an_unknown_contender_is_refused():
    with pytest.raises(CadcError, match=r"no contender 'bert'; there are prior, .*hstu"):
        contender("bert")


def test_a_peers_settings_are_told_by_name():
    settings = CONTENDERS["hstu"].settings({"blocks": "4", "dropout": "0.5"}, length=200)
    assert (settings.length, settings.blocks, settings.dropout) == (200, 4, 0.5)
    assert CONTENDERS["esasrec-mixed"].settings({}).in_batch == 0.6


@dataclass(frozen=True)
class TupleSettings:
    l2: tuple[float, ...] = (500.0, 100.0)
    on: bool = True


def test_settings_of_several_values_and_switches(monkeypatch):
    module = types.ModuleType("benchmarks.time_to_quality.a_peer")
    module.Settings = TupleSettings
    monkeypatch.setitem(sys.modules, module.__name__, module)
    peer = Peer("A peer", "a_peer")
    # It has no histories, so --length is nothing to it.
    found = peer.settings({"l2": "1,2.5", "on": "false"}, length=200)
    assert found == TupleSettings((1.0, 2.5), False)
    with pytest.raises(CadcError, match=r"on = 'no': give a bool"):
        peer.settings({"on": "no"})


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"depth": "4"}, r"HSTU-like has no setting 'depth'; it has batch, blocks"),
        ({"blocks": "four"}, r"blocks = 'four': give a int"),
    ],
)
def test_a_wrong_setting_is_named(wanted, message):
    with pytest.raises(CadcError, match=message):
        CONTENDERS["hstu"].settings(wanted)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("blocks=4", r"--peer blocks=4: write NAME\.KEY=VALUE"),
        ("sasrec.blocks", r"write NAME\.KEY=VALUE"),
        ("ease.l2=5", r"ease is no model among --contenders"),
        ("prior.width=5", r"prior is no model among --contenders"),
    ],
)
def test_a_wrong_peer_option_is_refused(text, message):
    with pytest.raises(CadcError, match=message):
        of_peers([text], ["prior", "sasrec"])


def test_a_library_that_is_not_there_is_a_sentence():
    peer = Peer("Nobody's model", "no_such_module")
    with pytest.raises(CadcError, match=r"not installed: No module named .*no_such_module"):
        peer.settings({})


def test_a_run_is_not_measured_twice(tmp_path):
    file, about = tmp_path / "new" / "out.json", {"title": "T", "users": 3}
    record = go_on(file, about)
    done = a_run(points=[point(10.0, 0.1)])
    record.put(done)
    record.write(file)
    again = go_on(file, about)
    assert again == record
    wanted = a_run()
    assert again.done(wanted)
    assert not again.done(replace(wanted, seed=1))
    assert not again.done(replace(wanted, settings={"width": 32}))
    assert not again.done(replace(wanted, checkpoints=[10.0, 20.0, 40.0]))
    again.put(replace(done, points=[]))
    assert [one.points for one in again.runs] == [[]]  # in place of the earlier one


def test_a_run_that_could_not_be_asked_for_takes_no_other_seed_away():
    record = Record({})
    for seed in (0, 1):
        record.put(a_run(seed=seed))
    record.put(a_run(seed=2, settings={}, cannot="not installed", whole=False))
    assert [run.seed for run in record.runs] == [0, 1, 2]
    record.put(a_run(seed=2, settings={"width": 32}))  # asked otherwise than the others
    assert [run.seed for run in record.runs] == [2]


def test_what_failed_is_tried_again_and_what_was_stopped_only_with_other_limits():
    record, wanted = Record({}), a_run()
    record.put(a_run(cannot="failed with status 1", whole=False))
    assert not record.done(wanted)
    record.put(a_run(cannot="memory: it held 13 GiB"))
    assert record.done(wanted)
    assert not record.done(replace(wanted, limits={**LIMITS, "memory_gib": 20.0}))


def test_seeds_of_one_contender_have_one_setting():
    record = Record({})
    for run_ in (a_run(seed=0), a_run(seed=1), a_run("hstu", seed=1)):
        record.put(run_)
    record.put(a_run(seed=0, settings={"width": 32}))
    kept = [(one.contender, one.seed, one.settings["width"]) for one in record.runs]
    assert kept == [("hstu", 1, 64), ("sasrec", 0, 32)]


def test_a_missing_library_takes_no_result_away():
    record = Record({})
    record.put(a_run(points=[point(10.0, 0.1)]))
    nameless = a_run(settings={}, cannot="not installed: No module named 'x'", whole=False)
    assert record.done(nameless)
    assert not record.done(replace(nameless, seed=1))


def test_settings_are_the_same_after_they_were_read(tmp_path):
    settings = plain({"l2": (500.0, 100.0)})
    assert settings == {"l2": [500.0, 100.0]}


def test_a_file_of_another_dataset_is_refused(tmp_path):
    file = tmp_path / "out.json"
    Record({"title": "T", "users": 3}).write(file)
    with pytest.raises(CadcError, match=r"out\.json: is of another users; name another --out"):
        go_on(file, {"title": "T", "users": 4})
    settings = {"evaluate": {"users": 0}}
    Record({"title": "T", "settings": settings}).write(file)
    assert go_on(file, {"title": "T", "settings": settings}).about["settings"] == settings
    with pytest.raises(CadcError, match="is of another settings"):
        go_on(file, {"title": "T", "settings": {"evaluate": {"users": 5000}}})
    file.write_text('{"points": []}')
    with pytest.raises(CadcError, match=r"out\.json: is no record of benchmarks\.time_to_quality"):
        read(file)


def python(code):
    return [sys.executable, "-c", code]


@pytest.mark.slow
def test_a_program_is_watched_with_what_it_starts(tmp_path):
    burn = "import time\nwhile time.process_time() < 1.5: pass"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}])"
    ended = run(python(code), ROOMY, tmp_path / "log")
    assert (ended.code, ended.passed) == (0, None)
    assert ended.cpu_seconds > 0.2  # seen in the child, once a second


def test_a_program_is_stopped_beyond_its_memory(tmp_path):
    code = "import time; kept = bytearray(b'x') * 300_000_000; time.sleep(60)"
    ended = run(python(code), Limits(memory_gib=0.2, cpu_hours=1), tmp_path / "log")
    assert ended.code == -9
    assert re.match(
        r"memory: it held 0\.[23] GiB after 0 CPU s, and may hold 0\.2 GiB", ended.passed
    )
    assert ended.peak_bytes > 0.2 * 2**30


def test_a_program_is_stopped_beyond_its_cpu_time(tmp_path):
    limits = Limits(memory_gib=8, cpu_hours=0.2 / 3600)
    ended = run(python("while True: pass"), limits, tmp_path / "log")
    assert ended.passed.startswith("time: it took")


ENDED = Ended(code=0, passed=None, cpu_seconds=3.0, peak_bytes=100)
END = {"end": {"cpu_seconds": 3.5, "peak_bytes": 200}}


def test_what_a_worker_told_is_taken():
    made = a_run(whole=False)
    take(made, [{"point": point(1.0, 0.1)}, END], ENDED, "")
    assert (len(made.points), made.cannot, made.whole) == (1, None, True)
    assert (made.cpu_seconds, made.peak_bytes) == (3.5, 200)


@pytest.mark.parametrize(
    ("lines", "ended", "printed", "cannot", "whole"),
    [
        ([{"cannot": "needs 31 GiB"}, END], ENDED, "", "needs 31 GiB", False),
        ([], replace(ENDED, code=-9, passed="memory: 9 GiB"), "", "memory: 9 GiB", True),
        ([], replace(ENDED, code=1), "a\nKeyError: 'x'\n", "failed with status 1: KeyError", False),
        ([], replace(ENDED, code=-11), "", "failed with status -11: it said nothing", False),
    ],
)
def test_what_a_worker_could_not_is_told(lines, ended, printed, cannot, whole):
    made = a_run(whole=False)
    take(made, lines, ended, printed)
    assert made.cannot.startswith(cannot)
    assert made.whole is whole


def test_a_curve_is_the_mean_over_seeds_as_far_as_all_came():
    runs = [
        a_run(seed=0, points=[point(10.0, 0.1, epochs=1.0), point(20.0, 0.3, epochs=2.0)]),
        a_run(seed=1, points=[point(12.0, 0.2, epochs=3.0)]),
        a_run(seed=2, cannot="failed"),
    ]
    (only,) = means(runs)
    assert (only.cpu_seconds, only.epochs) == (11.0, 2.0)
    assert only.quality() == pytest.approx(15.0)
    assert only.test["hr@10"] == pytest.approx([20.0, 40.0])


def measured():
    def curve(seed, *values):
        places = zip((10.0, 20.0, 40.0), values, strict=True)
        points = [point(s, v, epochs=s / 10) for s, v in places]
        return a_run("sasrec", seed, points)

    return Record(
        {"title": "T"},
        [
            curve(0, 0.02, 0.06, 0.04),
            curve(1, 0.02, 0.04, 0.05),
            a_run("prior", points=[point(5.0, 0.045, kept=None)]),
            a_run("auto-10", points=[point(8.0, 0.04, kept="towers")]),
            a_run("ease", cannot="needs 31.2 GiB | and there are 12"),
        ],
    )


def test_the_table_has_each_contender_at_its_best_by_validation():
    rows = [line.strip("| ").split(" | ") for line in table([measured()]).splitlines()[2:]]
    what = ["prior, tables alone", "auto, 1/10; kept: towers", "SASRec"]
    assert [row[1] for row in rows[:3]] == what
    prior, auto, sasrec, ease = rows
    assert prior[2:8] == ["5.0", "–", "9.00 / 4.50", "9.00 / 4.50", "", "1.0"]
    assert auto[6] == "not within 8.0"
    # 5.00 after 20 s, on average, is the best of 2.00, 5.00 and 4.50.
    assert sasrec[2:4] == ["20.0", "2.0"]
    assert sasrec[5:] == ["10.00 ± 2.83 / 5.00 ± 1.41", "20.0", "1.0", "0, 1"]
    assert ease[1].endswith(r"; cannot: needs 31.2 GiB \| and there are 12")
    assert ease[2:] == ["–"] * 7


def test_the_table_says_so_where_the_reference_was_not_run():
    record = measured()
    record.runs = [one for one in record.runs if one.contender != "prior"]
    assert "prior not run" in table([record])


def test_the_picture_names_every_curve_and_its_values():
    shown = picture([measured()])
    assert all(name in shown for name in ("SASRec", "prior", "auto, 1/10", "CPU seconds"))
    assert "SASRec: 10.00 ± 2.83 / 5.00 ± 1.41 after 20.0 CPU s" in shown
    assert "EASE" not in shown  # it has nothing to draw


def lab(colour):
    """CIE L*a*b* of ``#rrggbb``, white D65."""
    rgb = np.array([int(colour[n : n + 2], 16) for n in (1, 3, 5)]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    x, y, z = np.cbrt(np.array(to_xyz) @ linear / [0.9505, 1.0, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_every_contender_has_a_look_of_its_own():
    assert STYLES.keys() == CONTENDERS.keys()
    assert len({(style.shape, style.dash) for style in STYLES.values()}) == len(STYLES)
    for (a, one), (b, other) in combinations(STYLES.items(), 2):
        apart = np.linalg.norm(lab(one.colour) - lab(other.colour))
        assert apart > 20, (a, b, apart)  # 2.3 is just noticeable side by side


def test_every_record_goes_into_the_page(tmp_path):
    assert DOCS.recorded(tmp_path) is None
    for name in ("time-to-quality-b.json", "time-to-quality-a.json", "other.json"):
        (tmp_path / name).write_text(json.dumps({}))
    names = [file.name for file in DOCS.recorded(tmp_path)]
    assert names == ["time-to-quality-a.json", "time-to-quality-b.json"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_benchmark_is_whole_and_goes_on(tmp_path, monkeypatch):
    config, out = tmp_path / "tiny.toml", tmp_path / "out.json"
    config.write_text(
        '[data]\nsource = "generated"\n'
        "[data.generated]\nusers = 200\nitems = 100\ninteractions = 4000\n"
    )

    def call(*words):
        arguments = ["time_to_quality", str(config), "--workdir", str(tmp_path / "work")]
        arguments += ["--out", str(out), "--cpu-seconds", "0.5", "--contenders", *words]
        monkeypatch.setattr(sys, "argv", arguments)
        main()
        return {(one.contender, one.seed): one for one in read(out).runs}

    first = call("prior", "hstu")
    prior, model = first["prior", 0], first["hstu", 0]
    assert (len(prior.points), prior.whole, prior.cannot) == (1, True, None)
    assert (len(model.points), model.whole, model.settings["blocks"]) == (7, True, 2)
    spent = [reached["cpu_seconds"] for reached in model.points]
    assert spent == sorted(spent)
    assert 0 < spent[-1] < model.cpu_seconds
    assert model.peak_bytes > 2**26

    monkeypatch.setitem(CONTENDERS, "bpr", Peer("Nobody's model", "no_such_module"))
    second = call("hstu", "bpr")
    assert second["hstu", 0] == model
    assert second["bpr", 0].cannot.startswith("not installed: No module named")
    assert not second["bpr", 0].whole
    assert "Nobody's model; cannot: not installed" in table([read(out)])
