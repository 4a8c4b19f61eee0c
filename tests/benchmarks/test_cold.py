"""The tables of the cold study: what is known of films and products, and where its tables go."""

import pyarrow as pa

from benchmarks.cold import films, products


def test_films_have_facts_and_plots_and_nothing_that_counts_tastes():
    movies = pa.table(
        {
            "item_id": [1, 2],
            "title": ["Toy Story (1995)", "Unknown"],
            "genres": [["Animation"], ["Drama"]],
        }
    )
    facts = pa.table(
        {
            "item_id": [1],
            "director": ["John Lasseter"],
            "actors": ["Tom Hanks, Tim Allen (voice), Tom Hanks"],
            "country": ["N/A"],
            "plot": ["A cowboy doll."],
            "imdb_votes": ["868,378"],
        }
    )
    assert films(movies, facts).to_pylist() == [
        {
            "item_id": 1,
            "title": "Toy Story (1995)",
            "genres": ["Animation"],
            "year": 1995,
            "director": ["John Lasseter"],
            "actors": ["Tom Hanks", "Tim Allen"],
            "country": [],
            "plot": "A cowboy doll.",
        },
        {
            "item_id": 2,
            "title": "Unknown",
            "genres": ["Drama"],
            "year": None,
            "director": [],
            "actors": [],
            "country": [],
            "plot": None,
        },
    ]


def test_products_have_the_words_of_their_titles():
    found = products(pa.table({"item_id": [7], "title": [" RED HAT 3 red "], "n": [99]}))
    assert found.to_pylist() == [
        {"item_id": "7", "title": "RED HAT 3 red", "words": ["hat", "red"]}
    ]
