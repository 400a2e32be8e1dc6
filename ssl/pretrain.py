"""Pretrain an image encoder without labels.

    uv run python -m ssl.pretrain --method simclr
    uv run python -m ssl.pretrain --method moco_v3 --data folder --data.root ~/photos --encoder resnet50 --devices 8

Nothing here imports torch before the settings are understood: a mistyped one is answered at once.
"""
import copy
import dataclasses
import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from core import cli, training
from core.errors import SettingError
from core.settings import PretrainSettings
from ssl import adapt, continued

ROOT = Path(__file__).resolve().parent.parent
TOOL = cli.Tool(
    module="ssl.pretrain",
    primary=ROOT / "ssl" / "pretrain.yaml",
    searched=(ROOT / "vision" / "config",),
    summary="Pretrain an image encoder without labels: python -m ssl.pretrain --method simclr --data digits",
)


def main() -> int:
    return cli.main(TOOL, start)


def start(settings: PretrainSettings) -> int:
    return training.start(TOOL, check, run, prepared(settings))


def prepared(settings: PretrainSettings) -> PretrainSettings:
    """The settings with what a run's folder (`from`) and the plan for a folder of images add to them."""
    from ssl import plan

    return plan.planned(TOOL, continued.adopted(TOOL, settings))


def run(settings: PretrainSettings) -> int:
    pretrain(settings)
    return 0


@dataclass(frozen=True)
class PretrainResult:
    """What a run leaves."""

    folder: Path
    encoder: Path  # encoder.safetensors
    steps: int  # done
    finished: bool  # False where it was paused
    scores: Mapping[str, Mapping[str, float]]  # on test images, by source, in %; empty without labels or without a report


def pretrain(
    settings: PretrainSettings, listeners=(), encoder_of=None, method_of=training.build_method
) -> PretrainResult:
    """One run, from settings to report.  listeners: further ones of its figures (core/run.py).

    encoder_of(settings, dataset) → an encoder of random weights and its input, method_of(settings, encoder) → the method:
    what is trained, where the settings alone do not say it. The report calls both again, for the encoder as it began.
    """
    continued.check(settings)
    settings = adapt.with_defaults(continued.with_files(settings))
    if settings.from_run and encoder_of:
        raise ValueError(f"from={settings.from_run}: a supernet begins with random weights; leave it out")
    if settings.shard and encoder_of:
        raise SettingError("shard", "true: a supernet is not spread over processes; leave it out")
    import torch

    from core import loop, processes, shard
    from core.measured import Configured
    from core.run import Run, log_line
    from ssl import budget, method_file, report
    from ssl.adaptation import Adaptation, with_lora
    from ssl.health import BEFORE, UNTRAINED
    from ssl.watch import health_of
    from vision import artifact, loaders, lora, stages, tokens
    from vision.build import build_encoder, checkpoint_blocks, compile_encoder, precision
    from vision.build import notes as weight_notes
    from vision.data import build_data, fingerprints

    with processes.session(settings.device) as world:
        torch.manual_seed(settings.seed)
        dataset = build_data(settings)
        name, images = f"{settings.method.name}-{settings.data.name}", fingerprints(dataset)
        run = Run(training.folder(settings, name, images), settings, settings.resume, images)

        def initial():
            """The encoder, its input and the method as training begins with them, the same at every call."""
            torch.manual_seed(settings.seed)
            encoder, recipe = (encoder_of or build_encoder)(settings, dataset)
            encoder.trained = encoder_of is None and adapt.trained(settings)  # such weights keep their positions
            method = method_of(settings, with_lora(settings, encoder))
            if method.traits.pooling:  # in its spec from here on
                tokens.pool_by(encoder, method.traits.pooling)
            if settings.checkpointing:
                checkpoint_blocks(encoder)
            return encoder, recipe, method

        encoder, recipe, method = initial()
        if method.traits.needs_labels and dataset.pretrain.labels is None:  # some images have no label
            dataset = dataclasses.replace(dataset, pretrain=dataset.train)
        check_labels(settings, method, dataset)
        windows = dataset.pretrain.windows
        deal = loaders.BatchSampler(len(dataset.pretrain), settings.batch_size, settings.seed, world, windows=windows)
        precise = precision(settings.precision, encoder, world.device, [view.size for view in recipe.views])
        workers = training.workers(settings, world.local_size, world.device.type == "cuda")
        first = dataset.pretrain, recipe, deal  # of the first stage
        loader = loaders.loader(*first, encoder.spec.channels, workers, settings.graph)

        def train_briefly(clock):
            """A few steps of a method that is discarded."""
            method.prepare(deal.images, deal.batch_size)
            changes = dict(steps=budget.TIMED, evals=frozenset(), log_every=2 * budget.TIMED, pause_at=None)
            optimizer, config = training.build(settings, method, world, deal.steps_an_epoch, precise, **changes)
            with tempfile.TemporaryDirectory() as folder:
                brief = Run(folder, {})
                brief.begin()
                brief.listeners.append(clock)
                loop.train(method, loader.batches(0, budget.TIMED), optimizer, config, brief, world.device, lambda step: {})

        steps = None
        if settings.budget:
            steps = budget.planned_steps(run, settings.budget, train_briefly)
            encoder, recipe, method = initial()
        notes = method.prepare(deal.images, deal.batch_size) + pieces_notes(settings, method)
        taken = method_file.take(method, settings) if settings.from_run else None
        notes += taken.notes if taken else []
        adaptation = Adaptation(settings, method)
        notes += weight_notes(encoder, settings, recipe) + adaptation.notes()
        sharded = settings.shard and world.size > 1
        notes += ["shard=true: one process holds all there is; nothing is spread"] if settings.shard and not sharded else []
        began_with, whole = (copy.deepcopy(encoder), shard.WholeEncoder(encoder)) if sharded else (None, None)
        optimizer, config = training.build(settings, method, world, deal.steps_an_epoch, precise, steps=steps, hook=adaptation)
        adaptation.start(config.steps)
        planned = stages.stages(recipe, config.steps, method.traits.clean_from)
        notes += stages.notes(planned, method.traits.clean_from)
        staged = stages.StagedLoader(loader, planned)
        began = UNTRAINED if encoder_of or not adapt.trained(settings) else BEFORE
        health = health_of(settings, dataset, recipe, world.device, encoder, began, method.traits.predicts_pixels)
        past = run.restore(method, optimizer)
        run.begin()
        if taken:
            run.write("taken.json", json.dumps(taken.json, indent=1) + "\n")
        if steps:
            run.write(budget.FILE, json.dumps({"steps": steps}) + "\n")
        report.opening(settings, dataset, encoder, config, run, world, notes)
        report.skipped(run, dataset.skipped)
        if past:
            health.restore(past)
            adaptation.restore(past)
        else:
            health.start(adaptation.result if began_with is None else began_with)
        del began_with
        if settings.compile:
            compile_encoder(encoder)

        report.listen(run, config, settings, listeners)
        health.log_start(run)

        begins = run.step == 0

        def after_first() -> None:
            health.measure_start()
            if begins:
                report.views(run, settings, recipe, dataset)

        def evaluate(step: int) -> dict:
            measured = whole.of(encoder, world.device) if whole else adaptation.result
            return health.check(step, measured, settings.stop_on_collapse, run.training)

        try:
            loop.train(
                method,
                staged.batches(run.step, config.steps),
                optimizer,
                dataclasses.replace(config, after_first=after_first),
                run,
                world.device,
                evaluate=evaluate,
                extra=lambda: health.state() | adaptation.state(),
            )
        finally:
            run.close()
            if settings.report:
                report.curves(run, health)
        for skipped in processes.gather_objects(loader.skipped | health.skipped):
            dataset.skipped.update(skipped)
        report.skipped(run, dataset.skipped)
        encoder = health.kept(adaptation.result, lambda: lora.merged(initial()[0]).to(world.device))
        for sentence in health.closing():
            log_line(sentence)
        origin = {"tool": TOOL.module, "words": run.identity}
        run.write_tensors("encoder.safetensors", *artifact.contents(encoder, recipe, origin))
        run.write_tensors(continued.FILE, *method_file.contents(method, settings, run.step))
        if sharded:
            processes.gather_objects(None)  # the file is there
            encoder = artifact.load(run.folder / "encoder.safetensors")[0].to(world.device)
        finished, scores = run.step >= config.steps, {}
        if not finished:
            encoder_file = run.folder / "encoder.safetensors"
            log_line(f"paused at step {run.step} of {config.steps}: {encoder_file}; without pause_at= it resumes")
        elif settings.report:
            scores = report.final(run, health, dataset, encoder, Configured(TOOL, settings), lambda: lora.merged(initial()[0]))
    return PretrainResult(run.folder, run.folder / "encoder.safetensors", run.step, finished, scores)


def check(settings: PretrainSettings) -> None:
    """Refuse what can be refused before anything is loaded."""
    training.check(settings)
    continued.check(settings)
    check_shard(settings)
    adapt.check(adapt.with_defaults(settings))
    if settings.budget is None:
        return
    from core.duration import seconds

    seconds(settings.budget)
    for name in ("steps", "epochs", "pause_at"):
        if name in cli.explicit(settings):
            value = getattr(settings, name)
            raise ValueError(f"{name}={value}: must be left out with budget={settings.budget}, which sets the length")


def check_shard(settings: PretrainSettings) -> None:
    """Refuse what cannot be spread over processes."""
    if not settings.shard:
        return
    a, name = settings.adapt, settings.optim.name
    wrong = {"compile": settings.compile, "lora": settings.lora, "budget": settings.budget, "optim.name=muon": name == "muon",
             "adapt": a.on or a.ema or a.keep or a.old_data}
    for setting in (setting for setting, given in wrong.items() if given):
        why = "Muon needs whole matrices: take adamw, lamb or lars" if name in setting else "leave one of the two out"
        raise SettingError("shard", f"true: is not possible with {setting}; {why}")


def check_labels(settings: PretrainSettings, method, dataset) -> None:
    """Refuse data without the labels that the method needs."""
    if not method.traits.needs_labels:
        return
    from vision.multilabel import refuse

    if dataset.pretrain.labels is None:
        raise ValueError(f"method={settings.method.name} needs labels, and data={settings.data.name} has none to train on")
    refuse(dataset.pretrain.labels, f"method={settings.method.name}", "take a method that needs no labels, or set "
           "data.multilabel=false where the file allows it")
    if len(dataset.pretrain.labels.unique()) < 2:
        raise ValueError(f"method={settings.method.name} needs two classes, and data={settings.data.name} has one")


def pieces_notes(settings: PretrainSettings, method) -> list[str]:
    """What computing the batch in pieces changes.  Raises ValueError where it, compiling, or smaller views cannot be done."""
    from core.batchnorm import has_batchnorm
    from core.method import Method
    from vision.late import Late

    late = Late.of(settings.augment)
    if method.traits.on_tokens and (share := settings.augment.get("view_size", 1.0)) != 1:
        raise ValueError(f"augment.view_size={share}: method={settings.method.name} masks the grid of patches of whole images; "
                         "leave it at 1")
    if method.traits.on_tokens and not method.traits.resizable and late.larger:
        raise ValueError(f"augment.high_resolution: method={settings.method.name} masks the grid of patches of images of one "
                         "size; leave it out")
    if settings.compile and method.traits.on_tokens:
        raise ValueError(f"compile=true: has no effect with method={settings.method.name}, which calls the encoder's parts; "
                         "leave it out")
    if settings.chunk and type(method).objective is Method.objective:
        raise ValueError(f"chunk={settings.chunk}: method={settings.method.name} has no objective apart; use accumulate")
    if settings.chunk and has_batchnorm(method.encoder):
        return [f"chunk={settings.chunk}: the whole batch's gradient, but the encoder's BatchNorm sees a chunk at a time"]
    if settings.accumulate > 1 and not method.traits.per_image:
        return [f"accumulate={settings.accumulate}: each piece is a batch of its own to this loss; chunk=… takes the whole one"]
    return []


if __name__ == "__main__":
    sys.exit(main())
