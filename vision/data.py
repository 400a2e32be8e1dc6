"""The data settings → a data set, with notes on what of it is left out: every tool opens its data here."""
import re
from collections import Counter

from core import cli
from core.processes import broadcast_object, is_main
from core.run import counting, log_line
from core.settings import CommonSettings
from vision import datasets, segmentation
from vision.color_settings import refuse_color
from vision.listing import ignored_note, one_line
from vision.multilabel import choice
from vision.pixel_format import SETTINGS, PixelRequest
from vision.preprocess import Preprocessing, preprocessing_in
from vision.reading import Reading
from vision.splits import Dataset
from vision.store import STORE_SETTINGS, StoreSettings, located
from vision.subset import subset


def build_data(settings: CommonSettings) -> Dataset:
    """The data set, and notes to the terminal on what of it is left out or ignored: also to standard error."""
    if settings.data.name in segmentation.NAMES:
        return build_segmentation(settings).dataset
    options = cli.plain(settings.data)
    if options.get("root"):
        options["root"] = located(options["root"])
    request = PixelRequest.of({name: options.pop(name, None) for name in SETTINGS})
    group, multilabel, named, window = (options.pop(name, None) for name in ("group", "multilabel", "set", "window"))
    store = StoreSettings.of(options)
    options = {name: value for name, value in options.items() if name not in STORE_SETTINGS}
    known = known_preprocessing(settings, request) if options["name"] == "folder" else None
    with counting("checking images") as progress:
        dataset = datasets.load(**options, seed=settings.seed, progress=progress,
                                reading=Reading(group, known or request, choice(multilabel), named, window, store))
    if chosen := getattr(settings, "subset", None):  # of an evaluation
        dataset = subset(dataset, chosen)
    _log_notes(settings, dataset)
    return dataset


def build_segmentation(settings: CommonSettings) -> segmentation.SegmentationData:
    """The data set with its masks, and the same notes.  Raises ValueError where the data has none."""
    options = cli.plain(settings.data)
    if options.get("root"):
        options["root"] = str(cli.expand(options["root"]))
    with counting("checking images and masks") as progress:
        data = segmentation.load_segmentation(options, settings.seed, progress)
    _log_notes(settings, data.dataset)
    return data


def _log_notes(settings: CommonSettings, dataset: Dataset) -> None:
    augment = getattr(settings, "augment", None)
    refused = refuse_color(cli.plain(augment), dataset.channels, cli.explicit(settings)) if augment else []
    for note in [*data_notes(dataset), *refused]:
        log_line(f"note: {note}")


def known_preprocessing(settings: CommonSettings, request: PixelRequest) -> Preprocessing | None:
    """The preprocessing of the encoder, or of the teacher, where their files say how images with bands are read.

    Raises ValueError where the request, or another one of them, differs.
    """
    known = None
    for setting in ("encoder", "teacher"):
        for name in (getattr(settings, setting, None) or "").split(","):
            found = preprocessing_in(cli.expand(name.strip())) if name.strip().endswith(".safetensors") else None
            if found is None or found.pixels is None:
                continue
            found.pixels.refuse_others(request, f"{setting}={name.strip()}")
            if known is not None and known.pixels != found.pixels:
                raise ValueError(f"{setting}={name.strip()} takes images of other bands or another range than the others")
            known = known or found
    return known


def data_notes(dataset: Dataset) -> list[str]:
    """What a user should know of the data before anything is computed: a line on what was left out, one on what was ignored."""
    notes = list(dataset.notes)
    if dataset.skipped:
        kinds = [re.sub(r"\d+", "N", why) for why in dataset.skipped.values()]  # "30 by 9 pixels …" and others are of one kind
        example = dict(zip(reversed(kinds), reversed(dataset.skipped.values()), strict=True))
        counts, total = Counter(kinds), len(kinds)
        few = [f"{count:,} × {example[kind]}" if count > 1 else example[kind] for kind, count in counts.most_common(3)]
        why = ", ".join([*few, "…"] if len(counts) > len(few) else few)
        notes.append(f"{total:,} {'item is' if total == 1 else 'items are'} left out ({one_line(why)}); "
                     f"first: {one_line(next(iter(dataset.skipped)))}")
    if ignored := ignored_note(dataset.ignored):
        notes.append(ignored)
    return notes


def fingerprints(dataset: Dataset) -> dict[str, str]:
    """`Dataset.fingerprints`, read by the main process for all."""
    return broadcast_object(dataset.fingerprints if is_main() else None)


def mask_fingerprints(data: segmentation.SegmentationData, prefix: str) -> dict[str, str]:
    """Of the masks of each split, read by the main process for all.  → prefix and split → 16 digits"""
    splits = ("train", "validation", "test") if is_main() else ()
    return broadcast_object({prefix + name: data.split(name).masks.fingerprint()[:16] for name in splits})
