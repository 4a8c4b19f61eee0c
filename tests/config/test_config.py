import json
import re
import tomllib
from pathlib import Path

import pytest
from pydantic import ValidationError

from cadc_rec.config.data import SparkConfig
from cadc_rec.config.experiment import (
    ComputeConfig,
    DataConfig,
    Experiment,
    HistoryConfig,
    ModelConfig,
    PretrainConfig,
    PriorConfig,
    SelectConfig,
    ShardingConfig,
)
from cadc_rec.config.file import load_experiment
from cadc_rec.config.methods import METHODS
from cadc_rec.config.tables import InteractionsTable, TablesConfig, UsersTable
from cadc_rec.errors import CadcError

FOLDER = Path(__file__).parents[2] / "configs"
CONFIGS = sorted({*FOLDER.glob("*.toml"), *FOLDER.glob("best/ml-*.toml")})


@pytest.fixture
def write(tmp_path):
    """Write a configuration file and return its path."""

    def to_file(text=""):
        path = tmp_path / "experiment.toml"
        path.write_text(text)
        return path

    return to_file


def refusal(path, *overrides, method=None):
    """The message with which an experiment is refused."""
    with pytest.raises(CadcError) as caught:
        load_experiment(path, method=method, overrides=overrides)
    return str(caught.value)


def test_an_empty_file_is_the_papers_cadc(write):
    experiment = load_experiment(write())
    assert experiment.method == "cadc"
    assert experiment.seed == 0
    assert experiment.pretrain.model == "mf"
    assert experiment.pretrain.factors + 1 == experiment.model.id_dim == 96
    assert experiment.pretrain.epochs == 100
    assert (experiment.select.kind, experiment.select.ratio) == ("uniform", 10)
    assert experiment.model.id_embedding == "init_frozen"
    assert experiment.model.tower == (128, 64)
    assert experiment.evaluate.k == (10,)
    assert experiment.compute.processes == 1


@pytest.mark.parametrize(
    ("method", "pretrain", "kind", "ids"),
    [
        ("cadc", "mf", "uniform", "init_frozen"),
        ("cadc-mlp", "mlp", "uniform", "init_frozen"),
        ("random", "none", "uniform", "trainable"),
        ("over-sampling", "none", "over-sampling", "trainable"),
        ("under-sampling", "none", "under-sampling", "trainable"),
        ("logq", "none", "uniform", "trainable"),
        ("gold", "none", "everything", "trainable"),
        ("mf", "mf", "uniform", "trainable"),
        ("popularity", "popularity", "uniform", "trainable"),
    ],
)
def test_a_method_is_its_row_of_settings_and_nothing_else(write, method, pretrain, kind, ids):
    path = write("[train]\nepochs = 7\n[data]\nk_core = 2\n")
    experiment = load_experiment(path, method=method)
    assert (
        experiment.method,
        experiment.pretrain.model,
        experiment.select.kind,
        experiment.model.id_embedding,
    ) == (method, pretrain, kind, ids)
    assert experiment.train.logq is (method == "logq")
    assert experiment.model.kind == ("tables" if method in ("mf", "popularity") else "two_tower")
    plain = Experiment().model_dump()
    changed = {
        f"{section}.{key}"
        for section, settings in experiment.model_dump().items()
        if isinstance(settings, dict)
        for key, value in settings.items()
        if value != plain[section][key]
    }
    assert changed <= {*METHODS[method], "train.epochs", "data.k_core"}


def test_the_later_layer_wins_default_file_method_table_and_set(write):
    path = write(
        '[train]\nepochs = 1\nbatch_size = 2\nnegatives = 3\n[methods.gold]\n"train.epochs" = 11\n'
        "[methods.gold.train]\nbatch_size = 12\n[methods.cadc.train]\nepochs = 99\n"
    )
    train = load_experiment(path, method="gold", overrides=["train.epochs=21"]).train
    assert (train.epochs, train.batch_size, train.negatives) == (21, 12, 3)
    assert train.learning_rate == Experiment().train.learning_rate


def test_a_methods_table_changes_its_row_and_set_changes_both(write):
    path = write('[methods.random]\n"select.kind" = "everything"\n')
    assert load_experiment(path, method="random").select.kind == "everything"
    assert load_experiment(path).select.kind == "uniform"
    overridden = load_experiment(path, method="random", overrides=["select.kind=uniform"])
    assert overridden.select.kind == "uniform"


def test_of_two_sets_of_one_key_the_last_wins(write):
    assert load_experiment(write(), overrides=["seed=1", "seed=2"]).seed == 2


def test_the_method_comes_from_the_option_then_set_then_the_file_then_cadc(write):
    path = write('method = "random"')
    assert load_experiment(path).method == "random"
    assert load_experiment(path, overrides=["method=gold"]).method == "gold"
    assert load_experiment(path, overrides=["method=gold"]).select.kind == "everything"
    assert load_experiment(path, method="cadc", overrides=["method=gold"]).method == "cadc"


def test_a_key_the_method_decides_is_refused_in_the_general_part(write):
    path = write('[select]\nkind = "everything"\n')
    message = refusal(path)
    for part in (str(path), "select.kind", "'everything'", "'uniform'", "[methods.cadc]"):
        assert part in message
    assert load_experiment(path, method="gold").select.kind == "everything"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
@pytest.mark.parametrize("method", METHODS)
def test_every_shipped_configuration_loads_for_every_method(path, method):
    experiment = load_experiment(path, method=method)
    assert experiment.method == method
    written = tomllib.loads(path.read_text())["data"]
    assert experiment.data.source == written["source"]


def test_the_shipped_configurations_are_there():
    assert {"demo.toml", "ml-1m.toml"} <= {path.name for path in CONFIGS}


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("data.source=generated", "data.source", "generated"),
        ('data.source="generated"', "data.source", "generated"),
        ("data.source= epinions ", "data.source", "epinions"),
        ("model.tower=[32, 8]", "model.tower", (32, 8)),
        ("train.learning_rate=1", "train.learning_rate", 1.0),
        ("train.learning_rate=5e-4", "train.learning_rate", 0.0005),
        ("data.generated={users = 5, items = 6}", "data.generated.items", 6),
        (" seed = 3", "seed", 3),
    ],
)
def test_set_takes_a_toml_value_or_a_bare_word(write, override, key, value):
    node = load_experiment(write(), overrides=[override])
    for part in key.split("."):
        node = getattr(node, part)
    assert node == value
    assert type(node) is type(value)


@pytest.mark.parametrize("override", ["train.epochs", "=3", " =3", ""])
def test_set_without_a_key_and_an_equals_sign_says_how_to_write_it(write, override):
    assert refusal(write(), override) == f"--set {override}: write it as section.key=value."


@pytest.mark.parametrize(
    ("text", "wrong", "nearest"),
    [
        ("[train]\nepoch = 3", "train.epoch", "train.epochs"),
        ("[train]\nlearning_rat = 3", "train.learning_rat", "train.learning_rate"),
        ("[train]\nfactors = 3", "train.factors", "pretrain.factors"),
        ("[data.generated]\nuser = 3", "data.generated.user", "data.generated.users"),
        ("sed = 3", "sed", "seed"),
        ("[pretain]\nl2 = 1", "pretain", "pretrain"),
        ("[modle]\nid_dim = 96", "modle", "model"),
        ("epochs = 3", "epochs", "train.epochs"),
        ('[methods.cadc]\n"train.epoch" = 3', "train.epoch", "train.epochs"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_valid_one(write, text, wrong, nearest):
    path = write(text)
    message = refusal(path)
    assert message.startswith(f"{path}: {wrong} is not a setting; did you mean {nearest}? ")


def test_an_unknown_key_that_resembles_nothing_is_refused_with_all_that_stand_there(write):
    path = write("xyzzy = 1")
    assert refusal(path) == (
        f"{path}: xyzzy is not a setting; the top level takes seed, method, data, pretrain, "
        "transitions, history, prior, context, select, model, train, negatives, loader, sharding, "
        "checkpoint, evaluate, compute, tracking, update."
    )
    message = refusal(write("[sharding]\nxyzzy = 1"))
    assert "sharding.xyzzy is not a setting; " in message
    assert "[sharding] takes trainable, frozen, trainable_kernel, " in message


def test_an_unknown_method_is_refused_with_those_there_are(write):
    sentence = (
        "method: 'golden' is unknown; choose one of cadc, cadc-mlp, random, over-sampling, "
        "under-sampling, logq, gold, mf, als, popularity, prior, recipe, recipe-gold, "
        "cadc-residual, auto."
    )
    assert refusal(write(), method="golden") == sentence
    assert refusal(write('method = "golden"')) == sentence
    assert "[methods.golden] is unknown" in refusal(write("[methods.golden.train]\nepochs = 1"))
    assert "'gold', 'cadc'" in refusal(write('method = ["gold", "cadc"]'))
    assert "[methods.NAME] must hold lines such as" in refusal(write("methods = 3"))


@pytest.mark.parametrize(
    ("override", "key", "value", "allowed"),
    [
        ("train.epochs=0", "train.epochs", "0", "greater than 0"),
        ("train.learning_rate=nan", "train.learning_rate", "nan", "finite"),
        ("train.learning_rate=inf", "train.learning_rate", "inf", "finite"),
        ("select.ratio=nan", "select.ratio", "nan", "finite"),
        ("data.generated.drift=nan", "data.generated.drift", "nan", "finite"),
        ("pretrain.l2=-1", "pretrain.l2", "-1", "greater than or equal to 0"),
        ("select.ratio=0.5", "select.ratio", "0.5", "greater than or equal to 1"),
        ("data.generated.drift=2", "data.generated.drift", "2", "less than or equal to 1"),
        ("data.source=netflix", "data.source", "'netflix'", "'movielens-1m'"),
        ("sharding.frozen=rows", "sharding.frozen", "'rows'", "'row_wise'"),
        ("model.tower=[]", "model.tower", "[]", "at least one value"),
        ("model.tower=[16, -8]", "model.tower.1", "-8", "greater than 0"),
        ("seed=-1", "seed", "-1", "greater than or equal to 0"),
        ("seed=9223372036854775808", "seed", "9223372036854775808", "less than"),
        ("data.split_seed=-1", "data.split_seed", "-1", "greater than or equal to 0"),
    ],
)
def test_a_value_out_of_bounds_is_refused_with_key_value_and_what_is_allowed(
    write, override, key, value, allowed
):
    message = refusal(write(), override)
    assert f"{key} = {value} is not allowed: " in message
    assert allowed in message


@pytest.mark.parametrize(
    ("override", "value", "allowed"),
    [
        ("train.epochs='3'", "'3'", "valid integer"),
        ("train.epochs=true", "True", "valid integer"),
        ("train.epochs=3.0", "3.0", "valid integer"),
        ("train.epochs=many", "'many'", "valid integer"),
        ("seed=1.5", "1.5", "valid integer"),
        ("train.learning_rate='0.1'", "'0.1'", "valid number"),
        ("train.learning_rate=true", "True", "valid number"),
        ("model.tower=16", "16", "an array"),
        ("model.tower=[16, '8']", "'8'", "valid integer"),
        ("data.source=3", "3", "'generated'"),
        ("train=3", "3", "train is a section; write [train]"),
    ],
)
def test_a_value_of_another_type_is_refused_not_converted(write, override, value, allowed):
    message = refusal(write(), override)
    assert f" = {value} is not allowed: " in message
    assert allowed in message
    assert "\n" not in message  # one finding, one sentence


def test_a_section_written_as_a_value_is_refused_from_every_layer(write):
    path = write("train = 3\n[methods.cadc.train]\nepochs = 2\n")
    assert "train is a value, not a section" in refusal(path)
    assert "train is a value, not a section" in refusal(write("train = 3"), "train.epochs=2")
    assert "train is a section" in refusal(write("train = 3"))


def test_every_finding_has_a_line_of_its_own(write):
    message = refusal(write('[train]\nepochs = 0\nepoch = 1\n[data]\nsource = "x"\n'))
    lines = message.splitlines()
    assert len(lines) == 3
    for key in ("train.epochs = 0", "train.epoch is not", "data.source = 'x'"):
        assert sum(key in line for line in lines) == 1


def test_a_refused_override_is_quoted_so_that_nobody_looks_for_it_in_the_file(write):
    path = write()
    message = refusal(path, "seed=1", "train.epochs=0")
    assert message.startswith(f"{path} --set seed=1 --set train.epochs=0: train.epochs = 0 ")


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("seed = ", "at end of document"),
        ("[train]\nepochs = 3\nepochs = 4\n", "line 3"),
        ("[train\nepochs = 3", "line 1"),
        ("seed = abc", "line 1"),
    ],
)
def test_broken_toml_is_refused_with_file_and_line(write, text, where):
    path = write(text)
    message = refusal(path)
    assert message.startswith(f"{path}: not valid TOML: ")
    assert where in message


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_byte_order_mark_is_passed_over(tmp_path, end):
    path = tmp_path / "mark.toml"
    path.write_bytes(b"\xef\xbb\xbf" + f"seed = 3{end}[train]{end}epochs = 4{end}".encode())
    found = load_experiment(path)
    assert (found.seed, found.train.epochs) == (3, 4)


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_another_encoding_is_named_with_its_remedy(tmp_path, encoding):
    path = tmp_path / "other.toml"
    path.write_bytes("# größe\nseed = 3\n".encode(encoding))
    assert re.search(r"byte \d+ is not UTF-8; save it as UTF-8\.$", refusal(path))


TABLES = {"data.source": "tables", "data.tables.interactions.path": "log.csv"}


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"data.tables.interactions.path": "log.csv"},
            "[data.tables] is read with data.source = 'tables' alone, which is not set; set "
            "data.source = 'tables', or leave the section out.",
        ),
        (
            {"data.tables.items.path": "items.csv", "data.tables.items.title": "name"},
            "which is not set; set data.source = 'tables'",
        ),
        (
            {"data.source": "movielens-1m", "data.tables.user_ids": "string"},
            "[data.tables] is read with data.source = 'tables' alone, and data.source = "
            "'movielens-1m'; set",
        ),
        (
            {**TABLES, "data.generated.users": 30},
            "[data.generated] is read with data.source = 'generated' alone, and data.source = "
            "'tables'",
        ),
        (
            {**TABLES, "data.tables.interactions.min_rating": 3},
            "data.tables.interactions.min_rating = 3 is about ratings, and no column holds them; "
            "set data.tables.interactions.rating, or leave min_rating out.",
        ),
        (
            {**TABLES, "data.tables.interactions.unit": "ms"},
            "data.tables.interactions.unit = 'ms' is about times, and no column holds them; set "
            "data.tables.interactions.timestamp, or leave unit out.",
        ),
        (
            {**TABLES, "data.tables.items.categorical": ["brand"]},
            "[data.tables.items] describes a table, and names none; set data.tables.items.path",
        ),
        (
            {**TABLES, "data.tables.users.path": "users.csv", "data.tables.users.buckets": 4},
            "buckets = 4 is about 'numeric' columns, and none is named; name them in numeric",
        ),
        (
            {**TABLES, "data.tables.items.path": "items.csv", "data.tables.items.separator": ";"},
            "separator = ';' is about 'multi' columns, and none is named",
        ),
        (
            {"data.validation_from": "2024-01-01", "data.test_from": "2024-02-01"},
            "data.validation_from is read with data.split = 'time' alone, and data.split = "
            "'leave-last-two'",
        ),
        ({"data.time_shares": [0.2, 0.1]}, "data.time_shares is read with data.split = 'time'"),
        (
            {
                "data.split": "time",
                "data.validation_from": "2024-01-01",
                "data.test_from": "2024-02-01",
                "data.time_shares": [0.2, 0.1],
            },
            "data.time_shares is read where no times are named",
        ),
    ],
)
def test_a_setting_that_nothing_reads_is_refused_with_its_reason(tmp_path, settings, sentence):
    path = tmp_path / "plain.toml"
    path.write_text("")
    with pytest.raises(CadcError) as refused:
        load_experiment(path, overrides=settings)
    assert sentence in str(refused.value)


def test_an_experiment_written_out_whole_is_taken_again():
    for given in ({}, {"data": {"source": "movielens-1m"}}, {"data": {"split": "time"}}):
        experiment = Experiment.model_validate(given)
        assert Experiment.model_validate(experiment.model_dump()) == experiment
        again = json.loads(experiment.model_dump_json())
        assert Experiment.model_validate(again) == experiment


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    missing = tmp_path / "nowhere.toml"
    assert refusal(missing) == f"{missing}: no such config file; check the path."
    assert str(tmp_path) in refusal(tmp_path)
    assert "a directory" in refusal(tmp_path).lower()
    binary = tmp_path / "latin.toml"
    binary.write_bytes('method = "gôld"'.encode("latin-1"))
    assert refusal(binary).startswith(f"{binary}: not valid TOML: ")


def test_frozen_ids_need_pretrained_vectors(write):
    message = refusal(write(), "pretrain.model=none")
    assert "model.id_embedding = 'init_frozen' needs pre-trained vectors" in message
    assert "set pretrain.model = 'mf'" in message


def test_the_width_of_an_id_is_factors_and_bias(write):
    message = refusal(write(), "pretrain.factors=31")
    assert re.search(r"model\.id_dim = 96 .*factors and bias\) = 32", message)
    both = load_experiment(write(), overrides=["pretrain.factors=31", "model.id_dim=32"])
    assert both.model.id_dim == 32
    # without pre-training there are no factors to agree with
    assert load_experiment(write(), method="gold", overrides=["model.id_dim=7"]).model.id_dim == 7


def test_more_processes_than_shards_are_refused_before_anything_starts(write):
    message = refusal(write(), "compute.processes=3", "select.shards=2")
    assert "compute.processes = 3 cannot share select.shards = 2" in message
    assert "set select.shards to at least 3" in message
    load_experiment(write(), overrides=["compute.processes=2", "select.shards=2"])


def test_settings_do_not_change_once_read(write):
    experiment = load_experiment(write())
    with pytest.raises(ValueError, match="frozen"):
        experiment.train.epochs = 5


def test_pretraining_that_no_id_embedding_uses_is_refused(tiny):
    with pytest.raises(CadcError, match=r"does not use the vectors of pretrain\.model = 'mf'"):
        load_experiment(tiny, method="gold", overrides=["pretrain.model=mf"])


@pytest.mark.parametrize(
    ("method", "override", "sentence"),
    [
        (
            "cadc-mlp",
            "model.id_embedding=residual",
            "model.id_embedding = 'residual' adds the score of matrix factorization, which "
            "pretrain.model = 'mlp' does not learn; set pretrain.model = 'mf'.",
        ),
        (
            "mf",
            "pretrain.scale=unit",
            "model.kind = 'tables' scores the vectors as they were learned; set pretrain.scale = "
            "'none'.",
        ),
        (
            "gold",
            "history.length=5",
            "history.length = 5 needs a frozen table of whole vectors, and model.id_embedding = "
            "'trainable' has none; set model.id_embedding = 'init_frozen', or history.length = 0.",
        ),
        (
            "recipe",
            "loader.kind=stream",
            "loader.kind = 'stream' cannot read histories, and history.length = 50; set "
            "loader.kind = 'memory'.",
        ),
        (
            "cadc",
            "model.item_tower=[128]",
            "model.item_tower ends with 128 and model.tower with 64; a score is the dot product of "
            "the two, so they must be equal.",
        ),
        (
            "recipe",
            "history.windows=[3, 1]",
            "history.windows = [3, 1] must ascend and repeat no value.",
        ),
        (
            "recipe",
            "pretrain.model=mf --set pretrain.scale=none",
            "prior.use = true needs histories and the vectors of ALS, but history.length = 50 and "
            "pretrain.model = 'mf'; set history.length above 0 and pretrain.model = 'als', or "
            "prior.use = false.",
        ),
        (
            "recipe",
            "prior.use=false --set history.length=0",
            "transitions.window = 10 learns what follows a user's last items, and history.length "
            "= 0 keeps no last items; set history.length above 0, or transitions.window = 0.",
        ),
        (
            "recipe",
            "select.kind=hard --set pretrain.scale=whiten",
            "select.kind = 'hard' scores rows by the pre-trained vectors, and pretrain.scale = "
            "'whiten' changes the order of the scores; set pretrain.scale = 'none'.",
        ),
        (
            "random",
            "select.kind=hard",
            "select.kind = 'hard' takes the rows that pre-trained vectors score lowest, and "
            "pretrain.model = 'none' gives no such vectors; set pretrain.model = 'mf' or 'als'.",
        ),
        (
            "random",
            "select.kind=k-centres",
            "select.kind = 'k-centres' takes rows whose pre-trained vectors lie apart, and "
            "pretrain.model = 'none' gives no vectors; set pretrain.model = 'mf', 'als' or 'mlp'.",
        ),
        (
            "cadc-mlp",
            "select.kind=gradient-norm",
            "select.kind = 'gradient-norm' takes the rows whose scores by pre-trained vectors have "
            "the longest gradient, and pretrain.model = 'mlp' gives no such vectors; set "
            "pretrain.model = 'mf' or 'als'.",
        ),
        (
            "cadc",
            "select.kind=gradient-norm --set pretrain.loss=softmax",
            "select.kind = 'gradient-norm' needs a loss of each row alone, and pretrain.loss = "
            "'softmax' compares a row with all items; set pretrain.loss = 'binary', or select.kind "
            "= 'hard'.",
        ),
        (
            "mf",
            "pretrain.model=mlp",
            "model.kind = 'tables' scores pairs by the dot product of pre-trained vectors, which "
            "pretrain.model = 'mlp' does not give; set pretrain.model = 'mf', 'als' or "
            "'popularity'.",
        ),
        (
            "gold",
            "model.kind=tables",
            "model.kind = 'tables' scores pairs by the dot product of pre-trained vectors, which "
            "pretrain.model = 'none' does not give; set pretrain.model = 'mf', 'als' or "
            "'popularity'.",
        ),
        (
            "cadc",
            "pretrain.model=popularity",
            "pretrain.model = 'popularity' has no vectors for two towers; set model.kind = "
            "'tables', or pretrain.model = 'mf'.",
        ),
        (
            "popularity",
            "model.kind=two_tower",
            "pretrain.model = 'popularity' has no vectors for two towers; set model.kind = "
            "'tables', or pretrain.model = 'mf'.",
        ),
        (
            "cadc-mlp",
            "model.id_embedding=trainable",
            "model.id_embedding = 'trainable' does not use the vectors of pretrain.model = 'mlp'; "
            "set model.id_embedding = 'init_frozen', or pretrain.model = 'none'.",
        ),
        (
            "cadc-mlp",
            "model.id_dim=32",
            "model.id_dim = 32 must be pretrain.factors + 1 (factors and bias) = 96; change one "
            "of them.",
        ),
        *(
            (
                "random",
                f"model.id_embedding={how}",
                f"model.id_embedding = '{how}' needs pre-trained vectors, and pretrain.model is "
                "'none'; set pretrain.model = 'mf'.",
            )
            for how in ("init", "init_frozen", "hybrid", "linear", "mlp", "residual")
        ),
    ],
)
def test_settings_that_mean_nothing_together_are_refused_in_one_sentence(
    write, method, override, sentence
):
    path = write()
    overrides = override.split(" --set ")
    assert refusal(path, *overrides, method=method) == f"{path} --set {override}: {sentence}"


@pytest.mark.parametrize(
    ("method", "how"),
    [
        *(("cadc", h) for h in ("init", "init_frozen", "hybrid", "linear", "mlp", "residual")),
        *(("cadc-mlp", h) for h in ("init", "init_frozen", "hybrid", "linear", "mlp")),
    ],
)
def test_pretrained_vectors_may_be_integrated_in_every_way_that_means_something(write, method, how):
    overrides = [f"model.id_embedding={how}"]
    assert load_experiment(write(), method=method, overrides=overrides).model.id_embedding == how


def test_scoring_tables_directly_asks_nothing_of_towers_and_shards(write):
    overrides = ["pretrain.factors=7", "compute.processes=3", "select.shards=1"]
    assert load_experiment(write(), method="mf", overrides=overrides).pretrain.factors == 7


def test_the_file_may_set_what_the_method_leaves_open(write):
    assert load_experiment(write("[train]\nlogq = true"), method="random").train.logq is True
    message = refusal(write("[train]\nlogq = false"), method="logq")
    assert (
        "train.logq = False contradicts the method logq, which sets True; leave it out" in message
    )


@pytest.mark.parametrize("width", [4, 98])
def test_a_hybrid_that_cannot_be_divided_into_groups_of_four_is_refused(width, tmp_path):
    path = tmp_path / "experiment.toml"
    path.write_text(f"[pretrain]\nfactors = {width - 1}\n[model]\nid_dim = {width}\n")
    with pytest.raises(
        CadcError, match=f"'hybrid' divides model.id_dim = {width} into groups of four"
    ):
        load_experiment(path, overrides=["model.id_embedding=hybrid"])


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: HistoryConfig(windows=(3, 1)), "history.windows = [3, 1] must ascend and repeat "),
        (lambda: ModelConfig(tower=(8, 4), item_tower=(5,)), "model.item_tower ends with 5 and "),
        (
            lambda: ShardingConfig(frozen="data_parallel", frozen_kernel="fused"),
            "sharding.frozen_kernel = 'fused' is for model-parallel tables, ",
        ),
        (
            lambda: Experiment(pretrain=PretrainConfig(model="mf")),
            "model.id_embedding = 'trainable' does not use the vectors of pretrain.model = 'mf'; ",
        ),
        (
            lambda: Experiment(prior=PriorConfig(use=True)),
            "prior.use = true needs histories and the vectors of ALS, ",
        ),
        (
            lambda: Experiment(select=SelectConfig(kind="hard")),
            "select.kind = 'hard' takes the rows that pre-trained vectors score lowest, ",
        ),
        (
            lambda: Experiment(compute=ComputeConfig(processes=9)),
            "compute.processes = 9 cannot share select.shards = 8; ",
        ),
        (
            lambda: SparkConfig(settings=("spark.executor.cores=2", "memory=8g")),
            "data.spark.settings: 'memory=8g' is not a setting of Spark; write it as ",
        ),
        (
            lambda: TablesConfig(users=UsersTable(path="users.csv", query="SELECT 1")),
            "data.tables.users: has both a path and a query; take one out.",
        ),
        (
            lambda: TablesConfig(interactions=InteractionsTable(query="SELECT 1")),
            "data.tables.interactions.query: there is no database to ask; set "
            "data.tables.database.",
        ),
        (
            lambda: DataConfig(source="epinions", until="9"),
            "data.until needs times, and the source has none; leave it out.",
        ),
        (
            lambda: DataConfig(source="tables", split="time"),
            "data.split = 'time' needs times, and the source has none; leave it out.",
        ),
        (
            lambda: DataConfig(split="time", test_from="9"),
            "data.split = 'time' needs both data.validation_from and data.test_from, or two ",
        ),
        (
            lambda: DataConfig(split="time", time_shares=(0.5, 0.5)),
            "data.split = 'time' needs both data.validation_from and data.test_from, or two ",
        ),
        *(
            (
                lambda first=first, second=second: DataConfig(
                    split="time", validation_from=first, test_from=second
                ),
                f"data.split = 'time': validation begins at {first} and test at {second}; the test "
                "has to begin later.",
            )
            for first, second in (
                ("9", "9"),
                ("10", "9"),  # numbers, not texts
                ("2024-02-01", "2024-01-31"),
                ("2024-02-01", "2024-02-01T00:00:00+00:00"),
                ("2024-02-01T01:00:00+02:00", "2024-01-31T23:00:00"),
            )
        ),
        (
            lambda: row_wise(compute=ComputeConfig(device="cpu")),
            "sharding 'row_wise' of table user needs CUDA; on CPU choose one of data_parallel, "
            "table_wise, column_wise, table_column_wise.",
        ),
    ],
)
def test_settings_built_in_python_are_held_to_the_same_rules(build, sentence):
    with pytest.raises(ValidationError) as caught:
        build()
    (finding,) = caught.value.errors()
    assert finding["msg"].startswith(sentence)


def row_wise(**more):
    """Learned ids, divided as no CPU can."""
    return Experiment(sharding=ShardingConfig(trainable="row_wise"), **more)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("9", "10"),
        ("2024-01-31", "2024-02-01"),
        ("2024-01-31T23:30:00+02:00", "2024-01-31T22:00:00"),
        ("2024-01-31", "9"),  # the unit of the source decides
        ("", ""),
    ],
)
def test_a_split_by_time_takes_times_that_may_follow_each_other(first, second):
    DataConfig(split="time", validation_from=first, test_from=second)


@pytest.mark.parametrize(
    ("ids", "sharding", "table"),
    [
        ("trainable", {"trainable": "row_wise"}, "user"),
        ("init", {"trainable": "table_row_wise"}, "user"),
        ("init_frozen", {"frozen": "row_wise"}, "user"),
        ("hybrid", {"frozen": "row_wise"}, "user"),
        ("hybrid", {"trainable": "row_wise"}, "user_free"),
        ("trainable", {"frozen": "row_wise"}, None),  # it has no such tables
        ("linear", {"trainable": "row_wise"}, None),
        ("residual", {"frozen": "column_wise", "trainable": "row_wise"}, None),
    ],
)
def test_a_cpu_is_asked_only_for_what_the_models_own_tables_need(write, ids, sharding, table):
    method = "random" if ids == "trainable" else "cadc"
    sets = {"model.id_embedding": ids, **{f"sharding.{k}": v for k, v in sharding.items()}}
    experiment = load_experiment(write(), method=method, overrides=sets)
    found = [sentence.split(" needs")[0] for sentence in experiment.needs_cuda()]
    kind = next(kind for kind in sharding.values())
    assert found == ([] if table is None else [f"sharding {kind!r} of table {table}"])
    assert not list(load_experiment(write(), method="mf", overrides=sets).needs_cuda())


def test_sections_that_break_rules_of_their_own_are_told_together(write):
    path = write("[history]\nwindows = [3, 1]\n[model]\ntower = [8, 4]\nitem_tower = [5]\n")
    first, second = refusal(path).splitlines()
    assert first.startswith(f"{path}: history.windows = [3, 1] must ascend")
    assert second.startswith(f"{path}: model.item_tower ends with 5 and model.tower with 4;")


def test_als_by_name_leaves_its_confidence_to_the_data_and_a_file_may_say_another(tmp_path):
    file = tmp_path / "als.toml"
    file.write_text('method = "als"\n[data]\nsource = "generated"\n')
    assert load_experiment(file).pretrain.als.alpha == 0.0
    assert load_experiment(file, overrides=["pretrain.als.alpha=2.5"]).pretrain.als.alpha == 2.5
    assert load_experiment(file, method="mf").pretrain.als.alpha == 1.0
