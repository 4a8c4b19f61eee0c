"""A benchmark study: a grid of experiments, run cell by cell, recorded so that nothing is lost."""
