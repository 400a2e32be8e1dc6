"""The page of a pretraining run: verdict, scores, curves, views, what its features hold, what next, and how it was measured."""
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import nn

from core import measured
from core.image_size import size_text
from core.machine import provenance_of
from core.page import Code, Page, Picture, Python, Section, Table, Tile, optional, signed
from core.run import Run
from core.settings import PretrainSettings
from linear_eval.feature_sections import QUESTIONS, SCORES, SHOWN, feature_sections
from linear_eval.features import PIXELS
from linear_eval.knn import TEMPERATURE, K
from linear_eval.samples import Sample
from ssl import suggest
from ssl.curves import charts
from ssl.health import UNTRAINED, Health, features
from ssl.outcome import OURS, outcome
from vision import artifact, augment, cost
from vision.splits import Dataset

TESTED = 10_000  # test images at most
BANK = 60_000  # training images at most that vote on them
COLUMNS = {"knn": "kNN", "logistic": "logistic", "five_labels": "5 labels a class", "knn_map": "kNN mAP",
           "logistic_map": "logistic mAP"}  # fmt: skip


@dataclass(frozen=True)
class Pretrained:
    """A finished run.  before: the encoder that training began with; scores: on test images, by source; none without labels

    unread: images that could not be read, and are in no test score.
    """

    run: Run
    configured: measured.Configured
    health: Health
    dataset: Dataset
    encoder: nn.Module
    before: nn.Module
    scores: Mapping[str, Mapping[str, float]]
    unread: int

    @property
    def settings(self) -> PretrainSettings:
        return self.configured.settings

    @property
    def validation_scores(self) -> dict[str, Mapping[str, float]]:
        baselines = self.health.baselines
        return {"raw pixels": baselines.pixels, self.health.began: baselines.untrained, OURS: self.health.latest}


def page(found: Pretrained) -> Page:
    health, settings, encoder = found.health, found.settings, found.encoder
    about = (f"{encoder.spec.name} ({cost.parameters(encoder):.2f} M parameters, {encoder.dim} features), pretrained on "
             f"{len(found.dataset.pretrain):,} images at {size_text(encoder.spec.image_size)} px for {found.run.step:,} steps "
             f"of {settings.batch_size} images")
    sections = [
        *([(SCORES, _scores(found))] if health.bank is not None else []),
        *optional("curves", lambda: [("Curves", charts(found.run.metrics(), health))]),
        *optional("views", partial(_views, found.run.folder)),
        *optional("what the features hold", partial(_structure, found)),
        ("What next", _next(found)),
        measured.section(provenance_of([settings.seed]), found.configured.table),
    ]  # fmt: skip
    title = f"{settings.method.name} on {found.dataset.name}"
    return Page(title, about, tiles(found), sections, _verdict(found), QUESTIONS)


def _verdict(found: Pretrained) -> list[str]:
    health = found.health
    sentences = [f"Health: {health.verdict()}.", *health.closing()]
    if health.bank is None:
        return [*sentences, "No labels, so no accuracy: the label-free verdict and the sheet of neighbors are what there is."]
    return [*sentences, *([outcome(found.scores, _tested(found))] if found.scores else [])]


def _tested(found: Pretrained) -> int:
    return min(TESTED, len(found.dataset.test)) - found.unread


def tiles(found: Pretrained) -> list[Tile]:
    """Three numbers: the score and by how much it is ahead of the start and of the best baseline; or figures without labels."""
    health = found.health
    scores = found.scores or found.validation_scores
    key = next((key for key in COLUMNS if key in scores[OURS]), None)
    if key is None:
        return _label_free(health)
    split, own = "test" if found.scores else "validation", scores[OURS]
    beside = [f"{COLUMNS[other]} {own[other]:.1f}" for other in COLUMNS if other != key and other in own]

    def ahead(title: str, rival: str) -> Tile:
        points = signed(own[key] - scores[rival][key])
        return Tile(f"ahead of {title}", points, [f"{rival} {scores[rival][key]:.1f}"], unit="points")

    baselines = [name for name in scores if name not in (OURS, UNTRAINED, health.began)]
    start = "it untrained" if health.began == UNTRAINED else "its start"
    return [Tile(f"{split} {COLUMNS[key]}", f"{own[key]:.1f}", beside), ahead(start, health.began),
            ahead("the best baseline", max(baselines, key=lambda name: scores[name][key]))]


def _label_free(health: Health) -> list[Tile]:
    before, now = health.baselines.untrained, health.latest or health.baselines.untrained
    start = health.began
    return [
        Tile("effective rank", f"{now['rankme']:.0f}", [f"{start} {before['rankme']:.0f}"], unit=f"of {health.dim}"),
        Tile("spread of features", f"{now['feature_std']:.2f}", [f"{start} {before['feature_std']:.2f}"], unit="of 1"),
        Tile("distance of two views", f"{now['alignment_ratio']:.2f}", [f"{start} {before['alignment_ratio']:.2f}"],
             unit="of that of images"),
    ]  # fmt: skip


def _scores(found: Pretrained) -> list:
    from linear_eval.probe import ITERATIONS

    blocks: list = [_table("validation", found.validation_scores)]
    blocks += [_table("test", found.scores)] if found.scores else []
    if found.unread:
        blocks.append(f"{found.unread} images could not be read and are in no test score; skipped.txt lists them.")
    several = found.dataset.multilabel
    metric = ("Mean average precision over classes in %, frozen features; an image may have several labels. kNN: share of the "
              "vote on each class," if several else "Accuracy in %, frozen features. kNN:")
    logistic = (f"each class against the rest, on standardised features, at most {ITERATIONS} iterations." if several else
                f"logistic regression on standardised features, at most {ITERATIONS} iterations. 5 labels a class: the same, "
                "mean ± std of 5 draws.")
    return [*blocks, f"{metric} k = {K}, cosine, weights exp(s/{TEMPERATURE}). logistic: {logistic} On at most {BANK:,} "
            f"labelled and {TESTED:,} test images; pixels on at most {PIXELS} a side. "
            f"{_beginning(found.health, found.settings)}"]


def _table(split: str, scores: Mapping[str, Mapping[str, float]]) -> Table:
    scores = {name: f for name, f in scores.items() if f}
    columns = {key: title for key, title in COLUMNS.items() if any(key in f for f in scores.values())}
    rows = [[name, *(f"{f[key]:.1f}" + (f" ± {f[key + '_std']:.1f}" if key + "_std" in f else "") for key in columns)]
            for name, f in scores.items()]
    own = frozenset(i for i, name in enumerate(scores) if name == OURS)
    return Table([split, *columns.values()], rows, slice(1, None), strong=own)


def _beginning(health: Health, settings: PretrainSettings) -> str:
    """What the row of the encoder at step 0 is."""
    began = health.began
    if began == UNTRAINED:
        return "untrained: the same architecture with the random weights that training began with."
    source = settings.encoder if settings.encoder.endswith(".safetensors") else f"timm's {settings.encoder}"
    source = f"{settings.weights} ({settings.encoder})" if settings.weights else source
    statistics = "this data's" if health.recalibrates else "those weights' own"
    return f"{began}: the weights that training began with, of {source}; BatchNorm's statistics are {statistics}."


def _views(folder: Path) -> list[Section]:
    file = folder / "views.png"
    return [("Views", [Picture(file.name, file.read_bytes(), augment.ABOUT_PICTURE)])] if file.exists() else []


def _structure(found: Pretrained) -> list[Section]:
    health, dataset = found.health, found.dataset
    networks = {OURS: found.encoder, health.began: found.before}
    describe = {name: lambda images, _, network=network: features(network, images, health.recipe, health.device)
                for name, network in networks.items()}
    return feature_sections(Sample(dataset.pretrain, SHOWN, found.encoder.spec), describe, dataset.classes or ())


def _next(found: Pretrained) -> list:
    file = found.run.folder / "encoder.safetensors"
    lines = ["import safetensors.torch, timm, torch", artifact.snippet(artifact.read_header(file), str(file))]
    return [*map(Code, commands(found)), "The encoder, loaded with plain timm:", Python("\n".join(lines))]


def commands(found: Pretrained) -> list[str]:
    """What to run next: to train on, and to evaluate the encoder or, without labels, to look for similar images."""
    settings, file = found.settings, found.run.folder / "encoder.safetensors"
    if found.health.bank is not None:
        return [suggest.train_on(settings), suggest.evaluate(settings, file)]
    similar = settings.data.name in suggest.STREAMED
    bands = found.dataset.pixels is not None
    return [suggest.train_on(settings), *(suggest.gallery(settings, file, bands) if similar else [])]
