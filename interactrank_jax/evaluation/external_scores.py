"""Scores made elsewhere, as a scorer: a table of request_id, item_id and score.

Every candidate of the split needs one score. Pairs that the split does not have are counted and
ignored; a candidate without a score, with two, or with one that cannot be ranked is an error.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from interactrank_jax.evaluation.baseline_scorers import BaselineScorer
from interactrank_jax.evaluation.item_rows import first_rows, rows_of_items
from interactrank_jax.examples.format import Examples
from interactrank_jax.examples.input import Batch
from interactrank_jax.io import outputs
from interactrank_jax.io.errors import InputError
from interactrank_jax.log.values import as_values, index_in

IDS = ("request_id", "item_id")
COLUMNS = (*IDS, "score")
SUFFIXES = (".parquet", ".csv", ".csv.gz")
_EXPECTED = "Expected Parquet or CSV with the columns request_id, item_id and score"


class ExternalScorer(BaselineScorer):
    """Scores of a table; see `Scorer`. It has none of items that are no candidates.

    Attributes:
      name: the file's or directory's, without its suffix.
      extra: how many pairs the split does not have.
    """

    has_corpus = False

    def __init__(self, paths: str, examples: Examples, split: str):
        """Reads the scores of a split.

        Args:
          paths: a file, a directory of files, or several of either with commas between.
          examples, split: whose candidates are scored.

        Raises:
          InputError: no such file or columns, or a candidate without exactly one number.
        """
        files = score_files(paths)
        super().__init__(_name(Path(paths if Path(paths).exists() else paths.split(",")[0])))
        self._first_row, self._num_items = first_rows(examples), examples.num_items
        requests = as_values(examples.raw_requests(split)["request_id"])
        items = as_values(examples.raw_items()["item_id"])
        types = dict(zip(IDS, (requests.type, items.type), strict=True))
        table = pa.concat_tables([_read(file, types) for file in files]).combine_chunks()
        request = index_in(as_values(table["request_id"]), requests)
        item = rows_of_items(examples, table["item_id"])
        keys = np.where((request >= 0) & (item >= 0), self._key(request, item), -1)
        candidates = self._candidates(examples, split)
        kept = np.flatnonzero(np.isin(keys, candidates))
        self.extra = len(keys) - len(kept)
        order = kept[np.argsort(keys[kept], kind="stable")]
        self._keys, self._scores = keys[order], table["score"].to_numpy()[order]

        def pair(key: int) -> str:
            request, item = divmod(int(key), self._num_items)
            return f"request_id {requests[request].as_py()!r}, item_id {items[item].as_py()!r}"

        self._check(candidates, pair, paths)

    def slate(self, batch: Batch) -> np.ndarray:
        """Returns `[R, C, 1]` float64; 0 in padding."""
        keys = self._key(batch["request_index"][:, None], self._first_row[batch["item"]])
        place = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return np.where(batch["mask"], self._scores[place], 0.0)[..., None]

    def _key(self, request: np.ndarray, item: np.ndarray) -> np.ndarray:
        return request.astype(np.int64) * self._num_items + item

    def _candidates(self, examples: Examples, split: str) -> np.ndarray:
        """Returns the keys `[n]` of the split's candidates."""
        keys = []
        for block in examples.blocks(split, ("request_index", "item", "mask")):
            of_block = self._key(block["request_index"][:, None], self._first_row[block["item"]])
            keys.append(of_block[block["mask"]])
        return np.concatenate(keys)

    def _check(self, candidates: np.ndarray, pair: Callable[[int], str], paths: str) -> None:
        """Refuses scores that do not give each candidate one number.

        Args:
          candidates: `[n]` keys.
          pair: from a key to its ids.
          paths: for the message.
        """
        twice = self._keys[1:][self._keys[1:] == self._keys[:-1]]
        if len(twice):
            raise InputError(
                f"--scores={paths}: {len(twice):,} rows repeat a pair, such as {pair(twice[0])}. "
                f"Expected one score of each candidate: give one system's scores at a time."
            )
        undefined = self._keys[np.isnan(self._scores)]
        if len(undefined):
            raise InputError(
                f"--scores={paths}: {len(undefined):,} scores of candidates are NaN or null, such "
                f"as that of {pair(undefined[0])}. A NaN cannot be ranked: give a number."
            )
        missing = np.setdiff1d(candidates, self._keys)
        if len(missing):
            raise InputError(
                f"--scores={paths}: {len(missing):,} of the split's {len(candidates):,} candidates "
                f"have no score, such as {pair(missing[0])}. Expected one of each: where a system "
                f"leaves candidates out, give them a score below all others."
            )


def score_files(paths: str) -> list[Path]:
    """Returns the files that `--scores` names: itself, those of a directory, or of each of a list.

    Raises:
      InputError: one does not exist, has another suffix, or is a directory without any.
    """
    if "," in paths and not Path(paths).exists():
        return [file for path in paths.split(",") for file in score_files(path)]
    path = Path(outputs.from_user(paths, "--scores"))
    if path.is_dir():
        below = sorted(file for file in path.rglob("*") if file.name.endswith(SUFFIXES))
        below = [file for file in below if not file.name.startswith((".", "_"))]
        if not below:
            raise InputError(
                f"--scores={path} holds no file that ends in {', '.join(SUFFIXES)}. {_EXPECTED}."
            )
        return below
    if not path.is_file():
        raise InputError(f"--scores={path} does not exist. {_EXPECTED}, or a directory of them.")
    if not path.name.endswith(SUFFIXES):
        raise InputError(f"--scores={path} ends in none of {', '.join(SUFFIXES)}. {_EXPECTED}.")
    return [path]


def _name(path: Path) -> str:
    """Returns the last name of a path, without its suffix."""
    suffix = next((suffix for suffix in SUFFIXES if path.name.endswith(suffix)), "")
    return path.name.removesuffix(suffix) or path.name


def _read(file: Path, types: dict[str, pa.DataType]) -> pa.Table:
    """Returns the ids, as the log has them, and the scores as float64, null as NaN."""
    try:
        table = _read_csv(file, types) if ".csv" in file.suffixes else _read_parquet(file)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{file} cannot be read ({error}). {_EXPECTED}.") from error
    columns = {name: _ids(file, name, table[name], kind) for name, kind in types.items()}
    score = table["score"]
    if not (pa.types.is_floating(score.type) or pa.types.is_integer(score.type)):
        raise InputError(f"{file}: column 'score' is {score.type}. Expected numbers.")
    columns["score"] = score.cast(pa.float64(), safe=False).fill_null(float("nan"))
    return pa.table(columns)


def _read_parquet(file: Path) -> pa.Table:
    with pq.ParquetFile(file.absolute()) as opened:
        _check_columns(file, opened.schema_arrow.names)
        return opened.read(columns=list(COLUMNS))


def _read_csv(file: Path, types: dict[str, pa.DataType]) -> pa.Table:
    # Ids are read as text: an id of digits may begin with a zero.
    texts = {name: pa.large_string() for name in types}
    options = pa_csv.ConvertOptions(column_types={**texts, "score": pa.float64()})
    options.null_values = ["", "null", "NULL", "None", "NaN", "nan"]
    with pa_csv.open_csv(file, convert_options=options) as opened:
        _check_columns(file, opened.schema.names)
        return opened.read_all().select(COLUMNS)


def _check_columns(file: Path, names: list[str]) -> None:
    for name in COLUMNS:
        if names.count(name) != 1:
            problem = "no" if name not in names else "more than one"
            raise InputError(
                f"{file} has {problem} column '{name}', it has {', '.join(names)}. {_EXPECTED}; "
                f"others are ignored."
            )


def _ids(file: Path, name: str, column: pa.ChunkedArray, kind: pa.DataType) -> pa.Array:
    if pa.types.is_floating(column.type) or pa.types.is_boolean(column.type):
        raise InputError(
            f"{file}: column '{name}' is {column.type}. Expected the ids of the log, {kind}."
        )
    values = as_values(column)
    try:
        return values.cast(kind)
    except pa.ArrowInvalid as error:
        raise InputError(
            f"{file}: column '{name}' holds what is no id of the log, whose ids are integers "
            f"({error})."
        ) from error
