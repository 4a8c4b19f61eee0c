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


@pytest.mark.parametrize("option", ["--out", "--triton"])
def test_a_folder_that_is_there_is_named_before_any_work(cli, tiny, tmp_path, option):
    taken, work = tmp_path / "taken", tmp_path / "work"
    taken.mkdir()
    options = {"--out": tmp_path / "new", option: taken}
    flat = [part for pair in options.items() for part in pair]
    ended = cli("export", tiny, "--workdir", work, *flat)
    assert ended.code == 2
    assert f"{taken} already exists; name another" in ended.err
    assert not work.exists()
    assert list(taken.iterdir()) == []


def test_a_bundle_with_lists_is_not_replaced_by_one_without(cli, tiny, tmp_path):
    work, before = tmp_path / "work", tmp_path / "before"
    before.mkdir()
    (before / "withheld.safetensors").touch()
    ended = cli("export", tiny, "--workdir", work, "--out", before, "--force")
    assert ended.code == 2
    assert (
        f"{before}: leaves items out by --block, --allow or --available; give them again"
        in ended.err
    )
    assert not work.exists()


def test_what_knows_the_test_items_is_no_bundle_for_evaluation(cli, tiny, tmp_path):
    work = tmp_path / "work"
    options = ("--workdir", work, "--out", tmp_path / "b", "--refit", "--for", "evaluation")
    ended = cli("export", tiny, *options)
    assert ended.code == 2
    assert "--refit learns from the test items" in ended.err
    assert ended.err.count("\n") == 1
    assert not work.exists()


@pytest.mark.slow
def test_a_scripted_module_without_towers_is_refused_before_anything_is_written(
    cli, tiny, tmp_path
):
    places = {name: tmp_path / name for name in ("workdir", "out", "triton")}
    options = [part for name, path in places.items() for part in (f"--{name}", path)]
    ran = cli("run", tiny, "--method", "prior", "--workdir", places["workdir"])
    assert ran.code == 0, ran.err
    ended = cli("export", tiny, "--method", "prior", *options, "--refit")
    assert ended.code == 2
    assert "--triton needs towers" in ended.err
    assert not places["out"].exists()
