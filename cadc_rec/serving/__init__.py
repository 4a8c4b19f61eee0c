"""What a trained model becomes for those who answer requests: the bundle, and what reads it."""
