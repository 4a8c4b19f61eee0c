"""What pre-training depends on, so that methods share one artifact and no other causes work."""

import pytest

from cadc_rec.config.experiment import PretrainConfig
from cadc_rec.config.file import load_experiment

MF = {"epochs", "factors", "learning_rate", "l2", "init_std", "scale", "loss"}


@pytest.fixture
def settings(tmp_path):
    """settings(method, *overrides): of the pretrain stage."""
    path = tmp_path / "experiment.toml"
    path.write_text("")

    def of(method, *overrides):
        e = load_experiment(path, method=method, overrides=overrides)
        return e.pretrain.decisive()

    return of


def test_every_method_and_technique_on_mf_shares_one_factorization(settings):
    cadc = settings("cadc")
    assert settings("mf") == cadc
    for how in ("init", "hybrid", "linear", "mlp", "residual"):
        assert settings("cadc", f"model.id_embedding={how}") == cadc
    for other in ("select.ratio=2", "train.epochs=3", "model.tower=[8]", "sharding.frozen=auto"):
        assert settings("cadc", other) == cadc


@pytest.mark.parametrize(
    ("model", "loss", "counts"),
    [
        ("mf", "binary", {*MF, "negatives"}),
        ("mf", "softmax", {*MF, "shared_negatives"}),
        ("als", "binary", {"factors", "scale", "als"}),
        ("mlp", "binary", {"factors", "init_std", "scale", "mlp"}),
        ("popularity", "binary", set()),
    ],
)
def test_a_setting_causes_work_where_it_counts_and_nowhere_else(model, loss, counts):
    plain = PretrainConfig(model=model, loss=loss)
    others = {
        "epochs": 7,
        "factors": 7,
        "learning_rate": 0.5,
        "l2": 9.0,
        "negatives": 7,
        "loss": "binary" if loss == "softmax" else "softmax",
        "shared_negatives": 7,
        "init_std": 0.5,
        "evaluate_every": 7,
        "scale": "unit",
        "mlp": plain.mlp.model_copy(update={"epochs": 7}),
        "als": plain.als.model_copy(update={"l2": 7.0}),
    }
    assert set(others) == set(PretrainConfig.model_fields) - {"model"}  # so that none is forgotten
    changed = {
        key
        for key, value in others.items()
        if plain.model_copy(update={key: value}).decisive() != plain.decisive()
    }
    assert changed == counts


def test_no_two_models_share_an_artifact():
    models = ("mf", "als", "mlp", "popularity")
    made = [str(PretrainConfig(model=m).decisive()) for m in models]
    assert len(set(made)) == 4
