"""How good a recommender is after how many CPU seconds: SASRec's curve and our methods' points."""
