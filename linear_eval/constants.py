"""The constants of a protocol: frozen in a yaml, checked by example, and what of them was changed."""
from collections.abc import Mapping
from typing import Any

from core import cli


def check_constants(tool: cli.Tool, name: str, protocol: Mapping[str, Any]) -> None:
    """A protocol's numbers have no types of their own: those of the frozen one called `name` show their kind and sign.

    Raises ValueError, one line.
    """
    examples = cli.flat(tool.example("protocol", name))
    for key, value in cli.flat(protocol).items():
        example = examples[key]
        values = value if isinstance(value, list) else [value]
        kind = type(example[0] if isinstance(example, list) else example)
        alike = all(type(v) is kind or (kind is float and type(v) is int) for v in values)
        if isinstance(value, list) != isinstance(example, list) or not values or not alike:
            raise ValueError(f"protocol.{key}={value}: must be like {str(example).replace(' ', '')}")
        if kind is not str and not all(v > 0 for v in values):
            raise ValueError(f"protocol.{key}={value}: must be more than 0")


def changed_constants(tool: cli.Tool, protocol: Mapping[str, Any]) -> dict[str, Any]:
    """What differs from the frozen numbers of the protocol's name, by dotted name."""
    frozen = cli.flat(tool.example("protocol", protocol["name"]))
    return {key: value for key, value in cli.flat(protocol).items() if frozen.get(key) != value}
