"""A TensorBoard event file, written at once and on this thread.

TensorBoard's own writers hand their records to a thread, where an error appears late or never, and
they import TensorFlow if it is installed. This writer uses only TensorBoard's record format and
messages.
"""

from __future__ import annotations

import io
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cadc_rec.tracking.tracker import Setting, flat_settings

if TYPE_CHECKING:
    from tensorboard.compat.proto.summary_pb2 import Summary

_EVENT_FILES = "events.out.tfevents.*"  # TensorBoard goes by this name


class TensorBoardTracker:
    """Writes one run's event file; an earlier file in `folder` is emptied.

    TensorBoard is imported when the first writer is made: that takes some tenths of a second.

    Args:
        folder: a folder for this run alone; TensorBoard calls the run by its name. It would draw
            two files in it as one curve that jumps back.
        settings: shown under "Text" and "HParams"; may be nested.

    Raises:
        OSError: the folder or the file cannot be written. Every method may raise it.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb
        from tensorboard.plugins.text.summary_v2 import text_pb
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder.mkdir(parents=True, exist_ok=True)
        _empty(folder)
        # TensorBoard reads files in the order of their names, so a later run's comes later.
        self._path = folder / _EVENT_FILES.replace("*", str(time.time_ns()))
        self._added = io.BytesIO()
        self._records = RecordWriter(self._added)
        self._add(Event(file_version="brain.Event:2"))
        # A running TensorBoard then forgets what it read from the emptied file.
        self._add(Event(session_log=SessionLog(status=SessionLog.START)))
        flat = flat_settings(settings)
        self._add(Event(summary=hparams_pb(flat, trial_id=folder.name)))
        self._add(Event(summary=text_pb("settings", _as_table(flat))))
        self.flush()

    def scalar(self, name: str, value: float, step: int) -> None:
        """Add one point, as float32; it stays in memory until the next flush."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        point = Summary.Value(tag=name, simple_value=value)
        self._add(Event(step=step, summary=Summary(value=[point])))

    def flush(self) -> None:
        """Write the added points to the file, where they survive a kill of this process."""
        # Closed every time: a network file system shows others a file's end when it is closed.
        with self._path.open("ab") as file:
            file.write(self._added.getvalue())
        self._added.seek(0)
        self._added.truncate()

    def close(self, *, finished: bool = True) -> None:
        """Write the remaining points and how the run ended."""
        from tensorboard.compat.proto.event_pb2 import Event

        self._add(Event(summary=_session_end(finished)))
        self.flush()

    def _add(self, event: Any) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())


def _empty(folder: Path) -> None:
    """Empty the event file of an earlier run, and remove files that were emptied before.

    A running TensorBoard gets stuck at a file that is removed while it reads it.
    """
    for old in folder.glob(_EVENT_FILES):
        if old.stat().st_size:
            old.write_bytes(b"")
        else:
            old.unlink()


def _as_table(settings: Mapping[str, Setting]) -> str:
    """The settings as a table in Markdown."""
    rows = [f"| {name} | {value} |" for name, value in settings.items()]
    return "\n".join(["| setting | value |", "|---|---|", *rows])


def _session_end(finished: bool) -> Summary:
    """The message that tells the HParams page how a run ended."""
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams import metadata
    from tensorboard.plugins.hparams.api_pb2 import STATUS_FAILURE, STATUS_SUCCESS
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo

    end = SessionEndInfo(
        status=STATUS_SUCCESS if finished else STATUS_FAILURE, end_time_secs=time.time()
    )
    value = Summary.Value(
        tag=metadata.SESSION_END_INFO_TAG,
        metadata=metadata.create_summary_metadata(HParamsPluginData(session_end_info=end)),
        tensor=metadata.NULL_TENSOR,
    )
    return Summary(value=[value])
