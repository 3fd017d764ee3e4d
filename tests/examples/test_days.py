"""Examples of some days: the newest are split by time, those before them are for training."""

import pyarrow.parquet as pq
import pytest

from interactrank_jax import cli
from interactrank_jax.examples.format import Examples
from interactrank_jax.examples.prepare import prepare
from interactrank_jax.examples.splits import Days
from interactrank_jax.io.errors import InputError
from interactrank_jax.state.days import day_number
from tests.log.handmade_log import DAY, START, data_config, random_config

FIRST = START // DAY


def requests_of(examples: Examples, split: str) -> dict[str, int]:
    """Returns the day of each request of a split, by its id."""
    raw = examples.raw_requests(split)
    days = raw["timestamp"].to_numpy() // DAY - FIRST
    return dict(zip(raw["request_id"].to_pylist(), days.tolist(), strict=True))


@pytest.fixture(scope="module")
def of_days(log, tmp_path_factory):
    """Examples of days 10 to 20, of which the last two are split."""
    out = tmp_path_factory.mktemp("days") / "examples"
    prepare(data_config(), log, out, days=Days(FIRST + 10, FIRST + 20, FIRST + 19))
    return Examples(out)


def test_each_request_of_the_days_is_in_one_split_and_no_other_request_in_any(of_days, log):
    splits = [requests_of(of_days, name) for name in ("train", "validation", "test")]
    taken = [name for split in splits for name in split]
    assert len(taken) == len(set(taken))
    requests = pq.read_table(log / "requests.parquet", columns=["request_id", "timestamp"])
    shown = set(pq.read_table(log / "impressions")["request_id"].to_pylist())
    expected = {
        row["request_id"]
        for row in requests.to_pylist()
        if 10 <= row["timestamp"] // DAY - FIRST <= 20 and row["request_id"] in shown
    }
    assert set(taken) == expected


def test_only_the_newest_days_are_split(of_days, log):
    train, validation, test = (
        requests_of(of_days, name) for name in ("train", "validation", "test")
    )
    assert set(range(10, 19)) < set(train.values())
    assert set(validation.values()) | set(test.values()) <= {19, 20}
    assert {19, 20} & set(train.values())
    impressions = pq.read_table(log / "impressions")["request_id"].to_pylist()
    late = {row for split in (train, validation, test) for row, day in split.items() if day >= 19}
    total = sum(request in late for request in impressions)
    for name in ("validation", "test"):  # 15% each, but for requests that are not cut
        assert abs(of_days.split(name).candidates - 0.15 * total) < 20


@pytest.mark.long  # prepares a log several times
def test_the_command_takes_them(of_days, log, tmp_path, capsys):
    config = tmp_path / "config.py"
    config.write_text(
        "import ml_collections\n"
        "from tests.log.handmade_log import data_config\n"
        "def get_config():\n"
        "    return ml_collections.ConfigDict({'data': data_config()})\n"
    )
    days = ("2022-01-18", "2022-01-28", "2022-01-27")
    assert day_number(days[0]) == FIRST + 10
    flags = [f"--config={config}", f"--log={log}"]
    named = [f"--since={days[0]}", f"--until={days[1]}", f"--split_since={days[2]}"]
    assert cli.main(["prepare", *flags, *named, f"--out={tmp_path / 'out'}"]) == 0
    made = Examples(tmp_path / "out")
    assert made.metadata.digest == of_days.metadata.digest
    assert made.metadata.splits == of_days.metadata.splits
    # Without --split_since all of the days are split.
    assert cli.main(["prepare", *flags, *named[:2], f"--out={tmp_path / 'all'}"]) == 0
    made = Examples(tmp_path / "all")
    assert made.metadata.digest != of_days.metadata.digest
    assert made.split("train").candidates < of_days.split("train").candidates
    capsys.readouterr()
    assert cli.main(["prepare", *flags, *named[1:], f"--out={tmp_path / 'no'}"]) == 2
    assert "--since and --until go together" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("config", "days", "with_encoder", "message"),
    [
        (random_config(), Days(FIRST, FIRST + 9, FIRST + 9), False, "impressions are split at ran"),
        (data_config(), Days(FIRST + 9, FIRST + 8, FIRST + 8), False, "Expected them in this ord"),
        (data_config(), Days(FIRST, FIRST + 8, FIRST + 9), False, "Expected them in this order"),
        (data_config(), Days(FIRST + 90, FIRST + 91, FIRST + 91), False, "no request with impres"),
        (data_config(), Days(FIRST, FIRST + 9, FIRST + 9), True, "leave one of them out"),
        (data_config(), None, True, "--encoder needs days"),
    ],
)
def test_days_that_cannot_be_are_refused(
    config, days, with_encoder, message, log, tmp_path, examples
):
    encoder = examples.encoder if with_encoder else None
    with pytest.raises(InputError, match=message):
        prepare(config, log, tmp_path / "out", encoder=encoder, days=days)
    assert not (tmp_path / "out").exists()
