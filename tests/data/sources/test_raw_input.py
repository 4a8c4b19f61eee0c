"""Finding a raw archive, and downloading one that is in none of the folders."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cadc_rec.config.experiment import DataConfig
from cadc_rec.data.sources import raw_input
from cadc_rec.data.sources.raw_input import ARCHIVES, Archive, find_raw, locate
from cadc_rec.errors import CadcError
from tests.data.raw_files import members_1m

CONFIG = DataConfig(source="movielens-1m")
BODY = b"the whole archive"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_local_archive_with_another_checksum_is_used_with_a_warning(zip_1m, caplog):
    path = zip_1m(members_1m())
    with caplog.at_level(logging.WARNING, "cadc_rec"):
        raw = find_raw(CONFIG, path.parent)
    assert raw.path == path
    assert raw.fingerprint == sha256(path.read_bytes())
    assert raw.fingerprint in caplog.text
    assert ARCHIVES["movielens-1m"].sha256 in caplog.text


def test_a_named_folder_goes_before_the_variable_and_the_variable_before_the_cache(
    zip_1m, tmp_path, monkeypatch
):
    named = zip_1m(members_1m())
    for folder in ("variable", "cache/cadc-rec"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "ml-1m.zip").write_bytes(b"")
    assert locate("movielens-1m") == tmp_path / "cache/cadc-rec/ml-1m.zip"
    monkeypatch.setenv("CADC_REC_DATA", str(tmp_path / "variable"))
    assert locate("movielens-1m") == tmp_path / "variable/ml-1m.zip"
    assert locate("movielens-1m", named.parent) == named


def test_epinions_is_found_in_its_own_folder_too(raw_folder):
    (raw_folder / "epinions").mkdir()
    path = raw_folder / "epinions" / "ratings_data.txt.bz2"
    path.write_bytes(b"")
    assert locate("epinions", raw_folder) == path


def test_a_wrong_path_is_refused(tmp_path, monkeypatch):
    missing = tmp_path / "nowhere"
    with pytest.raises(CadcError, match=r"nowhere: no such folder; correct --data-dir\."):
        find_raw(CONFIG, missing)
    monkeypatch.setenv("CADC_REC_DATA", str(missing))
    with pytest.raises(CadcError, match=r"nowhere: no such folder; correct \$CADC_REC_DATA\."):
        find_raw(CONFIG)


def test_a_named_folder_without_the_archive_is_refused_and_nothing_is_downloaded(raw_folder):
    with pytest.raises(CadcError) as caught:
        find_raw(CONFIG, raw_folder)
    assert f"{raw_folder}: holds no ml-1m.zip" in str(caught.value)
    assert "leave --data-dir out" in str(caught.value)


def test_a_generated_source_is_known_by_its_settings():
    def fingerprint(**settings: object) -> str:
        return find_raw(DataConfig.model_validate({"generated": settings})).fingerprint

    assert fingerprint(users=10) == fingerprint(users=10)
    assert fingerprint(users=10) != fingerprint(users=11)
    assert fingerprint(seed=1) != fingerprint(seed=2)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """serve(body, length=..., sha256=...): make `movielens-1m` come from a local server."""
    served: dict[str, object] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(served["length"]))
            self.end_headers()
            self.wfile.write(served["body"])  # type: ignore[arg-type]

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever)
    thread.start()

    def serve(body: bytes, length: int | None = None, checksum: str | None = None) -> None:
        served.update(body=body, length=len(body) if length is None else length)
        url = f"http://127.0.0.1:{http.server_port}/ml-1m.zip"
        archive = Archive(("ml-1m.zip",), url, sha256=checksum or sha256(body))
        monkeypatch.setitem(raw_input.ARCHIVES, "movielens-1m", archive)

    yield serve
    http.shutdown()
    thread.join()
    http.server_close()


def test_a_download_is_checked_kept_and_not_repeated(server, tmp_path):
    server(BODY)
    raw = find_raw(CONFIG)
    assert raw.path == tmp_path / "cache/cadc-rec/ml-1m.zip"
    assert raw.path.read_bytes() == BODY
    assert [path.name for path in raw.path.parent.iterdir()] == ["ml-1m.zip"]
    server(b"something else", checksum=sha256(BODY))
    assert find_raw(CONFIG) == raw


def test_a_download_with_another_checksum_is_dropped(server, tmp_path):
    server(BODY, checksum=sha256(b"other"))
    with pytest.raises(CadcError) as caught:
        find_raw(CONFIG)
    assert f"its SHA-256 is {sha256(BODY)}" in str(caught.value)
    assert f"that of the public archive is {sha256(b'other')}" in str(caught.value)
    assert "the download was dropped" in str(caught.value)
    assert list((tmp_path / "cache/cadc-rec").iterdir()) == []


def test_a_download_that_breaks_off_leaves_nothing(server, tmp_path):
    server(BODY, length=len(BODY) + 1)
    with pytest.raises(CadcError, match=r"download .*--data-dir|download into .* failed"):
        find_raw(CONFIG)
    assert list((tmp_path / "cache/cadc-rec").iterdir()) == []


def test_an_unreachable_address_says_what_to_do(monkeypatch):
    archive = Archive(("ml-1m.zip",), "http://127.0.0.1:9/ml-1m.zip")
    monkeypatch.setitem(raw_input.ARCHIVES, "movielens-1m", archive)
    with pytest.raises(CadcError, match=r"not reachable .*; download .* yourself and name its"):
        find_raw(CONFIG)


def test_an_archive_that_cannot_be_read_is_refused(raw_folder: Path, monkeypatch):
    (raw_folder / "ml-1m.zip").write_bytes(b"")

    def refuse(path: Path) -> tuple[str, str]:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(raw_input, "_digests", refuse)
    with pytest.raises(CadcError, match=r"ml-1m\.zip: cannot be read \(Permission denied\)"):
        find_raw(CONFIG, raw_folder)
