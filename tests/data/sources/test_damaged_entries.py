"""Damage that each compression of a zip reports in its own way, as one sentence."""

import zipfile

import pytest

from cadc_rec.errors import CadcError
from tests.data.raw_files import members_1m


def write(path, compression):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, text in members_1m().items():
            archive.writestr(name, text)


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
