"""Prints the manifest of a TrainJob: ``python -m launch.kubernetes [options] COMPONENT ...``.

The component and its arguments are those of ``torchx run launch/components.py:COMPONENT``.
"""

import argparse
import sys

import yaml
from torchx.specs.builders import materialize_appdef

from launch import components
from launch.kubernetes.trainjob import Cluster, trainjob


def main(arguments: list[str]) -> None:
    """Print the manifest, or one sentence that says what is wrong.

    Raises:
        SystemExit: the sentence was printed.
    """
    parser = argparse.ArgumentParser(
        "python -m launch.kubernetes", description="Print the manifest of a Kubeflow TrainJob."
    )
    parser.add_argument("--name", default="", help="the job's name; default: cadc-rec-COMPONENT")
    parser.add_argument("--namespace", default="default", help="where the job runs")
    parser.add_argument(
        "--runtime", default="torch-distributed", help="a ClusterTrainingRuntime for torch"
    )
    parser.add_argument("--queue", default="", help="a queue of Kueue")
    parser.add_argument("--priority", default="", help="a WorkloadPriorityClass of Kueue")
    parser.add_argument("--service-account", default="", help="whose rights the pods have")
    parser.add_argument(
        "--node-selector",
        action="append",
        default=[],
        metavar="LABEL=VALUE",
        help="may be repeated",
    )
    parser.add_argument(
        "--toleration",
        action="append",
        default=[],
        metavar="KEY[=VALUE]:EFFECT",
        help="may be repeated",
    )
    parser.add_argument(
        "--grace", type=int, default=120, help="seconds from SIGTERM to SIGKILL, to save itself in"
    )
    parser.add_argument("component", choices=components.NAMES)
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="of the component")
    given = parser.parse_args(arguments)
    app = materialize_appdef(getattr(components, given.component), given.arguments)
    try:
        cluster = Cluster(
            given.name or app.name,
            given.namespace,
            given.runtime,
            given.queue,
            given.priority,
            given.service_account,
            dict(map(_label, given.node_selector)),
            tuple(map(_toleration, given.toleration)),
            given.grace,
        )
        manifest = trainjob(app, cluster)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(yaml.safe_dump(manifest, sort_keys=False), end="")


def _label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise ValueError(f"--node-selector {text}: give LABEL=VALUE.")
    return key, value


def _toleration(text: str) -> tuple[str, str, str]:
    taint, _, effect = text.rpartition(":")
    key, _, value = taint.partition("=")
    if not key or effect not in ("NoSchedule", "PreferNoSchedule", "NoExecute"):
        raise ValueError(f"--toleration {text}: give KEY[=VALUE]:EFFECT, such as gpu:NoSchedule.")
    return key, value, effect


if __name__ == "__main__":
    main(sys.argv[1:])
