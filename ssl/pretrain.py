"""Pretrain an image encoder without labels.

    uv run python -m ssl.pretrain --method simclr
    uv run python -m ssl.pretrain --method moco_v3 --data folder --data.root ~/photos --encoder resnet50 --devices 8

Nothing here imports torch before the words are understood: a mistyped one is answered at once.
"""
import sys
from functools import partial
from pathlib import Path

from core import command, config

ROOT = Path(__file__).resolve().parent.parent
TOOL = config.Tool(
    module="ssl.pretrain",
    primary=ROOT / "ssl" / "pretrain.yaml",
    searched=(ROOT / "vision" / "config",),
    summary="Pretrain an image encoder without labels: python -m ssl.pretrain --method simclr --data digits",
)


def main() -> int:
    return config.main(TOOL, partial(command.start, TOOL, command.check, run))


def run(words, listeners=(), encoder_of=None, method_of=command.build_method) -> int:
    """One run, from words to report.  listeners: further ones of its figures (core/run.py).

    encoder_of(words, dataset) → an encoder of random weights and its input, method_of(words, encoder) → the method: what is
    trained, where it is not what the words say. The report calls both again for the encoder as training began with it.
    """
    import torch

    from core import distributed, loop
    from core.batchnorm import sync_batchnorm
    from core.run import Run, say
    from ssl import report
    from ssl.health import BEFORE, UNTRAINED, Health
    from vision import artifact, loaders
    from vision.build import build_encoder, compile_encoder, precision
    from vision.data import build_data, fingerprints

    with distributed.session(words.device) as world:
        torch.manual_seed(words.seed)
        dataset = build_data(words)
        name, images = f"{words.chosen.method}-{words.chosen.data}", fingerprints(dataset)
        run = Run(command.folder(words, name, images), config.plain(words), words.resume, images)

        def initial():
            """The encoder, its input and the method as training begins with them, the same at every call."""
            torch.manual_seed(words.seed)
            encoder, recipe = (encoder_of or build_encoder)(words, dataset)
            return encoder, recipe, method_of(words, encoder)

        encoder, recipe, method = initial()
        if method.needs_labels and dataset.pretrain.labels is None:
            raise ValueError(f"method={words.chosen.method} needs labels, and data={words.chosen.data} has none to train on")
        if method.needs_labels and len(dataset.pretrain.labels.unique()) < 2:
            raise ValueError(f"method={words.chosen.method} needs two classes, and data={words.chosen.data} has one")
        deal = loaders.Plan(len(dataset.pretrain), words.batch_size, words.seed, world)
        notes = method.prepare(deal.images, deal.batch_size) + pieces_notes(words, method)
        if world.size > 1 and method.sync_batchnorm:
            sync_batchnorm(method)
        method.to(world.device, memory_format=torch.channels_last)
        optimizer = command.build_optimizer(words, method)
        precise = precision(words.precision, encoder, world.device, [view.size for view in recipe.views])
        plan = command.build_plan(words, deal.steps_an_epoch, world.size, precise)
        began = UNTRAINED if encoder_of or not begins_trained(words) else BEFORE
        health = Health(dataset, recipe, world.device, words.seed, encoder, began)
        workers = command.workers(words, world.local_size, world.device.type == "cuda")
        loader = loaders.loader(dataset.pretrain, recipe, deal, encoder.spec.channels, workers)

        past = run.restore(method, optimizer)
        run.begin()
        report.opening(words, dataset, encoder, plan, run, world, notes)
        report.skipped(run, dataset.skipped)
        if past:
            health.restore(past)
        else:
            health.start(encoder)
        if words.compile:
            compile_encoder(encoder)

        report.listen(run, plan, words, recipe, dataset, listeners)
        try:
            loop.train(
                method,
                loader.batches(run.step, plan.steps),
                optimizer,
                plan,
                run,
                world.device,
                observe=lambda step: health.check(step, encoder, words.stop_on_collapse),
                extra=health.state,
            )
        finally:
            run.close()
            if words.report:
                report.curves(run, health)
        for skipped in distributed.gather_objects(loader.skipped | health.skipped):
            dataset.skipped.update(skipped)
        report.skipped(run, dataset.skipped)
        origin = {"tool": TOOL.module, "words": run.identity}
        run.write("encoder.safetensors", artifact.dumps(encoder, recipe, origin))
        if run.step < plan.steps:
            say(f"paused at step {run.step} of {plan.steps}: {run.folder}/encoder.safetensors; without until= it goes on")
        elif words.report:
            report.final(run, health, dataset, encoder, words, lambda: initial()[0])
    return 0


def begins_trained(words) -> bool:
    """Does training begin with the weights of a file, or with timm's?"""
    return (words.encoder.endswith(".safetensors") or words.pretrained) and not words.scratch


def pieces_notes(words, method) -> list[str]:
    """What computing the batch in pieces changes.  Raises ValueError where it cannot be done."""
    from core.batchnorm import has_batchnorm
    from core.method import Method

    if words.chunk and type(method).objective is Method.objective:
        raise ValueError(f"chunk={words.chunk}: method={words.chosen.method} has no objective apart; use accumulate")
    if words.chunk and has_batchnorm(method.encoder):
        return [f"chunk={words.chunk}: the whole batch's gradient, but the encoder's BatchNorm sees a chunk at a time"]
    if words.accumulate > 1 and not method.per_image:
        return [f"accumulate={words.accumulate}: each piece is a batch of its own to this loss; chunk=… takes the whole one"]
    return []


if __name__ == "__main__":
    sys.exit(main())
