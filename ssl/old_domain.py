"""Images of the domain that an encoder's weights come from, watched while training goes on with others: does it forget?"""
from dataclasses import replace

import torch
from torch import Tensor, nn

from core import cli
from core.errors import SettingError
from core.settings import Group, PretrainSettings
from linear_eval.features import rankme
from linear_eval.knn import knn
from linear_eval.samples import Sample
from ssl.alarm import hits, left_out_hits
from ssl.health import BANK, WATCHED, features
from vision.augment import Augmentation
from vision.data import build_data
from vision.encoders import Spec
from vision.splits import Dataset

NEW = {"name": "folder", "labels": "auto", "group": None, "max_corrupt": 0.2}


class OldDomain:
    """kNN on the images of a folder, where sub-folders label them; else the effective rank of their features."""

    def __init__(self, dataset: Dataset, recipe: Augmentation, device: torch.device, spec: Spec) -> None:
        if dataset.channels != spec.channels and not {dataset.channels, spec.channels} <= {1, 3}:
            raise ValueError(f"the encoder takes {spec.channels} channels, and these images have {dataset.channels}")
        self.recipe, self.device, self.classes = recipe, device, dataset.classes
        watched = dataset.validation if len(dataset.validation) > 1 else dataset.pretrain
        self.watched = Sample(watched, WATCHED, spec)
        labelled = self.classes and self.watched.labels is not None
        self.bank = Sample(dataset.train, BANK, spec) if labelled else None
        self.hits: Tensor | None = None  # of the last measurement, as `alarm.change` takes them

    def measure(self, encoder: nn.Module) -> dict[str, float]:
        def plain(images: Tensor, positions: Tensor) -> Tensor:
            return features(encoder, images, self.recipe, self.device)

        watched, (z,) = self.watched.describe(plain)
        if self.bank is None:
            return {"old_rankme": rankme(z)}
        bank, (rows,) = self.bank.describe(plain)
        found = knn(rows, self.bank.labels[bank], z, len(self.classes))
        right = torch.from_numpy(found) == self.watched.labels[watched]
        others = left_out_hits(rows, self.bank.labels[bank], bank, len(self.bank), len(self.classes))
        self.hits = torch.cat([hits(watched, right, len(self.watched)), others])
        return {"old_knn": float(right.double().mean() * 100)}


def old_domain(settings: PretrainSettings, recipe: Augmentation, device: torch.device, spec: Spec) -> OldDomain | None:
    """Of the folder that `adapt.old_data` names, read as the data are.  Raises SettingError where it cannot be used."""
    if (root := settings.adapt.old_data) is None:
        return None
    like = cli.plain(settings.data) if settings.data.name == "folder" else {}
    data = Group("folder", {**like, **NEW, "root": root})
    try:
        return OldDomain(build_data(replace(settings, data=data, augment=None)), recipe, device, spec)
    except ValueError as error:
        raise SettingError("adapt.old_data", f"{root}: {error}") from error

