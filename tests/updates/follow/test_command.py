"""The command: what it prints, how it ends, and what it refuses before any work."""

import contextlib
import http.server
import json
import os
import signal
import threading
import time

import pytest

from cadc_rec.errors import CadcError
from cadc_rec.follow.publish import load_address, notify
from cadc_rec.follow.stream import Stop
from tests.updates.conftest import INTERACTIONS, as_toml, day_rows, settings, shop_rows, write_table


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--notify", "http://127.0.0.1:1"), "name their folder with --export"),
        (("--from", "kafka://h:1/t"), "give --every-rows or --every-minutes"),
        (("--from", "kafka://h:1/t", "--marked"), "--marked is for files"),
        (("--from", "kafka://h:1", "--every-rows", "1"), "write kafka://HOST:PORT/TOPIC"),
        (("--kafka-properties", "x"), "is for --from kafka://"),
        (("--from", "nowhere"), "nowhere: cannot be read (No such file or directory)"),
        (("--precision", "int2"), "--precision int2: choose"),
        (("--block", "nowhere.csv"), "--block nowhere.csv: cannot be read"),
        (("--every-minutes", "inf"), "--every-minutes inf: write a number of minutes"),
        (("--idle-minutes", "inf"), "--idle-minutes inf: write a number of minutes"),
        (("--export", "."), "one lies in the other; give each a folder of its own"),
    ],
)
def test_a_wrong_request_is_one_sentence(cli, config, tmp_path, monkeypatch, options, why):
    monkeypatch.chdir(tmp_path)
    ended = cli("follow", config, "--workdir", tmp_path, "--from", tmp_path, *options)
    assert ended.code == 2
    assert why in ended.err
    assert len(ended.err.splitlines()) == 1
    assert not (tmp_path / "follow").exists()


@pytest.mark.parametrize("named", ["--every-minutes", "--idle-minutes"])
def test_minutes_are_a_number(cli, config, tmp_path, named):
    ended = cli("follow", config, "--workdir", tmp_path, "--from", tmp_path, named, "nan")
    assert ended.code == 2
    assert named in ended.err


@pytest.mark.parametrize("place", ["inbox", "inbox/bundles", "work/bundles", "."])
def test_bundles_have_a_folder_of_their_own(cli, config, tmp_path, place):
    folders = {"--workdir": tmp_path / "work", "--from": tmp_path / "inbox"}
    for folder in folders.values():
        folder.mkdir()
    named = [part for option in folders.items() for part in option]
    ended = cli("follow", config, *named, "--export", tmp_path / place)
    assert ended.code == 2
    assert "one lies in the other; give each a folder of its own" in ended.err


@pytest.mark.parametrize(
    "named",
    [
        "127.0.0.1:8080",
        "ftp://h",
        "http://",
        "http://u:hidden@h",
        "http://h?key=hidden",
        "http://h:x",
        "http://h/\u00e9",
    ],
)
def test_an_address_of_a_service_is_http_and_a_secret_in_it_is_not_told(named):
    with pytest.raises(CadcError, match="write the service's address, http://HOST:PORT") as refused:
        load_address(named)
    assert "hidden" not in str(refused.value)


@pytest.mark.parametrize(
    "key", ["hidden-\u20ac".encode(), "hidden-\u00e9".encode("latin-1"), b"hidden\r\nsecond"]
)
def test_a_key_that_cannot_be_sent_is_refused_and_not_told(cli, config, tmp_path, key):
    file = tmp_path / "key"
    file.write_bytes(key)
    told = ("--api-key-file", file)
    follow = ("follow", config, "--workdir", tmp_path / "work", "--from", tmp_path)
    notify = ("--export", tmp_path.with_name("bundles"), "--notify", "http://127.0.0.1:1")
    for command in ((*follow, *notify), ("serve", tmp_path / "bundle")):
        ended = cli(*command, *told)
        assert ended.code == 2
        assert f"{file}: the API key must be one line of printable ASCII" in ended.err
        assert "hidden" not in ended.err


def test_the_wish_to_end_interrupts_a_wait():
    stop = Stop()
    assert not stop.wait(0.001)
    with ended_by(signal.SIGUSR1, stop):
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        assert stop.wait(60)
    assert stop.is_set()


@contextlib.contextmanager
def ended_by(number, stop):
    """A signal sets `stop` from its handler, which runs while the main thread waits."""
    before = signal.signal(number, lambda *_: stop.set())
    try:
        yield
    finally:
        signal.signal(number, before)


def test_a_service_is_told_by_the_protocols_load_call():
    call = "/v2/repository/models/recommender/load"
    assert load_address("http://h:80/") == f"http://h:80{call}"
    assert load_address("https://h/v2/repository/models/shop/load").endswith("/models/shop/load")


class Service(http.server.BaseHTTPRequestHandler):
    """Answers the load call of who knows the key, as the service does."""

    def do_POST(self):
        known = self.headers["authorization"] == "Bearer right"
        self.server.asked.append(self.path)
        self.send_response(200 if known else 401)
        self.end_headers()
        self.wfile.write(b"{}" if known else b'{"error": "the API key is missing or wrong."}')

    def log_message(self, *_):
        pass


def test_a_service_that_does_not_listen_says_why():
    with http.server.HTTPServer(("127.0.0.1", 0), Service) as server:
        server.asked = []
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        address = load_address(f"http://127.0.0.1:{server.server_port}")
        try:
            assert notify(address, "right") == ""
            refused = [notify(address, key) for key in ("wrong", None)]
        finally:
            server.shutdown()
            thread.join()
    assert refused == [f"{address}: 401 the API key is missing or wrong."] * 2
    assert server.asked == ["/v2/repository/models/recommender/load"] * 3
    assert notify(address, "right").startswith(f"{address}: ")  # nobody is there any more


@pytest.mark.slow
def test_it_tells_of_each_batch_and_ends_after_the_one_at_hand(spawn, shop, workdir, tmp_path):
    config, inbox, rows = tmp_path / "mf.toml", tmp_path / "inbox", day_rows()
    config.write_text(as_toml(settings(shop)))
    write_table(inbox / "a.parquet", rows[:18], INTERACTIONS)
    command = ("follow", config, "--workdir", workdir, "--from", inbox)
    process = spawn(*command)
    try:
        told = process.folder / "stdout"
        end = time.monotonic() + 200
        while "batch 1" not in told.read_text():
            assert process.poll() is None, process.said
            assert time.monotonic() < end, process.said
            time.sleep(0.05)
        other = spawn(*command, "--once")
        assert other.wait(200) == 2
        assert "another process follows a stream for this experiment" in other.said
        process.send_signal(signal.SIGTERM)
        assert process.wait(200) == 0, process.said
    finally:
        process.kill()
    (line,) = told.read_text().splitlines()
    new = {row[:2] for row in rows[:18]} - {row[:2] for row in shop_rows()}
    expected = f"batch 1 (a.parquet): 18 rows, {len(new)} new, update 1, foreseen HR@10 "
    assert line.startswith(expected)
    assert "ends after the batch at hand" in process.said
    write_table(inbox / "b.parquet", rows[18:], INTERACTIONS)
    process = spawn(*command, "--once", "--json")
    out, _ = process.communicate(timeout=200)
    assert process.returncode == 0, process.said
    told = json.loads(out)
    assert (told["batch"], told["update"], told["rows"]) == (2, 2, len(rows) - 18)
    assert [one["name"] for one in told["taken"]] == ["b.parquet"]
    assert told["foreseen"]["metrics"].keys() >= {"hr@10", "ndcg@10"}
