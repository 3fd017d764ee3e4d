"""Small runs and their bundles, and tables of new requests, for whatever is to be ranked."""

from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from interactrank_jax.examples.format import STATE
from interactrank_jax.examples.prepare import prepare
from interactrank_jax.export.export import export
from interactrank_jax.training.train import train
from tests.log.handmade_log import data_config
from tests.synthetic import tiny_config, without_blocks

AS_OF = "2022-01-31"  # the first day after the handmade log


def config(model: str = "interactrank", **data: Any) -> ConfigDict:
    """Returns a config for the handmade log, quick to compile."""
    result = tiny_config(model)
    result.data = data_config(block_size=16, **data)
    result.model.sequence.features = ("item_id", "brand")
    without_blocks(result)
    return result


def make_run(configured: ConfigDict, log: Path, root: Path) -> Path:
    """Prepares, trains; returns the run. Examples are beside it."""
    prepare(configured.data, log, root / "examples")
    train(configured, root / "examples", root / "run")
    return root / "run"


def make_bundle(root: Path, name: str = "bundle", **options: Any) -> Path:
    """Exports the run of `make_run`."""
    export(root / "run", root / "examples" / STATE, root / name, **options)
    return root / name
