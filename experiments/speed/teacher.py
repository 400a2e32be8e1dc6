"""The second student of a teacher: its outputs read from the cache, against asking it again.

    uv run python -m experiments.speed.teacher --keep

Both sides are ours: the same steps of SEED on the same views, augmentation, student and optimizer included. What is saved is
the teacher's forward pass, so the ratio grows with the teacher and shrinks with the student.
"""
import tempfile

import torch

from core import cli, optim, training
from core.processes import session
from core.settings import OptimSettings
from distill import teacher
from distill.cache import Cache
from distill.train import TOOL
from experiments.speed.side_by_side import arguments, compare, report
from vision import encoders, loaders
from vision.augment import Augmentation
from vision.splits import Images

PAIRS = (("small", "tiny"), ("resnet18", "tiny"), ("resnet18", "small"))


def main() -> None:
    settings = arguments(
        __doc__.splitlines()[0], steps=(8, "of a run", 2), batch=(256, "images a step", 16), size=(28, "pixels a side")
    )
    words, cases = cli.compose(TOOL, ["teacher=random", "method=seed", "data=synthetic"]), {}
    with session(settings.device) as world, tempfile.TemporaryDirectory() as folder:
        shape = settings.batch * settings.steps, 1, settings.size, settings.size
        split = Images(torch.randint(256, shape, dtype=torch.uint8))
        recipe = Augmentation(settings.size, [0.3], [0.3], **cli.plain(words.augment))
        deal = loaders.BatchSampler(len(split), settings.batch, 0, world)
        batches = loaders.loader(split, recipe, deal, 1)
        for large, small in PAIRS:
            network = encoders.create(large, 1, settings.size)
            member = teacher.Member(large, network, None, None, torch.tensor([0.3]), torch.tensor([0.3]))

            def student(cache, member=member, small=small) -> int:
                master = teacher.Teacher([member], torch.tensor([0.3]), torch.tensor([0.3]), world.device)
                master.cache = cache
                encoder = encoders.create(small, 1, settings.size).train()
                method = training.build_method(words, encoder, teacher=master, classes=0)
                method.prepare(len(split), settings.batch)
                method.to(world.device, memory_format=torch.channels_last)
                optimizer = optim.build(method, OptimSettings(name="adamw", weight_decay=0.0), 1e-3)
                for batch in batches.batches(0, settings.steps):
                    output = method(batch, 0.0)
                    output.loss.backward()
                    optimizer.step()
                    optimizer.zero_grad()
                    method.after_step(output.staged, 0.0)
                return settings.steps * settings.batch

            kept = Cache(folder, {"teacher": large, "student": small}, len(split), 2 * network.dim, 1e9)
            student(kept)  # the first student fills it
            cases[f"{large} → {small}, {settings.size} px"] = compare(
                lambda student=student: student(None), lambda student=student, kept=kept: student(kept), settings.rounds,
                "teacher asked again",
            )
    report("teacher", "images/s", cases, settings)


if __name__ == "__main__":
    main()
