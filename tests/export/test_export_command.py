"""What the command refuses, it refuses before any work and with one sentence."""

import pytest


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--precision", "int3"], "--precision int3: choose int8, int4, fp16, or none alone."),
        (["--precision", "none", "--precision", "int8"], "or none alone."),
        (["--sign", "absent.key"], "absent.key: cannot be read"),
    ],
)
def test_wrong_options_end_with_one_sentence(cli, tiny, tmp_path, options, words):
    work = tmp_path / "work"
    ended = cli("export", tiny, "--workdir", work, "--out", tmp_path / "b", *options)
    assert ended.code == 2
    assert words in ended.err
    assert ended.err.count("\n") == 1
    assert not work.exists()
    assert not (tmp_path / "b").exists()
