"""RecFlow as a log: an industrial funnel of six stages, unexposed candidates included.

Q. Liu et al., "RecFlow: An Industrial Full Flow Recommendation Dataset", ICLR 2025
(arXiv 2410.20868); columns and their meaning as in the README and the code of the owners'
repository, https://github.com/RecFlow-ICLR/RecFlow (CC BY-SA 4.0).

SOURCE is the owners' directory. Read are the days in `all_stage/DATE.feather`, or, where that
folder is absent, those in `realshow/DATE.feather`, which has exposed videos only. A directory with
some of the days is a log of those days. A row is a candidate of a request.

- A request is a feed that was asked for: there is no query, so `query_id` is what is known of
  somebody who has typed nothing, the user's gender and age, as for MovieLens.
- Stage `shown` is `realshow`. All else is `retrieved`: it was never seen, so that nothing done or
  not done with it is feedback, and it has no action whatever its columns say. The config `recflow`
  gives such rows weight 0 as negatives (`train.loss.stage_weights`); `evaluate` has a table against
  each stage.
- `teacher_score` is how far the candidate came, by the priorities of the owners' FS-LTR without
  that of clicks: 5 exposed, 4 top 10 of rank or re-rank, 3 below it there, 2 beyond the top 500 of
  coarse ranking, 1 beyond the top 500 of pre-ranking, 0 no mark. Only its order means anything:
  use it with `train.loss.distill_ndcg_weight`. The column `funnel_stage`, which is for the eye,
  names the mark that decided.
- Actions are the feedback on exposed videos. The data has no time of it: it counts from the time of
  the request, so the config lets a history end ten minutes before.
- `position` orders a request's candidates by how far they came, then by their rank in the owners'
  re-ranking and ranking: no screen position is published.
- A video's features are those of the first request that it is a candidate of, by time.

Times of requests are milliseconds and times of upload are seconds, as the owners' code reads them.
Not confirmed by anything published: what the files hold where a value does not apply (such as
`rank_index` of a video that was never ranked; it is used only beside the mark of its stage), and
whether a candidate has one row per request. Of several, marks are joined, and so are the actions of
those that are exposed.
"""

from pathlib import Path
from typing import Any

from tqdm import tqdm

from interactrank_jax.io import files, outputs
from interactrank_jax.io.errors import InputError
from interactrank_jax.log.adapters.streams import (
    Check,
    Stream,
    binary,
    feather_files,
    in_time,
    literal,
    open_stream,
    present,
    quoted,
)
from interactrank_jax.log.schema import FeatureSpec, Schema

ACTIONS = ("effective_view", "long_view", "like", "follow", "forward", "comment")
USER_FEATURES = ("age", "gender", "province")
ITEM_FEATURES = ("author_id", "category_level_one", "category_level_two", "upload_type")
# The owners' marks with FS-LTR's priorities, the furthest first.
MARKS = {
    "realshow": 5,
    "rerank_pos": 4,
    "rank_pos": 4,
    "rerank_neg": 3,
    "rank_neg": 3,
    "coarse_neg": 2,
    "prerank_neg": 1,
}
SCHEMA = Schema(
    features=(
        *(FeatureSpec(name, "user", "categorical") for name in USER_FEATURES),
        FeatureSpec("device_id", "request", "categorical"),
        FeatureSpec("hour", "request", "categorical"),
        *(FeatureSpec(name, "item", "categorical") for name in ITEM_FEATURES),
        FeatureSpec("duration_s", "item", "numeric"),
    ),
    actions=ACTIONS,
)
_IDS = ("request_id", "user_id", "video_id", "request_timestamp")
_DESCRIBED = ("device_id", *USER_FEATURES, *ITEM_FEATURES, "duration", "upload_timestamp")
_INDICES = ("rerank_index", "rank_index")
_EXPECTED = "Expected RecFlow's directory, with all_stage/DATE.feather or realshow/DATE.feather."
_SECONDS = "request_timestamp // 1000"


def convert(source: files.PathLike, out: files.PathLike) -> dict[str, Any]:
    """Writes RecFlow as a log to the directory `out`; memory does not grow with its length.

    Args:
      source: the owners' directory, or a part of it with some of the days.
      out: a new or empty directory, not inside `source`.

    Returns:
      `days` read, `candidates` read, rows written per table (`items`, `requests`, `impressions`),
      `shown` ones of these, and the candidates `unmarked`, without the mark of any stage.

    Raises:
      InputError: what is wrong, by file, column, number of rows and an example.
    """
    outputs.output_directory(out, source)
    days, has_stages = _days(Path(source))
    counts = dict.fromkeys(("candidates", "requests", "impressions", "shown", "unmarked"), 0)
    with outputs.new_directory(out) as path, open_stream(path) as stream:
        SCHEMA.save(path)
        stream.run("CREATE TABLE videos (" + ", ".join(_video_columns()) + ")", str(source))
        stream.run("CREATE TABLE earlier (request_id BIGINT, file VARCHAR)", str(source))
        for day in tqdm(days, unit=" days", disable=None):
            for name, count in _convert_day(stream, day, has_stages).items():
                counts[name] += count
        items = stream.write(_items(), "items", str(source))
    return {"days": len(days), "items": items, **counts}


def _days(source: Path) -> tuple[list[Path], bool]:
    """Returns the files of the days, and whether they have the marks of stages."""
    for folder, has_stages in (("all_stage", True), ("realshow", False)):
        days = sorted((source / folder).glob("*.feather"))
        if days:
            return days, has_stages
    what = "is no directory" if not source.is_dir() else "holds no such file"
    raise InputError(f"{source} {what}. {_EXPECTED}")


def _convert_day(stream: Stream, file: Path, has_stages: bool) -> dict[str, int]:
    """Writes the requests and impressions of one day, and notes its videos; returns counts."""
    marks = tuple(MARKS) if has_stages else ()
    needed = (*_IDS, *_DESCRIBED, *ACTIONS, *marks, *(_INDICES if has_stages else ()))
    where = str(file)
    # A view named after the dataset: DuckDB asks it for the columns of a query, batch by batch.
    stream.connection.register("raw", feather_files([file], needed))
    numbers = (*_IDS, "duration", "upload_timestamp", *ACTIONS, *marks)
    numbers += _INDICES if has_stages else ()
    casts = ", ".join(f"TRY_CAST({quoted(name)} AS BIGINT) AS {quoted(name)}" for name in numbers)
    texts = ", ".join(
        f"coalesce(CAST({name} AS VARCHAR), '') AS {name}"
        for name in ("device_id", *USER_FEATURES, *ITEM_FEATURES)
    )
    stream.run(f"CREATE OR REPLACE TEMP VIEW typed AS SELECT {casts}, {texts} FROM raw", where)
    milliseconds = Check(
        "request_timestamp",
        f"NOT {in_time(_SECONDS)}",
        "is no time",
        "expected UTC milliseconds between 1990 and 2100",
    )
    checks = [*map(present, (*_IDS, "duration")), milliseconds]
    checks += [binary(name) for name in (*ACTIONS, *marks)]
    candidates = stream.check("typed", where, checks)
    stream.run(f"CREATE OR REPLACE TEMP TABLE day AS {_day(has_stages)}", where)
    _refuse_repeats(stream, where)
    stream.run(f"INSERT INTO videos {_videos_of_day()}", where)
    part = file.stem
    counts = {
        "candidates": candidates,
        "requests": stream.write(_requests(stream, where), "requests", where, part),
        "impressions": stream.write(_impressions(), "impressions", where, part),
    }
    totals = "count(*) FILTER (WHERE level = 5) AS shown, count(*) FILTER (WHERE level = 0)"
    return counts | stream.row(f"SELECT {totals} AS unmarked FROM day", where)


def _refuse_repeats(stream: Stream, where: str) -> None:
    """Raises InputError if requests of a day are in the file of an earlier one; notes the day's."""
    both = "(SELECT DISTINCT request_id FROM day) JOIN earlier USING (request_id)"
    columns = "count(*) AS requests, min(request_id) AS example, min(file) AS file"
    repeats = stream.row(f"SELECT {columns} FROM {both}", where)
    if repeats["requests"]:
        raise InputError(
            f"{where}: column 'request_id' names {repeats['requests']:,} requests that "
            f"{repeats['file']} has too, for example {repeats['example']}. Expected all candidates "
            f"of a request in the file of one day: remove the copy, or join the two files."
        )
    file = literal(where)
    stream.run(f"INSERT INTO earlier SELECT DISTINCT request_id, {file} FROM day", where)


def _day(has_stages: bool) -> str:
    """Returns SQL: a row per request and video of a day, with its stage and what was done."""
    if has_stages:
        cases = " ".join(f"WHEN max({mark}) = 1 THEN '{mark}'" for mark in MARKS)
        stage = f"CASE {cases} ELSE '' END"
        exposed = "realshow = 1"
        # A rank counts only where the video was in that stage.
        ranks = ", ".join(
            f"min({stage_of}_index) FILTER (WHERE {flags}) AS {stage_of}_index"
            for stage_of, flags in (
                ("rerank", "realshow = 1 OR rerank_pos = 1 OR rerank_neg = 1"),
                ("rank", "rank_pos = 1 OR rank_neg = 1"),
            )
        )
    else:
        stage, exposed = "'realshow'", "true"
        ranks = "CAST(NULL AS BIGINT) AS rerank_index, CAST(NULL AS BIGINT) AS rank_index"
    levels = " ".join(f"WHEN '{mark}' THEN {level}" for mark, level in MARKS.items())
    actions = ", ".join(
        f"coalesce(max({quoted(name)}) FILTER (WHERE {exposed}), 0) = 1 AS {quoted(name)}"
        for name in ACTIONS
    )
    carried = ("device_id", *USER_FEATURES, *ITEM_FEATURES, "duration", "upload_timestamp")
    of_row = ", ".join(f"min({name}) AS {name}" for name in ("user_id", *carried))
    return (
        f"SELECT *, CASE funnel_stage {levels} ELSE 0 END AS level FROM (SELECT request_id, "
        f"video_id, min({_SECONDS}) AS timestamp, max(user_id) AS last_user_id, {of_row}, "
        f"{stage} AS funnel_stage, {ranks}, {actions} FROM typed GROUP BY request_id, video_id)"
    )


def _requests(stream: Stream, where: str) -> str:
    features = ", ".join(f"min({name}) AS {name}" for name in (*USER_FEATURES, "device_id"))
    query = (
        f"SELECT request_id, min(user_id) AS user_id, max(last_user_id) AS last_user_id, "
        f"min(timestamp) AS timestamp, {features} FROM day GROUP BY request_id"
    )
    check = Check(
        "user_id",
        "user_id <> last_user_id",
        "has several users of one request",
        "expected request_id to name one request of one user",
    )
    stream.check(f"({query})", where, [check])
    return (
        f"SELECT request_id, user_id, gender || '-' || age AS query_id, timestamp, "
        f"{', '.join(USER_FEATURES)}, device_id, CAST(timestamp % 86400 // 3600 AS INTEGER) AS "
        f"hour FROM ({query}) ORDER BY timestamp, request_id"
    )


def _impressions() -> str:
    order = "level DESC, rerank_index NULLS LAST, rank_index NULLS LAST, hash(request_id, video_id)"
    actions = ", ".join(map(quoted, ACTIONS))
    return (
        f"SELECT request_id, video_id AS item_id, CAST(row_number() OVER (PARTITION BY request_id "
        f"ORDER BY {order}, video_id) - 1 AS INTEGER) AS position, {actions}, "
        f"CASE WHEN level = 5 THEN 'shown' ELSE 'retrieved' END AS stage, "
        f"CAST(level AS FLOAT) AS teacher_score, funnel_stage FROM day"
    )


def _video_columns() -> list[str]:
    texts = [f"{name} VARCHAR" for name in ITEM_FEATURES]
    integers = ("duration", "created_at", "timestamp", "request_id")
    return ["video_id BIGINT", *texts, *(f"{name} BIGINT" for name in integers)]


def _videos_of_day() -> str:
    created = f"CASE WHEN {in_time('upload_timestamp')} THEN upload_timestamp END"
    return _first_rows(f"SELECT *, {created} AS created_at FROM day")


def _first_rows(rows: str) -> str:
    """Returns SQL: of each video the row of its first request, with its earliest upload."""
    features = ", ".join((*ITEM_FEATURES, "duration"))
    return (
        f"SELECT video_id, {features}, min(created_at) OVER (PARTITION BY video_id) AS created_at, "
        f"timestamp, request_id FROM ({rows}) QUALIFY row_number() OVER (PARTITION BY video_id "
        f"ORDER BY timestamp, request_id) = 1"
    )


def _items() -> str:
    return (
        f"SELECT video_id AS item_id, {', '.join(ITEM_FEATURES)}, CAST(duration / 1000.0 AS FLOAT) "
        f"AS duration_s, created_at FROM ({_first_rows('SELECT * FROM videos')}) ORDER BY video_id"
    )
