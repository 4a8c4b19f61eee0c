"""A topic of Kafka as a stream: each message is a JSON object whose members are the columns.

In: brokers and a topic. Out: batches as JSON Lines, a file a partition. Which offset comes next
stands in our journal, written together with the batch; nothing is committed to the brokers.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import time
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from cadc_rec.errors import CadcError
from cadc_rec.follow.journal import Batch
from cadc_rec.follow.stream import INTERACTIONS, Bounds, Gathered, Stop
from cadc_rec.log import log

if TYPE_CHECKING:
    from confluent_kafka import Consumer, Message

_ADDRESS = re.compile(r"kafka://([^/\s?#]+)/([A-Za-z0-9._-]{1,249})")
_ANSWER_SECONDS = 10.0
_GIVE_UP_SECONDS = 30.0
_POLL_SECONDS = 0.5
_MESSAGES = 10_000  # of a poll at most
_PARTITIONS_SECONDS = 60.0  # how often new partitions are looked for
_OURS = {
    "auto.offset.reset",
    "bootstrap.servers",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.partition.eof",
    "group.id",
}
_silent = logging.getLogger("cadc_rec.librdkafka")  # what it has to say comes as errors, too
_silent.propagate = False
_silent.addHandler(logging.NullHandler())


def is_kafka(named: str) -> bool:
    """Whether ``--from`` names a topic."""
    return named.startswith("kafka://")


def read_properties(file: Path) -> dict[str, str]:
    """A file of the client's settings, such as ``sasl.password``: ``name=value`` a line.

    Raises:
        CadcError: it cannot be read, or sets what is not its to set.
    """
    try:
        lines = file.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CadcError(f"{file}: cannot be read ({error}).") from error
    found = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, equals, value = (part.strip() for part in line.partition("="))
        if not (name and equals):
            raise CadcError(f"{file}, line {number}: is no setting; write name=value.")
        if name in _OURS:
            raise CadcError(f"{file}, line {number}: {name} is decided here; take the line out.")
        found[name] = value
    return found


class KafkaStream:
    """See the module.

    Args:
        address: ``kafka://HOST:PORT[,HOST:PORT]/TOPIC``.
        skip: messages to leave out, as ``PARTITION:OFFSET``.
        properties: more settings of the client (librdkafka's), for TLS and passwords.
        encoding: that the config names for text; messages are UTF-8.

    Raises:
        CadcError: no broker answers, there is no such topic, or the client is not installed.
    """

    def __init__(
        self,
        address: str,
        skip: Sequence[str] = (),
        properties: Mapping[str, str] | None = None,
        encoding: str = "utf-8",
    ) -> None:
        found = _ADDRESS.fullmatch(address)
        if found is None:
            raise CadcError(f"--from {address}: write kafka://HOST:PORT/TOPIC.")
        if encoding != "utf-8":
            raise CadcError(
                f"data.tables.encoding = {encoding!r}: messages of Kafka are UTF-8; leave it out."
            )
        try:
            from confluent_kafka import Consumer, KafkaException
        except ImportError:
            raise CadcError(
                "following Kafka needs its client; install it: pip install 'cadc-rec[kafka]'."
            ) from None
        self._skip = _offsets_to_skip(skip)
        self.text, self._topic = address, found[2]
        self.moved = time.monotonic()
        self._no_broker = ""
        settings = {
            **(properties or {}),
            "bootstrap.servers": found[1],
            "group.id": "cadc-rec-follow",  # the client wants one; nothing is committed to it
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "error",  # messages that are gone are told of, not skipped
            "error_cb": self._heard,
        }
        try:
            self._consumer: Consumer = Consumer(settings, logger=_silent)
        except (KafkaException, ValueError, TypeError) as error:
            raise CadcError(f"{address}: its client refuses its settings ({error}).") from error
        cluster = self._list_topic()
        self.identity = f"kafka://{cluster}/{self._topic}"
        self._next: dict[int, int] = {}
        self._draft: _Draft | None = None
        self._ended: set[int] = set()
        self._listed = time.monotonic()
        self._assigned = False

    def begin(self, batches: Sequence[Batch]) -> None:
        """See `Stream`."""
        self._next = {}
        for batch in batches:
            self.took(batch)
        self._close_draft()
        self._assigned = False

    def took(self, batch: Batch) -> None:
        """See `Stream`."""
        for one in batch.taken:
            number = int(one["partition"])
            self._next[number] = max(self._next.get(number, 0), int(one["to"]))

    def gather(self, into: Path, bounds: Bounds, flush: bool) -> Gathered | None:
        """See `Stream`."""
        if not self._assigned:
            self._assign()
        if self._draft is None:
            shutil.rmtree(into, ignore_errors=True)
            self._draft = _Draft(into)
        draft = self._draft
        room = _MESSAGES if bounds.rows is None else min(_MESSAGES, bounds.rows - draft.rows)
        for message in self._consumer.consume(max(room, 1), _POLL_SECONDS):
            self._take(message, draft)
        ended = self._ended >= set(self._partitions)
        flushed = flush and ended and not draft.empty
        if not (flushed or bounds.reached(draft.rows, draft.seconds)):
            if flush:
                self._require_broker()
            self._look_for_partitions()
            return None
        self._draft = None
        return draft.closed(f"{self._topic} ")

    def exhausted(self) -> bool:
        """Whether every partition was read to its end."""
        return self._ended >= set(self._partitions)

    def wait(self, seconds: float, stop: Stop) -> None:
        """See `Stream`; `gather` waits for messages."""

    def told(self, message: str, folder: Path, batch: Batch) -> str:
        """See `Stream`."""
        for one in batch.taken:
            number = int(one["partition"])
            place = re.escape(str(folder / INTERACTIONS / _file(number)))
            topic = f"{self.text}, partition {number}"
            offsets = _read_offsets(folder, number)

            def named(found: re.Match[str], topic: str = topic, of: Any = offsets) -> str:
                line = int(found[1])
                return f"{topic}, offset {of[line - 1]}" if line <= len(of) else found[0]

            message = re.sub(rf"{place}, line (\d+)", named, message)
            message = message.replace(str(folder / INTERACTIONS / _file(number)), topic)
        return message.replace(str(folder), self.text)

    def way_out(self, batch: Batch) -> str:
        """See `Stream`."""
        return "leave the message out with --skip PARTITION:OFFSET"

    def _take(self, message: Message, draft: _Draft) -> None:
        """Put a message into the draft.

        Raises:
            CadcError: it is no message but an error that does not pass by itself.
        """
        error, number, offset = message.error(), message.partition(), message.offset()
        if error is not None:
            self._met(error, number)
            return
        assert number is not None
        assert offset is not None
        self._ended.discard(number)
        self._no_broker = ""
        self.moved = time.monotonic()
        value = message.value()
        if value is not None and not isinstance(value, bytes):
            value = str(value).encode()
        if (number, offset) in self._skip:
            value = None
        draft.add(number, offset, _line(value))
        self._next[number] = offset + 1

    def _met(self, error: Any, number: int | None) -> None:
        """Take an error of a partition, or of none, such as one about rights.

        Raises:
            CadcError: it does not pass by itself.
        """
        from confluent_kafka import KafkaError

        code = error.code()
        if number is None or number < 0:
            where, number = self.text, -1
        else:
            where = f"{self.text}, partition {number}"
        if code == KafkaError._PARTITION_EOF:
            self._ended.add(number)
            return
        if code == KafkaError._AUTO_OFFSET_RESET:
            raise CadcError(
                f"{where}: offset {self._next.get(number, 0)}, which comes "
                "next, is not there (removed by the topic's retention, or the topic was made anew);"
                " delete the stream's folder below WORKDIR/follow to begin with the oldest message "
                "there is."
            )
        if error.retriable() or code in (KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN):
            self._heard(error)
            return
        raise CadcError(f"{where}: {error.str().rstrip('.')}.")

    def _heard(self, error: Any) -> None:
        """Say once that no broker answers; the client goes on trying."""
        from confluent_kafka import KafkaError

        if error.code() == KafkaError._ALL_BROKERS_DOWN and not self._no_broker:
            self._no_broker = str(error.str())
            log.warning("%s: no broker answers (%s); still trying", self.text, self._no_broker)

    def _require_broker(self) -> None:
        """Give up on brokers that do not answer, where this is to end some time.

        Raises:
            CadcError: none has answered for a while.
        """
        why = self._no_broker
        if not why or time.monotonic() - self.moved <= _GIVE_UP_SECONDS:
            return
        try:
            self._list_anew()  # one may be back, without a message to show it
        except CadcError:
            if not self._no_broker:
                raise
            raise CadcError(
                f"{self.text}: no broker answers ({why}); every batch that was told of is learned, "
                "and the same command goes on behind it."
            ) from None

    def _list_topic(self) -> str:
        """Look which partitions there are; the cluster's id."""
        from confluent_kafka import KafkaException

        try:
            listed = self._consumer.list_topics(self._topic, timeout=_ANSWER_SECONDS)
        except KafkaException as error:
            raise CadcError(
                f"{self.text}: no broker answers ({error.args[0].str()}); correct the address, or "
                "start the broker."
            ) from None
        self._no_broker = ""
        topic = listed.topics[self._topic]
        if topic.error is not None or not topic.partitions:
            why = topic.error.str() if topic.error is not None else "it has no partitions"
            raise CadcError(f"{self.text}: cannot be read ({why}); correct the topic's name.")
        self._partitions = sorted(topic.partitions)
        return str(listed.cluster_id)

    def _look_for_partitions(self) -> None:
        if time.monotonic() - self._listed < _PARTITIONS_SECONDS:
            return
        try:
            self._list_anew()
        except CadcError as error:
            if not self._no_broker:  # else it was said
                log.warning("%s", error)

    def _list_anew(self) -> None:
        """Look for new partitions; they are read as well."""
        self._listed, before = time.monotonic(), self._partitions
        self._list_topic()
        if self._partitions != before:
            self._assigned = False

    def _assign(self) -> None:
        """Read each partition from the message that comes next."""
        from confluent_kafka import OFFSET_BEGINNING, TopicPartition

        self._ended = set()
        self._consumer.assign(
            [
                TopicPartition(self._topic, number, self._next.get(number, OFFSET_BEGINNING))
                for number in self._partitions
            ]
        )
        self._assigned = True

    def _close_draft(self) -> None:
        if self._draft is not None:
            self._draft.close()
        self._draft = None


class _Draft:
    """A batch that grows: messages go to files as they come, so that memory stays small."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / INTERACTIONS).mkdir(parents=True)
        self._files: dict[int, BinaryIO] = {}
        self._offsets: dict[int, array[int]] = {}
        self._spans: dict[int, list[int]] = {}
        self._empty: dict[int, int] = {}
        self._began = time.monotonic()
        self.rows = 0

    @property
    def empty(self) -> bool:
        """Whether no message came."""
        return not self._spans

    @property
    def seconds(self) -> float:
        """Since its first message; 0 before it."""
        return 0.0 if self.empty else time.monotonic() - self._began

    def add(self, partition: int, offset: int, line: bytes | None) -> None:
        """A message; None is left out and counted."""
        if self.empty:
            self._began = time.monotonic()
        span = self._spans.setdefault(partition, [offset, offset])
        span[1] = offset + 1
        if line is None:
            self._empty[partition] = self._empty.get(partition, 0) + 1
            return
        if partition not in self._files:
            self._files[partition] = (self._folder / INTERACTIONS / _file(partition)).open("wb")
            self._offsets[partition] = array("q")
        self._files[partition].write(line + b"\n")
        self._offsets[partition].append(offset)
        self.rows += 1

    def close(self) -> None:
        """Close its files."""
        for file in self._files.values():
            file.close()

    def closed(self, topic: str) -> Gathered:
        """What it holds, once its files are on disk."""
        self.close()
        for partition, offsets in self._offsets.items():
            (self._folder / _offsets_file(partition)).write_bytes(offsets.tobytes())
        taken = [
            {
                "partition": number,
                "from": first,
                "to": after,
                "left_out": self._empty.get(number, 0),
            }
            for number, (first, after) in sorted(self._spans.items())
        ]
        spans = ", ".join(f"{one['partition']}:{one['from']}-{one['to'] - 1}" for one in taken)
        return Gathered(self.rows, taken, text=f"{topic}{spans}")


def _file(partition: int) -> str:
    return f"partition-{partition:06d}.jsonl"


def _offsets_file(partition: int) -> str:
    return f"_partition-{partition:06d}.offsets"  # hidden: it is no table


def _read_offsets(folder: Path, partition: int) -> array[int]:
    """The offset of each line of a partition's file."""
    offsets: array[int] = array("q")
    file = folder / _offsets_file(partition)
    if file.is_file():
        offsets.frombytes(file.read_bytes())
    return offsets


def _line(value: bytes | None) -> bytes | None:
    """A message as a line of JSON Lines; None for one without content.

    What is no JSON object stays as it is: the config's rule for bad rows decides about it.
    """
    if value is None or not value.strip():
        return None
    if b"\n" not in value and b"\r" not in value:
        return value
    try:
        return json.dumps(json.loads(value), ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return value.replace(b"\r", b" ").replace(b"\n", b" ")


def _offsets_to_skip(named: Sequence[str]) -> frozenset[tuple[int, int]]:
    """Messages as partition and offset.

    Raises:
        CadcError: one is not named so.
    """
    found = set()
    for one in named:
        if not re.fullmatch(r"\d{1,9}:\d{1,18}", one, re.ASCII):
            raise CadcError(f"--skip {one}: name a message by PARTITION:OFFSET, such as 0:1234.")
        partition, _, offset = one.partition(":")
        found.add((int(partition), int(offset)))
    return frozenset(found)
