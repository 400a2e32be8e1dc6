# ruff: noqa: RUF009 (`option` makes fields)
"""The settings of the two tools of this package. No torch here."""
from dataclasses import dataclass, field
from pathlib import Path

from core import cli, training
from core.setting_fields import NATURAL, PROPER_SHARE, Group, Range, option
from core.settings import CommonSettings, TrainingSettings

DESCRIPTORS = ("HOG", "LBP", "SIFT words", "PCA")  # classical features beside the pixels, of baselines
CLASSIFIERS = ("svm", "linear svm", "logistic", "random forest")  # of classical features
PARTS = ("knn", "linear", "logistic", "ridge", "labels", "curve", "finetune", "finetune_all", "baselines")
DEFAULT_PARTS = [part for part in PARTS if part != "finetune"]
MAPS = ("pca", "tsne", "umap")  # of features, in the report
MEASURES = ("retrieval", "clustering", "few_shot", "open_set", "quality", "leakage")  # further parts, from protocol v2 on
NEED_CLASSES = ("retrieval", "clustering", "few_shot", "open_set")  # of these: one label an image


@dataclass(frozen=True)
class ScheduleSettings:
    name: str = option("cosine", "cosine | step | plateau, after optim.warmup", ("cosine", "step", "plateau"))
    at: list[float] = option([0.6, 0.8], "of step: after which shares of the run the learning rate falls")
    factor: float = option(0.1, "of step and plateau: to what share of itself it falls", PROPER_SHARE)
    patience: int = option(2, "of plateau: checks without a better validation accuracy before it falls", NATURAL)


@dataclass(frozen=True)
class FinetuneSettings(TrainingSettings):
    scratch: bool = option(False, "ignore the encoder's weights: train from scratch", original_default=False)
    attention: str = option("none", "none | cbam: attention modules after a convolutional encoder's stages", ("none", "cbam"))
    least_steps: int = option(
        400, "optimizer steps at least, where so many epochs of few images would be fewer; steps says the number itself",
        NATURAL, original_default=0,
    )
    head_start: str = option(
        "probe", "probe (of a trained encoder: the classifier begins as the logistic regression on frozen features) | zero",
        ("probe", "zero"), original_default="zero",
    )
    labels: float = option(
        1.0, "share of the labeled training images to train on, stratified",
        Range("a share of the training labels: more than 0, at most 1", above=0, high=1),
    )
    draw: int = option(0, "which images that share is", NATURAL)
    balanced: bool = option(False, "every class equally often in an epoch, whatever its size")
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings, metadata={"help": ""})
    early_stop: int = option(
        0, "checks without a better validation accuracy that end the run, with its best weights; 0: never",
        NATURAL,
    )
    gradcam: int = option(8, "test images whose Grad-CAM the report shows, for convolutional encoders", NATURAL)


@dataclass(frozen=True)
class EvaluateSettings(CommonSettings):
    encoder: str | None = option(
        None, "an encoder.safetensors, or any timm name (pretrained=true: timm's weights)",
        path="weights",
    )
    protocol: Group | None = option(None, "all constants of the evaluation, frozen; a result lists what was changed")
    augment: Group | None = option(None, "how images are varied in fine-tuning")
    attention: str = option("none", "none | cbam, for a timm name", ("none", "cbam"))
    parts: list[str] = option(
        DEFAULT_PARTS, "what to evaluate with; finetune_all: fine-tuning with all labels alone, finetune: with the shares of "
        f"labels too; also, with protocol=v2: {', '.join(MEASURES)}",
    )
    unknown: str | None = option(
        None, "of open_set: a data set whose test images are the unknown ones; without it classes are held out",
        original_default=None,
    )
    suite: str | None = option(
        None, "several data sets in one command: by comma, as digits,fashion_mnist, or linear12 | vtab1k (suite_files/)"
    )
    subset: str | None = option(
        None, "so many training + validation images, such as 800+200, by a fixed rule (vision/subset.py); null: all",
        original_default=None,
    )
    smote: bool = option(False, "classes made equal by synthetic features (SMOTE), for logistic regression on all labels")
    cache: str = option("runs/features", "folder of cached features; none: no cache", affects_result=False, path="folder")
    picture: bool = option(
        True, "pictures in the report: neighbors, confusions, maps of the features, Grad-CAM",
        affects_result=False,
    )
    maps: list[str] = option(
        ["pca", "tsne"], "maps of the features in the report: pca, tsne, umap (slow to begin with)", affects_result=False,
    )


def asked_measures(settings: EvaluateSettings, multilabel: bool) -> list[str]:
    """The measures of `parts` that the data allow."""
    return [part for part in MEASURES if part in settings.parts and not (multilabel and part in NEED_CLASSES)]


ROOT = Path(__file__).resolve().parent.parent
FINETUNE = cli.Tool(
    module="linear_eval.finetune",
    primary=ROOT / "linear_eval" / "finetune.yaml",
    searched=(ROOT / "vision" / "config",),
    summary="Train a classifier: python -m linear_eval.finetune --encoder runs/x/encoder.safetensors --data fashion_mnist",
    settings=FinetuneSettings,
)


def check_finetune(settings) -> None:
    """Refuse what can be refused before anything is loaded or launched."""
    training.check(settings)
    flat = cli.flat(settings)
    at = flat["schedule.at"]
    wrong = {}
    if not all(0 < share < 1 for share in at) or list(at) != sorted(at):
        wrong["schedule.at"] = "shares of the run, rising, such as [0.6,0.8]"
    pieces = flat["chunk"] or flat["batch_size"] // flat["devices"] // flat["accumulate"]
    if (flat["method.mixup"] or flat["method.cutmix"]) and pieces % 2:
        wrong["batch_size"] = f"such that pieces are even with mixup or cutmix, which mix pairs: {pieces} is odd"
    if flat["method.trains"] != "all" and flat["chunk"]:
        wrong["chunk"] = f"left out with method.trains={flat['method.trains']}; accumulate is the same here"
    training.refuse(flat, wrong)
