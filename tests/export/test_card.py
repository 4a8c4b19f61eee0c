"""What the card says of how the bundle's state differs from the evaluated one."""

from types import SimpleNamespace

import pytest

from cadc_rec.config.experiment import Experiment
from cadc_rec.export.card import card_data, card_page

PREPARED = {"users": 3, "items": 4, "train": 9, "order": "time"}


def page(state, **prepared):
    metrics = {"test": {"hr@10": 0.25}, "validation": {"hr@10": 0.5}, "users": 3}
    stages = {"prepare": {**PREPARED, **prepared}, "evaluate": metrics}
    artifacts = {name: SimpleNamespace(info=info, seconds=1.0) for name, info in stages.items()}
    return card_page("toy", card_data(Experiment(), artifacts, state), [])


def test_metrics_of_production_are_said_to_be_of_the_evaluated_model():
    assert "as it was evaluated" in page("production")
    assert "as it was evaluated" not in page("evaluation")


@pytest.mark.parametrize(
    ("state", "later", "told"),
    [("production", 1200, True), ("production", 0, False), ("evaluation", 1200, False)],
)
def test_what_a_split_by_time_keeps_in_no_file_is_told(state, later, told):
    sentence = "1,200 interactions after the held-out ones are not known to it."
    assert (sentence in page(state, after_held_out=later)) == told
