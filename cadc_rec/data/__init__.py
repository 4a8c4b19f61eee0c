"""Data: from a public archive to dense ids, a split, a sample and the batches made of it."""
