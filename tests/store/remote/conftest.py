"""A real S3 server on loopback (moto's), a bucket for each test, caches of several machines."""

import logging
import urllib.request
import uuid
from pathlib import Path

import obstore  # noqa: F401  # a development environment without it is broken
import pytest
from moto.server import ThreadedMotoServer

from cadc_rec.store.remote import address, origin


class Server:
    """Moto's; what it holds survives a stop."""

    def __init__(self):
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self.make = ThreadedMotoServer
        self.port = 0
        self.start()

    def start(self):
        self.running = self.make(ip_address="127.0.0.1", port=self.port, verbose=False)
        self.running.start()
        self.port = self.running.get_host_and_port()[1]

    def stop(self):
        self.running.stop()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def ask(self, method, path, body=b""):
        plain = {"Content-Type": "text/plain"}
        request = urllib.request.Request(self.url + path, body, plain, method=method)
        with urllib.request.urlopen(request) as answer:
            return answer.read()


@pytest.fixture(scope="session")
def server():
    running = Server()
    yield running
    running.stop()


@pytest.fixture
def environ(server, monkeypatch):
    """The provider's own chain, as environment variables; and little patience."""
    told = {
        "AWS_ENDPOINT_URL": server.url,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
    }
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_SESSION_TOKEN", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(address, "_RETRIES", 3)  # moto now and then answers 500
    return told


@pytest.fixture
def bucket(server, environ):
    """The address of an empty bucket."""
    name = f"b-{uuid.uuid4().hex[:12]}"
    server.ask("PUT", f"/{name}")
    return f"s3://{name}"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Go to a machine of this name, which has its own cache and nothing in memory."""

    def go(name, work):
        monkeypatch.setenv("CADC_REC_CACHE", str(tmp_path / name))
        monkeypatch.setattr(origin, "_origins", {})
        return origin.work_folder(work)

    return go


@pytest.fixture
def objects(bucket):
    """The objects of a work folder in the bucket, as a person with other tools sees them."""
    return address.Objects(f"{bucket}/work")


def names(objects, prefix=""):
    return sorted(found.name for found in objects.list(prefix))


def bytes_of(folder: Path):
    return {
        str(f.relative_to(folder)): f.read_bytes()
        for f in folder.rglob("*")
        if f.is_file() and f.name != "manifest.json"
    }
