"""Opening an archive that is not trusted: each fault of it is one sentence."""

import stat
import zipfile

import pytest

from cadc_rec.errors import CadcError
from tests.data.raw_files import members_1m


def write(path, compression):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, text in members_1m().items():
            archive.writestr(name, text)


def test_a_truncated_zip_is_refused(zip_1m, prepare):
    path = zip_1m(members_1m())
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(CadcError, match=r"ml-1m\.zip: not a whole zip file, truncated or damaged"):
        prepare()


def test_a_damaged_entry_is_refused_by_name(zip_1m, prepare):
    path = zip_1m(members_1m())
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo("ml-1m/users.dat")
    middle = entry.header_offset + 30 + len(entry.filename) + entry.compress_size // 2
    data[middle] ^= 0xFF
    path.write_bytes(bytes(data))
    with pytest.raises(CadcError, match=r"entry ml-1m/users\.dat is damaged; get it again from"):
        prepare()


@pytest.mark.parametrize("name", ["../evil.dat", "/etc/evil.dat", "ml-1m/../../evil", "C:\\evil"])
def test_an_entry_that_leaves_its_folder_is_refused(name, zip_1m, prepare, tmp_path):
    zip_1m({**members_1m(), name: "evil"})
    with pytest.raises(CadcError) as caught:
        prepare()
    assert f"entry {name} points outside its folder" in str(caught.value)
    assert not list(tmp_path.rglob("evil*"))


def test_a_symbolic_link_is_refused(zip_1m, prepare):
    path = zip_1m(members_1m())
    with zipfile.ZipFile(path, "a") as archive:
        entry = zipfile.ZipInfo("ml-1m/link")
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(entry, "/etc/passwd")
    with pytest.raises(CadcError, match="entry ml-1m/link is a symbolic link"):
        prepare()


def test_an_entry_that_would_expand_without_end_is_refused(zip_1m, prepare):
    zip_1m({**members_1m(), "ml-1m/ratings.dat": bytes(8 << 20)})
    with pytest.raises(CadcError, match=r"entry ml-1m/ratings\.dat would expand from .* to 8,388"):
        prepare()


def test_a_missing_entry_is_refused_by_name(zip_1m, prepare):
    members = members_1m()
    del members["ml-1m/movies.dat"]
    zip_1m(members)
    with pytest.raises(CadcError, match=r"ml-1m\.zip: has no entry ml-1m/movies\.dat; get it"):
        prepare()


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_an_entry_whose_data_are_damaged_is_named(compression, raw_folder, prepare):
    path = raw_folder / "ml-1m.zip"
    write(path, compression)
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo("ml-1m/ratings.dat")
        start = entry.header_offset + 30 + len(entry.filename)
    data = bytearray(path.read_bytes())
    for place in range(start + 6, start + entry.compress_size - 4):
        data[place] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(CadcError, match=r"entry ml-1m/ratings\.dat"):
        prepare()


def test_an_entry_name_that_is_no_utf8_is_refused(raw_folder, prepare):
    path = raw_folder / "ml-1m.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in members_1m().items():
            archive.writestr(name, text)
        archive.writestr("ml-1m/\u00e9.dat", "x")
    path.write_bytes(path.read_bytes().replace("\u00e9".encode(), b"\xff\xfe"))
    with pytest.raises(CadcError, match="not a whole zip file"):
        prepare()
