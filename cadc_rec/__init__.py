"""CADC-Rec: train two-tower recommenders on a small sample of the interactions.

Matrix factorization reads every training interaction once and cheaply; its user and item vectors
become frozen id embeddings of a TorchRec two-tower model, which then needs only a sample.
"""

__version__ = "0.1.0"
