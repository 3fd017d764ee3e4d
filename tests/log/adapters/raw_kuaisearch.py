"""Tiny files in KuaiSearch's schema: one JSON object a line, rank's keys as in the owners' demo."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def recall_row(
    session: int,
    query: str,
    impressed: Sequence[int],
    clicked: Sequence[int] = (),
    purchased: Sequence[int] = (),
    **values: Any,
) -> dict[str, Any]:
    """Returns a row of recall."""
    made = {
        "user_id": 1 + session % 3,
        "session_id": session,
        "time_index": 100 * session,
        "query": query,
        "impressed_item_ids": list(impressed),
        "clicked_item_ids": list(clicked),
        "purchased_item_ids": list(purchased),
        "split": "train",
    }
    return made | values


def rank_rows(recall: Mapping[str, Any], **values: Any) -> list[dict[str, Any]]:
    """Returns the rows of rank of one row of recall, clicked ones first as in the demo."""
    clicked, purchased = recall["clicked_item_ids"], recall["purchased_item_ids"]
    return [
        {
            **{name: recall[name] for name in ("user_id", "session_id", "time_index", "query")},
            "user_fan_number": 9,
            "user_follow_number": 65,
            "search_entrance": "search_entrance_ksstore",
            "recently_clicked_item_ids": [1, 2],
            "recently_purchased_item_ids": [],
            "target_item_id": item,
            "target_item_price": 59.9,
            "is_clicked": int(item in clicked),
            "is_purchased": int(item in purchased),
            "user_statistical_features": {"user_show_cnt_30d_hist": 0.0},
            "target_item_statistical_features": {"item_show_cnt_30d_hist": 952.0},
            "split": "train",
            **values,
        }
        for item in sorted(recall["impressed_item_ids"], key=lambda item: item not in clicked)
    ]


def item_row(item: int, title: str = "", **values: Any) -> dict[str, Any]:
    """Returns a row of items."""
    made = {
        "item_id": item,
        "item_title": title or f"商品 {item}",
        "brand_name": f"b{item % 2}",
        "seller_name": "s",
        "category_level1_name": f"c{item % 3}",
    }
    return made | values


def user_row(user: int) -> dict[str, Any]:
    """Returns a row of users."""
    return {"user_id": user, "gender": "F" if user % 2 else "M", "age": "18-23"}


def write(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes one table."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def trainable(path: Path) -> Path:
    """Writes searches in which some items are clicked more than others, enough to train on."""
    rng = np.random.default_rng(0)
    appeal = rng.random((6, 20))
    recalls = []
    for session in range(1, 241):
        query = int(rng.integers(6))
        shown = rng.choice(20, 6, replace=False)
        clicked = [int(item) for item in shown if rng.random() < appeal[query, item]]
        times = {"time_index": 4_000 * session, "user_id": 1 + int(rng.integers(15))}
        row = recall_row(session, f"找 {query}", shown.tolist(), clicked, clicked[:1], **times)
        recalls.append(row)
    write(path / "recall_lite/train.jsonl", recalls)
    write(path / "rank_lite/train.jsonl", [row for each in recalls for row in rank_rows(each)])
    write(path / "items_lite/train.jsonl", [item_row(item) for item in range(20)])
    write(path / "users_lite/train.jsonl", [user_row(user) for user in range(1, 16)])
    return path
