"""All that an evaluation looks at: features of every source and split, and fine-tuned classifiers. Runs on all processes."""
from dataclasses import dataclass

import torch

from core import command, config
from core.distributed import World
from core.run import Run, say
from linear_eval import baselines, subsets
from linear_eval.features import CALIBRATED, Features, Source, calibrated, collect, evenly, images_of, of_encoder, pixels_of
from linear_eval.fit import Fitted, check_labels, fit
from linear_eval.words import FINETUNE, check_finetune
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


def gather(words, world: World) -> Material:
    torch.manual_seed(words.seed)
    dataset = build_data(words)
    images = fingerprints(dataset)
    run = Run(command.folder(words, f"evaluate-{words.chosen.data}", images), config.plain(words), images=images)
    check_labels(dataset, words.chosen.data)
    if not len(dataset.validation):
        raise ValueError("data.validation=0: there must be validation images, for settings to be chosen on")
    if words.smote and (rare := dataset.train.labels.bincount()[dataset.train.labels.unique()].min()) < 2:
        raise ValueError(f"smote=true: a class has {rare} training image, and nothing lies between it and another of its class")
    encoder, recipe = build_encoder(words, dataset)
    run.begin()
    counts = f"{len(dataset.train):,} training, {len(dataset.validation):,} validation, {len(dataset.test):,} test images"
    say(
        f"{encoder.spec.name} ({sum(p.numel() for p in encoder.parameters()) / 1e6:.2f} M parameters, {encoder.dim} features) "
        f"on {dataset.name}: {counts} at {encoder.spec.image_size} px → {run.folder}"
    )
    cache = None if words.cache == "none" else config.expand(words.cache)
    banks = {}
    for source in sources(words, dataset, encoder, recipe, world.device):
        splits = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
        found = {
            name: collect(source, split, world.device, cache, f"{source.name}: {name}") if len(split) else None
            for name, split in splits.items()
        }
        banks[source.name] = tuple(found.values())
    fitted = list(fine_tuned(words, world, dataset, run)) if "finetune" in words.parts else []
    return Material(run, dataset, encoder, banks, fitted, world.device)


def sources(words, dataset: Dataset, encoder: torch.nn.Module, recipe, device: torch.device):
    """The encoder, the same one untrained, and what knows nothing of networks."""
    mean, std = recipe.mean, recipe.std
    yield of_encoder(TRAINED, encoder, mean, std, device)
    if is_trained(words):
        torch.manual_seed(words.seed)
        fresh = encoders.build(encoder.spec).to(device)
        some = images_of(dataset.train, evenly(len(dataset.train), CALIBRATED), encoder.spec.image_size, encoder.spec.channels)
        yield of_encoder(UNTRAINED, calibrated(fresh, some, mean, std, device), mean, std, device)
    size = min(dataset.image_size, 64)
    yield Source(PIXELS, "", pixels_of, size, dtype="float32")
    if "baselines" in words.parts:
        sample = images_of(dataset.train, evenly(len(dataset.train), words.protocol.baselines.sample), size, None)
        for name, describe in baselines.descriptors(sample, words.seed).items():
            if name != PIXELS:
                key = f"{words.seed} {len(sample)} {dataset.train.fingerprint()}"  # some learn from the training images
                yield Source(name, key, describe, size, dtype="float32")


def is_trained(words) -> bool:
    return words.encoder.endswith(".safetensors") or words.pretrained


def fine_tuned(words, world: World, dataset: Dataset, run: Run):
    """The encoder fine-tuned, and the same architecture from scratch, at every share of the labels: runs of their own."""
    p = words.protocol.finetune
    shared = ("data", "augment", "encoder", "stem", "pretrained", "image_size", "attention", "seed", "device", "workers")
    said = [w for w in words.chosen.words if w.partition("=")[0].lstrip("+").split(".")[0] in shared]
    for share in (1.0, *(words.protocol.labels.shares if "labels" in words.parts else ())):
        count = len(subsets.share(dataset.train.labels, share, words.seed, 0))
        batch = min(p.batch_size, count) // world.size * world.size
        if batch < 2 * world.size:
            say(f"fine-tuning: {count} images are too few for {world.size} processes: left out")
            continue
        steps = max(round(p.epochs * count / batch), min(p.least_steps, 40 * count))
        for source in (TRAINED, "from scratch") if is_trained(words) else ("from scratch",):
            settings = [
                "method=full", f"steps={steps}", f"batch_size={batch}", "optim.scaling=none", f"optim.lr={p.lr}", "checks=2",
                f"optim.weight_decay={p.weight_decay}", f"labels={share}", f"scratch={str(source != TRAINED).lower()}",
                config.text_word("out", f"{run.folder}/finetune/{source.replace(' ', '-')}-{share:g}"),
            ]
            settled = config.compose(FINETUNE, [*said, *settings])
            check_finetune(settled)
            say(f"fine-tuning: {source}, {100 * share:g} % of the labels")
            yield source, share, fit(settled, world, dataset)
