"""The parent of the tests' processes outlives whoever asks it for one."""

import json
import os
import socket
import time

from tests import zygote


def ask(*sent: bytes) -> socket.socket:
    """A connection on which this much of a request was sent, without its open files."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(os.environ["FORKED_PYTHON_SOCKET"])
    for part in sent:
        connection.sendall(part)
    return connection


def request(folder, script) -> bytes:
    asked = {
        "arguments": [str(script)],
        "script": True,
        "environment": zygote.environment(),
        "folder": str(folder),
        "dies_with_asker": True,
    }
    return json.dumps(asked).encode()


def test_askers_that_are_killed_while_they_ask_cost_nobody_else_a_process(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("print('started')")
    asked = request(tmp_path, script)
    length = len(asked).to_bytes(8, "big")
    for sent in ((), (length[:3],), (length,), (length, asked[:10])):
        ask(*sent).close()
    for _ in range(20):  # gone before, while and after its process is made and ends
        connection = ask(length)
        with open(os.devnull, "wb") as nothing:
            socket.send_fds(connection, [asked], [nothing.fileno(), nothing.fileno()])
        connection.close()
    process = zygote.start([script], zygote.environment(), script=True)
    assert process.communicate(60) == ("started\n", "")


def test_a_process_dies_with_its_asker(tmp_path):
    script, alive = tmp_path / "script.py", tmp_path / "alive"
    script.write_text(
        "import pathlib, time\n"
        "for _ in range(600):\n"
        f"    pathlib.Path({str(alive)!r}).write_text(str(time.monotonic()))\n"
        "    time.sleep(0.05)\n"
    )
    asked = request(tmp_path, script)
    connection = ask(len(asked).to_bytes(8, "big"))
    with open(os.devnull, "wb") as nothing:
        socket.send_fds(connection, [asked], [nothing.fileno(), nothing.fileno()])
    pid = int(connection.makefile().readline())
    while not alive.exists():
        time.sleep(0.01)
    connection.close()
    end = time.monotonic() + 20
    while lives(pid) and time.monotonic() < end:
        time.sleep(0.01)
    assert not lives(pid)


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
