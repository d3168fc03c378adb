"""Settings from presets, files and the command line; presets and files are TOML; ``--set a.b=c`` overrides both.

A preset is data and nothing else: a TOML file in ``presets/`` that differs from the defaults in some values.
"""

import json
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from terradistill.errors import ConfigError
from terradistill.settings import Settings


def presets() -> list[str]:
    """Names of the presets that come with the package."""
    folder = resources.files("terradistill") / "presets"
    return sorted(Path(str(item)).stem for item in folder.iterdir() if str(item).endswith(".toml"))


def load_settings(
    preset_names: list[str] | None = None,
    config: Path | None = None,
    overrides: list[str] | None = None,
    **given: Any,
) -> Settings:
    """Settings from defaults, then presets in order, then a TOML file, then ``a.b=c`` overrides, then ``given``.

    Args:
        preset_names: presets by name; a later one overrides an earlier one.
        config: TOML file with the sections and keys of `Settings`.
        overrides: texts of the form ``section.key=value``; values are read as TOML and otherwise as text.
        **given: values by dotted name with ``__`` for the dot, such as ``data__limit=40``; None is left out, and
            the text "none" is None.

    Raises:
        ConfigError: an unknown preset or key, a value out of range, a file that is no TOML.
    """
    merged: dict[str, Any] = {}
    for name in preset_names or []:
        if name not in presets():
            raise ConfigError(f"There is no preset {name!r}: choose one of {', '.join(presets())}.")
        text = (resources.files("terradistill") / "presets" / f"{name}.toml").read_text(encoding="utf-8")
        _merge(merged, _without_none(tomllib.loads(text)))
    if config is not None:
        try:
            _merge(merged, _without_none(tomllib.loads(Path(config).read_text(encoding="utf-8-sig"))))
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not a text file"
            raise ConfigError(f"The settings file {config} cannot be read ({reason}): give a TOML file.") from error
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"The settings file {config} is not valid TOML ({error}): mend that line.") from error
    for override in overrides or []:
        name, equals, value = override.partition("=")
        if not equals or not name.strip():
            raise ConfigError(f"--set {override!r} is not of the form section.key=value, such as sampling.steps=30.")
        _merge(merged, _nested(name.strip().split("."), _toml_value(value.strip())))
    for name, value in given.items():
        if value is not None:
            _merge(merged, _nested(name.split("__"), None if value == "none" else value))
    return validate(merged)


def validate(values: dict[str, Any]) -> Settings:
    """`Settings` from nested values, with pydantic's findings rewritten as one sentence."""
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise ConfigError(f"There is no setting {key!r}: {_near(key)}") from error
        more = len(error.errors()) - 1
        tail = f" ({more} more settings are wrong.)" if more else ""
        reason = first["msg"].removeprefix("Value error, ")
        given = "" if first["type"] == "value_error" else f" is {first['input']!r}"
        message = f"The setting {key}{given}: {reason[0].lower() + reason[1:]}.{tail}"
        raise ConfigError(message) from error


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one dictionary with dotted names."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def described(settings: Settings) -> list[tuple[str, Any, Any, str]]:
    """Every setting by its dotted name: its value, its default, and what it is."""
    default, said = flatten(Settings().model_dump(mode="json")), _descriptions(Settings)
    return [
        (name, value, default[name], said[name]) for name, value in flatten(settings.model_dump(mode="json")).items()
    ]


def _descriptions(section: type[BaseModel], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for name, field in section.model_fields.items():
        inside = field.annotation
        if isinstance(inside, type) and issubclass(inside, BaseModel):
            found |= _descriptions(inside, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = field.description or ""
    return found


def to_toml(settings: Settings) -> str:
    """The settings that differ from the defaults, as a TOML file that `--config` reads."""
    default = flatten(Settings().model_dump(mode="json"))
    lines: dict[str, list[str]] = {}
    for name, value in flatten(settings.model_dump(mode="json")).items():
        if value != default[name]:
            section, _, key = name.rpartition(".")
            # JSON's texts, numbers, truth values and lists are TOML's too; null is not: the text "none" stands for it.
            text = "none" if value is None else value
            lines.setdefault(section, []).append(f"{key} = {json.dumps(text, ensure_ascii=False)}")
    parts = ["\n".join([f"[{section}]"] * bool(section) + lines[section]) for section in sorted(lines)]
    return "\n\n".join(parts) + "\n"


def _near(key: str) -> str:
    from difflib import get_close_matches

    known = list(flatten(Settings().model_dump()))
    near = get_close_matches(key, known, n=3, cutoff=0.4) or known[:3]
    return f"did you mean {' or '.join(near)}?"


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    # TOML has no null; the text "none" stands for it.
    return {
        key: _without_none(value) if isinstance(value, dict) else None if value == "none" else value
        for key, value in values.items()
    }


def _toml_value(text: str) -> Any:
    if text.lower() in ("none", "null"):
        return None
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _nested(path: list[str], value: Any) -> dict[str, Any]:
    for part in reversed(path):
        value = {part: value}
    return dict(value)


def _merge(into: dict[str, Any], values: dict[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value
