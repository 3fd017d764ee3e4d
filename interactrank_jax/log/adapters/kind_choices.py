"""What the user says of the kinds of raw columns: by flags, or by a file that can be edited.

    {
      "format": "interactrank-kinds",
      "version": 1,
      "features": [
        {"name": "zip", "entity": "user", "kind": "categorical", "comment": "3 distinct: '10115'"}
      ]
    }

Kinds are those of a log's features, and `ignore` for a column that is none. Comments are not read.
"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from interactrank_jax.io import files
from interactrank_jax.io.errors import InputError, did_you_mean
from interactrank_jax.log.adapters.kinds import IGNORE, Column
from interactrank_jax.log.schema import KINDS

FORMAT, VERSION = "interactrank-kinds", 1
_FIELDS = ("name", "entity", "kind", "comment")
_ENTITIES = ("user", "item")


@dataclasses.dataclass(frozen=True)
class Choices:
    """Kinds that the user chose.

    Attributes:
      flags: from the name of a column to the kind that a flag gives it.
      path: of the file of kinds; None if there is to be none.
      saved: from (entity, name) to kind, as that file says; None if it is yet to be written.
    """

    flags: Mapping[str, str]
    path: Path | None
    saved: Mapping[tuple[str, str], str] | None

    @classmethod
    def read(
        cls, path: files.PathLike, text: Sequence[str], categorical: Sequence[str],
        ignore: Sequence[str],
    ) -> "Choices":  # fmt: skip
        """Takes the flags --text, --categorical and --ignore, and the file at `path` if it exists.

        Raises:
          InputError: they contradict each other, or the file does not hold what it should.
        """
        flags: dict[str, str] = {}
        for kind, names in (("text", text), ("categorical", categorical), (IGNORE, ignore)):
            for name in names:
                if flags.setdefault(name, kind) != kind:
                    raise InputError(
                        f"--{flags[name]} and --{kind} both name '{name}'. Expected one of them."
                    )
        if not path:
            return cls(flags, None, None)
        file = Path(path)
        if not file.exists():
            return cls(flags, file, None)
        saved = _load(file)
        for (_, name), kind in saved.items():
            if flags.get(name, kind) != kind:
                raise InputError(
                    f"--{flags[name]} names '{name}', but {file} says {kind}. Leave the flag out, "
                    f"or edit the file."
                )
        return cls(flags, file, saved)

    def kind(self, entity: str, name: str) -> str | None:
        """Returns the kind chosen for a column; None if none is."""
        return self.flags.get(name) if self.saved is None else self.saved.get((entity, name))

    def check(self, columns: Collection[tuple[str, str]], others: Collection[str]) -> None:
        """Raises InputError if a column is named that is not there, or the file lacks one.

        Args:
          columns: (entity, name) of all that could be features.
          others: names of further columns, which --ignore may name for nothing.
        """
        names = {name for _, name in columns}
        for name, kind in self.flags.items():
            if name not in names and not (kind == IGNORE and name in others):
                raise InputError(f"--{kind} names '{name}'." + did_you_mean(name, names))
        for entity, name in () if self.saved is None else self.saved:
            if (entity, name) not in columns:
                raise InputError(
                    f"{self.path}: the data has no column '{name}' of the {entity}s."
                    + did_you_mean(name, [column for of, column in columns if of == entity])
                )
        for entity, name in columns if self.saved is not None else ():
            if self.kind(entity, name) is None:
                raise InputError(
                    f"{self.path} says nothing of column '{name}' of the {entity}s. Add it, with "
                    f'"kind": "{IGNORE}" to leave it out.'
                )

    def save(self, columns: Sequence[Column]) -> None:
        """Writes the kinds down to be edited, if there is a file to write."""
        if self.path is None or self.saved is not None:
            return
        features = []
        for column in columns:
            distinct = [] if column.distinct is None else [f"{column.distinct:,} distinct"]
            comment = "; ".join(
                [*distinct, f"such as {', '.join(column.examples) or 'nothing'}", *column.warnings]
            )
            values = (column.name, column.entity, column.kind, comment)
            features.append(dict(zip(_FIELDS, values, strict=True)))
        files.write_json(self.path, {"format": FORMAT, "version": VERSION, "features": features})


def _load(file: Path) -> dict[tuple[str, str], str]:
    if not file.is_file():
        raise InputError(f"--schema={file} is no file. Expected one, or a new name.")
    value = files.read_json(file)
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise InputError(
            f'{file}: expected a JSON object with "format": "{FORMAT}", as `interactrank convert '
            f"--schema=FILE` writes it where FILE does not exist."
        )
    if value.get("version") != VERSION:
        raise InputError(
            f"{file}: version is {value.get('version')!r}, this release reads {VERSION}."
        )
    for name in value:
        if name not in ("format", "version", "features"):
            raise InputError(f"{file}: unknown field '{name}'.")
    if not isinstance(value.get("features"), list):
        raise InputError(f"{file}: 'features' is not a list of objects.")
    kinds: dict[tuple[str, str], str] = {}
    for feature in value["features"]:
        entity, name, kind = _feature(file, feature)
        if (entity, name) in kinds:
            raise InputError(f"{file}: column '{name}' of the {entity}s is there twice.")
        kinds[entity, name] = kind
    return kinds


def _feature(file: Path, feature: Any) -> tuple[str, str, str]:
    if not isinstance(feature, dict):
        raise InputError(f"{file}: a feature is {feature!r}. Expected an object.")
    for field in feature:
        if field not in _FIELDS:
            raise InputError(
                f"{file}: a feature has field '{field}'." + did_you_mean(field, _FIELDS)
            )
    name = feature.get("name")
    if not isinstance(name, str):
        raise InputError(f"{file}: a feature has name {name!r}. Expected a string.")
    for field, allowed in (("entity", _ENTITIES), ("kind", (*KINDS, IGNORE))):
        if feature.get(field) not in allowed:
            raise InputError(
                f"{file}: feature '{name}' has {field} {feature.get(field)!r}."
                + did_you_mean(str(feature.get(field)), allowed)
            )
    return feature["entity"], name, feature["kind"]
