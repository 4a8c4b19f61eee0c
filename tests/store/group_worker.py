"""Run as the ranks of a job, ``group_worker.py WORKDIR OUT``: a stage of a file a rank.

``OUT/RANK`` says which files the rank hashed, or how the stage was refused.
"""

import json
import sys
from pathlib import Path

from cadc_rec.config.experiment import ComputeConfig
from cadc_rec.distributed.processes import processes
from cadc_rec.errors import CadcError
from cadc_rec.store import manifest
from cadc_rec.store.artifact import run_stage

if __name__ == "__main__":
    workdir, out = map(Path, sys.argv[1:])
    hashed, file_entry = [], manifest.file_entry

    def noted(path):
        hashed.append(path.name)
        return file_entry(path)

    manifest.file_entry = noted
    with processes(ComputeConfig(device="cpu", threads=1, timeout_seconds=60)) as joined:

        def build(draft):
            (draft.path / f"rank-{joined.rank}").write_text("x" * 1000)

        told = {"hashed": hashed}
        try:
            run_stage(workdir, "train", {}, {}, build, group=joined)
        except CadcError as refused:
            told = {"refused": str(refused)}
        (out / str(joined.rank)).write_text(json.dumps(told))
