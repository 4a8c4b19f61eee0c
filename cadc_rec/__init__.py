"""CADC-Rec: train two-tower recommenders on a small sample of the interactions.

Matrix factorization reads every training interaction once and cheaply; its user and item vectors
become frozen id embeddings of a TorchRec two-tower model, which then needs only a sample.

    >>> import cadc_rec
    >>> experiment = cadc_rec.load("tiny.toml", method="cadc", set={"train.epochs": 2})
    >>> run = cadc_rec.run(experiment, workdir="work")
    >>> run.metrics
    {'hr@10': 0..., 'ndcg@10': 0...}
    >>> run.recommend([1, 2], k=3).lists()  # original ids, the best item first
    [[..., ..., ...], [..., ..., ...]]

`cadc_rec.inspect` describes tables of your own and writes a first configuration for them;
`cadc_rec.Predictor` answers from an exported bundle. Importing this package loads none of the
libraries behind these names: each name is imported when it is first used.
"""

import os
from typing import TYPE_CHECKING, Any

# torch's threads would spin for milliseconds wherever one waits for the others; beside another
# process that uses a core, training then runs at a tenth of its speed. Its OpenMP reads this once,
# when torch is loaded, which no file of this package is before this line.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

if TYPE_CHECKING:
    from cadc_rec.api import Run, finished, inspect, load, run
    from cadc_rec.config.experiment import Experiment
    from cadc_rec.data.inspect.inspect import Inspection
    from cadc_rec.errors import CadcError
    from cadc_rec.serving.predict.answers import Recommendations
    from cadc_rec.serving.predict.predictor import Predictor

__version__ = "0.1.0"

__all__ = [
    "CadcError",
    "Experiment",
    "Inspection",
    "Predictor",
    "Recommendations",
    "Run",
    "finished",
    "inspect",
    "load",
    "run",
]

_HOMES = {
    "CadcError": "cadc_rec.errors",
    "Experiment": "cadc_rec.config.experiment",
    "Inspection": "cadc_rec.data.inspect.inspect",
    "Predictor": "cadc_rec.serving.predict.predictor",
    "Recommendations": "cadc_rec.serving.predict.answers",
    "Run": "cadc_rec.api",
    "finished": "cadc_rec.api",
    "inspect": "cadc_rec.api",
    "load": "cadc_rec.api",
    "run": "cadc_rec.api",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    found = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return found


def __dir__() -> list[str]:
    """The public names, imported or not."""
    return sorted({*globals(), *__all__})
