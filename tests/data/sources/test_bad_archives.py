"""A bad archive, through the command line: one sentence, exit code 2, nothing left behind."""

import zipfile

import pytest

from tests.data.raw_files import MOVIES, RATINGS, USERS, members_1m

BAD_MEMBERS = {
    "a malformed row": (members_1m(ratings=RATINGS + "1::2\n"), ["ratings.dat", "line 11"]),
    "a rating with a missing id": (
        members_1m(ratings="::20::5::1\n" + RATINGS),
        ["ratings.dat", "line 1"],
    ),
    "an empty file": (members_1m(ratings=""), ["ratings.dat", "empty"]),
    "an entry that leaves its folder": (
        {**members_1m(), "../outside.dat": "1::2::3::4\n"},
        ["../outside.dat"],
    ),
    "a missing entry": (
        {"ml-1m/ratings.dat": RATINGS, "ml-1m/users.dat": USERS},
        ["movies.dat"],
    ),
}


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "experiment.toml"
    path.write_text('[data]\nsource = "movielens-1m"\n')
    return path


def archive(folder, members):
    folder.mkdir()
    path = folder / "ml-1m.zip"
    with zipfile.ZipFile(path, "w") as file:
        for name, text in members.items():
            file.writestr(name, text)
    return path


def check(shown, tmp_path, *named):
    assert (shown.code, shown.out) == (2, ""), shown.err
    assert "Traceback" not in shown.err
    sentences = [line for line in shown.err.splitlines() if line.startswith("error: ")]
    assert len(sentences) == 1, shown.err
    for text in named:
        assert text in sentences[0]
    left = [p for p in (tmp_path / "work").rglob("*") if p.is_file() and p.suffix != ".lock"]
    assert left == []


@pytest.mark.parametrize("case", BAD_MEMBERS)
def test_bad_members_end_with_a_sentence_naming_them(case, cli, config, tmp_path):
    members, named = BAD_MEMBERS[case]
    path = archive(tmp_path / "raw", members)
    arguments = ("--workdir", tmp_path / "work", "--data-dir", path.parent, "--json")
    check(cli("run", config, *arguments), tmp_path, str(path), *named)


def test_a_truncated_zip_ends_with_a_sentence_naming_it(cli, config, tmp_path):
    path = archive(tmp_path / "raw", members_1m(movies=MOVIES * 200))
    path.write_bytes(path.read_bytes()[:-200])
    arguments = ("--workdir", tmp_path / "work", "--data-dir", path.parent)
    check(cli("prepare", config, *arguments), tmp_path, str(path))


def test_a_wrong_data_folder_ends_with_a_sentence_naming_it(cli, config, tmp_path):
    nowhere = tmp_path / "nowhere"
    arguments = ("--workdir", tmp_path / "work", "--data-dir", nowhere)
    check(cli("run", config, *arguments), tmp_path, str(nowhere))
