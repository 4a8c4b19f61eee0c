"""Tables alone, from the command's own pipeline: lists, a fit, updates, several processes."""

import json

import pyarrow.parquet as pq
import pytest
import torch

from cadc_rec.config.file import load_experiment
from cadc_rec.pipeline.pipeline import Pipeline
from cadc_rec.pretrain.prior_fit import FILE

LISTS = ("transitions.form=lists", "transitions.targets=20")
# Enough users to fit on.
WORLD = ("data.generated.users=260", "data.generated.interactions=3000", "pretrain.factors=7")
FITTED = (*WORLD, *LISTS, "prior.fit=validation")


def run(tiny, workdir, *overrides):
    experiment = load_experiment(tiny, method="prior", overrides=overrides)
    return Pipeline(experiment, workdir).run()


def test_a_fit_is_kept_and_used_in_the_evaluation(tiny, tmp_path):
    torch.set_num_threads(1)
    fitted = run(tiny, tmp_path, *FITTED)
    plain = run(tiny, tmp_path, *WORLD, *LISTS)
    assert list(fitted) == ["prepare", "pretrain", "transitions", "prior", "evaluate"]
    assert fitted["transitions"].path == plain["transitions"].path
    chosen = json.loads((fitted["prior"].path / FILE).read_text())
    assert set(chosen["factors"]) == {"folded", "lists", "popularity"}
    assert (
        chosen["users"]
        == pq.read_table(fitted["evaluate"].path / "validation_ranks.parquet").num_rows
    )  # all of them
    # All forty items are candidates of the fit, so the evaluation finds what it found.
    assert fitted["evaluate"].info["validation"]["ndcg@10"] == pytest.approx(
        chosen["ndcg"], abs=5e-3
    )
    assert chosen["ndcg"] >= plain["evaluate"].info["validation"]["ndcg@10"] - 5e-3
    again = run(tiny, tmp_path, *FITTED)
    assert all(made.cached for made in again.values())


def test_towers_do_not_read_lists_and_are_not_fitted(tiny):
    for overrides, named in (
        (["transitions.form=lists"], "transitions.form = 'lists'"),
        (["prior.fit=validation"], "prior.fit = 'validation'"),
    ):
        with pytest.raises(Exception, match=named):
            load_experiment(tiny, method="recipe", overrides=overrides)
