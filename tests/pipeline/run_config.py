"""Run as the ranks of a job: ``run_config.py CONFIG WORKDIR [KEY=VALUE ...]`` runs all stages."""

import sys
from pathlib import Path

from cadc_rec.config.file import load_experiment
from cadc_rec.pipeline.job import opened

if __name__ == "__main__":
    config, workdir, *sets = sys.argv[1:]
    with opened(load_experiment(Path(config), overrides=sets), Path(workdir)) as pipeline:
        pipeline.run()
