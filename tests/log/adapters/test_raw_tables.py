"""Raw tables: names that repeat, pandas' row numbers, odd numbers, quotes, and long rows."""

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from interactrank_jax import cli
from interactrank_jax.io.errors import InputError
from interactrank_jax.log.adapters import raw_tables
from interactrank_jax.log.adapters.ratings import Options, convert

RATINGS = "user_id,item_id,rating\nu1,i1,1\nu1,i2,0\nu2,i1,0\n"


def source(tmp_path, **tables):
    """A directory of tables: text, or Parquet of an Arrow table."""
    path = tmp_path / "source"
    path.mkdir(parents=True)
    for name, table in {"ratings": RATINGS, **tables}.items():
        if isinstance(table, str):
            (path / f"{name}.csv").write_text(table)
        else:
            pq.write_table(table, path / f"{name}.parquet")
    return path


def log_table(tmp_path, name):
    return pq.read_table(tmp_path / "log" / f"{name}.parquet")


def items(tmp_path, **options):
    """The columns of items that a log gets, and what is said."""
    said = []
    convert(tmp_path / "source", tmp_path / "log", Options(**options), said.append)
    return log_table(tmp_path, "items"), "\n".join(said)


@pytest.mark.parametrize("names", [("price", "price"), ("price", "Price")])
@pytest.mark.parametrize("table", ["text", "parquet"])
def test_a_name_that_repeats_is_refused(tmp_path, names, table):
    data = pa.table([["i1", "i2"], [1, 2], [3, 4]], ["item_id", *names])
    text = ",".join(["item_id", *names]) + "\ni1,1,3\ni2,2,4\n"
    path = source(tmp_path, items=text if table == "text" else data)
    with pytest.raises(InputError, match=f"items.*columns '{names[0]}' and '{names[1]}' have one"):
        convert(path, tmp_path / "log", Options())


def test_a_name_of_users_that_items_have_too_is_refused(tmp_path):
    path = source(
        tmp_path, users="user_id,price\nu1,1\nu2,2\n", items="item_id,Price\ni1,1\ni2,2\n"
    )
    with pytest.raises(InputError, match=r"'price' and 'Price' have one name.*--ignore"):
        convert(path, tmp_path / "log", Options())
    convert(path, tmp_path / "log", Options(ignore=("Price",)))


@pytest.mark.parametrize("columns", ["user_id,item_id,rating,rating", "user_id,item_id,rating,A,a"])
def test_a_name_that_repeats_among_those_given_is_refused(tmp_path, columns):
    with pytest.raises(InputError, match=r"--columns: columns '(rating|A)' and '(rating|a)' have"):
        convert(source(tmp_path), tmp_path / "log", Options(columns=tuple(columns.split(","))))


@pytest.mark.parametrize("names", ["", "Unnamed: 0", "Unnamed: 0.1,Unnamed: 0", ",Unnamed: 0"])
def test_row_numbers_that_pandas_wrote_as_text_are_no_features(tmp_path, names):
    front = "7," * (names.count(",") + 1)
    source(tmp_path, items=f"{names},item_id,price\n{front}i1,1.5\n{front}i2,2.5\n")
    table, said = items(tmp_path)
    assert table.column_names == ["item_id", "price"]
    assert "left out: row numbers of pandas in " in said
    assert "items.csv" in said


def test_row_numbers_that_pandas_wrote_as_parquet_are_no_features(tmp_path):
    numbers = {"__index_level_0__": [7, 9], "__index_level_1__": ["a", "b"]}
    source(tmp_path, items=pa.table({"item_id": ["i1", "i2"], "price": [1.0, 2.0], **numbers}))
    table, said = items(tmp_path)
    assert table.column_names == ["item_id", "price"]
    assert "left out: row numbers of pandas in " in said


def test_a_stray_quote_that_swallows_rows_is_refused(tmp_path):
    source(tmp_path)
    rows = [f"u{row % 5},i{row},{row % 2}" for row in range(40)]
    rows[10] = rows[10].replace(",i10", ',"i10')
    rows[15] = rows[15].replace(",i15", ',i15"')
    text = "\n".join(["user_id,item_id,rating", *rows, ""])
    (tmp_path / "source" / "ratings.csv").write_text(text)
    with pytest.raises(InputError, match=r"holds a line break in 1 of .* a stray quote before it"):
        items(tmp_path)


def test_row_numbers_are_read_where_a_flag_names_them(tmp_path):
    data = {"__index_level_0__": ["i1", "i2"], "Unnamed: 0": [1, 2], "price": [1.0, 2.0]}
    ratings = {"user_id": ["u", "u"], "__index_level_0__": ["i1", "i2"], "rating": [0, 1]}
    source(tmp_path, items=pa.table(data), ratings=pa.table(ratings))
    table, said = items(tmp_path, item="__index_level_0__", ignore=("Unnamed: 0",))
    assert table["item_id"].to_pylist() == ["i1", "i2"]
    assert table.column_names == ["item_id", "price"]
    assert "row numbers" not in said


def test_a_nameless_column_is_refused_if_it_holds_anything(tmp_path):
    source(tmp_path, items="item_id,price,\ni1,1,\ni2,2,\n")
    assert items(tmp_path)[0].column_names == ["item_id", "price"]
    shutil.rmtree(tmp_path / "log")
    (tmp_path / "source" / "items.csv").write_text("item_id,,price\ni1,1,1\ni2,2,2\n")
    with pytest.raises(InputError, match=r"items\.csv: column 2 has no name"):
        items(tmp_path)
    (tmp_path / "source" / "items.csv").write_text(",item_id,price\nA,i1,1\nB,i2,2\n")
    with pytest.raises(InputError, match=r"items\.csv: column 1 has no name"):
        items(tmp_path)


def test_a_decimal_comma_is_read_and_said(tmp_path):
    source(
        tmp_path,
        ratings="user_id;item_id;rating\nu;i1;3,5\nu;i2;4\nu;i3;2,5\n",
        items="item_id;price;size\ni1;0,125;3,5\ni2;7,5;-4\ni3;1; 5 \n",
    )
    table, said = items(tmp_path, threshold=3)
    assert "warning: size: decimal commas as in '3,5'" in said
    assert log_table(tmp_path, "impressions")["like"].to_pylist() == [True, True, False]
    assert table["size"].to_pylist() == [3.5, -4.0, 5.0]
    assert table["price"].to_pylist() == [0.125, 7.5, 1.0]


@pytest.mark.parametrize("separator", ["::", "é", '"', "\n", "\0", 'a"'])
def test_a_separator_is_one_character(separator):
    with pytest.raises(InputError, match=r"--separator=.*Expected one ASCII character"):
        Options(separator=separator)


@pytest.mark.parametrize("option", ["threshold", "neutral"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_ratings_are_compared_with_is_finite(option, value):
    with pytest.raises(InputError, match=f"--{option}={value}. Expected a finite number"):
        Options(**{option: value})


def test_without_a_header_a_decimal_comma_is_no_separator(tmp_path):
    path = source(tmp_path)
    (path / "ratings.csv").write_text("u;i1;3,5;1,5\nu;i2;1,0;2,5\n")
    options = Options(columns=("user_id", "item_id", "rating", "x"), threshold=3)
    assert convert(path, tmp_path / "log", options)["successes"] == 1


def test_a_comma_that_may_stand_between_thousands_is_no_decimal_comma(tmp_path):
    path = source(tmp_path, ratings="user_id;item_id;rating\nu;i1;1,234\nu;i2;2\n")
    with pytest.raises(InputError, match=r"'1,234' in row 2. Write it with a decimal point"):
        convert(path, tmp_path / "log", Options())


def test_line_breaks_inside_quotes_are_read_beyond_a_block(tmp_path):
    long, short = "line, and\n" * 200_000, "a\nb"  # 2 MB, and far less
    text = ["item_id,title", *(f'i{i},"{long if i == 9 else short}"' for i in range(90_000))]
    source(tmp_path, items="\n".join(text) + "\n")
    titles = items(tmp_path, text=("title",))[0]["title"].to_pylist()
    assert titles.pop(9) == long
    assert set(titles) == {short}
    assert len(titles) == 89_999


def test_a_cell_larger_than_a_block_is_read(tmp_path):
    source(tmp_path, items=f'item_id,title\ni1,"{"word " * 600_000}"\ni2,b\n')
    table, _ = items(tmp_path, text=("title",))
    assert [len(title.as_py()) for title in table["title"]] == [3_000_000, 1]


def test_a_row_larger_than_the_largest_block_is_explained(tmp_path, monkeypatch):
    monkeypatch.setattr(raw_tables, "_BLOCKS", (1 << 10, 1 << 12))
    for length, fits in ((3_000, True), (9_000, False)):
        path = source(tmp_path / str(length), items=f"item_id,t\ni1,{'x' * length}\ni2,b\n")
        if fits:
            convert(path, tmp_path / "log", Options())
        else:
            with pytest.raises(
                InputError, match=r"items\.csv has a row longer than 4,096 bytes.*qu"
            ):
                convert(path, tmp_path / "other", Options())


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_quote_that_is_not_closed_swallows_no_rows(tmp_path, end):
    path = source(tmp_path, items=f'item_id,title\ni1,a\ni2,"b\ni3,c\ni4,d{end}')
    with pytest.raises(
        InputError, match=r"items\.csv: the last value goes over \d lines.*not closed"
    ):
        convert(path, tmp_path / "log", Options())
    (path / "items.csv").write_text(f'item_id,title\ni1,5" pipe\ni2,"b\nc"{end}')
    convert(path, tmp_path / "log", Options())
    assert log_table(tmp_path, "items")["title"].to_pylist() == ['5" pipe', "b\nc"]


def test_messages_cut_what_is_long_and_show_no_control_characters(tmp_path, capsys):
    value = "\x1b[31m" + "x" * 5_000
    path = source(tmp_path, items=f"item_id,title\ni1,{value}\ni2,b\n", ratings=(
        f"user_id,item_id,rating\nu1,i1,1\nu1,{value},0\n"))  # fmt: skip
    flags = ["convert", "--format=ratings", f"--source={path}", f"--out={tmp_path / 'log'}"]
    assert cli.main(flags) == 2
    (path / "ratings.csv").write_text(RATINGS + "u1\x1b[31m\n")
    assert cli.main(flags) == 2
    (path / "ratings.csv").write_text(RATINGS)
    assert cli.main(flags) == 0
    captured = capsys.readouterr()
    assert "unknown item, for example '\\x1b[31mxxx" in captured.err
    assert "'\\x1b[31mxxx" in captured.out
    assert "\x1b" not in captured.out + captured.err
    assert "x" * 100 not in captured.out + captured.err
    assert captured.err.count("\n") == 2


def test_ids_that_became_floats_are_integers_again(tmp_path):
    ratings = pa.table({"user_id": [1.0, 2.0], "item_id": [1e15, 7.0], "rating": [0, 1]})
    items_table = pa.table({"item_id": [7, 10**15]})
    path = source(tmp_path, items=items_table, ratings=ratings)
    convert(path, tmp_path / "log", Options())
    assert log_table(tmp_path, "requests")["user_id"].to_pylist() == [1, 2]
    assert log_table(tmp_path, "impressions")["item_id"].to_pylist() == [10**15, 7]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1.0, 1.5], "'user_id' is no id in 1 of 2 rows, for example 1.5 in row 2"),
        ([1.0, float("nan")], "'user_id' is no id in 1 of 2 rows, for example nan"),
        ([1.0, 1e300], "'user_id' is no id in 1 of 2 rows, for example 1e\\+300"),
        ([1.0, None], "'user_id' is empty in 1 of 2 rows"),
        ([["a"], ["b"]], r"'user_id' holds list.*Expected ids that are integers or strings"),
    ],
)
def test_columns_that_are_no_ids_are_refused(tmp_path, ids, message):
    path = source(tmp_path, ratings=pa.table({"user_id": ids, "item_id": ["a", "b"],
                                              "rating": [0, 1]}))  # fmt: skip
    with pytest.raises(InputError, match=message):
        convert(path, tmp_path / "log", Options())


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (["2020-01-01", "yesterday"], "'t' is no time in 1 of 2 rows, for example 'yesterday'"),
        (["1577836800", "2020-01-01"], "'t' is no time in 1 of 2 rows, for example '1577836800'"),
        (["2020-01-01T00:00:00Z", "2020-01-01"], "'t' holds times that cannot be read together"),
        (["2020-02-30", "2020-01-01"], "'t' holds times that cannot be read together"),
        (["", "2020-01-01"], "'t' is no time in 1 of 2 rows, for example '' in row 2"),
    ],
)
def test_times_that_are_none_are_shown(tmp_path, times, message):
    path = source(
        tmp_path, ratings=f"user_id,item_id,rating,t\nu,a,1,{times[0]}\nu,b,0,{times[1]}\n"
    )
    with pytest.raises(InputError, match=message):
        convert(path, tmp_path / "log", Options(time="t"))


@pytest.mark.parametrize(
    ("time", "remedy"),
    [
        ("1577836800000", "these look like milliseconds: divide by 1000"),
        ("1577836800000000", "these look like microseconds: divide by 1000000"),
        ("1577836800000000000", "these look like nanoseconds: divide by 1000000000"),
        ("20200101", "write UTC seconds, or dates and times as in ISO 8601"),
        ("5", "write UTC seconds, or dates and times as in ISO 8601"),
    ],
)
def test_times_in_another_unit_are_told_which_and_no_others(tmp_path, time, remedy):
    path = source(tmp_path, ratings=f"user_id,item_id,rating,t\nu,a,1,{time}\nu,b,0,{time}\n")
    with pytest.raises(InputError, match=rf"'t' is no time between 1990.* in row 2: {remedy}\."):
        convert(path, tmp_path / "log", Options(time="t"))


@pytest.mark.parametrize(
    "times",
    [
        ("1577836800", "1577840400.9"),
        ("2020-01-01", "2020-01-01 01:00"),
        ("2020-01-01T02:00:00+02:00", "2020-01-01T01:00:00.5Z"),
    ],
)
def test_times_are_read_however_they_are_written(tmp_path, times):
    path = source(
        tmp_path, ratings=f"user_id,item_id,rating,t\nu,a,1,{times[0]}\nu,b,0,{times[1]}\n"
    )
    convert(path, tmp_path / "log", Options(time="t"))
    times = log_table(tmp_path, "events")["event_time"].to_pylist()
    assert times == [1_577_836_800, 1_577_840_400]


def test_a_page_whose_checksum_is_wrong_is_refused(tmp_path):
    path = source(tmp_path)
    table = pa.table({"item_id": ["i1", "i2"], "price": [1.5, 2.5]})
    pq.write_table(table, path / "items.parquet", compression="none", use_dictionary=False,
                   write_page_checksum=True, write_statistics=False)  # fmt: skip
    content = (path / "items.parquet").read_bytes()
    one, two = (np.float64(price).tobytes() for price in (1.5, 1.25))
    (path / "items.parquet").write_bytes(content.replace(one, two, 1))
    with pytest.raises(InputError, match=r"items\.parquet cannot be read.*checksum"):
        convert(path, tmp_path / "log", Options())


def test_strings_of_every_type_of_parquet_are_text(tmp_path):
    types = {"a": pa.string(), "b": pa.large_string(), "c": pa.string_view()}
    columns = {name: pa.array(["x", None], kind) for name, kind in types.items()}
    columns["d"] = pa.array(["x", None]).dictionary_encode()
    source(tmp_path, items=pa.table({"item_id": ["i1", "i2"], **columns}))
    table, _ = items(tmp_path, text=("a", "b"))
    assert table.to_pylist()[1] == {"item_id": "i2", "a": "", "b": "", "c": "", "d": ""}


def test_an_empty_file_is_called_empty(tmp_path):
    path = source(tmp_path, ratings="\n\n")
    with pytest.raises(InputError, match=r"ratings\.csv is empty"):
        convert(path, tmp_path / "log", Options())


def test_a_parquet_file_without_rows_or_with_names_of_its_own_is_refused(tmp_path):
    empty = pa.table({"user_id": pa.array([], pa.string())})
    path = source(tmp_path, ratings=empty)
    with pytest.raises(InputError, match=r"ratings\.parquet has no rows"):
        convert(path, tmp_path / "log", Options())
    with pytest.raises(InputError, match="--columns names those of text"):
        convert(path, tmp_path / "log", Options(columns=("a", "b")))
