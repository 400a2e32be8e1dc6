"""Hugging Face data sets: a name on the Hub, a local copy or a .parquet file → splits decoded on demand.

Labels are a column of class numbers (ClassLabel), integers, booleans or texts. A row without one (null, empty text, NaN,
−1 of a ClassLabel) is left out where most rows of train have one. Floats are labels only where they are whole, as pandas
writes integers with gaps.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from vision import hub_labels
from vision.decode import Unreadable, reason
from vision.folder import SPLITS
from vision.splits import Collection, Dataset, assemble
from vision.streamed import Progress, Streamed


class HFImages(Streamed):
    """A split of a Hugging Face data set, decoded on demand as files are.  table: datasets.Dataset, memory-mapped."""

    def __init__(self, table: Any, column: str, source: str, labels: Tensor | None = None) -> None:
        super().__init__(torch.arange(len(table)), labels)
        self.table, self.column, self.source = table, column, source

    def where(self, index: int) -> str:
        return f"{self.source}/{int(self.rows[index])}"

    def _identify(self, digest) -> None:
        digest.update(self.column.encode() + self.rows.numpy().tobytes())

    def _open(self, row: int) -> BinaryIO:
        try:
            value = self.table[row][self.column]  # {"bytes": …, "path": …}
        except Exception as error:  # Arrow's, of a damaged file, have no common class
            raise Unreadable(reason(error)) from error
        if value is None or (value["bytes"] is None and not value["path"]):
            raise Unreadable("no image in this row")
        return open(value["path"], "rb") if value["bytes"] is None else io.BytesIO(value["bytes"])


def load_hub(
    root: str | None, download: bool, labels: str, max_corrupt: float, validation: float, seed: int,
    progress: Progress | None,
) -> Dataset:
    """A data set of the Hub (name or name:configuration), a folder or .parquet file, or what save_to_disk wrote."""
    from datasets import Image

    tables = _tables(root, download)
    collection, names = Collection("hf", str(root)), _roles(tables)
    image, column = _columns(tables[names["train"]].features, root)
    column = None if labels == "none" else column
    for role, name in names.items():
        table, place = tables[name], f"{root}/{name}"
        if image not in table.features:
            collection.skipped[place] = f"has no column {image!r}, so not used for {role}"
            continue
        split = HFImages(table.select_columns([image]).cast_column(image, Image(decode=False)), image, place)
        values = None
        if column in table.features and (role == "train" or collection.classes):
            values = hub_labels.of_table(table, column, root, max_corrupt)
        if role == "train" and values:
            collection.classes = _classes(values, place, collection.skipped)
        if collection.classes:
            split = _labelled(split, values, collection.classes, place, role, collection.skipped)
        if split is not None:
            collection.splits[role] = split
    return assemble(collection, max_corrupt, validation, seed, progress)


def _roles(tables: dict[str, Any]) -> dict[str, str]:
    """Role → the table that has it, train first."""
    roles = {role: next((name for name in names if name in tables), None) for role, names in SPLITS.items()}
    train = roles["train"] or next(iter(tables))
    return {"train": train} | {role: name for role, name in roles.items() if name not in (None, train)}


def _columns(features: Any, root: str | None) -> tuple[str, str | None]:
    """The names of the columns of images and of labels, the latter None where there is none."""
    from datasets import ClassLabel, Image, Value

    image = next((column for column, kind in features.items() if isinstance(kind, Image)), None)
    if image is None:
        raise ValueError(f"data.root={root} has no column of images, only {', '.join(features)}")
    usual = [column for column in ("label", "labels", "fine_label", "class")
             if isinstance(features.get(column), (ClassLabel, Value))]
    others = (column for column, kind in features.items() if isinstance(kind, ClassLabel))
    return image, next(iter((*usual, *others)), None)


def _classes(values: hub_labels.Values, place: str, skipped: dict[str, str]) -> tuple[str, ...] | None:
    """Those of train; None where fewer than half of its rows have a label."""
    lacking = sum(value is None for value in values.rows)
    if lacking and lacking >= len(values.rows) / 2:
        skipped[f"{place}, labels"] = f"{lacking} of {len(values.rows)} rows have no label, so none is used"
        return None
    return values.classes or None


def _labelled(
    split: HFImages, values: hub_labels.Values | None, classes: tuple[str, ...], place: str, role: str, skipped: dict[str, str]
) -> HFImages | None:
    """The rows that have a class of train; None where there is none. `skipped` gets what is left out, and why."""
    number = {name: k for k, name in enumerate(classes)}
    rows = values.rows if values else [None] * len(split)
    labels = torch.tensor([-1 if value is None else number.get(value, -1) for value in rows], dtype=torch.int64)
    lost = int((labels < 0).sum())
    if lost == len(labels) and len(labels):
        skipped[place] = f"has {'labels that train lacks' if values else 'no labels'}, so not used for {role}"
        return None
    if lost:
        skipped |= {f"{place}/{row}": why for row, why in values.wrong.items()}
        empty = sum(value is None for value in rows) - len(values.wrong)
        strange = sorted({value for value in rows if value is not None and value not in number})
        reasons = [f"{empty} have no label"] if empty else []
        if strange:
            reasons.append(f"{lost - empty - len(values.wrong)} have one that train lacks ({', '.join(strange[:3])})")
        if reasons:
            skipped[place] = f"of {len(rows)} rows {' and '.join(reasons)}: left out"
    split.labels = labels.clamp(min=0)
    return split.select((labels >= 0).nonzero().flatten())


def _tables(root: str | None, download: bool) -> dict[str, Any]:
    """Split name → datasets.Dataset."""
    if not root:
        raise ValueError("data=hf needs data.root: a data set's name on the Hub, a local folder or a .parquet file")
    import datasets

    local = Path(root).expanduser()
    if not local.exists() and not download:
        raise ValueError(f"data.root={root} is no local folder or file, and data.download=false forbids to fetch it")
    try:
        if (local / "dataset_dict.json").exists() or (local / "state.json").exists():
            tables = datasets.load_from_disk(str(local))
        elif local.suffix in (".parquet", ".arrow"):
            tables = datasets.load_dataset(local.suffix[1:], data_files=str(local))
        elif local.is_file():
            raise ValueError(f"a {local.suffix or 'nameless'} file")
        elif local.is_dir():
            tables = datasets.load_dataset(str(local))
        else:
            name, _, configuration = str(root).partition(":")
            tables = datasets.load_dataset(name, configuration or None)
    except Exception as error:  # not found, no network, a broken file: `datasets` has its own exceptions for each
        raise ValueError(f"data.root={root}: Hugging Face datasets cannot load it ({reason(error)}); give a name on "
                         f"the Hub, a local folder or a .parquet file") from None
    return dict(tables) if isinstance(tables, dict) else {"train": tables}
