"""The two towers: embeddings, features, scores, loss. Knows nothing of files."""
