"""Finished experiments, exported: one with plain towers, one with histories and a prior."""

from types import SimpleNamespace

import pytest


def exported(config, workdir, folder, **wanted):
    """The experiment at the end of its stages, its trained model and its bundle."""
    from cadc_rec.config.file import load_experiment
    from cadc_rec.export.finished import Finished
    from cadc_rec.export.write import Wanted, write_bundle
    from cadc_rec.pipeline.pipeline import Pipeline
    from cadc_rec.serving.bundle.bundle import Bundle

    experiment = load_experiment(config)
    pipeline = Pipeline(experiment, workdir)
    finished = Finished(experiment, pipeline.run(), pipeline.dataset, pipeline.pretrained)
    write_bundle(finished, folder, Wanted(**wanted))
    return SimpleNamespace(
        finished=finished, trained=finished.trained(), bundle=Bundle.open(folder), path=folder
    )


@pytest.fixture(scope="session")
def plain(tiny, finished, tmp_path_factory):
    """Method cadc, with every precision."""
    folder = tmp_path_factory.mktemp("plain") / "bundle"
    return exported(tiny, finished.workdir, folder, precisions=("int8", "int4", "fp16"))


@pytest.fixture(scope="session")
def with_history(tiny_recipe, finished_recipe, tmp_path_factory):
    """Method recipe: histories, transitions, a prior."""
    folder = tmp_path_factory.mktemp("history") / "bundle"
    return exported(tiny_recipe, finished_recipe.workdir, folder, precisions=("int8", "fp16"))


@pytest.fixture(params=["plain", "with_history"])
def either(request):
    """One after the other."""
    return request.getfixturevalue(request.param)
