"""A run directory: the config that made it, the model it holds, the examples it belongs to."""

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from interactrank_jax import configuration, distributed, fields
from interactrank_jax.checkpoint import restore_best
from interactrank_jax.examples.checks import check_below
from interactrank_jax.examples.format import Examples, Metadata
from interactrank_jax.io import files, outputs
from interactrank_jax.io.errors import InputError, did_you_mean
from interactrank_jax.labels import LabelRule
from interactrank_jax.models.inputs import Inputs, zero_inputs
from interactrank_jax.models.registry import MODELS, build_model
from interactrank_jax.parallel import DataParallel
from interactrank_jax.table_sharding import table_rows

# What a model and a row of its tables mean; one hash cannot stand for two of them.
MEANING = ("actions", "features", "cross", "tables", "history_length", "query_history_length")


class Run:
    """An opened run: config, metadata of its examples, model, label rule.

    RUN/config.json has the config, the metadata and, where the model is none of this package, the
    file that registered it (`model_file`).

    Attributes:
      workdir: the directory.
      config: the resolved config.
      metadata: of the examples it was trained on.
    """

    def __init__(self, workdir: files.PathLike, config: ConfigDict, metadata: Metadata):
        self.workdir = Path(workdir)
        self.config = config
        self.metadata = metadata
        self.rule = LabelRule.from_config(config.label, metadata.actions)
        self.inputs = Inputs.from_metadata(metadata, self.rule.heads, config.model)
        self.model = build_model(config.model, self.inputs)

    @property
    def examples_digest(self) -> str:
        """Hash of the examples this run was trained on."""
        return self.metadata.digest

    def claim(self, examples: Examples) -> None:
        """Makes `workdir` this run's: writes its config, or checks that it holds the same run.

        Raises:
          InputError: the directory holds a run of another config or of other examples.
        """
        file = self.workdir / "config.json"
        resolved = configuration.to_json(self.config)
        if self.workdir.exists() and not self.workdir.is_dir():
            raise InputError(f"--workdir={self.workdir} is a file. Expected a directory.")
        if not file.exists():
            if self.workdir.is_dir() and any(p.name != ".lock" for p in self.workdir.iterdir()):
                raise InputError(
                    f"--workdir={self.workdir} holds something that is no run. Expected a run, or "
                    f"a new or empty directory."
                )
            content: dict[str, Any] = {
                "config": resolved,
                "metadata": self.metadata.to_json(),
                "numerics": numerics(),
            }
            registration = MODELS[self.config.model.name]
            if not registration.is_ours:
                content["model_file"] = registration.file
            files.write_sealed(file, content)
            return
        saved = files.read_sealed(file)
        numeric_difference = configuration.difference(saved.get("numerics", {}), numerics(), "jax")
        if numeric_difference:
            raise InputError(
                f"{self.workdir} was trained with other numerics: {numeric_difference}. It would "
                f"go on with other bits: set them as they were, or name another --workdir."
            )
        difference = configuration.difference(saved["config"], resolved)
        if difference:
            raise InputError(
                f"{self.workdir} holds a run of another config: {difference}. Use the same config "
                f"to resume, or another --workdir."
            )
        if saved["metadata"]["digest"] != self.metadata.digest:
            raise InputError(
                f"{self.workdir} holds a run on other examples (hash "
                f"{saved['metadata']['digest']}; {examples.path} has {self.metadata.digest}). Use "
                f"those, or another --workdir."
            )

    @contextlib.contextmanager
    def claimed(self, examples: Examples) -> Iterator[None]:
        """Claims `workdir`, and keeps other processes out of it while the block runs.

        Of several processes of one training, the first does so for all.

        Raises:
          InputError: see `claim`; or another process trains there.
        """
        with contextlib.ExitStack() as stack:
            if jax.process_index() == 0:
                if self.workdir.resolve().is_relative_to(examples.path.resolve()):
                    raise InputError(
                        f"--workdir={self.workdir} is inside {examples.path}, which is only read. "
                        f"Name a directory beside it."
                    )
                stack.enter_context(outputs.lock(self.workdir))
                self.claim(examples)
            distributed.wait_for_all("claim")
            yield

    @classmethod
    def open(cls, workdir: files.PathLike) -> "Run":
        """Opens a run for evaluation, indexing or scoring.

        No file that a run names is executed: the directory may come from anywhere.

        Raises:
          InputError: no run there, a damaged one, or a model that nothing registered yet.
        """
        file = Path(workdir) / "config.json"
        if not file.exists():
            raise InputError(
                f"{workdir} holds no run (no config.json). Expected the --workdir of "
                f"`interactrank train`."
            )
        saved = files.read_sealed(file)
        metadata = Metadata.read(saved.get("metadata"), file)
        try:
            config = ConfigDict(saved["config"])
            if "model_file" in saved and config.model.name not in MODELS:
                raise InputError(
                    f"{workdir} holds a '{config.model.name}' model, which is none of ours: "
                    f"{saved['model_file']} registered it when the run was trained. If you trust "
                    f"that file, pass it, or the config that imports it: "
                    f"--config={saved['model_file']} (it is run as Python)."
                )
            if config.model.name in MODELS:
                fields.check(config)
            return cls(workdir, config, metadata)
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{file} is incomplete ({error!r}): train again.") from error
        except InputError as error:
            raise InputError(f"{file}: {error}") from error

    @functools.cached_property
    def model_template(self) -> dict[str, Any]:
        """Shapes of {'params', 'tables'}."""
        sample = zero_inputs(self.inputs, self.model.row_width)
        params = jax.eval_shape(lambda: self.model.init(jax.random.key(0), **sample))["params"]
        tables = {
            name: jax.ShapeDtypeStruct((table_rows(ids), self.model.row_width(name)), jnp.float32)
            for name, ids in self.metadata.tables.items()
        }
        return {"params": params, "tables": tables}

    def restore_model(self, parallel: DataParallel | None = None) -> tuple[dict[str, Any], int]:
        """Returns the best model, {'params', 'tables'}, and its step.

        Args:
          parallel: to restore it canonical on those devices; on one device without.

        Raises:
          InputError: nothing trained yet.
        """
        template = self.model_template
        if parallel is not None:
            template = jax.tree.map(
                lambda leaf, sharding: jax.ShapeDtypeStruct(
                    leaf.shape, leaf.dtype, sharding=sharding
                ),
                template,
                parallel.shardings(template),
            )
        return restore_best(self.workdir, template)

    def check_examples(self, examples: Examples) -> None:
        """Refuses examples whose ids do not mean what they meant in training.

        Raises:
          InputError: other examples than those trained on.
        """
        if examples.metadata.digest != self.examples_digest:
            raise InputError(
                f"{examples.path} (hash {examples.metadata.digest}) is not what {self.workdir} was "
                f"trained on (hash {self.examples_digest}): its ids may mean other things."
            )
        for name in MEANING:
            ours, theirs = getattr(self.metadata, name), getattr(examples.metadata, name)
            if ours != theirs:
                raise InputError(
                    f"{examples.path} has {name} {theirs}, {self.workdir} was trained with {ours}, "
                    f"and both give the hash {self.examples_digest}: one of them was edited. "
                    f"Prepare and train again."
                )

    def saved_scores(self, split: str) -> dict[str, np.ndarray]:
        """Returns what `interactrank evaluate` saved: request_index, item, score, engaged `[n]`.

        Raises:
          InputError: this split was not evaluated, or the file is damaged.
        """
        file = self.workdir / "eval" / f"{split}.npz"
        if not file.is_file():
            raise InputError(
                f"{file} does not exist. Run `interactrank evaluate --workdir={self.workdir} "
                f"--split={split}` first."
            )
        kinds = {"request_index": "iu", "item": "iu", "score": "f", "engaged": "b"}
        try:
            with np.load(file, allow_pickle=False) as arrays:  # zip holds a checksum of each
                scores = {name: arrays[name] for name in kinds}
        except Exception as error:  # zipfile raises whatever the damaged byte leads it to
            raise InputError(f"{file} is damaged ({error}): evaluate again.") from error
        if split not in self.metadata.splits:
            raise InputError(f"no split '{split}'." + did_you_mean(split, self.metadata.splits))
        sizes = self.metadata.splits[split]
        for name, array in scores.items():
            if array.shape != (sizes.candidates,) or array.dtype.kind not in kinds[name]:
                raise InputError(
                    f"{file} has '{name}' as {array.dtype} of shape {array.shape}, for the "
                    f"{sizes.candidates} candidates of the split: evaluate again."
                )
        check_below(f"{file}: 'request_index'", scores["request_index"], sizes.requests)
        return scores


def numerics() -> dict[str, Any]:
    """Returns the switches of jax that change what a step computes, to the bit."""
    names = (
        "enable_x64",
        "default_matmul_precision",
        "default_prng_impl",
        "threefry_partitionable",
        "numpy_dtype_promotion",
    )
    return {name: getattr(jax.config, f"jax_{name}") for name in names}
