"""YAML files into frozen, validated objects.

A name finds a file of the package (``configs/variants/B-224.yaml``), a path finds the user's own. An unknown key or a
wrong type is a `UserError` that names the key, the file and the nearest key.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from lorat.configs.schema import RecipeConfig, VariantConfig
from lorat.shards.base.errors import UserError, nearest, unknown

PATHS_FILE = "paths.yaml"
_SHIPPED = Path(__file__).parent
Model = TypeVar("Model", bound=BaseModel)


def names(kind: str) -> list[str]:
    """Return the names that the package ships of a kind: ``variants`` or ``recipes``."""
    return sorted(file.stem for file in (_SHIPPED / kind).glob("*.yaml"))


def load_variant(name_or_path: str, overrides: Sequence[str] = ()) -> VariantConfig:
    """Read a variant by its shipped name (``B-224``) or from a YAML file, changed by overrides such as ``a.b=c``. A
    `UserError` if the name is unknown, the file is missing, or a key or value does not fit.
    """
    return _load(VariantConfig, "variant", name_or_path, overrides, "variant.")


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> RecipeConfig:
    """Read a recipe by its name (``standard``) or from a YAML file; see `load_variant`."""
    return _load(RecipeConfig, "recipe", name_or_path, overrides)


def load_data_roots(folder: Path) -> dict[str, Path]:
    """Return data set name → root folder from `folder`/paths.yaml; empty where there is no file. A `UserError` if the
    file is not a flat mapping of names to folders.
    """
    path = folder / PATHS_FILE
    values = read_yaml(path) if path.is_file() else {}
    for key, value in values.items():
        if not isinstance(value, str | None):
            raise UserError(f"{path}: '{key}' must be a folder, as in 'lasot: /data/LaSOT'")
    return {str(key): Path(value).expanduser() for key, value in values.items() if value}


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping; a `UserError` if it is missing, no YAML, or no mapping."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: is not YAML ({error})") from None
    if not isinstance(values, dict | None):
        raise UserError(f"{path}: must hold keys and values, not a {type(values).__name__}")
    return values or {}


def parse(model: type[Model], values: Mapping[str, Any], source: str) -> Model:
    """Validate `values` into a frozen `model`. The first key that is unknown, or value that does not fit, is a
    `UserError` that names it and `source`.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        *place, last = first["loc"] or [""]
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            known = _known_keys(model, place)
            hint = nearest(str(last), known) or f"; known: {', '.join(sorted(known))}"
            raise UserError(f"{source}: unknown key '{key}'{hint}") from None
        what = first["msg"].removeprefix("Value error, ")
        # A rule for several keys together names them itself.
        raise UserError(f"{source}: {f'key {key!r}: ' if key else ''}{what}") from None


def override(values: dict[str, Any], text: str, said: str | None = None) -> None:
    """Change a key of nested mappings, in place, by a text ``a.b=c``; c is read as YAML. A `UserError` quotes what the
    user `said`, if that is another text: it is not of that form, or goes below a value that has no keys.
    """
    said = said or text
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UserError(f"--set {said}: write it as key=value, such as train.batch_size=64")
    *parents, last = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise UserError(f"--set {said}: '{parent}' has no keys of its own")
    try:
        values[last] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise UserError(f"--set {said}: the value is not YAML") from None


def _load(model: type[Model], what: str, name: str, overrides: Sequence[str], prefix: str = "") -> Model:
    """Read a shipped or a user's file, change it, validate it; `prefix` as users write --set."""
    if name.endswith((".yaml", ".yml")):
        values, source = read_yaml(Path(name)), name
    elif name in names(f"{what}s"):
        source = f"configs/{what}s/{name}.yaml"
        values = read_yaml(_SHIPPED / f"{what}s" / f"{name}.yaml")
    else:
        raise unknown(what, name, names(f"{what}s"))
    values.setdefault("name", Path(name).stem)
    for text in overrides:
        override(values, text, prefix + text)
    return parse(model, values, f"{source} with --set" if overrides else source)


def _known_keys(model: type[BaseModel], place: Sequence[int | str]) -> list[str]:
    for part in place:
        field = model.model_fields.get(str(part))
        kinds = (field.annotation, *get_args(field.annotation)) if field else ()
        models = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if not models:
            return []
        model = models[0]
    return list(model.model_fields)
