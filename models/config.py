# SPDX-License-Identifier: Apache-2.0
"""Typed configuration: a frozen dataclass per system, every field a command-line flag.

    @dataclass(frozen=True)
    class Config(Settings):
        width: int = option(64, "channels of the first layer", preset={"tiny": 16})
        modules: Literal["full", "pred"] = option("full", "which modules there are")

`Config.preset("tiny")` is a preset, `replace` of the dataclasses module an ablation. Types are
bool, int, float, str, Literal, tuples of these (`--losses l1 style`), and any of them `| None`.
"""

from __future__ import annotations

import argparse
import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union

PAPER = "paper"  # the preset of the fields' own defaults

S = TypeVar("S", bound="Settings")


def option(default: Any, help: str, *, preset: Mapping[str, Any] | None = None) -> Any:
    """A field: its default (the published value), what it is, and its value in other presets."""
    return dataclasses.field(default=default, metadata={"help": help, "preset": dict(preset or {})})


@dataclasses.dataclass(frozen=True)
class Settings:
    """Base of every configuration: presets, flags, JSON, and a check of every value's type."""

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not _fits(value, hints[field.name]):
                raise ValueError(
                    f"{_flag(field.name)} must be {_words(hints[field.name])}, got {value!r}"
                )

    @classmethod
    def presets(cls) -> tuple[str, ...]:
        names = {name for f in dataclasses.fields(cls) for name in f.metadata.get("preset", {})}
        return (PAPER, *sorted(names))

    @classmethod
    def preset(cls: type[S], name: str = PAPER, **changes: Any) -> S:
        """The values of a preset, with some changed.

        Raises ValueError for an unknown preset or field, or a value of the wrong type.
        """
        if name not in cls.presets():
            raise ValueError(f"--preset must be one of {', '.join(cls.presets())}, got {name!r}")
        fields = dataclasses.fields(cls)
        unknown = sorted(set(changes) - {field.name for field in fields})
        if unknown:
            raise ValueError(f"{cls.__module__} has no {', '.join(map(repr, unknown))}")
        values = {
            field.name: field.metadata["preset"][name]
            for field in fields
            if name in field.metadata.get("preset", {})
        }
        return cls(**{**values, **changes})

    @classmethod
    def add_arguments(cls, parser: argparse._ActionsContainer) -> None:
        """A flag per field. Those that are not given stay None, so that presets can speak."""
        hints = typing.get_type_hints(cls)
        for field in dataclasses.fields(cls):
            default = f"default {_text(field.default)}"
            for name, value in field.metadata.get("preset", {}).items():
                default += f", {name} {_text(value)}"
            keywords = _argument(hints[field.name])
            parser.add_argument(
                _flag(field.name), help=f"{field.metadata.get('help', '')} ({default})", **keywords
            )

    @classmethod
    def from_arguments(cls: type[S], args: argparse.Namespace, preset: str = PAPER) -> S:
        """The preset, with the flags that were given."""
        given = {
            field.name: value
            for field in dataclasses.fields(cls)
            if (value := getattr(args, field.name, None)) is not None
        }
        hints = typing.get_type_hints(cls)
        for name, value in given.items():
            if isinstance(value, list):
                given[name] = tuple(value)
            elif value == "none" and type(None) in typing.get_args(hints[name]):
                given[name] = None
        return cls.preset(preset, **given)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls: type[S], values: Mapping[str, Any]) -> S:
        """The inverse of `to_json`; fields that the file does not know keep their default.

        Raises ValueError for a field that the class does not know.
        """
        return cls.preset(
            PAPER, **{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        )


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    return str(value).lower()


def _alternatives(hint: Any) -> tuple[Any, ...]:
    """The members of a union, else the type itself."""
    if typing.get_origin(hint) in (Union, types.UnionType):
        return typing.get_args(hint)
    return (hint,)


def _fits(value: Any, hint: Any) -> bool:
    if len(members := _alternatives(hint)) > 1:
        return any(_fits(value, member) for member in members)
    origin = typing.get_origin(hint)
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in hint.__args__)
    if origin is tuple:
        member = typing.get_args(hint)[0]
        return isinstance(value, tuple) and all(_fits(one, member) for one in value)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _words(hint: Any) -> str:
    if len(members := _alternatives(hint)) > 1:
        return " or ".join(_words(member) for member in members)
    if typing.get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, hint.__args__))}"
    if typing.get_origin(hint) is tuple:
        return f"some of: {_words(typing.get_args(hint)[0])}"
    return {bool: "true or false", type(None): "none"}.get(
        hint, getattr(hint, "__name__", str(hint))
    )


def _argument(hint: Any) -> dict[str, Any]:
    members = [member for member in _alternatives(hint) if member is not type(None)]
    optional = len(members) < len(_alternatives(hint))
    if typing.get_origin(members[0]) is tuple:
        return {**_argument(typing.get_args(members[0])[0]), "nargs": "*"}
    if len(members) == 1 and not optional and typing.get_origin(members[0]) is Literal:
        return {"choices": members[0].__args__, "type": type(members[0].__args__[0])}

    def read(text: str) -> Any:
        if optional and text.lower() == "none":
            return "none"
        for member in members:
            if member is bool and text.lower() in ("true", "false"):
                return text.lower() == "true"
            if member in (int, float, str):
                try:
                    return member(text)
                except ValueError:
                    continue
            if typing.get_origin(member) is Literal and text in member.__args__:
                return text
        raise argparse.ArgumentTypeError(f"must be {_words(hint)}, got {text!r}")

    return {"type": read, "metavar": "|".join(_words(m) for m in members).replace(" ", "_")}
