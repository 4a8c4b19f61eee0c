"""The table of costs: numbers worked out by hand, and what is left out."""

import json

import pyarrow.parquet as pq
import pytest

from cadc_rec.errors import CadcError
from cadc_rec.study.prices import Prices, read_prices
from cadc_rec.study.report import formatting
from cadc_rec.study.report.report import write_report

MIB, GIB = 2**20, 2**30
ROWS = {"train": 50_000, "selected": 500, "touched": 900, "bytes": 3 * MIB, "bytes_of": 40 * MIB}


def used(cpu, memory, read, **more):
    """What a stage took, as a manifest has it."""
    found = {"ranks": 1, "cpu_seconds": cpu, "peak_memory_bytes": memory, "read_bytes": read}
    return found | {"disk_read_bytes": MIB, "gpu_seconds": 0.0} | more


def add(study, seed, factor=1, energy=True, **content):
    """A recipe's cell; its numbers are `factor` times those of the first."""
    joules = {"package_joules": 500.0 * factor} if energy else {}
    costs = {
        "prepare": used(1000.0, 90 * GIB, 900 * MIB, **joules),
        "pretrain": used(10.0 * factor, 2 * GIB, 30 * MIB, **joules),
        "transitions": used(5.0 * factor, GIB, 10 * MIB, **joules),
        "select": used(1.0 * factor, GIB, 20 * MIB, **joules),
        "train": used(20.0 * factor, 3 * GIB, 40 * MIB, **joules),
        "evaluate": used(1000.0, 90 * GIB, 900 * MIB, **joules),
    }
    more = {"more_seconds": {"transitions": 2.0}, "rows": ROWS, "costs": costs} | content
    study.add_done("ml-1m", "recipe", "init_frozen", 100.0, seed, 70, (4.0, 0.5, 30.0), **more)


def table_of(folder, **options):
    """Headings, and each row's texts by its label."""
    text = (write_report(folder, **options).page.parent / "costs-table.md").read_text()
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return lines[0], {row[0]: row for row in lines[1:]}


def test_a_method_has_what_pre_training_selection_and_training_took(new_study):
    """Not the preparation, nor the ranking; medians of three seeds."""
    study = new_study(layout="grid", prices={"cpu_hour": 3.6, "gib_hour": 36.0, "gb_read": 10.0})
    for seed, factor in enumerate((1, 3, 2)):
        add(study, seed, factor)
    heads, rows = table_of(study.folder)
    assert heads == [
        *(
            "method",
            "labelled",
            "seeds",
            "touched",
            "touched: of all",
            r"D\_sel",
            r"D\_sel: of all",
        ),
        *("pre-training s", "selection s", "training s", "validation", "CPU s", "memory", "read"),
        *("from disk", "energy kJ", "dollars"),
    ]
    # Seconds: 4 of pre-training and 2 of transitions; 30 of training, and 5 of validation.
    # CPU: twice 10 + 5 + 1 + 20. Energy: twice 4 stages of 500 J.
    # Dollars: 72 s at 0.001; 2 GiB for 4 s, 1 for 2 and for 0.5, 3 for 35 at 0.01; 0.1048576 GB.
    dollars = 0.072 + 0.01 * (2 * 4 + 2 + 0.5 + 3 * 35) + 10 * 100 * MIB / 1e9
    assert dollars == pytest.approx(2.275576)
    assert rows["Recipe"] == [
        *("Recipe", "500", "3 of 3", "900", "1.8%", "3.0 MiB", "7.5%"),
        *("6.0", "0.5", "30", "5.0", "72", "3.0 GiB", "100 MiB", "4.0 MiB", "4.0", "2.28"),
    ]
    results = pq.read_table(study.folder / "report" / "results.parquet").to_pylist()
    assert [row["costs.train.cpu_seconds"] for row in results] == [20.0, 60.0, 40.0]


def test_what_is_not_known_is_left_out_or_a_dash(new_study):
    """A machine without counters of energy, records of earlier code, a run that did not tell."""
    study = new_study(layout="grid")
    add(study, 0, energy=False)
    seconds = (0.0, 0.1, 30.0)
    study.add_done("ml-1m", "gold", None, 1.0, 0, 70, seconds)
    half = {"pretrain": used(1.0, GIB, MIB), "train": {}}
    study.add_done("ml-1m", "cadc", "init_frozen", 10.0, 0, 60, seconds, costs=half)
    study.add("ml-1m", "random", None, 10.0, 0, "failed", error="killed", costs=half)
    heads, rows = table_of(study.folder)
    assert "energy kJ" not in heads
    assert "dollars" not in heads
    assert "GPU s" not in heads
    place = heads.index("CPU s")
    assert rows["Recipe"][place] == "36"
    # The last column's second line is empty, and so cut off here.
    assert rows["Gold standard"][place:] == ["–", "–", "–"]
    assert rows["CADC"][place:] == rows["Gold standard"][place:]
    assert "Random" not in rows


def test_a_study_of_earlier_records_has_the_sizes_and_seconds(small_study):
    heads, rows = table_of(small_study.folder)
    assert heads[-4:] == ["pre-training s", "selection s", "training s", "validation"]
    assert rows["CADC"][-4:] == ["1.0", "0", "9.0", "5.0"]


def test_other_prices_can_be_given_and_what_they_need_has_to_be_known(new_study, tmp_path):
    study = new_study(layout="grid", prices={"cpu_hour": 3.6})
    add(study, 0)
    add(study, 1)
    prices = tmp_path / "prices.toml"
    prices.write_text("[prices]\nkwh = 36\n[other]\nx = 1\n")
    heads, rows = table_of(study.folder, prices=read_prices(prices))
    assert rows["Recipe"][heads.index("dollars")] == "0.02"  # 2000 J at 36 / 3.6e6
    prices.write_text("[prices]\ngpu_hour = 3.6\nkwh = 36\n")
    on_gpu = {"costs": {"train": used(1.0, GIB, MIB, gpu_seconds=40.0, package_joules=9.0)}}
    study.add_done("ml-1m", "gold", None, 1.0, 0, 70, (0.0, 0.0, 9.0), **on_gpu)
    heads, rows = table_of(study.folder, prices=read_prices(prices))
    assert rows["Gold standard"][heads.index("GPU s")] == "40"
    assert rows["Gold standard"][heads.index("dollars")] == "–"  # a GPU's energy is not measured
    assert rows["Recipe"][heads.index("dollars")] == "0.02"
    heads, rows = table_of(study.folder, prices=Prices(gpu_hour=3.6))
    assert rows["Gold standard"][heads.index("dollars")] == "0.04"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[prices]\ncpu_hour = -1", "prices.cpu_hour = -1 is not allowed"),
        ("[prices]\ncpu_hour = '0.04'", "prices.cpu_hour = '0.04' is not allowed"),
        ("[prices]\ncpu_hour = inf", "prices.cpu_hour = inf is not allowed"),
        (
            "[prices]\ncpu_hours = 1",
            "prices.cpu_hours is not a setting; did you mean prices.cpu_hour?",
        ),
        ("[prices]", "[prices] is empty; set one of cpu_hour, gib_hour"),
        ("prices = 3", "has no table [prices]; add one"),
        ("", "has no table [prices]; add one"),
    ],
)
def test_bad_prices_are_refused_in_one_sentence_that_names_the_file(tmp_path, cli, text, said):
    file = tmp_path / "prices.toml"
    file.write_text(text)
    shown = cli("report", tmp_path, "--prices", file)
    assert (shown.code, shown.out) == (2, "")
    (line,) = shown.err.splitlines()
    assert line.startswith(f"error: {file}: ")
    assert said in line


def test_a_record_whose_costs_are_no_numbers_is_one_sentence(new_study):
    study = new_study(layout="grid")
    add(study, 0, costs={"train": {"cpu_seconds": -1.0}})
    with pytest.raises(CadcError, match=r"costs\.train\.cpu_seconds"):
        write_report(study.folder)
    content = json.loads((study.folder / "study.json").read_text())
    content["prices"] = {"cpu_hour": "much"}
    (study.folder / "study.json").write_text(json.dumps(content))
    with pytest.raises(CadcError, match=r"study\.json: is not usable \(prices\.cpu_hour"):
        write_report(study.folder)


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (0, "0 B"),
        (1023, "1,023 B"),
        (1024, "1.0 KiB"),
        (150 * 2**20, "150 MiB"),
        (2.5 * 2**40, "2.5 TiB"),
        (2**60, "1,048,576 TiB"),
    ],
)
def test_bytes_are_told_in_the_unit_that_fits(value, size):
    assert formatting.size(value) == size


def test_dollars_have_cents_or_three_digits():
    assert [formatting.dollars(v) for v in (0, 1234.5, 0.0401, 0.00001234)] == [
        *("0", "1,234.50", "0.0401", "0.0000123")
    ]


@pytest.mark.parametrize(("time", "words"), [("wall", "wall-clock"), ("cpu", "CPU")])
def test_the_seconds_of_the_stages_are_called_what_they_are(new_study, time, words):
    study = new_study(layout="grid", time=time)
    seconds = {"prepare": 1.0, "pretrain": 3.0, "select": 0.4, "train": 21.0, "evaluate": 1.0}
    add(study, 0, cpu_seconds=seconds | {"validation": 3.0})
    text = write_report(study.folder).page.with_name("costs-table.md").read_text("utf-8")
    assert f"- selection s: {words} seconds without validation" in text
    assert f"| {'0.4' if time == 'cpu' else '0.5'} |" in text
