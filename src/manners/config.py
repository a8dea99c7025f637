"""Configuration: small frozen pydantic models, read from YAML, with `--set` overrides and errors that help."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from manners.errors import MannersError


class Config(BaseModel):
    """The base of every configuration: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _sections_keep_their_defaults(cls, values: Any) -> Any:
        """What a section leaves out is as in the default of that section here, which need not be that of its kind."""
        if not isinstance(values, Mapping):
            return values
        sections = {name: field.default for name, field in cls.model_fields.items() if name in values}
        filled = {
            name: _over(default.model_dump(exclude_unset=True), values[name])
            for name, default in sections.items()
            if isinstance(default, Config) and isinstance(values[name], Mapping)
        }
        return {**values, **filled}


ConfigT = TypeVar("ConfigT", bound=Config)


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads `1e-5` as text; everybody in this field means a number."""


class _Dumper(yaml.SafeDumper):
    """Quotes what `_Loader` would read as a number."""


_NUMBER = re.compile(
    r"^[-+]?(?:[0-9][0-9_]*\.?[0-9_]*(?:[eE][-+]?[0-9]+)|\.?[0-9]+(?:[eE][-+]?[0-9]+)|[0-9]+\.[0-9]*|\.[0-9]+)$"
)
for _side in (_Loader, _Dumper):
    _side.add_implicit_resolver("tag:yaml.org,2002:float", _NUMBER, list("-+.0123456789"))


def parse_yaml(text: str) -> Any:
    return yaml.load(text, Loader=_Loader)


def load_config(kind: type[ConfigT], path: Path | None = None, overrides: Sequence[str] = ()) -> ConfigT:
    """Read `path` (YAML; none = all defaults), apply `key.sub=value` overrides, and check the result against `kind`.

    Raises MannersError with one line for a missing file, a file that is not YAML, an unknown key (with the nearest known
    one), or a value of the wrong kind.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            read = parse_yaml(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise MannersError(f"config file {path} does not exist") from None
        except OSError as error:
            raise MannersError(f"config file {path} cannot be read: {error.strerror}") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise MannersError(f"config file {path} is not YAML: {' '.join(str(error).split())}") from None
        if read is not None and not isinstance(read, dict):
            raise MannersError(f"config file {path} must hold keys and values, not {type(read).__name__}")
        values = read or {}
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key:
            raise MannersError(f"--set takes key=value, not {override!r}")
        try:
            parsed = parse_yaml(value)
        except yaml.YAMLError as error:
            raise MannersError(f"--set {override}: the value is not YAML: {' '.join(str(error).split())}") from None
        _assign(values, key.strip().split("."), parsed, override)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise MannersError(_explain(kind, error, path)) from None


def dump_config(config: Config) -> str:
    """The resolved configuration as YAML: every default written out."""
    return yaml.dump(config.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _over(default: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """`given`, and what it leaves out from `default`, key by key."""
    both = {key: (default[key], given[key]) for key in default.keys() & given.keys()}
    inner = {k: _over(d, g) for k, (d, g) in both.items() if isinstance(d, Mapping) and isinstance(g, Mapping)}
    return {**default, **given, **inner}


def _assign(values: dict[str, Any], keys: Sequence[str], value: Any, override: str) -> None:
    for key in keys[:-1]:
        inner = values.setdefault(key, {})
        if not isinstance(inner, dict):
            raise MannersError(f"--set {override}: {key} holds a value, not further keys")
        values = inner
    values[keys[-1]] = value


def _explain(kind: type[Config], error: ValidationError, path: Path | None) -> str:
    first = error.errors()[0]
    where = ".".join(_named(kind, first["loc"]))
    file = f" in {path}" if path else ""
    if first["type"] == "extra_forbidden":
        known = _keys(kind, first["loc"][:-1])
        near = difflib.get_close_matches(str(first["loc"][-1]), known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
        return f"unknown config key {where!r}{file}; {hint}"
    return f"config key {where!r}{file}: {first['msg']} (got {first.get('input')!r})"


def _named(kind: type[Config], loc: Sequence[str | int]) -> list[str]:
    """`loc` down to the last key of a config: behind it pydantic names the branches of a union."""
    named: list[str | int] = []
    for part in loc:
        if named and not _keys(kind, named):
            break
        named.append(part)
    return [str(part) for part in named]


def _keys(kind: type[Config], path: Sequence[str | int]) -> list[str]:
    """The keys of the config at `path`, where a number is a place in a list of configs; none where there is no config."""
    fields: Mapping[str, Any] = kind.model_fields
    for part in path:
        if isinstance(part, int):
            continue
        annotation = fields[part].annotation if part in fields else None
        inner = [a for a in (annotation, *get_args(annotation)) if isinstance(a, type) and issubclass(a, BaseModel)]
        if not inner:
            return []
        fields = inner[0].model_fields
    return list(fields)


def differences(old: Config, new: Config) -> list[str]:
    """What `new` says otherwise than `old`, a line for each key: "key.sub: 1 → 2"."""
    before, after = _flat(old.model_dump(mode="json")), _flat(new.model_dump(mode="json"))
    keys = list(dict.fromkeys([*before, *after]))
    return [f"{key}: {before.get(key)} → {after.get(key)}" for key in keys if before.get(key) != after.get(key)]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
