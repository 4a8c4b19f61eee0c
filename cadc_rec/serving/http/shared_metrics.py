"""Metrics of one process, or of several workers together.

prometheus_client chooses when it is first imported whether its numbers lie in memory or in files
that processes share. So this module does not import it before it is asked for metrics.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator

_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_GONE_AT_0 = frozenset({"cadc_rec_bundle_loaded_timestamp_seconds"})
"""Series that a 0 takes away: files that processes share have no other way."""


@contextlib.contextmanager
def shared_metrics(workers: int) -> Iterator[None]:
    """Keep the numbers in files, if there are several workers, until the block ends."""
    if workers == 1:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="cadc-rec-metrics-") as folder:
        os.environ[_VARIABLE] = folder
        try:
            yield
        finally:
            del os.environ[_VARIABLE]


def exposition() -> bytes:
    """All metrics, in Prometheus's text format."""
    from prometheus_client import CollectorRegistry, Metric, generate_latest
    from prometheus_client.multiprocess import MultiProcessCollector

    if _VARIABLE not in os.environ:
        return generate_latest()
    registry = CollectorRegistry()

    class Present(MultiProcessCollector):
        def collect(self) -> Iterator[Metric]:
            for metric in super().collect():
                metric.samples = [
                    one for one in metric.samples if one.value or one.name not in _GONE_AT_0
                ]
                yield metric

    Present(registry)
    return generate_latest(registry)


def forget(pid: int) -> None:
    """Leave out what is true of a living process alone; what it counted stays."""
    from prometheus_client.multiprocess import mark_process_dead

    if _VARIABLE in os.environ:
        mark_process_dead(pid)
