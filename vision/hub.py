"""Hugging Face data sets: a name on the Hub, a local copy or a .parquet file → splits decoded on demand."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from vision.decode import Unreadable, reason
from vision.folder import SPLITS
from vision.streamed import Progress, Streamed

if TYPE_CHECKING:
    from vision.datasets import Dataset


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
        value = self.table[row][self.column]  # {"bytes": …, "path": …}
        if value is None:
            raise Unreadable("no image in this row")
        return open(value["path"], "rb") if value["bytes"] is None else io.BytesIO(value["bytes"])


def load_hub(
    root: str | None, download: bool, labels: str, max_corrupt: float, validation: float, seed: int,
    progress: Progress | None,
) -> Dataset:
    """A data set of the Hub (name or name:configuration), a folder or .parquet file, or what save_to_disk wrote."""
    from datasets import ClassLabel, Image, Value

    from vision.datasets import assemble

    tables = _tables(root, download)
    names = {role: next((name for name in SPLITS[role] if name in tables), None) for role in SPLITS}
    names["train"] = names["train"] or next(iter(tables))
    features = tables[names["train"]].features
    image = next((column for column, kind in features.items() if isinstance(kind, Image)), None)
    if image is None:
        raise ValueError(f"data.root={root} has no column of images, only {', '.join(features)}")
    usual = [column for column in ("label", "labels", "fine_label", "class")
             if isinstance(features.get(column), (ClassLabel, Value))]
    column = next(iter((*usual, *(column for column, kind in features.items() if isinstance(kind, ClassLabel)))), None)

    splits, classes, skipped = {}, None, {}
    for role, name in names.items():
        if name is None or (role != "train" and name == names["train"]):
            continue
        table = tables[name]
        split = HFImages(table.select_columns([image]).cast_column(image, Image(decode=False)), image, f"{root}/{name}")
        if column and labels != "none":
            values = table.select_columns([column]).with_format("numpy")[:][column]
            if role == "train":
                kind = features[column]
                known = np.arange(kind.num_classes) if isinstance(kind, ClassLabel) else np.unique(values)
                classes = tuple(kind.names) if isinstance(kind, ClassLabel) else tuple(map(str, known.tolist()))
            if classes and np.isin(values, known).all():
                split.labels = torch.from_numpy(np.searchsorted(known, values)).long()
            elif role == "train":
                classes = None  # −1 or nothing stands for labels that were withheld
            elif classes:
                skipped[f"{root}/{name}"] = f"has labels that train lacks, so not used for {role}"
                continue
        splits[role] = split
    return assemble("hf", str(root), splits, classes, skipped, max_corrupt, validation, seed, progress)


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
