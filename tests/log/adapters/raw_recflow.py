"""Tiny files in RecFlow's schema: the columns of the owners' README, as pandas writes Feather."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather as pa_feather

T0_MS = 1_705_104_000_000  # 2024-01-13 00:00 UTC
MARKS = (
    *("realshow", "rerank_pos", "rerank_neg", "rank_pos", "rank_neg"),
    *("coarse_neg", "prerank_neg"),
)
FEEDBACK = (
    *("playing_time", "effective_view", "long_view", "like", "follow", "forward", "comment"),
)
COLUMNS = (
    *("request_id", "request_timestamp", "user_id", "device_id", "age", "gender", "province"),
    *("video_id", "author_id", "category_level_one", "category_level_two", "upload_type"),
    *("upload_timestamp", "duration", *MARKS, "rank_index", "rerank_index", *FEEDBACK),
)


def row(request: int, video: int, *marks: str, **values: Any) -> dict[str, Any]:
    """Returns a row; what is not given is 0, or made from the ids."""
    made = dict.fromkeys(COLUMNS, 0) | {
        "request_id": request,
        "request_timestamp": T0_MS + 1_000 * request,
        "user_id": request % 10,
        "age": 3,
        "gender": 1,
        "province": 7,
        "video_id": video,
        "author_id": video % 5,
        "category_level_one": 2,
        "category_level_two": video % 3,
        "upload_timestamp": T0_MS // 1_000 - 86_400 * (1 + video),
        "duration": 1_500 * (1 + video),
    }
    return made | dict.fromkeys(marks, 1) | values


def write(
    path: Path, days: Mapping[str, Sequence[Mapping[str, Any]]], folder: str = "all_stage"
) -> Path:
    """Writes FOLDER/DATE.feather for each day."""
    (path / folder).mkdir(parents=True)
    for day, rows in days.items():
        table = pa.Table.from_pylist([dict(each) for each in rows])
        pa_feather.write_feather(table, str(path / folder / f"{day}.feather"))
    return path


def trainable(path: Path, days: int = 8) -> Path:
    """Writes some days on which users watch what they like, enough to train on."""
    rng = np.random.default_rng(0)
    taste = rng.random((12, 30))
    written = {}
    for day in range(days):
        rows = []
        for k in range(30):
            request, user = 1_000 * day + k, int(rng.integers(12))
            time = T0_MS + 86_400_000 * day + 2_000_000 * k
            videos = rng.choice(30, 8, replace=False)
            for rank, video in enumerate(videos.tolist()):
                mark = ("realshow", "rerank_pos", "rank_neg", "prerank_neg")[rank // 2]
                viewed = int(mark == "realshow" and rng.random() < taste[user, video])
                rows.append(
                    row(
                        *(request, video, mark),
                        **{"request_timestamp": time, "user_id": user, "gender": user % 2},
                        **{"rerank_index": rank, "effective_view": viewed},
                        long_view=viewed * int(rng.random() < 0.5),
                    )
                )
        written[f"2024-01-{13 + day}"] = rows
    return write(path, written)
