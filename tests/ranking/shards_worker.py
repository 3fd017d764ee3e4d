"""Ranks a corpus that is split over all devices of all processes; `test_shards.py` compares.

python -m tests.ranking.shards_worker RESULT.npz COORDINATOR PROCESSES PROCESS [BUNDLE]
"""

import sys

import jax
import numpy as np
import pyarrow.parquet as pq

from interactrank_jax.devices import distributed
from interactrank_jax.ranking.device_index import DeviceIndex, tile_scorer
from interactrank_jax.ranking.ranker import Ranker
from interactrank_jax.serving import scan
from interactrank_jax.serving.masks import RowMask
from tests.ranking.dot_models import cross_of, make_case, make_scorer
from tests.serving.making import events, requests

REQUESTS, K = 5, 40
ROWS = (700, 130, 3)  # of the last, devices have none
TILES = (64, 1_000)


def main(result: str, coordinator: str, processes: str, process: str, bundle: str = "") -> None:
    """Saves what this process got; of a bundle beside it, as Parquet."""
    with distributed.joined(coordinator, int(processes), int(process)):
        arrays: dict[str, np.ndarray] = {"devices": np.array(len(jax.devices()))}
        for rows in ROWS:
            case = make_case(REQUESTS, rows)
            mask = RowMask.of(REQUESTS, rows, *np.nonzero(case["barred"]))
            for tile in TILES:
                options = {"devices": jax.devices(), "pairs": tile * REQUESTS}
                scorer = make_scorer(case, **options)
                for name, bars in (("all", None), ("masked", mask)):
                    top = scorer.top_k(case["query"], *cross_of(case), K, bars)
                    save(arrays, f"host/{rows}/{tile}/{name}", top)
            index = DeviceIndex(case["items"], jax.devices(), on_host=False)
            product = tile_scorer(lambda query, items: 2 * query @ items.T)
            row, score = scan.corpus_top_k(
                lambda _, i=index, q=case["query"], p=product: i.tiles(p, q),
                *(REQUESTS, rows, min(K, rows - 1), scan.TileSize(64 * REQUESTS), mask),
                gather=index.gather,
            )
            save(arrays, f"device/{rows}/64/masked", (score, row))
        if bundle:
            ranker = Ranker(bundle, devices=jax.devices())
            table = ranker.rank(requests(20), None, events(), k=9)
            pq.write_table(table, f"{result}.parquet")
        np.savez(result, **arrays)  # type: ignore[arg-type]
        distributed.wait_for_all("saved")


def save(arrays: dict[str, np.ndarray], name: str, top) -> None:
    arrays[f"{name}/score"], arrays[f"{name}/row"] = top


if __name__ == "__main__":
    main(*sys.argv[1:])
