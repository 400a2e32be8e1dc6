# ruff: noqa: RUF009 (`option` makes fields)
"""The settings of the pictures of views and of corruptions."""
from dataclasses import dataclass

from core.setting_fields import NATURAL, POSITIVE, PROPER_SHARE, option
from core.settings import CommonSettings, Group, TrainingSettings
from vision.masks import KINDS


@dataclass(frozen=True)
class PictureSettings(TrainingSettings):
    masks: str = option(
        "none", "what methods on patches mask, shown faintly: random (MAE) | cells (SimMIM) | block (BEiT, iBOT) | "
        "inverse_block, inverse_block_roll (data2vec 2.0, CAPI) | multiblock (I-JEPA) | prefix (AIM)",
        ("none", *KINDS), affects_result=False,
    )
    mask_ratio: float = option(0.5, "share of the patches that is masked; multiblock and prefix have their own", PROPER_SHARE,
                               affects_result=False)
    patch: int | None = option(None, "pixels a side of a patch; null: as transformers get them", POSITIVE, affects_result=False)


@dataclass(frozen=True)
class CorruptionSheetSettings(CommonSettings):
    augment: Group | None = option(None, "not used: choices of data set it")
    image: int = option(0, "which of the images is drawn", NATURAL, affects_result=False)
