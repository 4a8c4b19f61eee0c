"""Text becomes vectors: by hashing, or by a model that is asked for each text once."""

import json
import sys
import zlib
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cadc_rec.config.dense import TextConfig
from cadc_rec.data.dataset import Dataset
from cadc_rec.data.prepare.text import HashedNgrams, ModelEncoder
from cadc_rec.errors import CadcError
from tests.data.own_tables import ROWS, refusal, text

# Items by dense number: x, y, z; then w, which nobody took.
PLOTS = {"z": "A cat", "y": None, "x": "the dog", "w": "the dog"}


@pytest.fixture
def with_plots(tables, raw_folder):
    def run(plots=None, workdir="work", **encoder):
        plots = plots or list(PLOTS.values())
        file = raw_folder / "items.parquet"
        pq.write_table(pa.table({"name": list(PLOTS), "plot": plots}), file)
        items = {"path": "items.parquet", "id": "name", "title": "plot", "text": ["plot"]}
        given = {"text": encoder} if encoder else {}
        return tables("log.csv", text(ROWS), items=items, workdir=workdir, **given)

    return run


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A folder, and a library that reads it; `asked` has the texts that it encoded."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    asked = []

    class SentenceTransformer:
        def __init__(self, path, **options):
            assert (path, options["model_kwargs"]) == (str(folder), {"use_safetensors": True})

        def encode(self, texts, **options):
            asked.extend(texts)
            if "fail" in texts:
                raise RuntimeError("killed")
            return np.array([[len(t), 1, 2] for t in texts], np.float32)

    library = SimpleNamespace(SentenceTransformer=SentenceTransformer)
    monkeypatch.setitem(sys.modules, "sentence_transformers", library)
    return SimpleNamespace(folder=folder, asked=asked)


def by_hand(sentence, width):
    """Words and their parts of three to five characters, each in the sum that its CRC names."""
    vector = np.zeros(width)
    for word in sentence.lower().split():
        padded = f" {word} "
        parts = [padded[a : a + n] for n in (3, 4, 5) for a in range(len(padded) - n + 1)]
        for feature, weight in [(f"w{word}", 1.0), *((f"p{p}", len(parts) ** -0.5) for p in parts)]:
            code = zlib.crc32(feature.encode())
            vector[code // 2 % width] += weight if code % 2 else -weight
    return vector


def test_hashed_ngrams_are_counts_of_words_and_their_parts(with_plots):
    made = with_plots(encoder="hashed-ngrams", dim=30)
    (plot,) = Dataset.open(made).item_dense
    assert (plot.name, plot.kind, plot.width) == ("plot", "vector", 32)
    for row, sentence in ((0, "the dog"), (2, "a cat")):
        expected = by_hand(sentence, 30)
        np.testing.assert_allclose(
            plot.values[row, :30], expected / np.linalg.norm(expected), atol=1e-6
        )
    assert not plot.values[1].any()
    (untaken,) = Dataset.open(made).untaken_dense()
    np.testing.assert_array_equal(untaken.values[0], plot.values[0])


def test_texts_that_share_words_are_alike_and_one_without_words_says_nothing():
    dog, dogs, cat, none = HashedNgrams(512).encode(["A dog barks", "dogs bark", "Ein Haus", "?!"])
    alike = [dog @ v / np.linalg.norm(dog) / np.linalg.norm(v) for v in (dogs, cat)]
    assert alike[0] > 0.1 > abs(alike[1])
    assert not none.any()


@pytest.mark.slow
def test_a_model_is_asked_for_each_text_once_ever(with_plots, model):
    made = with_plots(encoder=str(model.folder))
    (plot,) = Dataset.open(made).item_dense
    expected = np.array([[7, 1, 2], [0, 0, 0], [5, 1, 2]], np.float32)
    expected[[0, 2]] /= np.linalg.norm(expected[[0, 2]], axis=1, keepdims=True)
    np.testing.assert_allclose(plot.values[:, :3], expected, rtol=1e-6)
    assert sorted(model.asked) == ["A cat", "a", "the dog"]  # "a" to learn the width
    model.asked.clear()
    with_plots(["A cat", "new", "the dog", None], "other", encoder=str(model.folder))
    assert model.asked == ["a", "new"]


def test_a_killed_run_goes_on_where_it_stopped(with_plots, model):
    plots = [*(f"text {n}" for n in range(3)), "fail"]
    with pytest.raises(RuntimeError):
        with_plots(plots, encoder=str(model.folder), batch_size=1)
    # Commits are made every 16 batches; the last text failed with the first commit.
    model.asked.clear()
    with_plots([*plots[:3], "fine"], "again", encoder=str(model.folder), batch_size=1)
    assert sorted(model.asked) == ["a", "fine", "text 0", "text 1", "text 2"]


@pytest.mark.slow
def test_other_weights_are_another_dataset(with_plots, model):
    first = with_plots(encoder=str(model.folder))
    (model.folder / "model.safetensors").write_bytes(b"others")
    assert with_plots(encoder=str(model.folder)).path != first.path
    assert "the dog" in model.asked[3:]  # not taken from the first model's vectors


def test_an_encoder_that_is_not_there_and_a_column_without_text_are_refused(
    with_plots, model, monkeypatch
):
    said = refusal(with_plots, encoder="nowhere")
    assert "data.text.encoder = 'nowhere': no such folder" in said
    said = refusal(with_plots, [1, 2, 3, 4], encoder="hashed-ngrams", dim=30)
    assert "its column plot is int64, and not text; name it in continuous or categorical" in said
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    said = refusal(with_plots, encoder=str(model.folder))
    assert "needs sentence-transformers; install it: pip install 'cadc-rec[text]'." in said


@pytest.mark.slow
def test_a_model_counts_by_its_files_and_not_by_its_place(with_plots, model):
    made = with_plots(encoder=str(model.folder))
    settings = json.loads((made.path / "manifest.json").read_text())["settings"]
    assert settings["text"] == {"encoder": "model"}


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("modules.json", '[{"type": "theirs.Module"}]', "names 'theirs.Module', code of its own"),
        ("modules.json", '[{"type": 1', "cannot be read"),
        ("2_Dense/pytorch_model.bin", "x", "weights in this format are never read"),
    ],
)
def test_a_model_with_code_or_pickled_weights_is_refused(file, content, said, model):
    path = model.folder / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    with pytest.raises(CadcError, match=said):
        ModelEncoder(TextConfig(encoder=str(model.folder)))
    assert model.asked == []
