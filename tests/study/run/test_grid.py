"""A study's file: the cells it asks for, in which order, and what is refused before any runs."""

import functools
from collections import Counter
from pathlib import Path

import pytest

from cadc_rec.config.methods import METHODS
from cadc_rec.errors import CadcError
from cadc_rec.study.run.grid import by_data, read_study

shipped = functools.cache(read_study)
STUDIES = sorted((Path(__file__).parents[3] / "configs" / "study").glob("*.toml"))
HEAD = """
title = "Two worlds"
baseline = "gold"
seeds = [0, 1]

[datasets.small]
title = "Small world"
config = "small.toml"

[datasets.wide]
title = "Wide world"
config = "../configs/wide.toml"
set = { "data.generated.items" = 77 }
"""


@pytest.fixture
def write(tmp_path):
    """Write a study beside the configurations it names; returns its path."""
    for folder in ("study", "configs"):
        (tmp_path / folder).mkdir()
    (tmp_path / "study" / "small.toml").write_text("[train]\nepochs = 3\n")
    (tmp_path / "configs" / "wide.toml").write_text("[select]\nratio = 4\n")

    def to_file(grid, head=HEAD):
        path = tmp_path / "study" / "worlds.toml"
        path.write_text(head + grid)
        return path

    return to_file


def ids(path):
    return [cell.id for cell in read_study(path).cells]


def refusal(path):
    with pytest.raises(CadcError) as caught:
        read_study(path)
    return str(caught.value)


def test_cells_are_every_combination_with_the_seeds_outermost(write):
    path = write('[[grid]]\nmethods = ["gold", "cadc"]\n[[grid]]\nmethods = ["mf"]\n')
    of_seed_0 = [
        "small.gold.trainable.r1.s0",
        "small.cadc.init_frozen.r10.s0",
        "wide.gold.trainable.r1.s0",
        "wide.cadc.init_frozen.r4.s0",  # its configuration's ratio
        "small.mf.none.r1.s0",
        "wide.mf.none.r1.s0",
    ]
    assert ids(path) == of_seed_0 + [name.replace(".s0", ".s1") for name in of_seed_0]


def test_a_part_has_seeds_of_its_own_each_in_its_turn(write):
    path = write(
        '[[grid]]\nmethods = ["gold"]\ndatasets = ["small"]\nseeds = [1, 7]\n'
        '[[grid]]\nmethods = ["mf"]\ndatasets = ["small"]\n'
    )
    assert ids(path) == [
        "small.mf.none.r1.s0",
        "small.gold.trainable.r1.s1",
        "small.mf.none.r1.s1",
        "small.gold.trainable.r1.s7",
    ]


def test_integrations_and_ratios_multiply_the_cells_of_the_datasets_named(write):
    grid = 'methods = ["cadc"]\nintegrations = ["init", "hybrid"]\nratios = [2, 12.5]\n'
    assert ids(write(f'[[grid]]\n{grid}datasets = ["small"]\n'))[:4] == [
        "small.cadc.init.r2.s0",
        "small.cadc.init.r12.5.s0",
        "small.cadc.hybrid.r2.s0",
        "small.cadc.hybrid.r12.5.s0",
    ]


def test_a_cell_that_two_parts_ask_for_stands_once_and_in_its_first_place(write):
    path = write(
        '[[grid]]\nmethods = ["cadc", "gold"]\ndatasets = ["small"]\n'
        '[[grid]]\nmethods = ["gold", "random", "cadc"]\ndatasets = ["small"]\nratios = [10, 5]\n'
    )
    assert ids(path)[:5] == [
        "small.cadc.init_frozen.r10.s0",
        "small.gold.trainable.r1.s0",  # with any ratio: it reads everything
        "small.random.trainable.r10.s0",
        "small.random.trainable.r5.s0",
        "small.cadc.init_frozen.r5.s0",
    ]
    assert len(ids(path)) == 10


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ('set = { "train.epochs" = 3 }', 'set = { "train.epochs" = 4 }'),
        ("", 'set = { "model.id_dropout" = 0.2 }'),
        ("ratios = [1000000]", "ratios = [1000001]"),  # too near each other for a file's name
    ],
)
def test_one_id_for_two_different_cells_is_refused_not_dropped(write, first, second):
    path = write("".join(f'[[grid]]\nmethods = ["cadc"]\n{more}\n' for more in (first, second)))
    assert "two parts of the grid ask for small.cadc.init_frozen.r1" in refusal(path)
    assert "with different settings" in refusal(path)


def test_the_same_seed_twice_is_one_seed(write):
    path = write('[[grid]]\nmethods = ["gold"]\n', HEAD.replace("[0, 1]", "[3, 3]"))
    assert ids(path) == ["small.gold.trainable.r1.s3", "wide.gold.trainable.r1.s3"]


def test_settings_are_laid_over_study_dataset_part_and_cell_the_later_winning(write):
    head = HEAD.replace("seeds", 'set = { "train.epochs" = 11, "model.tower" = [8, 4] }\nseeds')
    path = write(
        '[[grid]]\nmethods = ["random"]\nratios = [3]\n'
        'set = { "train.learning_rate" = 0.5, "compute.device" = "cpu", "select.ratio" = 9 }\n',
        head,
    )
    small, wide = read_study(path).cells[:2]
    assert small.experiment.train.epochs == 11
    assert small.experiment.model.tower == (8, 4)
    assert small.experiment.train.learning_rate == 0.5
    assert small.experiment.compute.device == "cpu"
    assert small.experiment.select.ratio == 3
    assert wide.experiment.data.generated.items == 77 != small.experiment.data.generated.items


def test_a_cells_overrides_are_a_command_lines(write, tmp_path):
    """`--set` with each of them over the cell's configuration gives the cell's experiment."""
    from cadc_rec.config.file import load_experiment

    sets = '"model.tower" = [8, 4], "train.logq" = true'
    sets += ', "data.split" = "time", "data.time_shares" = [0.05, 0.2]'
    head = HEAD.replace("seeds", f"set = {{ {sets} }}\nseeds")
    grid = '[[grid]]\nmethods = ["random"]\nset = { "data.source" = "generated" }\n'
    for cell in read_study(write(grid, head)).cells:
        assert cell.config.is_file()
        again = load_experiment(cell.config, method=cell.method, overrides=cell.sets)
        assert again == cell.experiment
        assert again.train.logq is True
        assert again.data.time_shares == (0.05, 0.2)


def test_the_record_says_what_is_wanted(write):
    study = read_study(write('[[grid]]\nmethods = ["mf", "cadc"]\ndatasets = ["wide"]\n'))
    described = study.to_dict()
    cells = described.pop("cells")
    assert [cell.pop("digest") for cell in cells] == [cell.digest for cell in study.cells]
    assert described == {
        "schema_version": 1,
        "name": "worlds",
        "title": "Two worlds",
        "layout": "grid",
        "baseline": "gold",
        "second": "random",
    }
    assert cells[1] == {
        "id": "wide.cadc.init_frozen.r4.s0",
        "dataset": "wide",
        "dataset_title": "Wide world",
        "method": "cadc",
        "integration": "init_frozen",
        "ratio": 4.0,
        "variant": "",
        "seed": 0,
    }
    assert (cells[0]["integration"], cells[0]["ratio"]) == ("none", 1.0)


def test_prices_stand_in_the_record_and_decide_nothing_else(write):
    grid = '[[grid]]\nmethods = ["cadc"]\n'
    plain = read_study(write(grid))
    priced = read_study(write(grid + "[prices]\ncpu_hour = 0.04\ngpu_hour = 2\n"))
    assert "prices" not in plain.to_dict()
    assert priced.to_dict() == plain.to_dict() | {"prices": {"cpu_hour": 0.04, "gpu_hour": 2.0}}
    assert [cell.digest for cell in priced.cells] == [c.digest for c in plain.cells]


@pytest.mark.parametrize(
    ("prices", "message"),
    [
        ("cpu_hour = -0.1", "prices.cpu_hour = -0.1 is not allowed: "),
        ('gb_read = "free"', "prices.gb_read = 'free' is not allowed: "),
        ("cpu_second = 1", "prices.cpu_second is not a setting; "),
        ("", "[prices] is empty; set one of cpu_hour, gib_hour, gpu_hour, gb_read, kwh"),
    ],
)
def test_bad_prices_are_refused_in_one_sentence(write, prices, message):
    path = write(f'[[grid]]\nmethods = ["cadc"]\n[prices]\n{prices}\n')
    said = refusal(path)
    assert said.startswith(f"{path}: {message}")
    assert "\n" not in said


def test_variants_of_a_method_are_cells_of_their_own(write):
    grid = '[[grid]]\nmethods = ["cadc"]\ndatasets = ["wide"]\n'
    other = grid + 'variant = "recent"\nset = { "select.kind" = "recent" }\n'
    one, two = (c for c in read_study(write(grid + other)).cells if c.experiment.seed == 0)
    assert (one.id, two.id) == ("wide.cadc.init_frozen.r4.s0", "wide.cadc.init_frozen.r4.recent.s0")
    assert (one.experiment.select.kind, two.experiment.select.kind) == ("uniform", "recent")


def test_a_part_of_the_grid_may_have_an_experiment_file_of_its_own(write):
    grid = '[[grid]]\nmethods = ["cadc"]\ndatasets = ["wide"]\nconfig = "other.toml"\n'
    path = write(grid)
    (path.parent / "other.toml").write_text("[select]\nratio = 7\n")
    cell = read_study(path).cells[0]
    assert (cell.dataset, cell.ratio) == ("wide", 7.0)
    assert cell.config == path.parent / "other.toml"


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (
            '[[grid]]\nmethods = ["cadc", "golden"]\n',
            "{path}: method 'golden' is unknown; choose from cadc, cadc-mlp, random, ",
        ),
        (
            '[[grid]]\nmethods = ["cadc"]\ndatasets = ["tiny"]\n',
            "{path}: dataset 'tiny' is unknown; choose from small, wide.",
        ),
        ('[[grid]]\nmethods = ["cadc"]\nratios = [10, 0.5]\n', "grid.0.ratios.1 = 0.5 is not"),
        ('[[grid]]\nmethods = ["cadc"]\nratios = [nan]\n', "grid.0.ratios.0 = nan is not"),
        ("[[grid]]\nmethods = []\n", "grid.0.methods = [] is not allowed: "),
        ('[[grid]]\nmethods = "cadc"\n', "grid.0.methods = 'cadc' is not allowed: "),
        ('[[grid]]\nmethod = ["cadc"]\n', "grid.0.method is not a setting"),
        ("", "grid"),
        ("grid = 3\n", "grid is missing; add it"),
        # each value is allowed, and the two together are not
        (
            '[[grid]]\nmethods = ["gold"]\nintegrations = ["hybrid"]\n',
            "model.id_embedding = 'hybrid' needs pre-trained vectors",
        ),
        (
            '[[grid]]\nmethods = ["cadc-mlp"]\nintegrations = ["residual"]\n',
            "model.id_embedding = 'residual' adds the score of matrix factorization",
        ),
        ('[[grid]]\nmethods = ["cadc"]\nintegrations = ["glue"]\n', "id_embedding = 'glue'"),
        ('[[grid]]\nmethods = ["cadc"]\nset = { "train.epoch" = 3 }\n', "mean train.epochs?"),
        (
            '[[grid]]\nmethods = ["mf"]\n[[grid]]\nmethods = ["cadc"]\nset = { "train.epoch" = 3 }',
            "{path}, grid.1, dataset small, method cadc: ",
        ),
        ('[[grid]]\nmethods = ["cadc"]\nset = { "train.epochs" = 0 }\n', "train.epochs = 0"),
        ('[[grid]]\nmethods = ["cadc"]\nset = { "train.dropout" = nan }\n', "grid.0.set"),
        (
            '[[grid]]\nmethods = ["cadc"]\n[datasets."../away"]\ntitle = "A"\nconfig = "a.toml"\n',
            "../away",
        ),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_runs(write, grid, message):
    path = write('[[grid]]\nmethods = ["random"]\n' + grid if message.startswith("model") else grid)
    text = refusal(path)
    assert message.format(path=path) in text
    assert "Traceback" not in text


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (HEAD.replace("[0, 1]", "[]"), "seeds = [] is not allowed"),
        (HEAD.replace("[0, 1]", "[-1]"), "seeds.0 = -1 is not allowed"),
        (HEAD.replace("[0, 1]", "[0.5]"), "seeds.0 = 0.5 is not allowed"),
        (HEAD.replace("seeds", "budget_hours = 0\nseeds"), "budget_hours = 0 is not allowed"),
        (
            HEAD + "size = { users = 0, items = 5, interactions = 9 }\n",
            "datasets.wide.size.users = 0 is not allowed",
        ),
        (HEAD.replace("seeds", "seed"), "seed is not a setting; did you mean seeds?"),
        (HEAD.replace("baseline", 'layout = "table9"\nbaseline'), "layout = 'table9'"),
        (HEAD.replace('"gold"', '"golden"'), "baseline 'golden' is unknown; choose from cadc, "),
        (HEAD.replace("seeds", 'second = "rnd"\nseeds'), "second 'rnd' is unknown; choose from "),
    ],
)
def test_a_wrong_head_is_refused_naming_the_key(write, head, message):
    path = write('[[grid]]\nmethods = ["gold"]\n', head)
    assert message in refusal(path)
    assert str(path) in refusal(path)


def test_broken_toml_and_missing_files_are_named(write, tmp_path):
    path = write("[[grid]\n")
    assert refusal(path).startswith(f"{path}: not valid TOML: ")
    missing = tmp_path / "nowhere.toml"
    assert refusal(missing) == f"{missing}: no such config file; check the path."
    grid = '[[grid]]\nmethods = ["gold"]\n'
    path = write(grid, HEAD.replace("small.toml", "smal.toml"))
    assert refusal(path) == (
        f"{path}, grid.0, dataset small, method gold: {path.parent / 'smal.toml'}: no such config "
        "file; check the path."
    )


def test_an_experiments_file_is_no_study_in_one_sentence(write):
    path = write("[train]\nepochs = 3\n[select]\nratio = 4\n", head='method = "cadc"\n')
    assert refusal(path) == (
        f"{path}: has no [[grid]], so it is an experiment's file and not a study's; run it with "
        "cadc-rec run, or name it as a config in a study's file (docs/study.md)."
    )


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.name)
def test_every_shipped_study_can_be_run(path):
    study = shipped(path)
    assert all(count == 1 for count in Counter(cell.id for cell in study.cells).values())
    assert study.file.baseline in METHODS
    assert all(cell.experiment.compute.threads == 1 for cell in study.cells)


def test_what_is_known_of_a_dataset_stands_in_the_record(write):
    head = HEAD.replace('config = "small.toml"', 'config = "small.toml"\nabout = "Made up."')
    assert read_study(write('[[grid]]\nmethods = ["mf"]\n', head)).to_dict()["about"] == {
        "small": "Made up."
    }


def test_the_study_of_scale_has_the_whole_curve_and_every_method():
    (path,) = (path for path in STUDIES if path.stem == "scale")
    cells = shipped(path).cells
    small = {"ml-100k", "ml-1m", "online-retail", "beauty"}
    for dataset in small:
        for method in ("random", "cadc", "recipe"):
            ratios = {c.ratio for c in cells if (c.dataset, c.method) == (dataset, method)}
            assert ratios == {1, 2, 5, 10, 20, 50, 100, 1000}, (dataset, method)
    others = {"logq", "cadc-mlp", "over-sampling", "under-sampling", "prior", "auto", "gold", "mf"}
    for dataset in (*small, "globo", "globo-by-time"):
        assert others <= {c.method for c in cells if c.dataset == dataset}
    kinds = {c.variant: c.experiment.select.kind for c in cells if c.dataset == "ml-1m"}
    assert {"recent", "k-centres", "gradient-norm", "item-stratified"} <= set(kinds)
    uniform = {c.experiment.select.kind for c in cells if c.method == "recipe" and not c.variant}
    assert uniform == {"uniform"}
    by_time = {c.dataset for c in cells if c.experiment.data.split == "time"}
    assert by_time == {"ml-100k-by-time", "online-retail-by-time", "globo-by-time"}
    assert all("by time" in c.dataset_title for c in cells if c.dataset in by_time)
    first = [c for c in cells if c.experiment.seed == 0]
    assert list(cells[: len(first)]) == first  # whole as far as it went


@pytest.mark.parametrize(("scale", "paper"), [("ml-1m", "ml-1m"), ("epinions", "epinions-5core")])
def test_cells_of_scale_are_those_of_table_1(scale, paper):
    """The same experiment, so that a work folder has it once."""
    from cadc_rec.config.file import load_experiment

    configs = Path(__file__).parents[3] / "configs"
    for method in ("cadc", "random", "gold"):
        mine = load_experiment(configs / "scale" / f"{scale}.toml", method=method)
        theirs = load_experiment(configs / f"{paper}.toml", method=method)
        sections = ["data", "select", "model", "train", "evaluate", "negatives"]
        for section in [*sections, "pretrain"] if method == "cadc" else sections:
            ours, other = getattr(mine, section).decisive(), getattr(theirs, section).decisive()
            assert ours == other, (method, section)


def test_the_shipped_tables_are_the_papers():
    methods = {
        path.stem: {cell.method for cell in shipped(path).cells if cell.dataset == "ml-1m"}
        for path in STUDIES
    }
    beyond = {"als", "prior", "recipe", "recipe-gold", "cadc-residual", "auto"}
    assert methods["table1"] == set(METHODS) - beyond
    table2 = shipped(STUDIES[[path.stem for path in STUDIES].index("table2")])
    assert {cell.integration for cell in table2.cells} == {
        *("trainable", "init", "init_frozen", "hybrid", "linear", "mlp", "residual")
    }
    figure1 = shipped(STUDIES[[path.stem for path in STUDIES].index("figure1")])
    assert {cell.ratio for cell in figure1.cells} == {1, 2, 5, 10, 20, 50, 100}


def test_sets_of_features_are_variants_compared_with_the_first(write):
    """A dataset that lacks a set has no cell of it; settings may be lists of columns."""
    sets = """
[datasets.wide.features.few]
[datasets.wide.features.many]
"data.generated.users" = 3000
"evaluate.metrics" = ["recall", "mrr"]
"""
    grid = '[[grid]]\nmethods = ["cadc"]\nfeatures = ["few", "many"]\nvariant = "x"\n'
    path = write(sets + grid, HEAD.replace("[0, 1]", "[0]"))
    cells = read_study(path).cells
    assert [(cell.dataset, cell.variant, cell.over) for cell in cells] == [
        ("wide", "few-x", ""),
        ("wide", "many-x", "few-x"),
    ]
    assert cells[1].experiment.data.generated.users == 3000
    assert cells[1].to_dict()["over"] == "few-x"
    unknown = '[[grid]]\nmethods = ["cadc"]\nfeatures = ["none"]\n'
    assert "set of features 'none' is unknown" in refusal(write(unknown))


def test_the_cells_of_some_datasets_are_chosen_and_all_are_wanted(write):
    path = write('[[grid]]\nmethods = ["mf", "cadc"]\n[[grid]]\nmethods = ["random"]\n')
    study = read_study(path, ["wide"])
    assert {cell.dataset for cell in study.chosen} == {"wide"}
    assert study.to_dict() == read_study(path).to_dict()
    assert read_study(path).chosen == read_study(path).cells
    with pytest.raises(CadcError, match="dataset 'tall' is unknown; choose from small, wide"):
        read_study(path, ["wide", "tall"])


def test_cells_that_read_the_same_data_stand_together(write):
    path = write(
        '[[grid]]\nmethods = ["cadc", "mf"]\ndatasets = ["small"]\nseeds = [0]\n'
        '[[grid]]\nmethods = ["cadc"]\ndatasets = ["small"]\nseeds = [0]\nvariant = "core"\n'
        'set = { "data.k_core" = 2 }\n'
    )
    alike = [
        [cell.method + cell.variant for cell in one] for one in by_data(read_study(path).cells)
    ]
    assert alike == [["cadc", "mf"], ["cadccore"]]


def test_a_setting_of_any_letters_is_a_command_lines(write):
    named = '"tracking.trackio_project" = "\U0001f600 \\" = \u00e4"'
    path = write(f'[[grid]]\nmethods = ["cadc"]\nset = {{ {named} }}\n')
    (cell, *_) = read_study(path).cells
    assert cell.experiment.tracking.trackio_project == '\U0001f600 " = \u00e4'
