"""Edits of sealed artefacts, with the checksums that they then need."""

import json
from pathlib import Path
from typing import Any

from interactrank_jax.examples.format import Examples
from interactrank_jax.io import files


def reseal(file: Path, change: Any) -> None:
    """Edits a sealed JSON file and gives it the checksum that it then needs."""
    value = files.read_sealed(file)
    change(value)
    # As a forger would, who may write what JSON has no number for.
    file.write_text(json.dumps({**value, "checksum": files.digest(value)}), encoding="utf-8")


def reseal_encoder(examples: Path, change: Any) -> None:
    """Edits the encoder of examples, and makes all checksums right."""
    file = examples / "encoder" / "encoder.json"
    reseal(file, change)
    of_encoder = files.read_sealed(file)
    of_encoder.pop("files")

    def bind(value):
        value["encoder"] = files.digest(of_encoder)
        value["files"]["encoder/encoder.json"] = files.file_digest(file)

    reseal(examples / "metadata.json", bind)


def at(*keys_and_value: Any) -> Any:
    """Returns a change, for `reseal`, that puts the last argument under the keys before it."""
    *keys, last, value = keys_and_value

    def change(metadata):
        for key in keys:
            metadata = metadata[key]
        metadata[last] = value

    return change


def read_examples(path: Path) -> None:
    """Reads everything that any station reads of examples."""
    examples = Examples(path)
    assert len(examples.items["id"]) == len(examples.item_ids) == len(examples.raw_items())
    for split in examples.metadata.splits:
        assert list(examples.blocks(split))
        assert len(examples.raw_requests(split)) == examples.split(split).requests
        if examples.has_corpus(split):
            examples.sparse_cross(split)
