"""Training the two towers on D_sel."""
