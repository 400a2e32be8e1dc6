"""The table at the end: teacher, student, and what the student must beat; how good each is and what it costs."""
import json
import shlex
from functools import partial

import torch
from torch import nn

from core import cli
from core.machine import hardware, versions
from core.processes import is_main
from core.settings import OptimSettings
from distill.settings import DistillSettings, listed
from distill.teacher import Member, from_file
from linear_eval.features import collect, evaluating, images_of, of_encoder, untrained_encoder
from linear_eval.knn import TEMPERATURE, K
from linear_eval.probe import ITERATIONS, frozen_scores
from vision import cost, encoders
from vision.pixels import normalize_images

TIMED = 30  # forward passes of one image, of which the median counts
COLUMNS = {"knn": "kNN", "logistic": "logistic", "five_labels": "5 labels a class", "classifier": "classifier"}
COSTS = {"parameters": "M parameters", "macs": "M MACs", "milliseconds": "ms an image"}


def millions(module: nn.Module) -> str:
    return f"{cost.parameters(module):.2f} M parameters"


def costs(encoder: nn.Module, device: torch.device) -> dict[str, float]:
    """Parameters and multiply-adds in millions, and the median milliseconds of one image."""
    with evaluating(encoder):
        milliseconds = cost.latency(encoder, device, timed=TIMED)["p50"]
        return {"parameters": cost.parameters(encoder), "macs": cost.macs(encoder), "milliseconds": milliseconds}


def scores(member: Member, dataset, device: torch.device) -> dict[str, float]:
    """Accuracy in per cent on the test split of frozen features. Nothing was chosen on it.  Collective."""
    source = of_encoder("encoder", member.encoder, member.mean, member.std, device, maps=False)
    title = f"features of {member.encoder.spec.name}"
    bank, test = (collect(source, split, device, title=title) for split in (dataset.train, dataset.test))
    if bank is None:
        return {}
    return frozen_scores(*bank.tensors, *test.tensors, len(dataset.classes))


def classifier_accuracy(member: Member, dataset, device: torch.device) -> float:
    """On the test split, the last weights.  Collective-free: the main process alone looks."""
    encoder, head, spec, right = member.encoder, member.head.to(device), member.encoder.spec, 0
    with evaluating(encoder):
        for rows in torch.arange(len(dataset.test)).split(512):
            images = images_of(dataset.test, rows, spec.geometry, spec.channels).to(device)
            found = head(encoder(normalize_images(images, member.mean, member.std))).argmax(1).cpu()
            right += int((found == dataset.test.labels[rows]).sum())
    return right / len(dataset.test) * 100


def final(run, settings: DistillSettings, dataset, method, teacher, recipe, world, seconds: float) -> dict[str, dict]:
    """results.json, report.md, and the table on the terminal.  → the table's rows, on the main process"""
    device, rows = world.device, {}
    labelled = dataset.classes is not None and dataset.test.labels is not None and len(dataset.test) > 0
    normalisation = torch.as_tensor(recipe.mean), torch.as_tensor(recipe.std)
    spec = method.encoder.spec
    fresh = untrained_encoder(spec, dataset.train, normalisation, device, settings.seed) if labelled else encoders.build(spec)
    student = Member(method.encoder.spec.name, method.encoder, getattr(method, "head", None), dataset.classes, *normalisation)
    untrained = Member(method.encoder.spec.name, fresh, None, None, *normalisation)
    beside = [from_file(path, "compare") for path in listed(settings.compare)]
    entries = {f"teacher: {m.name}": m for m in teacher.members} | {f"student: {student.name}, {settings.method.name}": student}
    entries |= {f"beside: {m.name}": m for m in beside} | {f"untrained: {untrained.name}": untrained}
    for name, member in entries.items():
        encoder, head = member.encoder.to(device), member.head
        rows[name] = scores(member, dataset, device) if labelled else {}
        if not is_main():
            continue
        if labelled and head is not None and head.out_features == len(dataset.classes):
            rows[name]["classifier"] = classifier_accuracy(member, dataset, device)
        rows[name] |= costs(encoder, device)
    if not is_main():
        return {}
    cache = teacher.cache
    found = {
        "tool": "distill.train", "words": run.identity, "rows": rows, "seconds": round(seconds, 1),
        "cache": {"hits": cache.hits, "misses": cache.misses} if cache else None,
        "hardware": hardware(), "versions": versions(),
    }
    run.write("results.json", json.dumps(found, indent=1) + "\n")
    title = f"# {settings.method.name} on {dataset.name}: {method.encoder.spec.name} after {teacher.name}"
    lines = [title, "", *table(rows), ""]
    if labelled:
        lines += [
            f"Test accuracy in %, last weights. kNN: k = {K}, cosine, weights exp(s/{TEMPERATURE}). logistic: logistic "
            f"regression on standardised features, at most {ITERATIONS} iterations. 5 labels a class: mean ± std of 5 draws."
            " classifier: as trained.",
            "",
        ]
    run.write("report.md", "\n".join(lines))
    print("\n".join(lines))
    print(f"encoder: {run.folder / 'encoder.safetensors'}")
    if cache:
        print(f"teacher: {cache.hits} steps read from {cache.folder}, {cache.misses} computed")
    if not beside:
        print("\n".join(baseline_command(run, settings, classifier=labelled and student.head is not None)))
    return rows


def baseline_command(run, settings: DistillSettings, classifier: bool) -> list[str]:
    """The command that trains the same encoder without the teacher, and the setting that puts it into the table.

    A classifier is trained with the same optimizer and views; without one the encoder is pretrained.
    """
    tool, name = ("linear_eval.finetune", "classifier") if classifier else ("ssl.pretrain", "encoder")
    out = f"{run.folder}-alone"
    first = {} if classifier else {"method": "simclr"}
    first |= {"encoder": settings.encoder, "data": settings.data.name}
    then = {"steps": settings.steps} if settings.steps else {"epochs": settings.epochs}
    then |= {"batch_size": settings.batch_size, "seed": settings.seed}
    if classifier:
        then |= {"method.smoothing": 0} | _optimizer(settings)
    shared = cli.arguments(settings, partial(_is_shared, classifier))
    arguments = [*_arguments(first), *shared, *_arguments(then | {"out": out})]
    command = f"uv run python -m {tool} {shlex.join(arguments)}"
    again = f"         then this one again, with {shlex.join(cli.argument('compare', f'{out}/{name}.safetensors'))}"
    return [f"next:    {command}", f"{again}: the student alone in the same table"]


def _is_shared(classifier: bool, name: str) -> bool:
    """Is it a setting of images and encoder, or of views where both tools have the same?"""
    shape = ("image_size", "image_fit")
    names = ("stem", "pretrained", "weights", "normalization", *shape, "precision", *(["augment"] if classifier else []))
    return name in names or name.startswith(("data.", "augment.") if classifier else "data.")


def _optimizer(settings: DistillSettings) -> dict[str, object]:
    """Where it is not what linear_eval.finetune would take."""
    always, usual = ("name", "lr", "weight_decay"), cli.plain(OptimSettings())
    found = {f"optim.{n}": v for n, v in cli.plain(settings.optim).items() if n in always or v != usual[n]}
    return found | ({"schedule.name": "step", "schedule.at": settings.steps_at} if settings.steps_at else {})


def _arguments(values: dict[str, object]) -> list[str]:
    return [argument for name, value in values.items() for argument in cli.argument(name, value)]


def table(rows: dict[str, dict[str, float]]) -> list[str]:
    columns = {key: title for key, title in (COLUMNS | COSTS).items() if any(key in f for f in rows.values())}
    lines = [f"| | {' | '.join(columns.values())} |", "|---" * (1 + len(columns)) + "|"]
    for name, f in rows.items():
        cells = []
        for key in columns:
            digits = 2 if key in ("parameters", "milliseconds") else 1
            spread = f" ± {f[key + '_std']:.1f}" if key + "_std" in f else ""
            cells.append(f"{f[key]:.{digits}f}{spread}" if key in f else "")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines
