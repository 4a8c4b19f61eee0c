"""The study of the recipe, and what its page says of the parts."""

from benchmarks import beyond


def test_the_parts_of_the_recipe_stand_beside_what_they_are_parts_of(tmp_path, new_study):
    study = new_study("studies/beyond", layout="grid")
    study.head["name"] = "beyond"
    seconds = (1.0, 0.0, 9.0)
    study.add_done("ml-1m", "prior", None, 1.0, 0, 200, seconds)
    study.add_done("ml-1m", "recipe", "init_frozen", 10.0, 0, 250, seconds)
    study.add_done("ml-1m", "recipe", "init_frozen", 10.0, 0, 125, seconds, variant="uniform")
    study.add_done("ml-1m", "recipe", "init_frozen", 100.0, 0, 220, seconds)
    beyond.DOCS["beyond"].record(tmp_path / "studies", tmp_path)
    tables = beyond.beyond_tables(beyond.DOCS["beyond"].recorded(tmp_path))
    assert "| Recipe, 1/10, uniform |" in tables["beyond"]
    parts = tables["parts"]
    assert "Many comparisons: of 6 in this table" in parts  # HR@10 and NDCG@10 of three
    lines = [line for line in parts.splitlines() if line.startswith("|")]
    rows = [line.split(" | ")[:4] for line in lines[2:]]
    name = "| MovieLens 1M"
    assert rows == [  # of 200, 250 and 125 hits
        [name, "Recipe, 1/10", "Prior alone", "+25.0%"],
        [name, "Recipe, 1/10, uniform", "Recipe, 1/10", "−50.0%"],
        [name, "Recipe, 1/100", "Prior alone", "+10.0%"],
    ]
