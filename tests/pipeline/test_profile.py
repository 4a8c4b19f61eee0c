"""What --profile records: on events made by hand, and of a tiny training."""

import gzip
import json
from types import SimpleNamespace

from cadc_rec.pipeline.stages.profile import OUTSIDE, largest_costs, lines


def event(key, self_us, total_us=0.0, count=1):
    return SimpleNamespace(
        key=key,
        count=count,
        self_cpu_time_total=self_us,
        self_device_time_total=0.0,
        cpu_time_total=total_us,
    )


def test_costs_are_shares_of_the_recorded_time_and_the_rest_is_outside():
    # A step of 100: 60 of products, 10 of copies, so 30 that torch did not see.
    costs = largest_costs(
        [event("ProfilerStep#1", 55.0, 100.0), event("copy", 10.0), event("mm", 60.0, count=3)]
    )
    assert [(c.name, c.calls, c.microseconds, c.share) for c in costs] == [
        ("mm", 3, 60.0, 0.6),
        (OUTSIDE, 1, 30.0, 0.3),
        ("copy", 1, 10.0, 0.1),
    ]
    assert "60.0%" in lines(costs)[1]


def test_only_the_largest_are_kept():
    costs = largest_costs([event(f"op{n}", float(n)) for n in range(1, 30)])
    assert [cost.name for cost in costs] == [f"op{n}" for n in range(29, 19, -1)]


def test_train_profile_writes_a_trace_and_names_ten_costs(cli, tiny, tmp_path):
    done = cli("train", tiny, "--workdir", tmp_path, "--profile", "--json")
    assert done.code == 0, done.err
    json.loads(done.out)  # standard output stays one object
    (trace,) = (tmp_path / "profiles").rglob("trace-rank0.json.gz")
    names = {e.get("name") for e in json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]}
    assert "aten::mm" in names or "aten::addmm" in names
    (artifact,) = (p for p in (tmp_path / "train").iterdir() if p.is_dir())
    assert artifact.name == trace.parent.name
    again = cli("train", tiny, "--workdir", tmp_path, "--json")
    assert json.loads(again.out)["cached"]  # a profile changes no key
    anew = cli("train", tiny, "--workdir", tmp_path, "--json", "--profile")
    assert not json.loads(anew.out)["cached"]
