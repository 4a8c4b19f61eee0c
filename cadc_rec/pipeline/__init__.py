"""The stages in order, how one is carried out, and what each of them does."""
