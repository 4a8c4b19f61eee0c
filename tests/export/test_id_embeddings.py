"""Every way from an id to a vector comes out of the checkpoint as it was evaluated."""

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.slow

WAYS = [("cadc", way) for way in ("init", "hybrid", "linear", "mlp", "residual")]


@pytest.mark.parametrize(("method", "way"), [*WAYS, ("random", "trainable")])
def test_programs_and_collections_give_the_evaluated_vectors(tiny, tmp_path, method, way):
    from cadc_rec.config.file import load_experiment
    from cadc_rec.export.finished import Finished
    from cadc_rec.export.predict import TwoTowerPredictFactory
    from cadc_rec.export.programs import tower_programs
    from cadc_rec.export.towers import batch_of, side_features
    from cadc_rec.pipeline.pipeline import Pipeline

    overrides = [f"model.id_embedding={way}"] if method == "cadc" else []
    experiment = load_experiment(tiny, method=method, overrides=overrides)
    pipeline = Pipeline(experiment, tmp_path)
    done = Finished(experiment, pipeline.run(), pipeline.dataset, pipeline.pretrained)
    trained = done.trained()
    users, items = done.vectors("user"), done.vectors("item")
    programs = tower_programs(trained)
    assert np.allclose(programs["query"].module(torch.arange(60)).numpy(), users, atol=1e-5)
    assert np.allclose(programs["item"].module(torch.arange(40)).numpy(), items, atol=1e-5)
    module = TwoTowerPredictFactory(trained, "fp16").create_predict_module()
    mine = side_features(np.arange(40), trained.user.attributes)
    theirs = side_features(np.arange(40), trained.item.attributes)
    scores = module(batch_of([*mine, *theirs]))["default"].numpy()
    expected = (users[:40] * items).sum(1)
    assert np.abs(scores - expected).max() < 0.005 * np.abs(expected).max()
