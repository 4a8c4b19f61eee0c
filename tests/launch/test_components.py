"""The torchx component: what it asks for, and a real run of it in two local processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from torchx.components.component_test_base import ComponentTestCase

from launch import components

ROOT = Path(__file__).parents[2]
TINY = """
seed = 3
[data]
source = "generated"
[data.generated]
users = 120
items = 80
interactions = 2500
[pretrain]
epochs = 5
factors = 15
[select]
ratio = 2
shards = 4
[model]
id_dim = 16
tower = [16, 8]
[train]
epochs = 2
batch_size = 256
"""


class TestComponents(ComponentTestCase):
    def test_train_is_a_valid_component(self):
        self.validate(components, "train")


def test_train_asks_for_the_processes_and_passes_the_experiment_on():
    app = components.train(
        config="configs/ml-1m.toml",
        method="gold",
        set="train.epochs=3;evaluate.k=[1,10]",
        j="2x4",
        gpu=4,
    )
    (role,) = app.roles
    assert role.num_replicas == 2
    assert role.resource.gpu == 4
    line = " ".join(role.args)
    assert "--nproc_per_node 4" in line
    assert "-m cadc_rec train configs/ml-1m.toml --workdir work --method gold" in line
    assert "--set train.epochs=3 --set 'evaluate.k=[1,10]'" in line
    assert role.env["OMP_WAIT_POLICY"] == "passive"
    assert role.env["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] == "1"


@pytest.mark.distributed
def test_torchx_trains_in_two_local_processes(tmp_path):
    config = tmp_path / "tiny.toml"
    config.write_text(TINY)
    bin_folder = str(Path(sys.executable).parent)
    environment = {
        **os.environ,
        "PATH": f"{bin_folder}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [
            *(f"{bin_folder}/torchx", "run", "--wait", "-s", "local_cwd"),
            *("-cfg", f"log_dir={tmp_path / 'logs'}", "launch/components.py:train"),
            *("--config", str(config), "--workdir", str(tmp_path / "work"), "-j", "1x2"),
        ],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "SUCCEEDED" in done.stderr
    (manifest,) = (tmp_path / "work" / "train").glob("*/manifest.json")
    info = json.loads(manifest.read_text())["info"]
    assert info["world_size"] == 2
    assert [entry["epoch"] for entry in info["history"]] == [1, 2]
