"""Messages of a topic, from the broker that librdkafka has for tests: each is taken once."""

import json

import pytest

from cadc_rec.errors import CadcError
from cadc_rec.follow import kafka as kafka_module
from cadc_rec.follow.follow import Until
from cadc_rec.follow.journal import Journal
from cadc_rec.follow.kafka import KafkaStream, read_properties

confluent_kafka = pytest.importorskip("confluent_kafka")


class Broker:
    """A broker in this process, which other processes can reach as well."""

    def __init__(self):
        settings = {"bootstrap.servers": "of its own", "test.mock.num.brokers": 1, "log_level": 0}
        self._producer = confluent_kafka.Producer(settings)
        (broker,) = self._producer.list_topics(timeout=20).brokers.values()
        self.address = f"{broker.host}:{broker.port}"

    def send(self, topic, values, partition=0):
        for value in values:
            value = value if value is None or isinstance(value, bytes) else value.encode()
            self._producer.produce(topic, value, partition=partition)
        assert self._producer.flush(20) == 0


@pytest.fixture(scope="module")
def broker():
    return Broker()


@pytest.fixture
def topic(request):
    return request.node.name.replace("[", "-").replace("]", "")[-200:]


def row(number):
    return json.dumps({"user_id": number, "item_id": 7 * number})


def stream(broker, topic, **given):
    return KafkaStream(f"kafka://{broker.address}/{topic}", **given)


def offsets(told):
    return [[(t["partition"], t["from"], t["to"]) for t in one.batch.taken] for one in told]


def test_messages_become_batches_and_each_is_taken_once(broker, topic, world):
    broker.send(topic, map(row, range(5)))
    told = world.run(stream=stream(broker, topic), rows=2)
    assert offsets(told) == [[(0, 0, 2)], [(0, 2, 4)], [(0, 4, 5)]]
    broker.send(topic, map(row, range(5, 8)))
    told += world.run(stream=stream(broker, topic), rows=2)
    assert offsets(told[3:]) == [[(0, 5, 7)], [(0, 7, 8)]]
    learned = [line for batch in world.ledger.rows for line in batch]
    assert [json.loads(line)["user_id"] for line in learned] == list(range(8))
    assert told[0].text == f"{topic} 0:0-1"


@pytest.mark.slow
def test_every_message_of_every_partition_is_taken_once_across_deaths(broker, topic, world):
    for partition in range(4):
        broker.send(topic, [row(100 * partition + n) for n in range(7)], partition)
    learn, calls = world.ledger.update, []

    class Killed(BaseException):
        pass

    def dying(folder):
        calls.append(folder)
        if len(calls) % 3 == 1:
            raise Killed
        outcome = learn(folder)
        if len(calls) % 3 == 2:
            raise Killed
        return outcome

    world.ledger.update = dying
    for _ in range(40):
        try:
            world.run(stream=stream(broker, topic), rows=5)
        except Killed:
            continue
        break
    learned = [json.loads(line)["user_id"] for batch in world.ledger.rows for line in batch]
    assert sorted(learned) == [100 * partition + n for partition in range(4) for n in range(7)]


def test_a_bad_message_is_named_by_its_offset_and_can_be_left_out(broker, topic, world):
    broker.send(topic, [row(0), None, b"", "bad", '{\n "user_id": 3,\n "item_id": 1\n}'])
    name = f"kafka://{broker.address}/{topic}"
    with pytest.raises(CadcError) as refused:
        world.run(stream=stream(broker, topic), rows=10)
    assert f"{name}, partition 0, offset 3: is bad. Nothing of it was learned; leave" in str(
        refused.value
    )
    assert world.ledger.rows == []
    world.run(stream=stream(broker, topic, skip=["0:3"]), rows=10)
    assert world.ledger.rows == [[row(0), '{"user_id": 3, "item_id": 1}']]
    (taken,) = Journal(world.state / "batches").batches[-1].taken
    assert taken == {"partition": 0, "from": 0, "to": 5, "left_out": 3}
    assert world.run(stream=stream(broker, topic), rows=10) == []


def test_messages_that_are_gone_are_told_of(broker, topic, world):
    broker.send(topic, map(row, range(2)))
    world.run(stream=stream(broker, topic), rows=10)
    path = world.state / "batches" / "000001.json"
    journal = Journal(world.state / "batches")
    batch = journal.batches[0]
    path.unlink()
    later = [{**batch.taken[0], "to": 500}]  # as if the topic had been made anew since
    journal._write(type(batch)(1, batch.name, 2, later, "made", 1))
    with pytest.raises(CadcError, match="partition 0: offset 500, which comes next, is not there"):
        world.run(stream=stream(broker, topic), rows=10)


@pytest.mark.slow
def test_minutes_close_a_batch(broker, topic, world, monkeypatch):
    broker.send(topic, map(row, range(3)))
    until = Until(idle_minutes=0.05)
    (told,) = world.follower(stream=stream(broker, topic), minutes=0.001, until=until).run()
    assert told.batch.rows == 3


@pytest.mark.slow
def test_a_broker_that_stops_is_told_of(topic, world, monkeypatch, caplog):
    monkeypatch.setattr(kafka_module, "_GIVE_UP_SECONDS", 0.0)
    broker = Broker()
    broker.send(topic, map(row, range(2)))
    source = stream(broker, topic)
    del broker  # its sockets close
    with pytest.raises(CadcError, match=r"no broker answers .* the same command goes on behind it"):
        world.run(stream=source, rows=10)
    assert "still trying" in caplog.text


@pytest.mark.parametrize("look", ["_require_broker", "_look_for_partitions"])
def test_a_broker_that_is_back_without_a_message_is_noticed(broker, topic, monkeypatch, look):
    monkeypatch.setattr(kafka_module, "_GIVE_UP_SECONDS", -1.0)
    monkeypatch.setattr(kafka_module, "_PARTITIONS_SECONDS", -1.0)
    broker.send(topic, [row(0)])
    source = stream(broker, topic)
    source._no_broker = "refused"  # as it was a while ago
    getattr(source, look)()
    assert source._no_broker == ""


class Refusal:
    """An error of the client that is about no partition."""

    def error(self):
        code = confluent_kafka.KafkaError.GROUP_AUTHORIZATION_FAILED
        return confluent_kafka.KafkaError(code, "Group access denied")

    def partition(self):
        return None

    def offset(self):
        return None


def test_an_error_without_a_partition_is_one_sentence(broker, topic):
    broker.send(topic, [row(0)])
    source = stream(broker, topic)
    with pytest.raises(CadcError) as refused:
        source._take(Refusal(), None)
    assert str(refused.value) == f"kafka://{broker.address}/{topic}: Group access denied."


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("kafka://host:9092", "write kafka://HOST:PORT/TOPIC"),
        ("kafka:///topic", "write kafka://HOST:PORT/TOPIC"),
        ("kafka://host:9092/a topic", "write kafka://HOST:PORT/TOPIC"),
    ],
)
def test_an_address_that_is_none_is_refused(address, why):
    with pytest.raises(CadcError, match=why):
        KafkaStream(address)


def test_nobody_there_is_one_sentence(monkeypatch):
    monkeypatch.setattr(kafka_module, "_ANSWER_SECONDS", 0.5)
    with pytest.raises(CadcError, match=r"kafka://127\.0\.0\.1:9/t: no broker answers .* correct"):
        KafkaStream("kafka://127.0.0.1:9/t")


@pytest.mark.parametrize("skip", ["7", "0:", "a:b", "0:1:2", "-1:3"])
def test_a_message_to_leave_out_is_named_by_partition_and_offset(skip):
    with pytest.raises(CadcError, match="name a message by PARTITION:OFFSET"):
        KafkaStream("kafka://127.0.0.1:9/t", skip=[skip])


def test_settings_of_the_client_come_from_a_file(tmp_path):
    file = tmp_path / "client.properties"
    file.write_text("# secret\nsasl.password = a=b\n\nsecurity.protocol=SASL_SSL\n")
    assert read_properties(file) == {"sasl.password": "a=b", "security.protocol": "SASL_SSL"}
    file.write_text("group.id=mine\n")
    with pytest.raises(CadcError, match=r"line 1: group\.id is decided here"):
        read_properties(file)
    file.write_text("no setting\n")
    with pytest.raises(CadcError, match="line 1: is no setting; write name=value"):
        read_properties(file)
    with pytest.raises(CadcError, match="cannot be read"):
        read_properties(tmp_path / "nowhere")


def test_another_encoding_is_refused():
    with pytest.raises(CadcError, match="messages of Kafka are UTF-8"):
        KafkaStream("kafka://127.0.0.1:9/t", encoding="windows-1252")
