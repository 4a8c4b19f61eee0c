"""D_sel in, batches of NumPy arrays out."""
