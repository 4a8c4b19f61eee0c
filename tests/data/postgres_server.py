"""A real PostgreSQL on this machine's loopback, in a folder of its own, for as long as a test."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

USER, PASSWORD = "shopkeeper", "s3cret"
_FOLDERS = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)


def installed() -> bool:
    return _program("initdb") is not None


def _program(name: str) -> str | None:
    path = os.pathsep.join([*map(str, _FOLDERS), os.environ.get("PATH", "")])
    return shutil.which(name, path=path)


@contextlib.contextmanager
def running_server() -> Iterator[str]:
    """The address of a database; only a password opens it."""
    folder = Path(tempfile.mkdtemp(prefix="cadc-rec-postgres-"))
    # PostgreSQL refuses to run as root.
    prefix: list[str] = []
    if os.geteuid() == 0:
        server_user = pwd.getpwnam("postgres")
        os.chown(folder, server_user.pw_uid, server_user.pw_gid)
        prefix = ["setpriv", f"--reuid={server_user.pw_uid}", f"--regid={server_user.pw_gid}"]
        prefix.append("--clear-groups")
    (folder / "password").write_text(PASSWORD)
    if prefix:
        os.chown(folder / "password", server_user.pw_uid, server_user.pw_gid)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def run(name: str, *arguments: str) -> None:
        program = _program(name)
        assert program is not None
        command = [*prefix, program, *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder, timeout=120)

    data = str(folder / "data")
    options = f"-c listen_addresses=127.0.0.1 -p {port} -k {folder} -c fsync=off"
    try:
        how = ("-A", "scram-sha-256", "-U", USER, "--pwfile", str(folder / "password"))
        run("initdb", "-D", data, *how, "--no-sync", "-E", "UTF8", "--locale", "C")
        run("pg_ctl", "-D", data, "-o", options, "-l", str(folder / "log"), "-w", "start")
        try:
            yield f"postgresql://{USER}@127.0.0.1:{port}/postgres"
        finally:
            run("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
