"""What `two_processes.Spawned` starts: ``python -m benchmarks.peers.worker TASK ANSWER``."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from statistics import median

from benchmarks.peers.ours import OurTraining
from cadc_rec.config.experiment import Experiment
from cadc_rec.data.dataset import Dataset
from cadc_rec.distributed.processes import processes
from cadc_rec.log import set_up_logging
from cadc_rec.store.artifact import open_artifact

_MEASURED = 7  # each takes half a second, and starting takes ten


def main(task: Path, answer: Path) -> None:
    """Train a warm-up epoch and a few measured ones; rank 0 writes the answer, their median."""
    given = json.loads(task.read_text("utf-8"))
    experiment = Experiment.model_validate_json(json.dumps(given["experiment"]))
    dataset = Dataset.open(open_artifact(Path(given["dataset"])))
    with processes(experiment.compute) as joined:
        training = OurTraining(experiment, dataset, int(given["rows"]), joined)
        training.turn()
        seconds = []
        for _ in range(_MEASURED):
            joined.barrier()
            started = time.perf_counter()
            work = training.turn()
            joined.barrier()
            seconds.append(time.perf_counter() - started)
    if joined.rank == 0:
        answer.write_text(json.dumps({"units": work.units, "seconds": median(seconds)}), "utf-8")


if __name__ == "__main__":
    set_up_logging()
    main(*map(Path, sys.argv[1:]))
