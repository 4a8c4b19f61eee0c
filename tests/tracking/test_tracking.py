"""Tracked runs are read back as TensorBoard, MLflow and trackio read them."""

import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
import types
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from cadc_rec.config.experiment import TrackingConfig
from cadc_rec.errors import CadcError
from cadc_rec.tracking.event_file import TensorBoardTracker
from cadc_rec.tracking.runs import require_tracking, run_folder, tracked, tracker_for
from cadc_rec.tracking.steps import StepCurves
from cadc_rec.tracking.tracker import flat_settings
from cadc_rec.training.intervals import Measured

ROOT = Path(__file__).parents[2]
SETTINGS = {"seed": 7, "train": {"epochs": 3, "learning_rate": 1e-3}, "model": {"tower": [8, 4]}}
HISTORY = [
    {"epoch": 1, "loss": 0.7, "positives_per_second": 1000.0},
    {"epoch": 2, "loss": 0.6, "hr@10": 0.25, "ndcg@10": 0.1, "positives_per_second": 1100.0},
    {"epoch": 3, "loss": 0.5, "hr@10": 0.5, "ndcg@10": 0.3, "positives_per_second": 1200.0},
]
CURVES = {
    "train/loss": [(1, 0.7), (2, 0.6), (3, 0.5)],
    "train/positives_per_second": [(1, 1000.0), (2, 1100.0), (3, 1200.0)],
    "validation/hr@10": [(2, 0.25), (3, 0.5)],
    "validation/ndcg@10": [(2, 0.1), (3, 0.3)],
}


@pytest.fixture
def warned():
    """The warnings our logger was given, message by message."""
    caught = []

    class Catch(logging.Handler):
        def emit(self, record):
            caught.append(record.getMessage())

    log, catch = logging.getLogger("cadc_rec"), Catch(logging.WARNING)
    log.addHandler(catch)
    yield caught
    log.removeHandler(catch)


def track(folder, history=HISTORY, rank=0, **config):
    with tracked(tracker_for(TrackingConfig(**config), folder, SETTINGS, rank)) as on_epoch:
        for entry in history:
            on_epoch(entry)


def read(folder):
    return EventAccumulator(str(folder)).Reload()


def curves(events):
    """Each curve's points as (epoch, value); TensorBoard keeps float32."""
    return {
        tag: [(point.step, point.value) for point in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def as_float32(points):
    return {
        tag: [(step, float(np.float32(value))) for step, value in curve]
        for tag, curve in points.items()
    }


def hparams(events):
    """The messages of TensorBoard's HParams page, by tag."""
    contents = events.PluginTagToContent("hparams")
    return {tag: HParamsPluginData.FromString(content) for tag, content in contents.items()}


def test_tensorboard_reads_every_epoch_of_the_history(tmp_path):
    track(tmp_path / "run")
    assert curves(read(tmp_path / "run")) == as_float32(CURVES)


def test_tensorboard_shows_the_settings_as_text_and_as_hyperparameters(tmp_path):
    track(tmp_path / "run")
    events = read(tmp_path / "run")
    (text,) = events.Tensors("settings")
    rows = text.tensor_proto.string_val[0].decode().splitlines()
    assert "| train.learning_rate | 0.001 |" in rows
    assert "| model.tower | [8, 4] |" in rows
    start = hparams(events)["_hparams_/session_start_info"].session_start_info
    assert start.group_name == "run"
    assert start.hparams["seed"].number_value == 7
    assert start.hparams["train.epochs"].number_value == 3
    assert start.hparams["model.tower"].string_value == "[8, 4]"


def test_an_end_and_an_exception_are_told_apart(tmp_path):
    def end():
        return hparams(read(tmp_path))["_hparams_/session_end_info"].session_end_info.status

    track(tmp_path)
    assert end() == api_pb2.STATUS_SUCCESS
    tracker = tracker_for(TrackingConfig(), tmp_path, SETTINGS)
    with pytest.raises(KeyboardInterrupt), tracked(tracker):
        raise KeyboardInterrupt
    assert end() == api_pb2.STATUS_FAILURE


def test_a_killed_run_leaves_the_epochs_it_finished(tmp_path):
    code = f"""
        import os, signal
        from pathlib import Path
        from cadc_rec.config.experiment import TrackingConfig
        from cadc_rec.tracking.runs import tracked, tracker_for
        tracker = tracker_for(TrackingConfig(), Path({str(tmp_path)!r}), {SETTINGS!r})
        with tracked(tracker) as on_epoch:
            for entry in {HISTORY[:2]!r}:
                on_epoch(entry)
            tracker.scalar("train/loss", 9.0, 3)
            os.kill(os.getpid(), signal.SIGKILL)
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT)
    assert killed.returncode == -signal.SIGKILL
    events = read(tmp_path)
    assert [step for step, _ in curves(events)["train/loss"]] == [1, 2]
    assert "_hparams_/session_end_info" not in hparams(events)


def test_a_rerun_replaces_the_curves_of_the_run_before_also_for_one_who_is_watching(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    track(tmp_path)
    watching = read(tmp_path)
    again = [{"epoch": 1, "loss": 0.875}, {"epoch": 2, "loss": 0.75}]
    track(tmp_path, again)
    expected = {"train/loss": [(1, 0.875), (2, 0.75)]}
    assert curves(read(tmp_path)) == expected
    assert curves(watching.Reload())["train/loss"] == expected["train/loss"]
    assert (tmp_path / "notes.txt").exists()  # only event files are ours to remove


@pytest.mark.parametrize(("rank", "config"), [(1, {}), (0, {"tensorboard": False})])
def test_other_ranks_and_runs_that_are_not_tracked_write_nothing(tmp_path, rank, config):
    track(tmp_path / "run", rank=rank, **config)
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_named_after_method_seed_and_key(tmp_path):
    assert run_folder(tmp_path, "cadc", 3, "0f" * 8) == (
        tmp_path / "tensorboard" / "cadc-seed3-0f0f0f0f0f0f0f0f"
    )


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full to fill up")
def test_a_full_disk_is_one_warning_and_training_goes_on(tmp_path, warned):
    with tracked(tracker_for(TrackingConfig(), tmp_path, SETTINGS)) as on_epoch:
        on_epoch(HISTORY[0])
        (file,) = tmp_path.iterdir()
        file.unlink()
        file.symlink_to("/dev/full")
        on_epoch(HISTORY[1])
        on_epoch(HISTORY[2])
    assert warned == [
        "TensorBoard stopped, training goes on without it: [Errno 28] No space left on device"
    ]


def test_a_folder_that_cannot_be_made_is_one_warning_and_training_goes_on(tmp_path, warned):
    (tmp_path / "tensorboard").write_text("a file")
    track(tmp_path / "tensorboard" / "run")
    assert len(warned) == 1
    assert "TensorBoard stopped" in warned[0]


def test_tracking_is_quiet_imports_late_and_never_imports_tensorflow(tmp_path):
    (tmp_path / "tensorflow.py").write_text("raise SystemExit('TensorFlow was imported')")
    code = f"""
        import sys
        from pathlib import Path
        from cadc_rec.config.experiment import TrackingConfig
        from cadc_rec.tracking.runs import require_tracking, tracked, tracker_for
        require_tracking(TrackingConfig())
        assert not {{"tensorboard", "mlflow", "torch"}} & set(sys.modules)
        with tracked(tracker_for(TrackingConfig(), Path("run"), {SETTINGS!r})) as on_epoch:
            on_epoch({HISTORY[1]!r})
        assert not {{"tensorflow", "mlflow", "torch", "grpc"}} & set(sys.modules)
    """
    (tmp_path / "script.py").write_text(textwrap.dedent(code))
    ended = subprocess.run(
        [sys.executable, "-W", "error", "script.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    assert len(list((tmp_path / "run").iterdir())) == 1


def test_settings_are_flattened_by_dotted_name():
    nested = {"a": 1, "b": {"c": True, "d": {"e": "x"}}, "f": [1, 2], "g": None}
    assert flat_settings(nested) == {"a": 1, "b.c": True, "b.d.e": "x", "f": "[1, 2]", "g": "None"}


def test_mlflow_that_is_asked_for_and_missing_ends_the_job_before_it_starts(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    require_tracking(TrackingConfig())
    with pytest.raises(CadcError, match=r'pip install -e "\.\[tracking\]"'):
        require_tracking(TrackingConfig(mlflow_uri="http://localhost:5000"))


@pytest.fixture
def mlflow_calls(monkeypatch):
    """A stand-in for MLflow; what its client was told, call by call."""
    calls = []

    class Client:
        def __init__(self, tracking_uri):
            calls.append(("client", tracking_uri))

        def get_experiment_by_name(self, name):
            return None

        def create_experiment(self, name):
            calls.append(("experiment", name))
            return "17"

        def create_run(self, experiment_id, run_name):
            calls.append(("run", experiment_id, run_name))
            return types.SimpleNamespace(info=types.SimpleNamespace(run_id="r1"))

        def log_batch(self, run_id, metrics=(), params=()):
            told = sorted((metric[0], metric[1], metric[3]) for metric in metrics)
            calls.append(("batch", run_id, told, list(params)))

        def set_terminated(self, run_id, status):
            calls.append(("end", run_id, status))

    mlflow, entities = types.ModuleType("mlflow"), types.ModuleType("mlflow.entities")
    mlflow.MlflowClient, mlflow.entities = Client, entities
    entities.Metric = entities.Param = lambda *values: values
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    return calls


def test_mlflow_is_told_the_settings_each_epoch_at_once_and_the_end(
    tmp_path, monkeypatch, mlflow_calls
):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3")
    history = [{"epoch": 1, "loss": 0.7}, {"epoch": 2, "loss": 0.6, "hr@10": 0.25}]
    track(tmp_path / "run", history, tensorboard=False, mlflow_uri="http://host:5000")
    settings = [("seed", "7"), ("train.epochs", "3"), ("train.learning_rate", "0.001")]
    assert mlflow_calls == [
        ("client", "http://host:5000"),
        ("experiment", "cadc-rec"),
        ("run", "17", "run"),
        ("batch", "r1", [], [*settings, ("model.tower", "[8, 4]")]),
        ("batch", "r1", [("train/loss", 0.7, 1)], []),
        ("batch", "r1", [("train/loss", 0.6, 2), ("validation/hr_at_10", 0.25, 2)], []),
        ("end", "r1", "FINISHED"),
    ]
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "3"  # the user's own value wins
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert not (tmp_path / "run").exists()


def test_a_server_that_goes_away_is_one_warning_and_tensorboard_goes_on(
    tmp_path, monkeypatch, mlflow_calls, warned
):
    def gone(self, run_id, metrics=(), params=()):
        if metrics:
            raise ConnectionError("connection refused\nand many lines more")

    monkeypatch.setattr(sys.modules["mlflow"].MlflowClient, "log_batch", gone)
    track(tmp_path, mlflow_uri="http://host:5000")
    assert warned == ["MLflow stopped, training goes on without it: connection refused"]
    assert curves(read(tmp_path)) == as_float32(CURVES)
    assert mlflow_calls[-1][0] == "run"  # not tried again, not even for the end


def test_mlflow_keeps_the_history_in_a_database_of_its_own(tmp_path, capfd):
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    track(tmp_path / "run", tensorboard=False, mlflow_uri=uri, mlflow_experiment="mine")
    assert capfd.readouterr().out == ""  # it belongs to results
    client = mlflow.MlflowClient(tracking_uri=uri)
    (run,) = client.search_runs([client.get_experiment_by_name("mine").experiment_id])
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
    assert run.data.params["train.learning_rate"] == "0.001"
    for name, points in CURVES.items():
        kept = client.get_metric_history(run.info.run_id, name.replace("@", "_at_"))
        assert [(metric.step, metric.value) for metric in kept] == points


def test_trackio_that_is_asked_for_and_missing_ends_the_job_before_it_starts(monkeypatch):
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(CadcError, match=r'pip install -e "\.\[trackio\]"'):
        require_tracking(TrackingConfig(trackio_project="mine"))


def test_trackio_is_told_each_step_once_and_says_nothing_on_standard_output(
    tmp_path, monkeypatch, capfd
):
    """A stand-in for trackio; the real one is an extra."""
    told = []

    class Run:
        def log(self, points, step):
            told.append((dict(points), step))

    def init(**given):
        print("* Created new run")
        told.append((given["project"], given["name"], given["config"]["train.epochs"]))
        return Run()

    trackio = types.ModuleType("trackio")
    trackio.init, trackio.finish = init, lambda: (print("finishes"), told.append("finished"))
    monkeypatch.setitem(sys.modules, "trackio", trackio)
    track(tmp_path / "run", HISTORY[:2], tensorboard=False, trackio_project="mine")
    assert told == [
        ("mine", "run", 3),
        ({"train/loss": 0.7, "train/positives_per_second": 1000.0}, 1),
        (
            {
                "train/loss": 0.6,
                "validation/hr@10": 0.25,
                "validation/ndcg@10": 0.1,
                "train/positives_per_second": 1100.0,
            },
            2,
        ),
        "finished",
    ]
    assert capfd.readouterr().out == ""


def test_trackio_keeps_the_history_in_a_file_without_a_network(tmp_path):
    pytest.importorskip("trackio")
    code = f"""
        import socket
        from pathlib import Path
        from cadc_rec.config.experiment import TrackingConfig
        from cadc_rec.tracking.runs import tracked, tracker_for
        def refused(*_):
            raise OSError("no network here")
        socket.socket.connect = socket.create_connection = refused
        config = TrackingConfig(tensorboard=False, trackio_project="mine")
        with tracked(tracker_for(config, Path("run"), {SETTINGS!r})) as on_epoch:
            for entry in {HISTORY!r}:
                on_epoch(entry)
        import trackio
        from trackio.sqlite_storage import SQLiteStorage
        (run,) = trackio.Api().runs("mine")
        assert (run.name, run.config["train.learning_rate"]) == ("run", 0.001), run.config
        rows = SQLiteStorage.get_logs("mine", "run")
        for name, points in {CURVES!r}.items():
            assert [(row["step"], row[name]) for row in rows if name in row] == points, rows
    """
    home = {"HOME": str(tmp_path), "TRACKIO_DIR": str(tmp_path / "trackio")}
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, **home, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (ended.returncode, ended.stdout) == (0, ""), ended.stderr


def measured(step, steps, positives, waiting, exchange, loss, host, device=0, seconds=2.0):
    return Measured(1, step, steps, seconds, positives, waiting, exchange, loss, host, device)


def test_a_single_process_draws_its_intervals_over_the_steps_at_once(tmp_path):
    tracker = TensorBoardTracker(tmp_path, SETTINGS)
    drawn = StepCurves(tracker, alone=True)
    drawn.interval(measured(8, 8, 400.0, 0.5, 0.0, 4.0, 1 << 20))
    drawn.interval(measured(12, 4, 200.0, 1.0, 0.0, 1.0, 1 << 21))
    assert curves(read(tmp_path)) == {
        "steps/positives_per_second": [(8, 200.0), (12, 100.0)],
        "steps/waiting_share": [(8, 0.25), (12, 0.5)],
        "steps/exchange_share": [(8, 0.0), (12, 0.0)],
        "steps/host_memory_bytes": [(8, 2.0**20), (12, 2.0**21)],
        "steps/loss": [(8, 0.5), (12, 0.25)],
    }


def test_several_ranks_draw_a_curve_each_and_those_of_all_at_the_end_of_an_epoch(tmp_path):
    tracker = TensorBoardTracker(tmp_path, SETTINGS)
    drawn = StepCurves(tracker, alone=False)
    ranks = [
        [measured(4, 4, 100.0, 0.5, 1.5, 1.0, 1 << 20, 1 << 30)],
        [
            measured(3, 3, 75.0, 0.0, 0.25, 1.5, 1 << 20, 1 << 30, seconds=1.5),
            measured(4, 1, 25.0, 0.0, 0.0, 0.5, 1 << 22, 1 << 31, seconds=0.5),
        ],
    ]
    drawn.interval(ranks[0][0])
    assert set(curves(read(tmp_path))) == {
        f"rank-0/{name}"
        for name in (
            *("positives_per_second", "waiting_share", "exchange_share"),
            *("host_memory_bytes", "device_memory_bytes"),
        )
    }
    drawn.epoch(ranks, slowest=1)
    found = curves(read(tmp_path))
    assert found["rank-0/exchange_share"] == [(4, 0.75)]
    assert found["rank-1/positives_per_second"] == [(3, 50.0), (4, 50.0)]
    assert found["steps/positives_per_second"] == [(4, 100.0)]  # 200 in two seconds
    assert found["steps/loss"] == [(4, 0.75)]  # 3 over four steps, of both ranks' parts
    assert found["steps/waiting_share"] == [(4, 0.125)]
    assert found["steps/host_memory_bytes"] == [(4, 2.0**22)]
    assert found["steps/device_memory_bytes"] == [(4, 2.0**31)]
    assert found["steps/slowest_rank"] == [(4, 1.0)]


def test_a_point_costs_less_than_a_hundredth_of_the_interval_that_it_ends(tmp_path):
    drawn = StepCurves(TensorBoardTracker(tmp_path, SETTINGS), alone=True)
    started, points = time.perf_counter(), 20
    for step in range(1, points + 1):
        drawn.interval(measured(step, 1, 10.0, 0.0, 0.0, 1.0, 1 << 20))
    seconds = (time.perf_counter() - started) / points
    assert seconds < 0.01 * TrackingConfig().interval_seconds
