"""HTTP and gRPC over TLS, and a renewed pair of certificate and key."""

import asyncio
import datetime
import http.client
import ipaddress
import json
import signal
import socket
import ssl
import time
from types import SimpleNamespace

import numpy as np
import pytest
import tritonclient.grpc as triton
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cadc_rec.errors import CadcError
from cadc_rec.serving.http.handshake import handshaking
from cadc_rec.serving.http.settings import ServiceSettings
from cadc_rec.serving.http.tls import KeyPair
from tests.serving.http.conftest import Service

BODY = {"inputs": [{"name": "user_id", "shape": [1], "datatype": "INT64"}]}


def write_pair(folder, serial, passphrase=None, days=30):
    """A certificate for 127.0.0.1 that vouches for itself, and its key."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "cadc-rec's tests")])
    here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(now - datetime.timedelta(days=60))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(here, critical=False)
        .sign(key, hashes.SHA256())
    )
    folder.mkdir(exist_ok=True)
    (folder / "tls.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    lock = (
        serialization.BestAvailableEncryption(passphrase)
        if passphrase
        else serialization.NoEncryption()
    )
    (folder / "tls.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption_algorithm=lock
        )
    )
    return folder / "tls.crt", folder / "tls.key"


def shown(port):
    """Serial number of the certificate that a server shows."""
    pem = ssl.get_server_certificate(("127.0.0.1", port), timeout=30)
    return x509.load_pem_x509_certificate(pem.encode()).serial_number


def ask_http(service, trusted, user):
    context = ssl.create_default_context(cafile=trusted)
    connection = http.client.HTTPSConnection("127.0.0.1", service.http, context=context, timeout=30)
    BODY["inputs"][0]["data"] = [user]
    connection.request("POST", "/v2/models/recommender/infer", json.dumps(BODY))
    answer = connection.getresponse()
    assert answer.status == 200
    outputs = {one["name"]: one for one in json.load(answer)["outputs"]}
    connection.close()
    return outputs["item_id"]["data"]


def ask_grpc(service, trusted, user):
    client = triton.InferenceServerClient(
        f"127.0.0.1:{service.grpc}", ssl=True, root_certificates=str(trusted)
    )
    users = triton.InferInput("user_id", [1], "INT64")
    users.set_data_from_numpy(np.array([user]))
    found = client.infer("recommender", [users]).as_numpy("item_id").ravel().tolist()
    client.close()
    return found


@pytest.fixture(scope="module")
def secured(bundles, tmp_path_factory):
    folder = tmp_path_factory.mktemp("secured")
    certificate, key = write_pair(folder / "pair", serial=1)
    service = Service(folder, bundles[0], "--tls-cert", certificate, "--tls-key", key)
    service.certificate = certificate
    yield service
    assert service.stop() == 0
    assert "defect" not in service.log.read_text()


def test_both_protocols_answer_who_trusts_the_certificate(secured, expected):
    user = expected.user_ids[2].item()
    for ask in (ask_http, ask_grpc):
        assert ask(secured, secured.certificate, user) == expected.ranked[2, :10].tolist()


def test_who_does_not_trust_it_or_speaks_in_the_clear_gets_nothing(secured, tmp_path):
    other, _ = write_pair(tmp_path / "other", serial=9)
    with pytest.raises(ssl.SSLCertVerificationError):
        ask_http(secured, other, 1)
    with socket.create_connection(("127.0.0.1", secured.http), timeout=30) as connection:
        connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n")
        assert b"200" not in connection.recv(4096)
    assert shown(secured.http) == 1


def test_a_renewed_pair_is_shown_after_sighup_and_a_wrong_one_is_not(secured, expected, tmp_path):
    folder = secured.certificate.parent
    # Halves of two pairs, as a renewal that was caught between two writes leaves them.
    other, _ = write_pair(tmp_path / "other", serial=5)
    secured.certificate.write_bytes(other.read_bytes())
    secured.process.send_signal(signal.SIGHUP)
    secured.said("are not a certificate and its key.*The old certificate stays")
    assert (shown(secured.http), shown(secured.grpc)) == (1, 1)
    write_pair(folder, serial=2)
    secured.process.send_signal(signal.SIGHUP)
    for _ in range(100):
        if shown(secured.http) == 2:
            break
        time.sleep(0.1)
    assert (shown(secured.http), shown(secured.grpc)) == (2, 2)
    user = expected.user_ids[2].item()
    for ask in (ask_http, ask_grpc):
        assert ask(secured, secured.certificate, user) == expected.ranked[2, :10].tolist()


def test_connections_before_the_handshake_are_counted_and_timed(tmp_path):
    pair = KeyPair(*write_pair(tmp_path, serial=6))
    trusted = ssl.create_default_context(cafile=pair.certificate)

    class Greeting(asyncio.Protocol):
        def __init__(self, server_state):
            self.connections = server_state.connections

        def connection_made(self, transport):
            self.connections.add(self)
            transport.write(b"hello")
            transport.close()

        def connection_lost(self, exc):
            self.connections.discard(self)

    async def ask(port):
        async with asyncio.timeout(20):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusted)
            assert await reader.read() == b"hello"
            writer.close()

    async def talk():
        loop, state = asyncio.get_running_loop(), SimpleNamespace(connections=set())
        made = handshaking(Greeting, lambda: pair.context, 1.0, most=3)
        server = await loop.create_server(lambda: made(server_state=state), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        await ask(port)
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        with pytest.raises(ConnectionError):  # the fourth
            await ask(port)
        for reader, writer in silent:
            assert await asyncio.wait_for(reader.read(), 20) == b""  # after a second
            writer.close()
        for _ in range(4):
            await ask(port)
        async with asyncio.timeout(20):
            while state.connections:
                await asyncio.sleep(0.01)
        server.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(talk())


def test_changed_files_are_noticed_without_a_signal(tmp_path):
    pair = KeyPair(*write_pair(tmp_path, serial=3))

    async def until_renewed():
        before, watching = pair._pair, asyncio.create_task(pair.watch(0.05))
        await asyncio.sleep(0.2)
        assert pair._pair is before
        write_pair(tmp_path, serial=4)
        while pair._pair is before and not watching.done():
            await asyncio.sleep(0.05)
        watching.cancel()

    asyncio.run(asyncio.wait_for(until_renewed(), 30))
    assert x509.load_pem_x509_certificate(pair._pair[0]).serial_number == 4


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("another key", "tls.crt and --tls-key .*tls.key are not a certificate and its key in PEM"),
        ("no PEM", "are not a certificate and its key in PEM"),
        ("no key", "--tls-key .*tls.key: cannot be read .No such file"),
        ("passphrase", "--tls-key .*tls.key: the key has a passphrase; give one without"),
    ],
)
def test_a_wrong_pair_is_one_sentence(tmp_path, how, said):
    certificate, key = write_pair(tmp_path, 1, b"secret" if how == "passphrase" else None)
    if how == "another key":
        key.write_bytes(write_pair(tmp_path / "other", 2)[1].read_bytes())
    elif how == "no PEM":
        certificate.write_text("certificate")
    elif how == "no key":
        key.unlink()
    with pytest.raises(CadcError, match=said) as refused:
        KeyPair(certificate, key)
    assert "\n" not in str(refused.value)
    assert "secret" not in str(refused.value)


def test_a_certificate_that_has_ended_is_told(tmp_path, caplog):
    KeyPair(*write_pair(tmp_path, serial=1, days=-1))
    assert "tls.crt is no longer valid since" in caplog.text


@pytest.mark.parametrize("name", ["tls_cert", "tls_key"])
def test_one_without_the_other_is_an_error(tmp_path, name):
    with pytest.raises(CadcError, match="TLS needs a certificate and its key; give --tls-"):
        ServiceSettings(tmp_path, **{name: tmp_path / "file"})
