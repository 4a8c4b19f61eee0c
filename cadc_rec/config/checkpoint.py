"""The section that says how often unfinished training is saved, and what is kept of it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from cadc_rec.config.types import NonNegativeFloat, PositiveInt, Section


class CheckpointConfig(Section):
    """Saving training on its way, see [reliability.md](reliability.md); no result depends on it."""

    every_seconds: NonNegativeFloat = 60.0
    """Training time between two checkpoints; 0 goes by `every_epochs` alone."""
    every_epochs: Annotated[int, Field(ge=0)] = 0
    """Save after every so many epochs as well; 0 goes by `every_seconds` alone. Both 0: none are
    saved."""
    max_share: Annotated[float, Field(gt=0, le=1)] = 0.02
    """Share of the time that training may stand still for checkpoints: one that took longer puts
    the next one by `every_seconds` off."""
    background: bool = True
    """Write while training goes on, from a copy of what is saved; else training waits."""
    keep_last: PositiveInt = 2
    """Newest checkpoints kept."""
    keep_best: bool = True
    """Keep the one with the best last validation NDCG@10 besides."""
    keep_finished: bool = False
    """Keep the checkpoints of a training that ended well; else its artifact replaces them."""
    resume: Literal["auto", "never"] = "auto"
    """Go on from the newest whole checkpoint of the same training, whatever the number of
    processes; or begin anew. `--resume DIR` names one."""
