"""YAML files into frozen, validated objects.

A name finds a file of the package (``configs/variants/B-224.yaml``), a path finds the user's own. Several files of a
kind are put one over the other: sections (``train``) key by key, any other value as a whole. An unknown key or a wrong
type is a `UserError` that names the key, the file and the nearest key.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from lorat.configs.schema import RecipeConfig, VariantConfig
from lorat.shards.base.errors import UserError, nearest, unknown

PATHS_FILE = "paths.yaml"
OF_VARIANT = "variant."
"""How keys of a variant begin, where others are of a recipe."""
_MIXINS = "mixins.yaml"
_LOG = logging.getLogger("lorat")
_SHIPPED = Path(__file__).parent
Model = TypeVar("Model", bound=BaseModel)


def names(kind: str) -> list[str]:
    """Return the names that the package ships of a kind: ``variants`` or ``recipes``."""
    return sorted(file.stem for file in (_SHIPPED / kind).glob("*.yaml"))


def load_variant(name_or_path: str, overrides: Sequence[str] = ()) -> VariantConfig:
    """Read a variant by its shipped name (``B-224``) or from a YAML file, changed by overrides such as ``a.b=c``. A
    `UserError` if the name is unknown, the file is missing, or a key or value does not fit.
    """
    return _put_together(VariantConfig, [_read("variant", name_or_path)], overrides, OF_VARIANT)


def load_recipe(names: str | Sequence[str], overrides: Sequence[str] = ()) -> RecipeConfig:
    """Read a recipe by its name (``standard``) or from a YAML file, or several, as `load_plan` does; see `load_variant`
    for overrides.
    """
    layers, _ = _recipes([names] if isinstance(names, str) else names)
    return _put_together(RecipeConfig, layers, overrides)


def load_plan(variant: str, recipes: Sequence[str], overrides: Sequence[str]) -> tuple[VariantConfig, RecipeConfig]:
    """Read a variant and the recipes that train it, the later over the earlier; the variant's own if none is named,
    and below them if they name no data. A section ``variant`` of a recipe changes the variant. Then keys are changed by
    overrides (``train.lr=c``, ``variant.a.b=c``). What a recipe sets otherwise than one below it is said in a line, and
    so is what a tracker that remembers loses of its own recipe where that is not among them.
    """
    of_variant = [text.removeprefix(OF_VARIANT) for text in overrides if text.startswith(OF_VARIANT)]
    wanted = load_variant(variant, of_variant)
    own = wanted.recipe
    layers, changes = _recipes(recipes or [own], own)
    if wanted.method != "lorat" and own not in {layer.name for layer in layers}:
        _say_lost(_recipe(own), layers)
    recipe = _put_together(RecipeConfig, layers, [text for text in overrides if not text.startswith(OF_VARIANT)])
    return _put_together(VariantConfig, [_read("variant", variant), *changes], of_variant, OF_VARIANT), recipe


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


def parse(
    model: type[Model], values: Mapping[str, Any], source: str, sources: Mapping[str, str] = MappingProxyType({})
) -> Model:
    """Validate `values` into a frozen `model`. The first key that is unknown, or value that does not fit, is a
    `UserError` that names it and `source`, or the one of `sources` that gave the key or what it stands in.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        *place, last = first["loc"] or [""]
        key = ".".join(map(str, first["loc"]))
        source = next((said for place, said in sources.items() if f"{key}.".startswith(f"{place}.")), source)
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


class _Layer(NamedTuple):
    """What a file says, before it is put over others and validated."""

    name: str
    source: str  # as errors call it
    values: dict[str, Any]


def _read(what: str, name: str, others: Sequence[str] = ()) -> _Layer:
    """Read a shipped file, ``variant`` or ``recipe``, by its name, or a user's YAML file; a `UserError` if it is
    neither (`others` are known, too), or cannot be read.
    """
    if name.endswith((".yaml", ".yml")):
        path, source = Path(name), name
    elif name in names(f"{what}s"):
        source = f"configs/{what}s/{name}.yaml"
        path = _SHIPPED / f"{what}s" / f"{name}.yaml"
    else:
        raise unknown(what, name, [*names(f"{what}s"), *others])
    values = read_yaml(path)
    return _Layer(str(values.pop("name", path.stem)), source, values)


def _put_together(
    model: type[Model], layers: Sequence[_Layer], overrides: Sequence[str] = (), prefix: str = ""
) -> Model:
    """Put layers one over the other, the later over the earlier, change keys by overrides such as ``a.b=c``, and
    validate; users write the overrides after ``--set``, with `prefix`.
    """
    values: dict[str, Any] = {"name": "+".join(layer.name for layer in layers if layer.name)}
    sources = dict[str, str]()
    for layer in layers:
        for place, value in _leaves(model, layer.values):
            section = values
            for part in place[:-1]:
                if not isinstance(section.get(part), dict):  # lora: null, below
                    section[part] = {}
                section = section[part]
            section[place[-1]] = value
            sources[".".join(place)] = layer.source
    for text in overrides:
        override(values, text, prefix + text)
        sources.pop(text.partition("=")[0], None)
    whole = ", ".join(layer.source for layer in layers)
    return parse(model, values, f"{whole} with --set" if overrides else whole, sources)


def _leaves(
    model: type[BaseModel], values: Mapping[str, Any], above: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the values of nested mappings with their places, ``("train", "lr")``, where `model` has sections; a mapping
    that is a value of its own (``data.datasets``) is whole.
    """
    for key, value in values.items():
        place = (*above, str(key))
        if isinstance(value, dict) and _known_keys(model, place):
            yield from _leaves(model, value, place)
        else:
            yield place, value


def _recipes(names: Sequence[str], base: str = "standard") -> tuple[list[_Layer], list[_Layer]]:
    """Read recipes and the published trainer's mixins, with `base` below them where none names data; return what they
    say of the recipe and of the variant.
    """
    layers = list(map(_recipe, names))
    if not any(place == ("data", "datasets") for layer in layers for place, _ in _leaves(RecipeConfig, layer.values)):
        layers = [_recipe(base), *layers]
    variant = [_Layer("", layer.source, layer.values.pop("variant", None) or {}) for layer in layers]
    said: dict[tuple[str, ...], tuple[str, Any]] = {}
    for layer in layers:
        news = {place: (layer.name, value) for place, value in _leaves(RecipeConfig, layer.values)}
        others = [place for place, (_, value) in news.items() if place in said and said[place][1] != value]
        if others:
            what = ", ".join(f"{'.'.join(place)} of {said[place][0]}" for place in others)
            _LOG.info("recipe %s takes the place of %s", layer.name, what)
        said |= news
    return layers, variant


def _say_lost(own: _Layer, layers: Sequence[_Layer]) -> None:
    """Warn of what a variant's own recipe says of the optimisation and none of `layers` does."""
    said = {place for layer in layers for place, _ in _leaves(RecipeConfig, layer.values)}
    lost = [
        ".".join(place) for place, _ in _leaves(RecipeConfig, own.values) if place[0] == "train" and place not in said
    ]
    if lost:
        both = " ".join(f"--recipe {layer.name}" for layer in (own, *layers))
        _LOG.warning("without the variant's own recipe %s goes %s; to keep it: %s", own.name, ", ".join(lost), both)


def _recipe(name: str) -> _Layer:
    mixins = read_yaml(_SHIPPED / _MIXINS)
    match mixins.get(name):
        case dict() as values:
            return _Layer(name, f"configs/{_MIXINS}", values)
        case str() as instead:
            raise UserError(f"recipe {name}: {instead}")
    return _read("recipe", name, [name for name, values in mixins.items() if isinstance(values, dict)])


def _known_keys(model: type[BaseModel], place: Sequence[int | str]) -> list[str]:
    for part in place:
        field = model.model_fields.get(str(part))
        kinds = (field.annotation, *get_args(field.annotation)) if field else ()
        models = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if not models:
            return []
        model = models[0]
    return list(model.model_fields)
