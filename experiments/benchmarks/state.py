"""STATE and features as of a day: rows per second, memory, growth with the log, pandas beside it.

    python -m experiments.benchmarks.state --rows 1000000 10000000 100000000 --out=runs/benchmarks

A row is an impression; its features, as of its day, are the `search` config's. The log is made
first, which is not timed: 200 days, a fifth of the requests with one query, events that arrive up
to two days late. Counting (`state build`) and features (`state features`) run in a process of their
own, from Parquet to Parquet. DuckDB may hold `--memory`; the peak is of the whole process.

The peers are pandas: `groupby(...).rolling(...)` over daily counts, as one would write it, and the
fastest that we know of, running sums with a `merge_asof` for each end of a window. Their values are
compared with ours.
"""

import importlib.util
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from experiments.benchmarks import reporting
from interactrank_jax.config import data_sets
from interactrank_jax.log.read import open_log
from interactrank_jax.log.schema import FeatureSpec, Schema
from interactrank_jax.state import as_of, engines
from interactrank_jax.state.build import build_store

ROWS = (1_000_000, 10_000_000, 100_000_000)
DAY, DAYS, START = 86_400, 200, 19_000
SLATE = 10
CHUNK = 500_000  # requests of a part of the log
COUNTRIES = ("br", "de", "fr", "gb", "us")
ACTIONS = ("click", "long_click", "short_click", "save")
RATES = (0.12, 0.05, 0.02, 0.02)
HEAD_SHARE = 0.2  # of the requests have the most frequent query
ITEMS_OF_A_QUERY = 200
SCHEMA = Schema((FeatureSpec("country", "user", "categorical"),), ACTIONS)


def make_log(rows: int, seed: int, path: Path) -> Path:
    """Writes a log of so many impressions; queries, users and items grow with it."""
    rng = np.random.default_rng(seed)
    requests = rows // SLATE
    queries, items, users = max(requests // 20, 10), max(requests // 50, 400), requests // 10
    SCHEMA.save(path)
    names = {"q": _ids("q", queries), "p": _ids("p", items), "u": _ids("u", users)}
    for table in ("items", "requests", "impressions", "events"):
        (path / table).mkdir()
    pq.write_table(pa.table({"item_id": names["p"]}), path / "items/part-0.parquet")
    country = rng.integers(0, len(COUNTRIES), users)
    events = 0
    for part, first in enumerate(range(0, requests, CHUNK)):
        n = min(CHUNK, requests - first)
        # In the order of time over the whole log.
        low, high = (DAYS * DAY * at // requests for at in (first, first + n))
        timestamp = START * DAY + np.sort(rng.integers(low, high, n))
        query = (queries * rng.random(n) ** 3).astype(np.int64)
        query[rng.random(n) < HEAD_SHARE] = 0
        user = rng.integers(0, users, n)
        # Each query has items of its own, of which the first are shown most; none twice.
        pool = (ITEMS_OF_A_QUERY * rng.random((n, SLATE)) ** 2).astype(np.int64)
        pool = (pool // SLATE * SLATE + np.arange(SLATE)) % ITEMS_OF_A_QUERY
        item = (query[:, None] * 7919 + pool) % items
        actions = rng.random((n, SLATE, len(ACTIONS)), np.float32) < np.array(RATES, np.float32)
        columns = {
            "request_id": np.arange(first, first + n),
            "user_id": names["u"].take(user),
            "query_id": names["q"].take(query),
            "timestamp": timestamp,
            "country": pa.array(COUNTRIES).take(country[user]),
        }
        pq.write_table(pa.table(columns), path / f"requests/part-{part:04}.parquet")
        shown = {
            "request_id": np.repeat(columns["request_id"], SLATE),
            "item_id": names["p"].take(item.ravel()),
            "position": np.tile(np.arange(SLATE, dtype=np.int32), n),
        }
        shown |= {name: actions[..., k].ravel() for k, name in enumerate(ACTIONS)}
        pq.write_table(pa.table(shown), path / f"impressions/part-{part:04}.parquet")
        row, place, action = np.nonzero(actions)
        moment = timestamp[row] + rng.integers(1, 600, len(row))
        late = np.where(rng.random(len(row)) < 0.05, rng.integers(0, 2 * DAY, len(row)), 0)
        done = {
            "event_id": np.arange(events, events + len(row)),
            "user_id": names["u"].take(user[row]),
            "query_id": names["q"].take(query[row]),
            "item_id": names["p"].take(item[row, place]),
            "action": pa.array(ACTIONS).take(action),
            "event_time": moment,
            "arrival_time": moment + late,
            "country": pa.array(COUNTRIES).take(country[user[row]]),
        }
        pq.write_table(pa.table(done), path / f"events/part-{part:04}.parquet")
        events += len(row)
    return path


def _ids(prefix: str, count: int) -> pa.Array:
    return pa.array([f"{prefix}{number}" for number in range(count)])


def run_ours(log_path: Path, out: Path, memory: str, engine: str = "duckdb") -> dict[str, float]:
    """Counts a log and writes its features; returns seconds of each and the peak memory in GiB."""
    log = open_log(log_path)
    start = time.perf_counter()
    with engines.connect(engine, out / "scratch", memory) as backend:
        held = build_store(data_sets.search_data(), log, out / "state", backend)
        counted = time.perf_counter()
        as_of.write(log, held, backend, out / "features")
    end = time.perf_counter()
    return {"build": counted - start, "features": end - counted, "peak_gib": reporting.peak_gib()}


def run_pandas(log_path: Path, out: Path, way: str) -> dict[str, float]:
    """Makes the same features with pandas, `way` one of PANDAS; returns seconds and peak in GiB."""
    import pandas as pd

    start = time.perf_counter()
    cross = data_sets.search_data().cross
    requests = pd.read_parquet(log_path / "requests")
    shown = pd.read_parquet(log_path / "impressions")
    events = pd.read_parquet(log_path / "events").drop_duplicates("event_id")
    events["day"] = events["arrival_time"] // DAY
    events = events.rename(columns={"query_id": "query", "item_id": "item"})
    requests["day"] = requests["timestamp"] // DAY
    asked = requests[["request_id", "query_id", "country", "day"]]
    rows = shown.merge(asked, on="request_id").rename(
        columns={"query_id": "query", "item_id": "item"}
    )
    for name in cross.features:
        _, action, window, *segment = name.split(":")
        done = events[events["action"] == action]
        count, total = (
            PANDAS[way](pd, done, rows, keys, int(window), cross.lag_days)
            for keys in (["query", *segment, "item"], ["query", *segment])
        )
        rows[name] = (count / (total + cross.prior)).astype("float32")
    out.mkdir(parents=True, exist_ok=True)
    kept = ["request_id", "item", *ACTIONS, *cross.features]
    rows[kept].to_parquet(out / "features.parquet")
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "peak_gib": reporting.peak_gib()}


def _asof(
    pd: Any, events: Any, rows: Any, keys: list[str], window: int, lag_days: int
) -> np.ndarray:
    """Returns how many events each row's window holds, by running sums."""
    daily = events.groupby([*keys, "day"]).size().rename("n").reset_index().sort_values("day")
    daily["n"] = daily.groupby(keys)["n"].cumsum()
    result = np.zeros(len(rows))
    for sign, back in ((1, lag_days), (-1, lag_days + window)):
        probes = rows[[*keys, "day"]].assign(place=np.arange(len(rows)), day=rows["day"] - back)
        found = pd.merge_asof(probes.sort_values("day"), daily, on="day", by=keys)
        result[found["place"].to_numpy()] += sign * found["n"].fillna(0).to_numpy()
    return result


def _rolling(
    pd: Any, events: Any, rows: Any, keys: list[str], window: int, lag_days: int
) -> np.ndarray:
    """Returns how many events each row's window holds, by a rolling sum per key."""
    daily = events.groupby([*keys, "day"]).size().rename("n").reset_index()
    # What was counted on a day is known lag_days later; `closed="left"` leaves out the day itself.
    daily["day"] += lag_days - 1
    asked = rows[[*keys, "day"]].drop_duplicates().assign(n=0)
    both = pd.concat([daily, asked]).groupby([*keys, "day"], as_index=False)["n"].sum()
    both["date"] = pd.to_datetime(both["day"], unit="D")
    rolled = both.sort_values([*keys, "day"]).set_index("date").groupby(keys)["n"]
    both["n"] = rolled.rolling(f"{window}D", closed="left").sum().fillna(0).to_numpy()
    return rows[[*keys, "day"]].merge(both, on=[*keys, "day"], how="left")["n"].to_numpy()


PANDAS = {"rolling": _rolling, "asof": _asof}


def largest_difference(ours: Path, theirs: Path) -> float:
    """Returns the largest difference between the features of two runs, row by row."""
    names = [str(name) for name in data_sets.search_data().cross.features]
    tables = [
        pq.read_table(ours / "features" / "features").rename_columns({"item_id": "item"}),
        pq.read_table(theirs / "features.parquet"),
    ]
    by = [("request_id", "ascending"), ("item", "ascending")]
    first, second = (table.sort_by(by) for table in tables)
    assert first["request_id"].equals(second["request_id"])
    return max(
        float(np.abs(first[name].to_numpy() - second[name].to_numpy()).max()) for name in names
    )


def engines_equal(log_path: Path, out: Path) -> bool | None:
    """Returns whether Spark's features are DuckDB's, to the bit; None where it cannot run."""
    if not shutil.which("java") or importlib.util.find_spec("pyspark") is None:
        return None
    tables = []
    for engine in ("duckdb", "spark"):
        run_ours(log_path, out / engine, "2GB", engine)
        table = pq.read_table(out / engine / "features" / "features")
        tables.append(table.sort_by([("request_id", "ascending"), ("item_id", "ascending")]))
    return tables[0].to_pydict() == tables[1].to_pydict()


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Parses the command line, measures, prints and returns the figures."""
    parser = reporting.parser(__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=list(ROWS), help="of each log")
    parser.add_argument("--pandas_rows", type=int, default=1_000_000, help="of pandas' log")
    parser.add_argument("--memory", default=engines.MEMORY, help="what DuckDB may hold")
    parser.add_argument("--no_spark", action="store_true", help="leave its comparison out")
    parser.add_argument("--repeats", type=int, default=3, help="of the comparison with pandas")
    arguments = parser.parse_args(argv)
    if arguments.quick:
        arguments.rows, arguments.pandas_rows, arguments.repeats = [20_000, 40_000], 5_000, 1
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
    figures: dict[str, Any] = {}
    runs: dict[str, Any] = {}
    for rows in arguments.rows:
        with tempfile.TemporaryDirectory(dir=arguments.out) as directory:
            log = make_log(rows, arguments.seed, Path(directory) / "log")
            result = reporting.apart(run_ours, log, Path(directory) / "ours", arguments.memory)
        runs[str(rows)] = result
        figures[f"seconds_{rows}"] = seconds = result["build"] + result["features"]
        figures["rows_per_s"], figures["peak_gib"] = rows / seconds, result["peak_gib"]
        print(f"{rows:>12,} rows: {result}", flush=True)
    for less, more in zip(arguments.rows, arguments.rows[1:], strict=False):
        growth = figures[f"seconds_{more}"] / figures[f"seconds_{less}"]
        limit = more * np.log(more) / (less * np.log(less))
        figures[f"growth_over_n_log_n_{more}"] = growth / limit
    with tempfile.TemporaryDirectory(dir=arguments.out) as directory:
        place = Path(directory)
        log = make_log(arguments.pandas_rows, arguments.seed, place / "log")
        ratios: dict[str, list[float]] = {way: [] for way in PANDAS}
        differences = []
        for repeat in range(arguments.repeats):
            for way, found in ratios.items():
                name = f"{way}_{repeat}"
                ours = reporting.apart(run_ours, log, place / f"ours_{name}", arguments.memory)
                theirs = reporting.apart(run_pandas, log, place / name, way)
                found.append(theirs["seconds"] / (ours["build"] + ours["features"]))
                runs[f"pandas_{name}"] = {"ours": ours, "pandas": theirs}
                differences.append(largest_difference(place / f"ours_{name}", place / name))
        figures["speedup_vs_pandas"] = float(np.median(ratios["rolling"]))
        figures["speedup_vs_pandas_asof"] = float(np.median(ratios["asof"]))
        figures["largest_difference_from_pandas"] = max(differences)
        figures["engines_equal"] = None
        if not arguments.no_spark:
            small = make_log(2_000, arguments.seed, place / "small")
            figures["engines_equal"] = reporting.apart(engines_equal, small, place / "engines")
    reporting.report("state", arguments, figures, runs=runs)
    return figures


if __name__ == "__main__":
    main()
