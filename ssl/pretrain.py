"""Pretrain an image encoder without labels.

    uv run python -m ssl.pretrain --method simclr
    uv run python -m ssl.pretrain --method moco_v3 --data folder --data.root ~/photos --encoder resnet50 --devices 8

Nothing here imports torch before the words are understood: a mistyped one is answered at once.
"""
import sys
from functools import partial
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
        return distributed.launch(TOOL.module, sys.argv[1:], words.devices)
    return distributed.guarded(partial(run, words))


def check(words) -> None:
    """Refuse what can be refused before anything is loaded or launched."""
    positive = ("batch_size", "accumulate", "image_size", "epochs", "steps", "log_every", "save_minutes", "devices")
    for name, value in [(n, words[n]) for n in positive] + [("optim.lr", words.optim.lr), ("clip", words.clip)]:
        if value is not None and value <= 0:
            raise ValueError(f"{name}={value}: must be more than 0")
    if not 0 <= words.optim.warmup < 1:
        raise ValueError(f"optim.warmup={words.optim.warmup}: a share of the run, from 0 to less than 1")
    choices = {
        "optim.name": (words.optim.name, ("lars", "sgd", "adamw")),
        "optim.scaling": (words.optim.scaling, ("linear", "sqrt", "none")),
        "precision": (words.precision, ("auto", "fp32", "bf16")),
        "stem": (words.stem, ("auto", "small", "half", "full")),
        "resume": (words.resume, ("auto", "never")),
    }
    for name, (value, known) in choices.items():
        if value not in known:
            raise ValueError(f"{name}={value}: there are {', '.join(known)}")


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

    identity = config.identity(words)
    with distributed.session(words.device) as world:
        torch.manual_seed(words.seed)
        dataset = build_data(words)
        encoder, recipe = build_encoder(words, dataset)
        method = build_method(words, encoder)
        deal = loaders.Plan(len(dataset.pretrain), words.batch_size, words.seed, world)
        notes = method.prepare(deal.images, deal.batch_size)
        if world.size > 1 and method.sync_batchnorm:
            sync_batchnorm(method)
        method.to(world.device, memory_format=torch.channels_last)
        optimizer = build_optimizer(words, method)
        plan = build_plan(words, deal, encoder, world)

        run = Run(folder(words, identity), config.plain(words), identity, words.resume)
        report.opening(words, dataset, encoder, plan, run, world, notes)
        health = Health(dataset, recipe, world.device, words.seed, encoder.spec)
        if run.state is None:
            health.start(encoder)
        else:
            method.load_state_dict(run.state["method"])
            optimizer.load_state_dict(run.state["optimizer"])
            health.restore(run.state["extra"])
        if words.compile:
            encoder.compile()

        loader = loaders.loader(dataset.pretrain, recipe, deal, encoder.spec.channels, workers(words, world))
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
            report.skipped(run, {**dataset.skipped, **loader.skipped})
        run.write("encoder.safetensors", artifact.dumps(encoder, recipe, {"tool": TOOL.module, "words": identity}))
        report.final(run, health, dataset, encoder, words)
    return 0


def folder(words, identity: dict) -> Path:
    """The run's folder: as told, or named by what it is a run of, so that another configuration gets another one."""
    if words.out != "auto":
        return config.expand(words.out)
    return Path("runs") / f"{words.chosen.method}-{words.chosen.data}-{config.fingerprint(identity)}"


if __name__ == "__main__":
    sys.exit(main())
