"""The table of config fields: what fits, what is refused, and that it is whole."""

import math

import pytest

from interactrank_jax import cli
from interactrank_jax.config import configuration, data_sets, fields
from interactrank_jax.config.field_kinds import Choice, Many, Number, Record, Switch, Text, Whole
from interactrank_jax.evaluation import evaluate
from interactrank_jax.examples.encoder import DIRECTORY as ENCODER
from interactrank_jax.examples.format import Examples
from interactrank_jax.io import artifact
from interactrank_jax.io.errors import InputError
from interactrank_jax.models.registry import MODELS
from interactrank_jax.runs.run import KIND, Run
from interactrank_jax.training.train import train
from tests.conftest import REPOSITORY

NAMES = [field.name for field in fields.FIELDS]
# One value of each wrong sort, for fields of every type.
WRONG = (None, "no such", -1, -1.5, math.nan, math.inf, 10**22, [], {}, ("x", -1), b"bytes")


def config(model="interactrank", argument="search"):
    return configuration.load(f"{REPOSITORY / 'configs' / model}.py:{argument}")


@pytest.mark.parametrize(
    ("kind", "fitting", "others"),
    [
        (Whole(1, 5), (1, 5), (0, 6, 1.0, True, "1", None, math.nan)),
        (Whole(20, 50, zero="none"), (0, 20, 50), (1, 19, 51, -1)),
        (Number(0, 1), (0, 1, 0.5), (-0.1, 1.1, math.nan, math.inf, True, "0.5")),
        (Number(0, 1, above=True, below=True), (0.5,), (0, 1, 0.0, 1.0)),
        (Switch(), (True, False), (0, 1, "True", None)),
        (Text(), ("a",), ("", 1, None)),
        (Text(empty="none"), ("", "a"), (None,)),
        (Choice(("a", "b")), ("a",), ("c", "", 1)),
        (Many(Whole(1, 9), 1, 2), ((1,), [1, 2]), ((), (1, 2, 3), (0,), 1, "1")),
        (Many(Text(), distinct=True), ((), ("a", "b")), (("a", "a"),)),
        (Record((Text(), Whole(0, 1))), (("a", 1), ["a", 0]), (("a",), (1, "a"), "a1")),
    ],
)
def test_a_kind_knows_what_fits(kind, fitting, others):
    assert all(kind.fits(value) for value in fitting)
    assert not any(kind.fits(value) for value in others)
    assert str(kind)


@pytest.mark.parametrize("argument", data_sets.DATA_SETS)
@pytest.mark.parametrize("model", MODELS)
def test_every_config_holds(model, argument):
    fields.check(config(model, argument))


def test_every_field_of_the_table_is_of_some_config():
    named = {
        name
        for model in MODELS
        for argument in data_sets.DATA_SETS
        for name, _ in fields.leaves(config(model, argument))
    }
    assert set(NAMES) == named
    assert len(NAMES) == len(set(NAMES))


def refusal(config):
    try:
        fields.check(config)
    except InputError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_value_is_refused_by_name_whatever_the_field(name):
    of_model = next(m for m in MODELS if name in dict(fields.leaves(config(m))))
    refused = 0
    for value in WRONG:
        wrong = config(of_model)
        with wrong.unlocked(), wrong.ignore_type():
            wrong.update_from_flattened_dict({name: value})
        message = refusal(wrong)
        refused += bool(message)
        # An empty dictionary is a part without fields: one is missing then.
        assert not message or f"config.{name} is" in message or value == {}
    assert refused >= len(WRONG) - 3  # texts take a string, some numbers a negative one


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("train.max_steps", -1),
        ("train.optimizer.clip_norm", -1.0),
        ("train.optimizer.learning_rate", -1e-3),
        ("train.tables.learning_rate", -0.1),
        ("train.loss.softmax_weight", -1.0),
        ("model.tower.dropout", 1.0),
        ("model.tower.hidden", (0,)),
        ("model.embedding_dim", 0),
        ("evaluate.batch_size", 0),
        ("evaluate.corpus_batch_size", -1),
        ("evaluate.bootstrap", 1),  # an interval of zero width
        ("train.epochs", math.nan),
        ("train.seed", -1),
        ("train.seed", None),
        ("train.order_seed", -1),
        ("data.seed", -1),
        ("data.history.length", 10**8),
        ("data.slate", 100_000),
        ("data.cross.prior", math.inf),
        ("data.cross.backoff.strength", math.nan),
        ("data.text.buckets", 3_000_000_000),
        ("data.vocabulary.out_of_vocabulary", 3_000_000_000),
        ("data.split.fractions", (0.8, 0.1, "x")),
        ("train.loss.stage_weights", (1, 10**400, 1)),
        ("label.positive", ("click", "click")),
    ],
)
def test_what_would_go_wrong_silently_or_late_is_refused(field, value):
    wrong = config()
    with wrong.unlocked(), wrong.ignore_type():
        wrong.update_from_flattened_dict({field: value})
    with pytest.raises(InputError, match=rf"config\.{field} is .*Expected"):
        fields.check(wrong)


# Of fields that code trusts: the table alone stands between them and the user.
WRONG_CHOICES = [
    ("interactrank", "train.loss.log_q", "count", "Did you mean 'counts'"),
    ("interactrank", "train.loss.correction", "standart", "Did you mean 'standard'"),
    ("interactrank", "train.optimizer.decay", "cosin", "Did you mean 'cosine'"),
    ("interactrank", "train.tables.decay", "constnt", "Did you mean 'constant'"),
    ("interactrank", "train.tables.name", "adagard", "Did you mean 'adagrad'"),
    ("interactrank", "train.parallel", "pmpa", "Did you mean 'pmap'"),
    ("interactrank", "model.dtype", "bflaot16", "Did you mean 'bfloat16'"),
    ("interactrank", "model.tower.numeric_views", ("range", "lg"), "Did you mean 'log'"),
    ("dat", "model.augment.request", "querry_id", "Did you mean 'query_id'"),
    ("interactrank", "train.loss.stage_weights", (1.0, 1.0), "exactly 3 values"),
    ("interactrank", "train.loss.stage_weights", (1.0, -1.0, 0.0), "shown, retrieved, random"),
    ("interactrank", "train.loss.hard_negatives", -1, "from 0"),
    ("interactrank", "train.loss.uniform_negatives", -4, "from 0"),
    ("interactrank", "train.loss.distill_temperature", 0.0, "above 0"),
    ("interactrank", "train.loss.head_weights", (1.0, -1.0, 1.0), "from 0"),
    ("interactrank", "label.weights", (("save", 0.0),), "above 0"),
    ("interactrank", "label.impression_weight", 0.0, "above 0"),
]


def start_training(config, examples_path, workdir):
    train(config, examples_path, workdir)


def evaluate_bm25(config, examples_path, workdir):
    evaluate.evaluate_baseline("bm25", config, examples_path)


def open_a_run(config, examples_path, workdir):
    metadata = Examples(examples_path).metadata
    metadata.encoder.save(workdir / ENCODER)
    content = {"config": configuration.to_json(config), "metadata": metadata.to_json()}
    content |= {"prior_offsets": [], "numerics": {}}
    artifact.write(KIND, workdir, content, folders=())
    Run.open(workdir)


@pytest.mark.parametrize(("model", "field", "value", "hint"), WRONG_CHOICES)
@pytest.mark.parametrize("entry", [start_training, evaluate_bm25, open_a_run])
def test_every_entry_refuses_what_the_code_behind_it_trusts(
    entry, model, field, value, hint, tmp_path, examples_path
):
    wrong = config(model)
    with wrong.unlocked(), wrong.ignore_type():
        wrong.update_from_flattened_dict({field: value})
    with pytest.raises(InputError, match=rf"config\.{field} is .*{hint}"):
        entry(wrong, examples_path, tmp_path)


def test_too_many_meta_queries_are_refused():
    wrong = config("fit")
    wrong.model.meta.vectors = 100_000
    with pytest.raises(InputError, match=r"config\.model\.meta\.vectors is 100000"):
        fields.check(wrong)


def test_an_unknown_field_and_a_missing_one_are_named():
    wrong = config()
    wrong.train.batch_sise = 3
    with pytest.raises(InputError, match=r"no field config\.train\.batch_sise.*batch_size"):
        fields.check(wrong)
    wrong = config()
    del wrong.train["log_every"]
    with pytest.raises(InputError, match=r"config\.train\.log_every is missing"):
        fields.check(wrong)


@pytest.mark.parametrize(
    ("model", "field"),
    [("cold", "cross.transform"), ("fit", "meta.vectors"), ("inttower", "fe.heads")],
)
def test_a_field_of_one_model_is_missed_there_alone(model, field):
    fields.check(config("two_tower"))
    wrong = config(model)
    part, _, name = field.rpartition(".")
    del wrong.model[part][name]
    with pytest.raises(InputError, match=rf"config\.model\.{field} is missing"):
        fields.check(wrong)


def test_a_config_of_one_part_holds_where_the_others_are_not_needed():
    data = config().data
    fields.check({"data": data}, parts=("data",))
    with pytest.raises(InputError, match=r"config\.label\.heads is missing"):
        fields.check({"data": data})
    del data["slate"]
    with pytest.raises(InputError, match=r"config\.data\.slate is missing"):
        fields.check({"data": data}, parts=())


def test_the_nearest_option_is_named():
    wrong = config()
    wrong.model.tower.numeric_views = ("rnge",)
    with pytest.raises(InputError, match="Did you mean 'range'"):
        fields.check(wrong)


def test_a_seed_of_the_order_alone_is_set_by_a_flag_and_may_be_none_or_absent():
    """Configs saved before it was a field lack it."""
    given = config()
    assert given.train.order_seed is None
    fields.check(given)
    configuration.override(given, ["--config.train.order_seed=3"])
    assert given.train.order_seed == 3
    fields.check(given)
    del given.train["order_seed"]
    fields.check(given)
    assert not configuration.difference(
        configuration.to_json(given), configuration.to_json(config())
    )


def test_the_docs_hold_the_table():
    assert (REPOSITORY / "docs" / "config.md").read_text() == fields.markdown(), (
        "run `interactrank config --format=markdown > docs/config.md`"
    )


def test_the_command_prints_values_types_and_meanings(capsys):
    path = REPOSITORY / "configs" / "fit.py"
    assert cli.main(["config", f"--config={path}", "--config.train.batch_size=77"]) == 0
    printed = capsys.readouterr().out
    assert "config.train.batch_size = 77\n    requests of a step" in printed
    assert "config.model.meta.vectors = 8" in printed
    assert "config.model.cross_layers" not in printed  # of another model
    assert cli.main(["config"]) == 0
    assert "config.model.cross_layers" in capsys.readouterr().out
    assert cli.main(["config", f"--config={path}", "--config.train.batch_size=0"]) == 2
    assert "a whole number from 1" in capsys.readouterr().err
