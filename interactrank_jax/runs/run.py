"""A run directory: the config that made it, the model it holds, the examples it belongs to."""

import contextlib
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from interactrank_jax.config import configuration, fields
from interactrank_jax.config.registration import SESSION
from interactrank_jax.devices import distributed
from interactrank_jax.devices.parallel import DataParallel
from interactrank_jax.examples.checks import check_below
from interactrank_jax.examples.encoder import DIRECTORY as ENCODER
from interactrank_jax.examples.encoder import Encoder
from interactrank_jax.examples.format import Examples, Metadata
from interactrank_jax.examples.view import ExamplesView
from interactrank_jax.io import artifact, files, outputs
from interactrank_jax.io.errors import InputError
from interactrank_jax.losses import prior
from interactrank_jax.losses.labels import LabelRule
from interactrank_jax.models.inputs import Inputs, zero_inputs
from interactrank_jax.models.registry import MODELS, build_model
from interactrank_jax.runs.best import read_calibration, restore_best
from interactrank_jax.serving.probabilities import Calibration
from interactrank_jax.tables.sharding import table_rows

KIND = artifact.Kind("run", "train", "config.json", version=2, flag="workdir")
_RECORD = ("config", "metadata", "prior_offsets", "numerics")
# What a training that was killed before it wrote RUN/config.json may have left.
_CLAIMED = re.compile(r"\.lock|encoder|\.(encoder|config\.json)\.partial-[0-9a-f]{8}")


class Run:
    """An opened run: config, metadata and encoder of its examples, model, label rule.

    RUN/encoder is a copy of the encoder. RUN/config.json, written last, has the config, the
    metadata, where the examples were (`examples`), what weighting added to the logits and, where
    the model is none of this package, the file that registered it (`model_file`).

    Attributes:
      workdir: the directory.
      config: the resolved config.
      metadata: of the examples it was trained on.
      examples_path: where those were when it began; they may have been moved or removed since. None
        where the run does not say so.
    """

    examples_path: Path | None = None

    def __init__(self, workdir: files.PathLike, config: ConfigDict, metadata: Metadata):
        self.workdir = Path(workdir)
        self.config = config
        self.metadata = metadata
        self.rule = LabelRule.from_config(config.label, metadata.actions)
        self.inputs = Inputs.from_metadata(metadata, self.rule.heads, config.model)
        self.model = build_model(config.model, self.inputs)
        self._prior_offsets: tuple[float, ...] | None = None

    @property
    def encoder(self) -> Encoder:
        """What turned raw rows into the arrays that it was trained on."""
        return self.metadata.encoder

    def prior_offsets(self, examples: Examples | None = None) -> tuple[float, ...]:
        """Returns per head what weighting and sampling added to the logits in training.

        Args:
          examples: those trained on; a run that was opened knows its offsets without them.
        """
        if self._prior_offsets is None:
            assert examples is not None
            loss = self.config.train.loss
            self._prior_offsets = prior.prior_offsets(self.rule, loss, examples)
        return self._prior_offsets

    def prior_correction(self, examples: Examples | None = None) -> Calibration:
        """Returns the calibration of a model of which nothing was fitted; see `prior_offsets`."""
        return Calibration.unfitted(self.rule.heads, self.prior_offsets(examples))

    def calibration(self, step: int) -> Calibration:
        """Returns what turns the best model's logits into probabilities; the run must be opened.

        Args:
          step: of the best model, as `restore_model` gave it.

        Raises:
          InputError: see `best.read_calibration`.
        """
        return read_calibration(self.workdir, step, self.prior_correction())

    def claim(self, examples: Examples) -> None:
        """Makes `workdir` this run's: writes what it is, or checks that it holds the same run.

        Raises:
          InputError: the directory holds a run of another config or of other examples.
        """
        resolved = configuration.to_json(self.config)
        if self.workdir.exists() and not self.workdir.is_dir():
            raise InputError(f"--workdir={self.workdir} is a file. Expected a directory.")
        if not (self.workdir / KIND.file).exists():
            self._write(resolved, examples)
            return
        saved = artifact.open_artifact(KIND, self.workdir, _RECORD).record
        numeric_difference = configuration.difference(saved["numerics"], numerics(), "jax")
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
        other = Encoder.open(self.workdir / ENCODER).difference(self.encoder)
        if other:
            raise InputError(
                f"{self.workdir / ENCODER} is not the encoder of {examples.path}, though both are "
                f"of the hash {self.metadata.digest}: {other}. One of them was edited: prepare and "
                f"train again."
            )

    def _write(self, config: dict[str, Any], examples: Examples) -> None:
        """Writes the encoder and `config.json` into a directory that holds no run yet.

        Raises:
          InputError: it holds something else.
        """
        copy = self.workdir / ENCODER
        names = [path.name for path in self.workdir.iterdir()] if self.workdir.is_dir() else []
        is_ours = not copy.exists() or self._is_copied_to(copy)
        if not is_ours or not all(map(_CLAIMED.fullmatch, names)):
            raise InputError(
                f"--workdir={self.workdir} holds something that is no run. Expected a run, or "
                f"a new or empty directory."
            )
        if not copy.exists():
            with outputs.new_directory(copy) as directory:
                self.encoder.save(directory)
        content: dict[str, Any] = {
            "config": config,
            "metadata": self.metadata.to_json(),
            "examples": str(examples.path.resolve()),
            "prior_offsets": list(self.prior_offsets(examples)),
            "numerics": numerics(),
        }
        registration = MODELS[self.config.model.name]
        if not registration.is_ours:
            content["model_file"] = registration.file
        # The encoder and the checkpoints have manifests of their own; the rest still grows.
        artifact.write(KIND, self.workdir, content, folders=())

    def _is_copied_to(self, directory: Path) -> bool:
        with contextlib.suppress(InputError):
            return Encoder.open(directory).difference(self.encoder) is None
        return False

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
        opened = artifact.open_artifact(KIND, workdir, _RECORD)
        saved, file = opened.record, opened.file
        encoder = Encoder.open(Path(workdir) / ENCODER)
        metadata = Metadata.read(saved["metadata"], encoder, file)
        try:
            config = ConfigDict(saved["config"])
            if "model_file" in saved and config.model.name not in MODELS:
                raise InputError(
                    f"{workdir} holds a '{config.model.name}' model, which is none of ours: "
                    f"{_how_to_register(saved['model_file'])}"
                )
            if config.model.name in MODELS:
                fields.check(config)
            run = cls(workdir, config, metadata)
            run._prior_offsets = tuple(map(float, saved["prior_offsets"]))
            run.examples_path = Path(saved["examples"]) if "examples" in saved else None
            if len(run._prior_offsets) != len(run.rule.heads):
                raise InputError(
                    f"prior_offsets has {len(run._prior_offsets)} values for the heads "
                    f"{run.rule.heads}."
                )
            return run
        except InputError as error:
            raise InputError(f"{file}: {error}") from error
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise InputError(f"{file} is incomplete ({error!r}): train again.") from error

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

    def check_examples(self, examples: Examples) -> Examples:
        """Returns examples as this run's model reads them.

        Its encoder must be theirs, or theirs must extend it; ids that it does not know are then
        those of its hashed rows.

        Raises:
          InputError: examples of another encoder; the message has the first difference.
        """
        difference = self.encoder.difference(examples.encoder, may_grow=True)
        if difference:
            raise InputError(
                f"{examples.path} does not fit {self.workdir}: {difference}. The model would "
                f"misread it: use the examples that it was trained on (hash "
                f"{self.metadata.digest}), or prepare the log with --extend=<those examples>."
            )
        if self.encoder == examples.encoder:
            return examples
        return ExamplesView(examples, self.encoder)

    def saved_scores(
        self, examples: Examples, split: str, step: int | None = None
    ) -> dict[str, np.ndarray]:
        """Returns what `interactrank evaluate` saved: request_index, item, score, engaged `[n]`.

        Args:
          examples, split: what was evaluated.
          step: of the model whose scores they must be; of any by default.

        Raises:
          InputError: this split of these examples was not evaluated, or with the model of another
            step; or the file is damaged.
        """
        file = self.workdir / "eval" / f"{split}.npz"
        again = f"`interactrank evaluate --workdir={self.workdir} --examples={examples.path} "
        again += f"--split={split}`"
        if not file.is_file():
            raise InputError(f"{file} does not exist. Run {again} first.")
        kinds = {"request_index": "iu", "item": "iu", "score": "f", "engaged": "b"}
        try:
            with np.load(file, allow_pickle=False) as arrays:  # zip holds a checksum of each
                scores = {name: arrays[name] for name in kinds}
                digest = str(arrays["examples"])
                # An older release did not write it.
                saved_step = int(arrays["step"]) if "step" in arrays else None
        except Exception as error:  # of many types, for a damaged byte
            raise InputError(f"{file} is damaged ({error}): evaluate again.") from error
        if digest != examples.metadata.digest:
            raise InputError(
                f"{file} has scores of other examples (hash {digest}, {examples.path} has "
                f"{examples.metadata.digest}). Run {again}."
            )
        if step not in (None, saved_step):
            raise InputError(
                f"{file} has scores of the model of step {saved_step}, expected those of step "
                f"{step}. Run {again}."
            )
        sizes = examples.split(split)
        for name, array in scores.items():
            if array.shape != (sizes.candidates,) or array.dtype.kind not in kinds[name]:
                raise InputError(
                    f"{file} has '{name}' as {array.dtype} of shape {array.shape}, for the "
                    f"{sizes.candidates} candidates of the split: evaluate again."
                )
        check_below(f"{file}: 'request_index'", scores["request_index"], sizes.requests)
        return scores


def _how_to_register(file: str) -> str:
    if file == SESSION:
        return (
            "a notebook registered it. Register it again in this process, or put its class into a "
            "file of its own and pass that as --config."
        )
    return (
        f"{file} registered it when the run was trained. If you trust that file, pass it, or the "
        f"config that imports it: --config={file} (it is run as Python)."
    )


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
