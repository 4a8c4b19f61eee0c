"""The table of sets of features: differences in points worked out by hand."""

from cadc_rec.study.report import features
from cadc_rec.study.report.report import write_report
from tests.study.report.test_cold import add


def test_each_set_stands_beside_the_one_it_is_compared_with(new_study):
    study = new_study(layout="grid", baseline="recipe")
    for seed in (0, 1):
        for variant, over, hits in (("genres", "", 100), ("text", "genres", 150)):
            more = {"variant": variant, "over": over}
            seconds = (1.0, 0.0, 9.0)
            study.add_done("ml-1m", "recipe", "init_frozen", 10.0, seed, hits, seconds, **more)
            study.wanted[-1]["over"] = over
    study.add("ml-1m", "recipe", "init_frozen", 10.0, 2)  # so that study.json is written anew
    table = (write_report(study.folder).page.parent / "features-table.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("|")]
    assert rows[0][:4] == ["features", "over", "HR@10, points", "HR@10, points: verdict"]
    (row,) = rows[2:]
    assert row[:3] == ["Recipe, text", "genres", "+5.00"]  # 150 and 100 of 1,000 users
    assert row[3].startswith("better (+")
    assert row[3].endswith(" points)")


def test_a_study_without_sets_has_no_such_table(new_study):
    study = new_study(layout="grid")
    study.add_done("ml-1m", "gold", None, 1.0, 0, 70, (1.0, 0.0, 9.0))
    assert not (write_report(study.folder).page.parent / "features-table.md").exists()


def test_cold_items_are_asked_for_only_where_a_dataset_has_them(new_study, monkeypatch):
    """A record that is made a dataset at a time holds no comparison of what is not there."""
    study, asked = new_study(layout="grid", baseline="recipe"), []
    for variant in ("genres", "text"):
        add(study, 0, (60, 28), variant=variant)
        study.wanted[-1]["over"] = "genres" if variant == "text" else ""
        more = {"variant": variant, "over": study.wanted[-1]["over"]}
        place = ("epinions-20core", "recipe", "init_frozen", 10.0, 0)
        study.add_done(*place, 60, (1.0, 0.0, 9.0), **more)
        study.wanted[-1]["over"] = more["over"]
    study.add("ml-1m", "recipe", "init_frozen", 10.0, 2)  # so that study.json is written anew
    monkeypatch.setattr(
        features, "compare_cold", lambda _, group, *more: asked.append(group.dataset)
    )
    write_report(study.folder)
    assert set(asked) == {"ml-1m"}
