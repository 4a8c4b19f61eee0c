"""A TrainJob of Kubeflow's Trainer, as a manifest.

In: what a component of `launch/components.py` describes (an ``AppDef``), and what only Kubernetes
knows: a runtime, a queue, which nodes, as whom. Out: a dictionary for ``kubectl apply``.

The runtime starts one pod a node and says in the environment which is the first; torchrun finds the
others there, by the same command line as under torchx. The runtime is not patched but for its pods:
their nodes, volumes, account, and how long they may take to end.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torchx import specs

_MANAGER = "cadc-rec.launch/trainjob"
_NODE = "node"  # of the runtimes for torch: both the job and its container are called so


@dataclass(frozen=True)
class Cluster:
    """What a job needs of its cluster, beside the machines' size.

    Attributes:
        name: the job's.
        namespace: where it runs.
        runtime: a ClusterTrainingRuntime for torch.
        queue: of Kueue; empty has the job start at once.
        priority: a WorkloadPriorityClass of Kueue.
        service_account: whose rights the pods have, such as those to an object store.
        node_selector: labels of the nodes that may run it.
        tolerations: taints that it tolerates, each by key, value (empty: any) and effect.
        grace_seconds: from SIGTERM to SIGKILL, in which a training saves itself.
    """

    name: str
    namespace: str = "default"
    runtime: str = "torch-distributed"
    queue: str = ""
    priority: str = ""
    service_account: str = ""
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[tuple[str, str, str], ...] = ()
    grace_seconds: int = 120


def trainjob(app: specs.AppDef, cluster: Cluster) -> dict[str, Any]:
    """The manifest of a job.

    Raises:
        ValueError: its number of nodes is a range, or it has no image.
    """
    (described,) = app.roles
    if described.min_replicas not in (None, described.num_replicas):
        raise ValueError("-j: a TrainJob has a fixed number of nodes; give one, such as 2x8.")
    if not described.image:
        raise ValueError("--image: name the image that launch/Dockerfile builds.")
    role = specs.macros.Values(
        img_root="", app_id=cluster.name, replica_id="0", rank0_env="PET_MASTER_ADDR"
    ).apply(described)
    labels = {
        f"kueue.x-k8s.io/{name}": value
        for name, value in (("queue-name", cluster.queue), ("priority-class", cluster.priority))
        if value
    }
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {
            "name": cluster.name,
            "namespace": cluster.namespace,
            **({"labels": labels} if labels else {}),
        },
        "spec": {
            "runtimeRef": {"name": cluster.runtime},
            "trainer": {
                "image": role.image,
                "command": [role.entrypoint, *role.args],
                "numNodes": role.num_replicas,
                "resourcesPerNode": _resources(role.resource),
                "env": [{"name": name, "value": value} for name, value in role.env.items()],
            },
            "runtimePatches": [
                {"manager": _MANAGER, "trainingRuntimeSpec": _of_pods(_pod(role, cluster))}
            ],
        },
    }


def _resources(resource: specs.Resource) -> dict[str, Any]:
    """What each node is asked for; a pod gets no more and no less."""
    amounts = {"cpu": str(resource.cpu), "memory": f"{resource.memMB}M"}
    if resource.gpu > 0:
        amounts["nvidia.com/gpu"] = str(resource.gpu)
    amounts |= {name: str(count) for name, count in resource.devices.items()}
    return {"limits": dict(amounts), "requests": dict(amounts)}


def _pod(role: specs.Role, cluster: Cluster) -> dict[str, Any]:
    """What is patched in the runtime's pods."""
    # /dev/shm has 64 MB otherwise; NCCL and torch's loaders share memory there.
    shared = {"medium": "Memory", "sizeLimit": f"{role.resource.memMB // 2}M"}
    volumes: list[dict[str, Any]] = [{"name": "dshm", "emptyDir": shared}]
    mounts: list[dict[str, Any]] = [{"name": "dshm", "mountPath": "/dev/shm"}]
    for number, mount in enumerate(role.mounts):
        name = f"mount-{number}"
        if isinstance(mount, specs.BindMount):
            volumes.append({"name": name, "hostPath": {"path": mount.src_path}})
        elif isinstance(mount, specs.VolumeMount):
            volumes.append({"name": name, "persistentVolumeClaim": {"claimName": mount.src}})
        else:
            raise ValueError("--mounts: a TrainJob takes type=bind and type=volume.")
        mounts.append({"name": name, "mountPath": mount.dst_path, "readOnly": mount.read_only})
    selector = dict(cluster.node_selector)
    selector |= {name: str(value) for name, value in role.resource.capabilities.items()}
    pod: dict[str, Any] = {
        "terminationGracePeriodSeconds": cluster.grace_seconds,
        "volumes": volumes,
        "containers": [{"name": _NODE, "volumeMounts": mounts}],
    }
    if selector:
        pod["nodeSelector"] = selector
    if cluster.service_account:
        pod["serviceAccountName"] = cluster.service_account
    if cluster.tolerations:
        pod["tolerations"] = [
            {"key": key, "effect": effect}
            | ({"operator": "Equal", "value": value} if value else {"operator": "Exists"})
            for key, value, effect in cluster.tolerations
        ]
    return pod


def _of_pods(pod: Mapping[str, Any]) -> dict[str, Any]:
    """A patch of pods, at its place in the runtime."""
    job = {"name": _NODE, "template": {"spec": {"template": {"spec": pod}}}}
    return {"template": {"spec": {"replicatedJobs": [job]}}}
