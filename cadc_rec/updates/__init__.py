"""A new day's interactions: what was learned is carried on, not learned anew."""
