"""The manifest of a Kubeflow TrainJob, against the models that Kubeflow publishes of its schema."""

import pytest
import yaml
from kubeflow_trainer_api import models

from launch import components
from launch.kubernetes import __main__ as command
from launch.kubernetes.trainjob import Cluster, trainjob

WANTED = ("--config", "a.toml", "--workdir", "/shared/work", "--image", "registry/cadc-rec:1")


def as_published(manifest):
    """The manifest as Kubeflow's own models read it, without what they do not know."""
    return models.TrainerV1alpha1TrainJob.from_dict(manifest).to_dict()


@pytest.fixture
def printed(capsys):
    def of(*arguments):
        command.main(list(arguments))
        return yaml.safe_load(capsys.readouterr().out)

    return of


def test_the_manifest_is_one_of_the_published_schema(printed):
    manifest = printed(
        *("--name", "nightly", "--namespace", "recsys", "--queue", "gpus", "--priority", "high"),
        *("--service-account", "reader", "--node-selector", "zone=a"),
        *("--toleration", "nvidia.com/gpu:NoSchedule", "--toleration", "team=rec:NoExecute"),
        *("--grace", "300", "train", *WANTED, "-j", "2x8", "--gpu", "8", "--restarts", "3"),
        *("--mounts", "type=volume,src=claim,dst=/shared", "--fabric", "efa"),
    )
    assert as_published(manifest) == manifest
    assert manifest["metadata"] == {
        "name": "nightly",
        "namespace": "recsys",
        "labels": {
            "kueue.x-k8s.io/queue-name": "gpus",
            "kueue.x-k8s.io/priority-class": "high",
        },
    }
    trainer = manifest["spec"]["trainer"]
    assert trainer["numNodes"] == 2
    shell, option, line = trainer["command"]
    assert (shell, option) == ("bash", "-c")
    assert "--rdzv_endpoint ${PET_MASTER_ADDR:=localhost}:29500 --rdzv_id nightly" in line.replace(
        "'", ""
    )
    assert line.endswith("-m cadc_rec train a.toml --workdir /shared/work")
    assert trainer["resourcesPerNode"]["limits"] == {
        "cpu": "64",
        "memory": "512000M",
        "nvidia.com/gpu": "8",
        "vpc.amazonaws.com/efa": "1",
    }
    assert {"name": "PET_MAX_RESTARTS", "value": "3"} in trainer["env"]
    (patch,) = manifest["spec"]["runtimePatches"]
    (job,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod = job["template"]["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == "reader"
    assert pod["nodeSelector"] == {"zone": "a"}
    assert pod["terminationGracePeriodSeconds"] == 300
    assert pod["tolerations"] == [
        {"key": "nvidia.com/gpu", "effect": "NoSchedule", "operator": "Exists"},
        {"key": "team", "effect": "NoExecute", "operator": "Equal", "value": "rec"},
    ]
    assert {"name": "mount-0", "mountPath": "/shared", "readOnly": False} in pod["containers"][0][
        "volumeMounts"
    ]


def test_a_field_that_the_schema_lacks_would_be_seen():
    manifest = trainjob(components.run(config="a.toml", image="i", j="1x2"), Cluster("small"))
    manifest["spec"]["trainer"]["replicas"] = 2
    assert as_published(manifest) != manifest


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("train", *WANTED, "-j", "1:4x8"), "-j: a TrainJob has a fixed number of nodes"),
        (("train", "--config", "a.toml"), "--image: name the image"),
        (("--toleration", "gpu", "train", *WANTED), "give KEY[=VALUE]:EFFECT"),
        (("--node-selector", "gpu", "train", *WANTED), "give LABEL=VALUE"),
    ],
)
def test_what_no_trainjob_can_be_is_one_sentence(arguments, said, capsys):
    with pytest.raises(SystemExit) as ended:
        command.main(list(arguments))
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
