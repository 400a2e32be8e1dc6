"""Pretrain an image encoder without labels.

    uv run python -m ssl.pretrain --method simclr
    uv run python -m ssl.pretrain --method moco_v3 --data folder --data.root ~/photos --encoder resnet50 --devices 8

Nothing here imports torch before the words are understood: a mistyped one is answered at once.
"""
import sys
from functools import partial
from math import inf
from pathlib import Path

from core import config

ROOT = Path(__file__).resolve().parent.parent
TOOL = config.Tool(
    module="ssl.pretrain",
    primary=ROOT / "ssl" / "pretrain.yaml",
    searched=(ROOT / "vision" / "config",),
    summary="Pretrain an image encoder without labels: python -m ssl.pretrain --method simclr --data digits",
)


def main() -> int:
    return config.main(TOOL, start)


def start(words) -> int:
    """Become as many processes as were asked for, or be one of them.  Returns the exit code."""
    check(words)

    from core import distributed

    if words.devices > 1 and distributed.environment() is None:
        return distributed.launch(TOOL.module, list(words.chosen.words), words.devices)
    return distributed.guarded(partial(run, words))


def check(words) -> None:
    """Refuse what can be refused before anything is loaded or launched."""
    o = words.optim
    positive = ["batch_size", "accumulate", "chunk", "clip", "image_size", "epochs", "steps", "log_every", "save_minutes"]
    positive = [name for name in (*positive, "devices", "checks") if words[name] is not None]
    wrong = {name: "more than 0" for name in positive if not 0 < words[name] < inf}
    wrong |= {f"optim.{name}": "more than 0" for name in ("lr", "eta") if not 0 < o[name] < inf}
    natural = ("weight_decay", "warmup_lr", "end_lr", "bias_scale")
    wrong |= {f"optim.{name}": "0 or more" for name in natural if not o[name] >= 0}
    wrong |= {f"optim.{name}": "from 0 to less than 1" for name in ("momentum", "warmup") if not 0 <= o[name] < 1}
    if len(o.betas) != 2 or not all(0 <= beta < 1 for beta in o.betas):
        wrong["optim.betas"] = "two numbers from 0 to less than 1"
    if o.end_weight_decay is not None and not o.end_weight_decay >= 0:
        wrong["optim.end_weight_decay"] = "0 or more, or null"
    if words.chunk and words.accumulate > 1:
        wrong["chunk"] = "left out with accumulate: chunk does what accumulate does, with the whole batch's gradient"
    if words.workers < -1:
        wrong["workers"] = "-1 (as many as fit) or a number of processes"
    if not 0 <= words.seed < 2**63:
        wrong["seed"] = "from 0 to 2**63 - 1"
    if words.batch_size % max(words.devices, 1):
        wrong["batch_size"] = f"a multiple of devices={words.devices}"
    choices = {
        "optim.name": ("lars", "sgd", "adamw"),
        "optim.scaling": ("linear", "sqrt", "none"),
        "precision": ("auto", "fp32", "bf16"),
        "stem": ("auto", "small", "half", "full"),
        "resume": ("auto", "never"),
    }
    flat = config.flat(words)
    wrong |= {name: " or ".join(known) for name, known in choices.items() if flat[name] not in known}
    for name, right in wrong.items():
        raise ValueError(f"{name}={flat[name]}: must be {right}")


def run(words) -> int:
    """One run, from words to report."""
    import torch

    from core import distributed, loop
    from core.batchnorm import sync_batchnorm
    from core.run import Run
    from ssl import report
    from ssl.build import build_data, build_encoder, build_method, build_optimizer, build_plan, workers
    from ssl.health import Health
    from vision import artifact, loaders

    with distributed.session(words.device) as world:
        run = Run(folder(words), config.plain(words), words.resume)
        torch.manual_seed(words.seed)
        dataset = build_data(words)
        encoder, recipe = build_encoder(words, dataset)
        method = build_method(words, encoder)
        if method.needs_labels and dataset.pretrain.labels is None:
            raise ValueError(f"method={words.chosen.method} needs labels, and data={words.chosen.data} has none to train on")
        deal = loaders.Plan(len(dataset.pretrain), words.batch_size, words.seed, world)
        notes = method.prepare(deal.images, deal.batch_size) + pieces_notes(words, method)
        if world.size > 1 and method.sync_batchnorm:
            sync_batchnorm(method)
        method.to(world.device, memory_format=torch.channels_last)
        optimizer = build_optimizer(words, method)
        plan = build_plan(words, deal, encoder, world)
        health = Health(dataset, recipe, world.device, words.seed, encoder)
        loader = loaders.loader(dataset.pretrain, recipe, deal, encoder.spec.channels, workers(words, world))

        past = run.restore(method, optimizer)
        run.begin()
        report.opening(words, dataset, encoder, plan, run, world, notes)
        report.skipped(run, dataset.skipped)
        if past:
            health.restore(past)
        else:
            health.start(encoder)
        if words.compile:
            encoder.compile()

        report.listen(run, plan, words, recipe, dataset)
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
            report.curves(run, health)
        for skipped in distributed.gather_objects(loader.skipped):
            dataset.skipped.update(skipped)
        report.skipped(run, dataset.skipped)
        origin = {"tool": TOOL.module, "words": run.identity}
        run.write("encoder.safetensors", artifact.dumps(encoder, recipe, origin))
        report.final(run, health, dataset, encoder, words)
    return 0


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


def folder(words) -> Path:
    """The run's folder: as told, or named by what it is a run of, so that another configuration gets another one."""
    if words.out != "auto":
        return config.expand(words.out)
    fingerprint = config.fingerprint(config.identity(words))
    return Path("runs") / f"{words.chosen.method}-{words.chosen.data}-{fingerprint}"


if __name__ == "__main__":
    sys.exit(main())
