"""What `convert` makes of columns, what it says of its guesses, and how they are overruled."""

import datetime
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from interactrank_jax import cli
from interactrank_jax.io.errors import InputError
from interactrank_jax.log.adapters.kinds import IGNORE, describe, feature_values
from interactrank_jax.log.adapters.ratings import Options, convert
from interactrank_jax.log.adapters.raw_tables import RawTable
from interactrank_jax.log.read import open_log

ROWS = 30


def described(values, name="x", is_text=True):
    values = list(values)
    table = pa.table({name: pa.array(values, pa.large_string() if is_text else None)})
    return describe(RawTable("items.csv", table, 2, is_text), name, "item", None)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([f"{i * 1.5}" for i in range(ROWS)], "numeric"),
        ([f"{i * 137}" for i in range(ROWS)], "numeric"),
        ([f"{i % 2}" for i in range(ROWS)], "numeric"),
        ([f"{10 ** (i % 14) * (i + 1)}" for i in range(ROWS)], "numeric"),
        ([f"{1990 + i}" for i in range(ROWS)], "numeric"),
        ([f"{i}.25{i % 10}" for i in range(ROWS)] + ["1.5"], "numeric"),
        ([f"0.{i + 100}" for i in range(ROWS)], "numeric"),
        (["7.5", "", "NA", "8"], "numeric"),  # the missing are named when they are read
        (["red", "green", "red"] * 10, "categorical"),
        (["True", "False"] * 10, "categorical"),
        (["Misérables, Les", "Heat, The"] * 10, "categorical"),
        (["NA", "US"] * 10, "categorical"),
    ],
)
def test_a_column_that_is_clear_is_guessed_without_a_warning(values, kind):
    column = described(values)
    assert (column.kind, column.warnings) == (kind, ())


@pytest.mark.parametrize("width", [pa.list_, pa.large_list, lambda kind: pa.list_(kind, 2)])
def test_lists_of_floats_are_embeddings_whatever_their_writer_calls_them(width):
    values = pa.array([[0.5, 1.5], [2.0, 3.0]], width(pa.float32()))
    table = RawTable("items.parquet", pa.table({"x": values}), 1, is_text=False)
    column = describe(table, "x", "item", None)
    assert column.kind == "embedding"
    assert feature_values(table, column).to_pylist() == values.to_pylist()


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, 137, 5000], "numeric"),
        ([1.5, None], "numeric"),
        ([1.0, float("inf"), float("nan")], "numeric"),
        (["a", "b", None, "a"], "categorical"),
        ([True, False], "categorical"),
        ([[0.5, 1.5], [2.0, 3.0]], "embedding"),
    ],
)
def test_types_of_parquet_are_kinds(values, kind):
    column = described(values, is_text=False)
    assert (column.kind, column.warnings) == (kind, ())


@pytest.mark.parametrize(
    ("name", "values", "kind", "warning"),
    [
        ("x", [f"[{i % 3}, 2]" for i in range(ROWS)], "categorical", "lists ('[0, 2]')"),
        ("x", ["a|b", "c", "a|c|d"] * 10, "categorical", "values with '|' between them ('a|b')"),
        ("x", ["a\x18b", "c"] * 10, "categorical", "control characters between them ('a\\x18b')"),
        ("x", ["a;b", "c", "a;c;d"] * 10, "categorical", "values with ';' between them"),
        ("x", ["a,b", "c", "a,c,d"] * 10, "categorical", "values with ',' between them"),
        ("x", ["1,2", "3,4,5"] * 10, "categorical", "values with ',' between them"),
        ("x", [f"{i % 7 + 1}" for i in range(ROWS)], "numeric", "only 7 distinct values: if they"),
        ("zip", [f"{i * 137 + 9}" for i in range(ROWS)], "numeric", "--categorical=zip"),
        ("brandId", [f"{i * 137}" for i in range(ROWS)], "numeric", "named like codes"),
        ("movieid", [f"{i * 137}" for i in range(ROWS)], "numeric", "named like codes"),
        ("x", [f"{i * 137:06}" for i in range(ROWS)], "categorical", "leading zeros as in '00"),
        ("x", [f"{i},5" for i in range(ROWS)], "numeric", "decimal commas as in '0,5'"),
        ("x", ["999", *(f"{i + 1},234" for i in range(ROWS))], "categorical", "('1,234')"),
        ("x", [f"{i + 1},234,567.5" for i in range(ROWS)], "categorical", "between thousands"),
        ("x", [f"{i + 1}.234,5" for i in range(ROWS)], "categorical", "marks between thousands"),
        ("x", [f"{i + 1} 234" for i in range(ROWS)], "categorical", "marks between thousands"),
        ("x", [f"{i + 1}'234" for i in range(ROWS)], "categorical", "marks between thousands"),
        ("x", ["999", *(f"{i + 1}.234" for i in range(ROWS))], "numeric", "if the points stand"),
        ("x", [f"{4006381333931 + i}" for i in range(ROWS)], "numeric", "of 13 digits each"),
        ("x", [f"{1700000000000 + i}" for i in range(ROWS)], "numeric", "times or dates, --ig"),
        ("x", [f"202005{i + 1:02}" for i in range(ROWS)], "numeric", "of 8 digits each"),
        ("ean", [f"{i * 137}" for i in range(ROWS)], "numeric", "named like codes"),
        ("x", [f"A tale of {i} cities" for i in range(ROWS)], "categorical", "free text, --text=x"),
        ("x", [f"{i * 7919:040x}" for i in range(ROWS)], "categorical", "another id, --ignore=x"),
        ("x", [f"n{i}" for i in range(60)], "categorical", "nearly every row has a value of its"),
        ("x", [f"2020-01-{i + 1:02}" for i in range(ROWS)], "categorical", "dates as text"),
        ("x", [f"{i % 28 + 1}/2/1999 10:00" for i in range(ROWS)], "categorical", "dates as text"),
        ("x", [f"{i % 28 + 1:02}-Jan-1995" for i in range(ROWS)], "categorical", "dates as text"),
        ("x", [*(f"{i * 3.5}" for i in range(ROWS)), "none"], "categorical", "example 'none'"),
        ("x", ["", "", ""], IGNORE, "it has no values"),
    ],
)  # fmt: skip
def test_a_guess_that_looks_wrong_is_warned_of(name, values, kind, warning):
    column = described(values, name)
    assert column.kind == kind
    assert warning in " ".join(column.warnings)


@pytest.mark.parametrize(
    ("name", "values", "kind", "warning"),
    [
        ("x", [i % 7 for i in range(ROWS)], "numeric", "only 7 distinct values"),
        ("category", [i * 137 for i in range(ROWS)], "numeric", "--categorical=category"),
        ("x", [4006381333931.0 + i for i in range(ROWS)], "numeric", "of 13 digits each"),
        ("x", [f"{i}" for i in range(ROWS)], "categorical", "all its strings are numbers"),
        ("x", [None, None], IGNORE, "it has no values"),
    ],
)
def test_a_guess_of_parquet_is_warned_of_too(name, values, kind, warning):
    column = described(values, name, is_text=False)
    assert column.kind == kind
    assert warning in " ".join(column.warnings)


@pytest.mark.parametrize(
    ("values", "kind"),
    [([datetime.date(2020, 1, 1)], "date32"), ([["a", "b"]], "list"), ([b"x"], "binary")],
)
def test_a_type_that_no_kind_fits_is_refused(values, kind):
    with pytest.raises(InputError, match=f"column 'x' holds {kind}.*--ignore=x"):
        described(values, is_text=False)


USERS = "user_id,zip,age\nu1,01234,31\nu2,99999,47\n"
ITEMS = "item_id,title,brand\ni1,A long and winding road,7\ni2,The second of all things,8\n"


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source"
    path.mkdir()
    (path / "ratings.csv").write_text("user_id,item_id,rating,device\nu1,i1,1,a\nu2,i2,0,b\n")
    (path / "users.csv").write_text(USERS)
    (path / "items.csv").write_text(ITEMS)
    return path


def run(source, tmp_path, *flags, out="log"):
    command = ["convert", "--format=ratings", f"--source={source}", f"--out={tmp_path / out}"]
    return cli.main([*command, *flags])


def kinds(tmp_path, log="log"):
    return {f.name: f.kind for f in open_log(tmp_path / log).schema.features}


def test_the_guess_is_printed_with_examples(source, tmp_path, capsys):
    assert run(source, tmp_path, "--ignore=age") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[1:6]] == [
        ["column", "entity", "kind", "distinct", "examples"],
        ["zip", "user", "categorical", "2", "'01234',", "'99999'"],
        ["age", "user", "ignore", "2", "'31',", "'47'"],
        ["title", "item", "categorical", "2", "'A", "long", "and", "winding", "road',",
         "'The", "second", "of", "all", "things'"],
        ["brand", "item", "numeric", "2", "'7',", "'8'"],
    ]  # fmt: skip
    warned = [line.split(":")[1].strip() for line in lines if line.startswith("warning: ")]
    assert warned == ["zip", "title", "brand"]
    assert any(line.startswith("not used: 'device' of ") for line in lines)
    assert kinds(tmp_path) == {"zip": "categorical", "title": "categorical", "brand": "numeric"}


def test_the_guess_is_written_edited_and_taken(source, tmp_path, capsys):
    file = tmp_path / "kinds.json"
    flag = f"--schema={file}"
    assert run(source, tmp_path, flag) == 0
    written = json.loads(file.read_text())
    assert [(f["name"], f["entity"], f["kind"]) for f in written["features"]] == [
        ("zip", "user", "categorical"),
        ("age", "user", "numeric"),
        ("title", "item", "categorical"),
        ("brand", "item", "numeric"),
    ]
    assert (
        "2 distinct; such as '7', '8'; integers named like codes"
        in (written["features"][3]["comment"])
    )
    # Taken as it is, it changes nothing.
    before = file.read_bytes()
    assert run(source, tmp_path, flag, out="again") == 0
    for name in ("items", "requests", "impressions"):
        first, second = (
            pq.read_table(tmp_path / log / f"{name}.parquet") for log in ("log", "again")
        )
        assert first.equals(second)
    capsys.readouterr()
    for feature, kind in zip(written["features"], ("ignore", "numeric", "text", "categorical"),
                             strict=True):  # fmt: skip
        feature["kind"] = kind
    file.write_text(json.dumps(written))
    assert run(source, tmp_path, flag, "--text=title", out="edited") == 0
    assert kinds(tmp_path, "edited") == {"age": "numeric", "title": "text", "brand": "categorical"}
    assert "warning" not in capsys.readouterr().out  # nothing is guessed
    assert before != file.read_bytes() == json.dumps(written).encode()


def test_a_file_of_kinds_is_there_even_if_a_column_cannot_be_read_so(source, tmp_path, capsys):
    (source / "users.csv").write_text(USERS.replace(",47", ","))
    file = tmp_path / "kinds.json"
    assert run(source, tmp_path, f"--schema={file}") == 2
    assert "column 'age' is not a finite number in 1 of 2 rows" in capsys.readouterr().err
    file.write_text(file.read_text().replace('"numeric"', '"categorical"'))
    assert run(source, tmp_path, f"--schema={file}") == 0


def edited(tmp_path, change):
    features = [
        {"name": name, "entity": entity, "kind": kind}
        for name, entity, kind in (
            ("zip", "user", "categorical"),
            ("age", "user", "numeric"),
            ("title", "item", "text"),
            ("brand", "item", "categorical"),
        )
    ]
    value = {"format": "interactrank-kinds", "version": 1, "features": features}
    change(value)
    file = tmp_path / "kinds.json"
    file.write_text(json.dumps(value))
    return file


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v["features"][0].update(kind="categorial"), "kind 'categorial'. Did you mean"),
        (lambda v: v["features"][0].update(kind=["text"]), "'zip' has kind ['text']. Did you mean"),
        (lambda v: v["features"][0].update(entity="request"), "'zip' has entity 'request'. Known"),
        (lambda v: v["features"][0].update(name=7), "a feature has name 7. Expected a string"),
        (lambda v: v["features"][0].update(kinds="x"), "field 'kinds'. Did you mean 'kind'"),
        (lambda v: v["features"][0].update(name="zipp"), "no column 'zipp' of the users. Did you"),
        (lambda v: v["features"][0].update(entity="item"), "no column 'zip' of the items. Known"),
        (lambda v: v["features"].pop(1), "says nothing of column 'age' of the users. Add it"),
        (lambda v: v["features"].append(v["features"][0]), "'zip' of the users is there twice"),
        (lambda v: v["features"].append("zip"), "a feature is 'zip'. Expected an object"),
        (lambda v: v.update(features={}), "'features' is not a list"),
        (lambda v: v.pop("features"), "'features' is not a list"),
        (lambda v: v.update(format="interactrank-log"), '"format": "interactrank-kinds"'),
        (lambda v: v.update(version=2), "version is 2, this release reads 1"),
        (lambda v: v.update(features_=[]), "unknown field 'features_'"),
        (lambda v: v["features"][2].update(kind="numeric"), "'title' is not a finite number in 2"),
        (lambda v: v["features"][2].update(kind="embedding"), "an embedding is a list of floats"),
    ],
)  # fmt: skip
def test_a_wrong_file_of_kinds_is_refused(source, tmp_path, change, message, capsys):
    file = edited(tmp_path, change)
    assert run(source, tmp_path, f"--schema={file}") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--text=brand", "--text names 'brand', but {file} says categorical. Leave the flag out"),
        ("--categorical=age", "--categorical names 'age', but {file} says numeric"),
        ("--ignore=zip", "--ignore names 'zip', but {file} says categorical"),
        ("--ignore=zap", "--ignore names 'zap'. Did you mean 'zip'"),
        ("--query=age", "--query names 'age', no categorical feature of users"),
    ],
)
def test_a_flag_that_contradicts_the_file_of_kinds_is_refused(
    source, tmp_path, flag, message, capsys
):
    file = edited(tmp_path, lambda value: None)
    assert run(source, tmp_path, f"--schema={file}", flag) == 2
    assert message.format(file=file) in capsys.readouterr().err
    assert run(source, tmp_path, f"--schema={file}", "--ignore=device", "--query=zip") == 0


def test_a_file_of_kinds_is_a_file_elsewhere(source, tmp_path, capsys):
    assert run(source, tmp_path, f"--schema={tmp_path}") == 2
    assert "is no file" in capsys.readouterr().err
    assert run(source, tmp_path, f"--schema={tmp_path}/log/schema.json") == 2
    assert "which has to be new or empty" in capsys.readouterr().err
    assert not (tmp_path / "log").exists()
    (tmp_path / "kinds.json").write_text("{")
    assert run(source, tmp_path, f"--schema={tmp_path}/kinds.json") == 2
    assert "is not valid JSON" in capsys.readouterr().err


def test_numbers_as_categories_keep_what_is_written(tmp_path, source):
    (source / "items.csv").unlink()
    items = pa.table({"item_id": ["i1", "i2"], "code": [7.0, float("nan")]})
    pq.write_table(items, source / "items.parquet")
    options = Options(categorical=("code", "age"), ignore=("zip",))
    convert(source, tmp_path / "log", options)
    assert pq.read_table(tmp_path / "log" / "items.parquet")["code"].to_pylist() == ["7", ""]
    assert kinds(tmp_path)["age"] == "categorical"
