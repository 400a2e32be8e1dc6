"""All that an evaluation looks at: features of every source and split, and fine-tuned classifiers. Runs on all processes."""
from dataclasses import dataclass

import torch

from core import cli, training
from core.distributed import World
from core.run import Run, say
from linear_eval import baselines, subsets
from linear_eval.features import CALIBRATED, Features, Source, calibrated, collect, evenly, images_of, of_encoder, pixels_of
from linear_eval.fit import Fitted, check_labels, fit
from linear_eval.settings import FINETUNE, EvaluateSettings, check_finetune
from vision import encoders
from vision.build import build_encoder
from vision.data import build_data, fingerprints
from vision.splits import Dataset

TRAINED, UNTRAINED, PIXELS = "encoder", "untrained", "raw pixels"


@dataclass(frozen=True)
class Material:
    """What the main process judges. Other processes hold one without features."""

    run: Run
    dataset: Dataset
    encoder: torch.nn.Module
    banks: dict[str, tuple[Features, Features | None, Features]]  # source → train, validation, test
    fitted: list[tuple[str, float, Fitted]]  # source, share of the labels, classifier
    device: torch.device


def gather(settings: EvaluateSettings, world: World) -> Material:
    torch.manual_seed(settings.seed)
    dataset = build_data(settings)
    images = fingerprints(dataset)
    run = Run(training.folder(settings, f"evaluate-{settings.data.name}", images), settings, images=images)
    check_labels(dataset, settings.data.name)
    if not len(dataset.validation):
        raise ValueError("data.validation=0: there must be validation images, for settings to be chosen on")
    if settings.smote and (rare := dataset.train.labels.bincount()[dataset.train.labels.unique()].min()) < 2:
        raise ValueError(f"smote=true: a class has {rare} training image, and nothing lies between it and another of its class")
    encoder, recipe = build_encoder(settings, dataset)
    run.begin()
    counts = f"{len(dataset.train):,} training, {len(dataset.validation):,} validation, {len(dataset.test):,} test images"
    say(
        f"{encoder.spec.name} ({sum(p.numel() for p in encoder.parameters()) / 1e6:.2f} M parameters, {encoder.dim} features) "
        f"on {dataset.name}: {counts} at {encoder.spec.image_size} px → {run.folder}"
    )
    cache = None if settings.cache == "none" else cli.expand(settings.cache)
    banks = {}
    for source in sources(settings, dataset, encoder, recipe, world.device):
        splits = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
        found = {
            name: collect(source, split, world.device, cache, f"{source.name}: {name}") if len(split) else None
            for name, split in splits.items()
        }
        banks[source.name] = tuple(found.values())
    fitted = list(fine_tuned(settings, world, dataset, run)) if "finetune" in settings.parts else []
    return Material(run, dataset, encoder, banks, fitted, world.device)


def sources(settings: EvaluateSettings, dataset: Dataset, encoder: torch.nn.Module, recipe, device: torch.device):
    """The encoder, the same one untrained, and what knows nothing of networks."""
    mean, std = recipe.mean, recipe.std
    yield of_encoder(TRAINED, encoder, mean, std, device)
    if is_trained(settings):
        torch.manual_seed(settings.seed)
        fresh = encoders.build(encoder.spec).to(device)
        some = images_of(dataset.train, evenly(len(dataset.train), CALIBRATED), encoder.spec.image_size, encoder.spec.channels)
        yield of_encoder(UNTRAINED, calibrated(fresh, some, mean, std, device), mean, std, device)
    size = min(dataset.image_size, 64)
    yield Source(PIXELS, "", pixels_of, size, dtype="float32")
    if "baselines" in settings.parts:
        sample = images_of(dataset.train, evenly(len(dataset.train), settings.protocol.baselines.sample), size, None)
        for name, describe in baselines.descriptors(sample, settings.seed).items():
            if name != PIXELS:
                key = f"{settings.seed} {len(sample)} {dataset.train.fingerprint()}"  # some learn from the training images
                yield Source(name, key, describe, size, dtype="float32")


def is_trained(settings: EvaluateSettings) -> bool:
    return settings.encoder.endswith(".safetensors") or settings.pretrained


def fine_tuned(settings: EvaluateSettings, world: World, dataset: Dataset, run: Run):
    """The encoder fine-tuned, and the same architecture from scratch, at every share of the labels: runs of their own."""
    p = settings.protocol.finetune
    shared = ("data", "augment", "encoder", "stem", "pretrained", "image_size", "attention", "seed", "device", "workers")
    for share in (1.0, *(settings.protocol.labels.shares if "labels" in settings.parts else ())):
        count = len(subsets.share(dataset.train.labels, share, settings.seed, 0))
        batch = min(p.batch_size, count) // world.size * world.size
        if batch < 2 * world.size:
            say(f"fine-tuning: {count} images are too few for {world.size} processes: left out")
            continue
        steps = max(round(p.epochs * count / batch), min(p.least_steps, 40 * count))
        for source in (TRAINED, "from scratch") if is_trained(settings) else ("from scratch",):
            classifier = cli.derive(FINETUNE, settings, keep=shared, changes={
                "method": "full", "steps": steps, "batch_size": batch, "checks": 2, "labels": share,
                "scratch": source != TRAINED, "optim.scaling": "none", "optim.lr": p.lr, "optim.weight_decay": p.weight_decay,
                "out": f"{run.folder}/finetune/{source.replace(' ', '-')}-{share:g}",
            })
            check_finetune(classifier)
            say(f"fine-tuning: {source}, {100 * share:g} % of the labels")
            yield source, share, fit(classifier, world, dataset)
