"""How good a model is: full ranking and its metrics."""
