"""What every section says of the session it was measured in."""

from __future__ import annotations

import time

from benchmarks.peers.record import Machine
from cadc_rec.machine import available_cores, memory_bytes, processor_name
from cadc_rec.versions import library_versions


def now() -> str:
    """The time, in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def this_machine() -> Machine:
    """What it runs on."""
    return Machine(
        processor=processor_name(),
        cores=available_cores(),
        memory_bytes=memory_bytes(),
        versions=dict(library_versions()),
    )
