"""What is said of sets, by rows counted by hand; and the sizes that the study of scale plans."""

import json

import pytest

from benchmarks import sets
from cadc_rec.study.run.grid import read_study

ROWS = "user_id,item_id,time\n" + "".join(
    f"{user},{item},{1_600_000_000 + second}\n"
    for user, item, second in (
        # gaps of 0, 60 and 7200 seconds, then 30, 30 and 30 days; the last is a repeat
        *((1, 10, 0), (1, 11, 0), (1, 12, 60), (1, 13, 7260)),
        *((2, 10, 0), (2, 11, 2_592_000), (2, 12, 5_184_000), (2, 13, 7_776_000)),
        (2, 13, 7_776_001),
    )
)


@pytest.mark.parametrize("clock", [True, False])
def test_a_set_is_described_as_counted_by_hand(tmp_path, capsys, clock):
    (tmp_path / "log.csv").write_text(ROWS)
    kind = "clock" if clock else "order"
    (tmp_path / "own.toml").write_text(
        '[data]\nsource = "tables"\n[data.tables.interactions]\npath = "log.csv"\n'
        f'timestamp = "time"\ntimestamp_kind = "{kind}"\n' + ('unit = "s"\n' if clock else "")
    )
    (tmp_path / "gone.toml").write_text(
        '[data]\nsource = "tables"\n[data.tables.interactions]\npath = "gone.csv"\n'
    )
    (tmp_path / "study.toml").write_text(
        'title = "Sets"\nseeds = [0]\n[datasets.own]\ntitle = "Mine"\nconfig = "own.toml"\n'
        'about = "Written here."\n[datasets.gone]\ntitle = "Gone"\nconfig = "gone.toml"\n'
        '[[grid]]\nmethods = ["mf"]\n'
    )
    out = tmp_path / "sets.json"
    asked = [str(tmp_path / "study.toml"), "--workdir", str(tmp_path / "work")]
    sets.main([*asked, "--data-dir", str(tmp_path), "--out", str(out)])
    mine, gone = json.loads(out.read_text())["sets"]
    assert gone["absent"]
    counts = ("rows_read", "repeats_dropped", "users", "items", "train", "validation", "test")
    assert [mine[name] for name in counts] == [9, 1, 2, 4, 4, 2, 2]
    assert (mine["median_per_user"], mine["times"]) == (4, kind)
    printed = capsys.readouterr().out
    assert "| Gone | not available |" in printed
    assert "- **Mine.** Written here. Filters: the first of a repeated pair, leave-last" in printed
    if not clock:
        assert mine["gaps"] is None
        return
    # Gaps, in order: 0, 60, 7,200 and three times 2,592,000; the median lies between the last two.
    assert mine["gaps"]["equal_share"] == pytest.approx(1 / 6)
    assert mine["gaps"]["median_seconds"] == pytest.approx((7_200 + 2_592_000) / 2)
    assert mine["gaps"]["days"] == pytest.approx(90)
    assert "| 16.7% | 15.0 d, 30.0 d | 90 |" in printed
    with pytest.raises(SystemExit, match="has no set 'none'; choose from own, gone"):
        sets.main([*asked, "--only", "none"])


def test_the_study_plans_with_the_sizes_that_were_recorded():
    planned = read_study(sets.STUDY).file.datasets
    recorded = {row["set"]: row for row in json.loads(sets.RECORDED.read_text())["sets"]}
    assert set(planned) == set(recorded)
    for name, row in recorded.items():
        if "absent" not in row:
            size = planned[name].size
            found = (row["users"], row["items"], row["train"])
            assert (size.users, size.items, size.interactions) == found, name


def test_a_mistyped_data_folder_is_refused_and_nothing_is_written(tmp_path):
    out = tmp_path / "sets.json"
    nowhere = tmp_path / "nowhere"
    with pytest.raises(SystemExit, match="nowhere: no such folder; correct --data-dir"):
        sets.main(["--data-dir", str(nowhere), "--out", str(out)])
    assert not out.exists()
