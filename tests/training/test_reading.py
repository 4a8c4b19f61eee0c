"""What the settings make of a selection: in memory or streamed, and which negatives."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cadc_rec.config.experiment import Experiment, LoaderConfig, NegativesConfig
from cadc_rec.config.file import load_experiment
from cadc_rec.data.load.loader import Loader
from cadc_rec.data.load.shards import SelectionShards
from cadc_rec.data.load.stream_loader import StreamLoader
from cadc_rec.distributed.processes import processes
from cadc_rec.errors import CadcError
from cadc_rec.pipeline.pipeline import Pipeline
from cadc_rec.training.reading import negatives_of, open_reading


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny):
    """The tiny world, prepared and selected."""
    experiment = load_experiment(tiny, method="random", overrides=["select.ratio=2"])
    pipeline = Pipeline(experiment, tmp_path_factory.mktemp("work"))
    shards = SelectionShards.open(pipeline.artifact("select"))
    return experiment, pipeline.dataset, shards


def with_(experiment: Experiment, **sections) -> Experiment:
    update = {
        name: getattr(experiment, name).model_copy(update=change)
        for name, change in sections.items()
    }
    return experiment.model_copy(update=update)


def reading_of(e: Experiment, dataset, shards, alone):
    sections = e.train, e.negatives, e.loader, e.history.length, e.seed
    return open_reading(*sections, dataset, shards, alone)


def test_a_selection_is_streamed_where_it_is_larger_than_may_be_in_memory():
    auto = LoaderConfig(memory_rows=100)
    assert [auto.streams(rows) for rows in (100, 101)] == [False, True]
    assert not auto.streams(101, history=5)
    assert LoaderConfig(kind="stream").streams(1)
    assert not LoaderConfig(kind="memory", memory_rows=1).streams(2)
    # Where it makes no difference to the negatives it is no part of a stage's key.
    assert NegativesConfig(alpha=0.5).decisive() == NegativesConfig().decisive()
    assert NegativesConfig(distribution="popularity").decisive()["alpha"] == 0.75


def test_both_ways_read_the_same_rows(made):
    experiment, dataset, shards = made
    found = []
    for kind, loader in (("memory", Loader), ("stream", StreamLoader)):
        settings = with_(experiment, loader={"kind": kind, "buffer_rows": 50})
        with processes(settings.compute) as alone:
            reading = reading_of(settings, dataset, shards, alone)
        assert isinstance(reading.loader, loader)
        k, pairs = settings.train.negatives, []
        for step in reading.loader.epoch(1):
            users = np.repeat(step.users, np.diff(step.pattern.crow))[:: k + 1]
            pairs += zip(users, step.items[step.pattern.col][:: k + 1], strict=True)
        items = reading.item_counts()
        found.append((sorted(pairs), sorted(set(reading.users.tolist())), items.tolist()))
        assert len(pairs) == sum(shards.rows)
    assert found[0] == found[1]


@pytest.mark.parametrize("distribution", ["uniform", "popularity"])
@pytest.mark.parametrize("kind", ["memory", "stream"])
def test_no_negative_is_known_to_its_user_where_these_are_excluded(made, kind, distribution):
    experiment, dataset, shards = made
    settings = with_(
        experiment,
        loader={"kind": kind},
        train={"exclude_known": True},
        negatives={"distribution": distribution},
    )
    with processes(settings.compute) as alone:
        reading = reading_of(settings, dataset, shards, alone)
    k, known = settings.train.negatives, set()
    known.update(zip(dataset.train_user.tolist(), dataset.train_item.tolist(), strict=True))
    for step in reading.loader.epoch(1):
        users = np.repeat(step.users, np.diff(step.pattern.crow)).reshape(-1, k + 1)
        items = step.items[step.pattern.col].reshape(-1, k + 1)
        assert known.isdisjoint(zip(users[:, 1:].ravel(), items[:, 1:].ravel(), strict=True))
        assert known.issuperset(zip(users[:, 0].tolist(), items[:, 0].tolist(), strict=True))


def test_uniform_negatives_of_all_items_need_no_table(made):
    experiment, dataset, _ = made
    assert negatives_of(experiment.negatives, experiment.train, dataset, None) is None
    softmax = with_(experiment, train={"exclude_known": True, "loss": "sampled-softmax"})
    assert negatives_of(softmax.negatives, softmax.train, dataset, None) is None


def test_popularity_is_refused_where_no_negatives_are_drawn(tiny):
    sets = ["negatives.distribution=popularity", "train.loss=softmax"]
    with pytest.raises(CadcError, match=r"a loss that draws negatives, and train.loss = 'softmax'"):
        load_experiment(tiny, method="random", overrides=sets)


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (["negatives.distribution=mixed"], "train.loss = 'binary' gives each positive its own"),
        (["negatives.distribution=alive"], "train.loss = 'binary' gives each positive its own"),
        (
            ["negatives.distribution=mixed", "train.loss=sampled-softmax", "train.logq=true"],
            "train.logq = true would add another",
        ),
        (
            ["negatives.distribution=alive", "train.loss=sampled-softmax", "loader.kind=stream"],
            "cannot read the times of examples",
        ),
    ],
)
def test_negatives_that_do_not_fit_are_refused(tiny, sets, said):
    with pytest.raises(CadcError, match=said):
        load_experiment(tiny, method="random", overrides=sets)


def test_negatives_alive_at_a_time_need_the_times_of_a_clock(made):
    experiment, dataset, shards = made
    settings = with_(
        experiment, train={"loss": "sampled-softmax"}, negatives={"distribution": "alive"}
    )
    with processes(settings.compute) as alone:
        assert reading_of(settings, dataset, shards, alone).loader.arrange.lifetimes is not None
        order = replace(dataset, timestamp_kind="order")
        with pytest.raises(CadcError, match=r"'alive' needs the times of a clock"):
            reading_of(settings, order, shards, alone)
        streamed = with_(settings, loader={"memory_rows": 1})
        with pytest.raises(CadcError, match=r"set loader\.kind = 'memory'"):
            reading_of(streamed, dataset, shards, alone)


def test_a_run_streams_and_draws_by_popularity(tiny, tmp_path, cli):
    options = [tiny, "--workdir", tmp_path, "--json", "--method", "logq"]
    sets = ["loader.kind=stream", "negatives.distribution=popularity", "train.exclude_known=true"]
    done = cli("train", *options, *(part for text in sets for part in ("--set", text)))
    assert done.code == 0, done.err
    told = json.loads(done.out)["info"]
    assert all(np.isfinite(entry["loss"]) for entry in told["history"])


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells a process's peak")
def test_a_stream_holds_its_buffer_and_not_its_rows(tmp_path):
    """Two and eight million rows, 16 bytes each, through a buffer of half a million."""
    rows, groups = 1_000_000, 2**16
    rng = np.random.default_rng(0)
    for number in range(8):
        ids = [rng.integers(0, 10**6, rows, dtype=np.int32) for _ in range(2)]
        table = pa.table(dict(zip(("user", "item"), ids, strict=True)))
        pq.write_table(table, tmp_path / f"shard-{number:05d}-of-00008.parquet", groups)
    program = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from types import SimpleNamespace
        from cadc_rec.data.load.loader import Loader
        from cadc_rec.data.load.shards import SelectionShards
        from cadc_rec.data.load.stream_loader import StreamLoader

        def peak():  # of this program alone: ru_maxrss remembers who started it
            status = Path("/proc/self/status").read_text().split("VmHWM:")[1]
            return int(status.split()[0]) // 1024

        shards = SelectionShards.open(SimpleNamespace(path=Path(sys.argv[1])))
        arrange = lambda step, examples: len(examples)
        count = int(sys.argv[3])
        shards = SelectionShards(shards.files[:count], shards.groups[:count])
        before = peak()
        if sys.argv[2] == "stream":
            loader = StreamLoader(shards, 0, 1, 65536, 0, arrange, 2**19)
        else:
            loader = Loader(shards.read(0, 1), [sum(shards.rows)], 0, 65536, 0, arrange)
        rows = sum(loader.epoch(1))
        print(rows, peak() - before)
        """
    )
    grown = {}
    for kind in ("stream", "memory"):
        for shards in (2, 8):
            command = [sys.executable, "-c", program, str(tmp_path), kind, str(shards)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            seen, grown[kind, shards] = map(int, done.stdout.split())
            assert seen == shards * rows
    # MiB. Six million rows more are 92 MiB of ids and order, if they are all there at once.
    assert grown["memory", 8] - grown["memory", 2] > 80
    assert grown["stream", 8] - grown["stream", 2] < 20
    assert grown["stream", 8] < 100
