"""`import interactrank_jax as ir`: what it gives and leaves alone, and that its examples run."""

import ast
import doctest
import inspect
import json
import subprocess
import sys
import textwrap
import types

import pytest

import interactrank_jax as ir
from interactrank_jax.config.registration import SESSION
from interactrank_jax.examples.format import Examples
from interactrank_jax.io.errors import InputError
from interactrank_jax.log.read import Log, open_log
from interactrank_jax.models.registry import MODELS, register
from interactrank_jax.models.two_tower import TwoTower
from tests.conftest import REPOSITORY
from tests.log import handmade_log
from tests.marks import some_quick

HEAVY = ("jax", "flax", "grain", "orbax", "ibis", "duckdb", "pandas", "pyarrow", "numpy")


class TestNames:
    def test_importing_the_package_imports_nothing_heavy(self):
        code = f"""
            import sys
            import interactrank_jax as ir
            assert set(ir.__all__) <= set(dir(ir))
            print([name for name in {HEAVY} if name in sys.modules])
            ir.configs
            print([name for name in ("jax", "ibis", "duckdb") if name in sys.modules])
        """
        assert python(code).splitlines() == ["[]", "[]"]

    def test_each_is_imported_for_type_checkers_listed_and_found(self):
        tree = ast.parse(inspect.getsource(ir))
        block = next(node for node in tree.body if isinstance(node, ast.If))
        names = [alias for node in block.body for alias in node.names]
        for_checkers = {alias.asname or alias.name for alias in names}
        assert for_checkers == set(ir.__all__) == set(ir._MODULES)
        assert all(getattr(ir, name) is getattr(ir, name) for name in ir.__all__)

    def test_stay_what_they_are_whatever_is_imported_later(self):
        """A submodule becomes an attribute of the package, so no public name may be one's."""
        import interactrank_jax.config
        import interactrank_jax.examples
        import interactrank_jax.log  # noqa: F401

        assert ir.configs.build("lr", "search").model.name == "lr"
        assert ir.Examples is Examples
        assert ir.Log is Log

    def test_one_that_is_not_there_is_an_attribute_error(self):
        with pytest.raises(AttributeError, match=r"interactrank_jax.*no attribute 'Trainr'"):
            ir.Trainr  # noqa: B018


def documented(name):
    """Returns the docstring tests of a public name: of a module its own, of a class its methods'.

    What a class inherits is not its own to show.
    """
    value = getattr(ir, name)
    if isinstance(value, types.ModuleType):
        parser = doctest.DocTestParser()
        return [parser.get_doctest(value.__doc__ or "", {}, name, None, 0)]
    return doctest.DocTestFinder(exclude_empty=False).find(value, name, globs={})


LONG = [name for name in ir.__all__ if name not in ("export_bundle", "Trainer")]  # they train


@pytest.mark.parametrize("name", some_quick(ir.__all__, (), LONG))
def test_its_docstring_has_an_example_that_holds(name, tmp_path, monkeypatch, registries):
    monkeypatch.chdir(tmp_path)
    own, *of_methods = documented(name)
    assert own.examples, f"ir.{name} has no example in its docstring"
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for test in (own, *of_methods):
        said: list[str] = []
        failed, _ = runner.run(test, out=said.append)
        assert not failed, "".join(said)


class TestPrepare:
    @pytest.fixture(scope="class")
    def log(self, tmp_path_factory):
        path = tmp_path_factory.mktemp("log") / "log"
        return open_log(handmade_log.write_log(path, handmade_log.make_tables()))

    def test_examples_without_a_place_last_as_long_as_they_are_held(self, log):
        examples = ir.prepare(log, handmade_log.data_config())
        path = examples.path
        assert examples.split("train").requests > 0
        assert path.is_dir()
        del examples
        assert not path.exists()
        assert not path.parent.exists()

    @pytest.mark.long  # prepares a log several times
    def test_a_whole_config_a_path_and_older_examples_will_do(self, log, tmp_path):
        data = handmade_log.data_config()
        old = ir.prepare(str(log.path), data, tmp_path / "old")
        whole = ir.configs.lr("search")
        whole.data = data
        new = ir.prepare(log, whole, tmp_path / "new", extend=old)
        assert new.path == tmp_path / "new"
        assert new.metadata.extends == old.metadata.digest

    def test_nothing_is_left_where_the_log_does_not_hold(self, log, tmp_path):
        config = handmade_log.data_config(**{"history.actions": ("clik",)})
        with pytest.raises(InputError, match="Did you mean 'click'"):
            ir.prepare(log, config, tmp_path / "out")
        assert not (tmp_path / "out").exists()


@pytest.mark.long  # prepares, trains and evaluates
def test_from_data_frames_to_figures(tmp_path, monkeypatch):
    """Frames of pandas, a config that names their actions, and `~` for a place that stays."""
    monkeypatch.setenv("HOME", str(tmp_path))
    frames = {name: table.to_pandas() for name, table in handmade_log.make_tables().items()}
    kinds = {"title": "text", "query_text": "text"}
    actions, users = handmade_log.ACTIONS, ("country", "tenure")
    log = ir.Log.from_frames(
        **frames, actions=actions, kinds=kinds, user_features=users, path="~/log"
    )
    config = ir.configs.lr("search")
    config.data = handmade_log.data_config(**{"cross.corpus": False, "cross.corpus_requests": 0})
    config.label.update({"heads": ("engaged",), "utility": (1.0,), "weights": ()})
    config.label.update({"positive": actions, "negative": ()})
    config.train.batch_size = 16
    trainer = ir.Trainer(config, ir.prepare(log, config, "~/examples"), "~/run").fit(steps=2)
    assert {path.name for path in tmp_path.iterdir()} == {"log", "examples", "run"}
    table = trainer.evaluate("test").table().set_index("metric")
    assert 0 < table.loc["roc_auc", "low"] < table.loc["roc_auc", "value"] < 1
    assert trainer.history["step"].tolist() == [0, 2]  # the regression that it starts at, first


def python(code, *arguments):
    """Runs code in a process whose `__main__` has no file, as a notebook's has none."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


NOTEBOOK = '''
import json
import sys

import __main__
assert not hasattr(__main__, "__file__")

def run_cell(number, source):
    exec(compile(source, f"<ipython-input-{number}-0123456789ab>", "exec"), __main__.__dict__)

CELL = """
@ir.models.register("mine")
class Mine(ir.models.TwoTower):
    def score(self, query, items, cross):
        return super().score(query, items, cross) + SLOPE * cross.sum(-1, keepdims=True)

@ir.losses.register("margin", kind="slate")
def margin(logits, labels, *, where=None, weights=None):
    return ir.losses.pairwise_logistic(logits - labels, labels, where=where, weights=weights)
"""
run_cell(1, "import interactrank_jax as ir")
run_cell(2, CELL.replace("SLOPE", "1.0"))
run_cell(3, CELL.replace("SLOPE", "2.0").replace("Mine", "Better"))  # edited and run again
run_cell(4, """
from tests.synthetic import tiny_config
config = tiny_config("two_tower", name="mine")
config.train.loss.margin_weight = 0.5
trainer = ir.Trainer(config, sys.argv[1])
before = trainer.loss(next(trainer.batches()))
figures = trainer.fit(steps=4).evaluate().table()
""")
print(json.dumps({
    "model": type(trainer.run.model).__name__,
    "file": ir.models.MODELS["mine"].file,
    "loss": before,
    "metrics": list(figures["metric"]),
    "curves": list(trainer.history.columns),
}))
'''


class TestNotebook:
    @pytest.fixture(scope="class")
    def notebook(self, examples_path):
        return json.loads(python(NOTEBOOK, examples_path).splitlines()[-1])

    @pytest.mark.thorough  # a training in a process of its own
    def test_a_model_of_a_cell_trains_and_evaluates(self, notebook):
        assert notebook["loss"] > 0
        assert {"roc_auc", "ndcg_at_10"} <= set(notebook["metrics"])
        assert "train/loss/margin" in notebook["curves"]

    @pytest.mark.thorough  # the same process
    def test_a_cell_that_is_edited_and_run_again_takes_its_names_over(self, notebook):
        assert notebook["model"] == "Better"
        assert notebook["file"] == SESSION

    def test_a_session_takes_no_name_from_a_file(self, registries):
        cell = compile('register("two_tower")(Mine)', "<ipython-input-1-0123456789ab>", "exec")
        with pytest.raises(InputError, match=r"'two_tower' is that of TwoTower in .*two_tower\.py"):
            exec(cell, {"register": register, "Mine": type("Mine", (TwoTower,), {})})
        assert MODELS["two_tower"].model is TwoTower
