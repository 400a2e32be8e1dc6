"""The report at the end: teacher, student, and what the student must beat; how good each is and what it costs."""
import json
import shlex
from functools import partial

import torch
from torch import nn

from core import cli
from core.machine import hardware, provenance_of, versions
from core.measured import Configured
from core.page import write_report
from core.processes import is_main
from core.settings import OptimSettings
from distill import report_page
from distill.report_page import Distilled
from distill.settings import DistillSettings, listed
from distill.teacher import Member, from_file
from linear_eval.features import collect, evaluating, images_of, of_encoder, untrained_encoder
from linear_eval.probe import frozen_scores
from vision import cost, encoders
from vision.pixels import normalize_images

TIMED = 30  # forward passes of one image, of which the median counts


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


def final(run, configured: Configured, dataset, method, teacher, recipe, world, seconds: float) -> dict[str, dict]:
    """results.json, report.md and report.html, and the table on the terminal.  → the table's rows, on the main process"""
    device, rows, settings = world.device, {}, configured.settings
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
    title = f"{settings.method.name} on {dataset.name}: {method.encoder.spec.name} after {teacher.name}"
    command = [] if beside else baseline_command(run, settings, classifier=labelled and student.head is not None)
    made = provenance_of([settings.seed]) | {"seconds": seconds}
    distilled = Distilled(run, title, configured, dataset, student, untrained, recipe, device, rows, made, command)
    page = write_report(run.write, lambda: report_page.page(distilled))
    print(page.text([report_page.SCORES]) if page else json.dumps(rows, indent=1))
    print(f"encoder: {run.folder / 'encoder.safetensors'}")
    if page:
        print(f"report:  {run.folder / 'report.html'}")
    if cache:
        print(f"teacher: {cache.hits} steps read from {cache.folder}, {cache.misses} computed")
    if command:
        print(f"next:    {command[0]}\n         then this one again, with {command[1]}: the student alone in the same table")
    return rows


def baseline_command(run, settings: DistillSettings, classifier: bool) -> list[str]:
    """The command that trains the same encoder without the teacher, and the setting that puts it into the table of this one.

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
    compare = cli.argument("compare", f"{out}/{name}.safetensors")
    return [f"uv run python -m {tool} {shlex.join(arguments)}", shlex.join(compare)]


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
