"""Train small encoders after a large one, with labels or without.

    uv run python -m distill.train --teacher runs/x/encoder.safetensors --student mobilenetv3_small_100 --data fashion_mnist
    uv run python -m distill.train --teacher runs/y/classifier.safetensors --student resnet18,mobilenetv3_small_100 --method dkd

Nothing here imports torch before the settings are understood: a mistyped one is answered at once.
"""
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from core import cli, training
from core.errors import SettingError
from core.identity import without_defaults
from core.image_size import Size, size_text
from core.moments import parse_moments
from core.places import check_checkpoint
from distill.settings import DistillSettings, listed

ROOT = Path(__file__).resolve().parent.parent
TOOL = cli.Tool(
    module="distill.train",
    primary=ROOT / "distill" / "train.yaml",
    searched=(ROOT / "vision" / "config",),
    summary="Distil an encoder: python -m distill.train --teacher runs/x/encoder.safetensors --student resnet18",
    settings=DistillSettings,
)


def main() -> int:
    return cli.main(TOOL, partial(training.start, TOOL, check, run))


def check(settings: DistillSettings) -> None:
    """Refuse what can be refused before anything is loaded or launched."""
    if not listed(settings.teacher):
        raise ValueError("teacher=…: say which encoder teaches, such as runs/…/encoder.safetensors or resnet50")
    training.check(settings)
    wrong, at = {},  list(settings.steps_at)
    if not all(0 < share < 1 for share in at) or at != sorted(at):
        wrong["steps_at"] = "shares of the run, rising, such as [0.6,0.8]"
    if any(size < 1 for size in settings.teacher_sizes) or len(set(settings.teacher_sizes)) < len(settings.teacher_sizes):
        wrong["teacher_sizes"] = "different numbers of pixels, such as [160,224]"
    if settings.chunk:
        wrong["chunk"] = "left out: accumulate does the same for most of these losses"
    flat = cli.flat(settings)
    if flat.get("augment.local.views"):
        wrong["augment.local.views"] = "0: the teacher sees what the student sees, whole images"
    training.refuse(flat, wrong)
    setting, names = students(settings)
    if not names or len(set(names)) < len(names):
        way = "each one once" if names else "say what to train, such as resnet18"
        raise ValueError(f"{setting}={getattr(settings, setting)}: {way}")
    if settings.weights and len(names) > 1:
        raise ValueError(f"weights={settings.weights}: is one file for {len(names)} students; give one student")
    if settings.teacher_weights:
        check_checkpoint("teacher_weights", settings.teacher_weights)
    if settings.teacher_weights and (len(listed(settings.teacher)) > 1 or settings.teacher.endswith(".safetensors")):
        raise ValueError(f"teacher_weights={settings.teacher_weights}: needs one timm name as teacher=, not {settings.teacher}")
    if settings.teacher_normalization != "auto":
        if not settings.teacher_weights:
            raise ValueError(f"teacher_normalization={settings.teacher_normalization}: is for teacher_weights; leave it out")
        if settings.teacher_normalization not in ("weights", "imagenet"):
            parse_moments(settings.teacher_normalization, "teacher_normalization")
    named = [*(("teacher", name) for name in listed(settings.teacher)), *((setting, name) for name in names)]
    for setting, path in named:
        if path.endswith(".safetensors") and not cli.expand(path).is_file():
            raise ValueError(f"{setting}={path}: no such file")
    for path in listed(settings.compare):
        if not cli.expand(path).is_file():
            raise ValueError(f"compare={path}: no such file")


def students(settings: DistillSettings) -> tuple[str, list[str]]:
    """The setting that says what to train, and what it names."""
    name = "encoder" if settings.student is None else "student"
    return name, listed(getattr(settings, name))


def jobs(settings: DistillSettings) -> list:
    """One configuration a student; each is a run of its own, and all but the first find the teacher's outputs kept."""
    _, names = students(settings)
    several = len(names) > 1 and settings.out != "auto"
    outs = [{"out": cli.expand(settings.out) / folder} if several else {} for folder in folders(names)]
    size, fit = inherited_size(settings), inherited_fit(settings)
    sizes = {} if size is None else {"image_size": size}
    fits = {} if fit is None else {"image_fit": fit}
    return [
        cli.derive(TOOL, settings, ["student"], changes=({"encoder": name} | sizes | out
                                                         | ({} if name.endswith(".safetensors") else fits)))
        for name, out in zip(names, outs, strict=True)
    ]


def inherited_size(settings: DistillSettings) -> Size | None:
    """The image size of the teacher's file, for students of a name, where none is set; None where it changes nothing.

    A student of a file has its own. Teachers of several sizes give none.
    """
    from vision import artifact

    files = listed(settings.teacher)
    if "image_size" in cli.explicit(settings) or not all(name.endswith(".safetensors") for name in files):
        return None
    sizes = {artifact.read_header(cli.expand(name)).spec.image_size for name in files}
    size = sizes.pop() if len(sizes) == 1 else settings.image_size
    return None if size == settings.image_size else size


def inherited_fit(settings: DistillSettings) -> str | None:
    """How images get the input's shape for the teacher's file, for students of a name, where nothing is set; None where it is
    the usual way, or teachers differ.
    """
    from vision import artifact
    from vision.geometry import CROP

    files = listed(settings.teacher)
    if settings.image_fit != "auto" or not all(name.endswith(".safetensors") for name in files):
        return None
    fits = {artifact.read_header(cli.expand(name)).spec.fit for name in files}
    return fits.pop() if len(fits) == 1 and fits != {CROP} else None


def folders(names: list[str]) -> list[str]:
    """A folder for each of several students: resnet18 → resnet18, runs/a/encoder.safetensors → a-encoder; numbered where two
    would be the same.
    """
    paths = [Path(name) for name in names]
    found = [f"{path.parent.name}-{path.stem}".lstrip("-") if path.suffix == ".safetensors" else path.name for path in paths]
    return found if len(set(found)) == len(found) else [f"{i}-{folder}" for i, folder in enumerate(found, 1)]


def check_names(settings: DistillSettings) -> None:
    """Refuse, before the first student is trained, what the last could not begin or end with."""
    from distill.teacher import from_file
    from vision import encoders

    word, names = students(settings)
    for name in names:
        if name.endswith(".safetensors"):
            from_file(name, word)
            continue
        try:
            encoders.specify(name, 3, settings.image_size, "full")
        except SettingError as error:
            raise error.of(word) from error
    for path in listed(settings.compare):
        from_file(path, "compare")


@dataclass(frozen=True)
class DistillResult:
    """What a student's run leaves."""

    folder: Path
    encoder: Path  # encoder.safetensors
    classifier: Path | None  # classifier.safetensors, of a method that trains one
    rows: Mapping[str, Mapping[str, float]]  # the table: teacher, student, baselines → scores in % and costs; main process


def run(settings: DistillSettings) -> int:
    distill(settings)
    return 0


def distill(settings: DistillSettings) -> list[DistillResult]:
    """From settings to reports, one student after the other."""
    from core import processes
    from core.run import log_line

    with processes.session(settings.device) as world:
        check_names(settings)
        if (size := inherited_size(settings)) is not None:
            log_line(f"note: image_size={size_text(size)}, as the teacher's file has it; --image_size sets another")
        if (fit := inherited_fit(settings)) is not None:
            log_line(f"note: image_fit={fit}, as the teacher's file has it; --image_fit sets another")
        return [train_student(job, world) for job in jobs(settings)]


def train_student(settings: DistillSettings, world) -> DistillResult:
    """One run."""
    import torch

    from core import loop, processes, trackers
    from core.measured import Configured
    from core.run import ProgressBar, Run, another, log_line
    from core.schedule import stepped
    from distill import report, token_setup
    from distill.teacher import foreign, load
    from distill.with_tokens import WithTokens
    from vision import artifact, loaders
    from vision.build import build_encoder, checkpoint_blocks, compile_encoder, precision
    from vision.build import notes as weight_notes
    from vision.data import build_data, fingerprints
    from vision.multilabel import refuse

    start = time.monotonic()
    torch.manual_seed(settings.seed)
    dataset = build_data(settings)
    name, images = f"distil-{settings.method.name}-{settings.data.name}", fingerprints(dataset)
    run = Run(training.folder(settings, name, images), settings, settings.resume, images)
    encoder, recipe = build_encoder(settings, dataset)
    teacher = load(settings.teacher, recipe.mean, recipe.std, world.device, foreign(settings), settings.teacher_sizes)
    refuse(dataset.train.labels, "distill.train", "set data.labels=none, which leaves the images, or data.multilabel=false "
           "where the file allows it")
    classes = check_classes(dataset, teacher, settings)
    method = training.build_method(settings, encoder, teacher=teacher, classes=classes)
    token_setup.check(settings, method)
    split = dataset.train if method.traits.needs_labels else dataset.pretrain
    if method.traits.needs_labels and len(split.labels.unique()) < 2:
        raise ValueError(f"data={settings.data.name}: training images of a single class leave nothing to learn; add another")
    deal = loaders.BatchSampler(len(split), settings.batch_size, settings.seed, world, windows=split.windows)
    notes = method.prepare(deal.images, deal.batch_size)
    notes += [*weight_notes(encoder, settings, recipe), *teacher.notes]
    precise = precision(settings.precision, encoder, world.device, [view.size for view in recipe.views])
    optimizer, config = training.build(settings, method, world, deal.steps_an_epoch, precise, evals=frozenset())
    if settings.steps_at:
        o, at = settings.optim, tuple(settings.steps_at)
        peak = training.learning_rate(settings)
        config = replace(config, rate=partial(stepped, peak=peak, warmup=o.warmup, at=at, factor=0.1))
    extra = {"teacher": teacher.fingerprint()}
    kept = bool(method.needs) or isinstance(method, WithTokens)
    what = outputs_key(settings, teacher, extra["teacher"], split, recipe, precise) if kept else None
    keep(settings, method, teacher, what, len(split))
    workers = training.workers(settings, world.local_size, world.device.type == "cuda")
    batches = loaders.loader(split, recipe, deal, encoder.spec.channels, workers)

    past = run.restore(method, optimizer)
    if past and past["teacher"] != extra["teacher"]:
        way = f"name that one, or {another(run.folder)}"
        raise ValueError(f"teacher={settings.teacher} is not the one that {run.folder} began with; {way}")
    if isinstance(method, WithTokens):
        notes += token_setup.begin(settings, method.tokens, token_setup.Shown(batches, len(split), what), config, bool(past))
    run.begin()
    log_line(
        f"{settings.method.name} on {len(split):,} images of {dataset.name} at {size_text(recipe.size)} px: "
        f"{encoder.spec.name} ({report.millions(encoder)}, {encoder.dim} features) after {teacher.name} "
        f"({teacher.parameters / 1e6:.2f} M parameters, {teacher.dim} features), "
        f"{config.steps} steps of {config.batch_size} images → {run.folder}"
    )
    for note in notes:
        log_line(f"note: {note}")
    if processes.is_main() and run.step < config.steps:
        bar = ProgressBar(config.steps, run.step, settings.method.name)
        run.listeners += [*trackers.listeners(settings.trackers, run), bar]
    if settings.compile:
        compile_encoder(encoder)
    if settings.checkpointing:
        checkpoint_blocks(encoder)
    try:
        loop.train(method, batches.batches(run.step, config.steps), optimizer, config, run, world.device,
                   evaluate=lambda step: {}, extra=lambda: extra)
    finally:
        run.close()
    origin = {"tool": TOOL.module, "words": run.identity}
    run.write("encoder.safetensors", artifact.dumps(encoder, recipe, origin))
    head = getattr(method, "head", None)
    if head is not None:
        classes = dataset.classes or teacher.classes  # without labels the classifier is the teacher's
        run.write("classifier.safetensors", artifact.dumps(encoder, recipe, origin, head, classes))
    rows = report.final(run, Configured(TOOL, settings), dataset, method, teacher, recipe, world, time.monotonic() - start)
    classifier = None if head is None else run.folder / "classifier.safetensors"
    return DistillResult(run.folder, run.folder / "encoder.safetensors", classifier, rows)


def check_classes(dataset, teacher, settings: DistillSettings) -> int:
    """How many classes a classifier can learn to tell apart; 0 without labels.  Refuses a teacher of other classes."""
    if dataset.classes is None:
        return 0
    if teacher.classes is not None and tuple(teacher.classes) != tuple(dataset.classes):
        raise ValueError(
            f"teacher={settings.teacher} tells apart {len(teacher.classes)} classes ({', '.join(teacher.classes[:3])}, …), "
            f"data={settings.data.name} has {len(dataset.classes)} ({', '.join(dataset.classes[:3])}, …): they must be the same"
        )
    return 0 if dataset.train.labels is None else len(dataset.classes)


def outputs_key(settings: DistillSettings, teacher, fingerprint: str, split, recipe, precise) -> dict | None:
    """All that the teacher's outputs depend on beside image and epoch; None where they are not to be kept."""
    from core.run import log_line

    if settings.cache == "none" or not settings.cache_gb:
        return None
    if getattr(split, "skipped", None):
        log_line("note: unreadable files, for which neighbours stand in: the teacher's outputs are not kept")
        return None
    return {
        "teacher": fingerprint,
        "images": split.fingerprint(),
        "precision": str(precise),
        "views": without_defaults("augment", cli.plain(settings.augment))
        | {"size": recipe.size, "mean": teacher.mean.tolist(), "std": teacher.std.tolist()},
        "seed": settings.seed,
    }


def keep(settings: DistillSettings, method, teacher, what: dict | None, images: int) -> None:
    """Give the teacher its cache, where its outputs are rows of numbers that can be kept."""
    from distill.cache import Cache

    if what is None or not method.needs:
        return
    width = method.traits.views * sum(teacher.width(name) for name in teacher.output_names)
    what = what | {"outputs": list(teacher.output_names)}
    teacher.cache = Cache(cli.expand(settings.cache), what, images, width, settings.cache_gb * 1e9)


if __name__ == "__main__":
    sys.exit(main())
