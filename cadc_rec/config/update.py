"""The section of `cadc-rec update`: how far a new day's interactions move what was learned."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from cadc_rec.config.types import PositiveInt, Section

Share = Annotated[float, Field(gt=0, le=1)]


class UpdateConfig(Section):
    """What `cadc-rec update` does with new interactions; `cadc-rec run` never reads it.

    See [updates.md](updates.md).
    """

    epochs: PositiveInt = 10
    """MF: alternating half-steps of the rows whose interactions changed, from where they stood,
    all other rows fixed. Under a softmax, of all rows."""
    sweeps: PositiveInt = 3
    """ALS: the same rows solved, users and then items, this often. Transitions: all rows."""
    polish: Annotated[int, Field(ge=0)] = 0
    """MF: epochs over all rows after that; ALS: sweeps."""
    towers: Literal["train", "keep"] = "train"
    """Train the towers on the refreshed sample, from where they stood; or leave them."""
    train_epochs: PositiveInt = 5
    """Epochs of the towers."""
    rate: Share = 0.3
    """The towers' learning rates, as a share of those of `[train]`: they start near where they will
    end."""
    advise_new_share: Share = 0.1
    """Advise a full rebuild once the interactions that came since the last one are more than this
    share of those it had."""
    advise_cosine: Share = 0.8
    """Likewise once the served vectors of known items stand, on average, at less than this cosine
    to what they were at the last full build."""
