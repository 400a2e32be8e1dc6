"""Inputs at which a formula has no value or no gradient, for the conformance tests of methods and losses."""
import dataclasses
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

TINY = 1e-4  # temperature


def _opposite(x: Tensor) -> Tensor:
    """Every row is the first or its negative, so that cosines are −1."""
    signs = torch.tensor([1.0, -1.0]).repeat(len(x))[: len(x)]
    return x[:1] * signs.view(-1, *[1] * (x.ndim - 1)).to(x.dtype)


INPUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "ordinary": lambda x: x,
    "all rows equal": lambda x: x[:1].expand_as(x).clone(),
    "all numbers equal": lambda x: torch.ones_like(x),
    "all zero": torch.zeros_like,
    "opposite rows": _opposite,
    "one zero row, two equal rows": lambda x: torch.cat([torch.zeros_like(x[:1]), x[1:2], x[1:2], x[3:]])[: len(x)],
    "huge": lambda x: x * 1e4,
    "bfloat16": lambda x: x.bfloat16(),
    "float16": lambda x: x.half(),
    "two images": lambda x: x[:2],
}
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def changed(values: Iterable, change: Callable[[Tensor], Tensor], rows: int) -> list:
    """Tensors of floats with a row an image as `change` makes them; of the others as many rows."""
    made = []
    for value in values:
        if isinstance(value, Tensor) and value.ndim and len(value) == rows:
            value = change(value) if value.is_floating_point() else value[: len(change(torch.zeros(rows, 1)))]
        made.append(value)
    return made


def changed_record(record, change: Callable[[Tensor], Tensor], rows: int):
    """The same for what `Method.targets` returns, a Record or None."""
    if record is None:
        return None
    names = [field.name for field in dataclasses.fields(record)]
    values = changed([getattr(record, name) for name in names], change, rows)
    return dataclasses.replace(record, **dict(zip(names, values, strict=True)))


def refused(error: ValueError) -> bool:
    """A refusal is one line that says more than a number."""
    text = str(error)
    return len(text) > 20 and "\n" not in text


def wrong(named: Iterable[tuple[str, Tensor | None]]) -> list[str]:
    """Names of those that are not finite."""
    return [name for name, value in named if value is not None and value.is_floating_point() and not value.isfinite().all()]
