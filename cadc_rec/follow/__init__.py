"""A stream taken in batch by batch: each batch is an update, made exactly once across kills."""
