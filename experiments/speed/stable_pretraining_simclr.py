"""SimCLR as a user of stable-pretraining 0.1.8 trains it, one epoch whenever step.py asks for one.

It follows the library's own example (benchmarks/cifar10/simclr-resnet18.py of rbalestr-lab/stable-pretraining): dict
samples, MultiViewTransform in a DataLoader, spt.Module with the library's forward and NT-Xent, a Lightning Trainer in a
Manager. As in the other contestants: encoder, projector's widths, SGD, the S recipe, worker processes that persist. Left
out: probes, loggers, checkpoints and the callbacks that can be switched off. Precision: the Trainer's own on a CPU, the
example's "16-mixed" on a GPU.

Started by step.py, which writes a line to its standard input for each epoch and reads back how many images it took.
"""
import json
import os
import sys

import numpy as np
import torch
from PIL import Image
from torch import nn

from experiments.speed.augment import MEAN, STD, STRONG
from vision import encoders

CALLBACKS = ("progress_bar", "registry", "logging", "env_dump", "trainer_info", "sklearn_checkpoint", "module_summary")
CALLBACKS += ("slurm_info", "unused_params", "hf_checkpoint")


class Pictures:
    """Positional samples, as torchvision's CIFAR10 gives them."""

    def __init__(self, images: np.ndarray):
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int):
        return Image.fromarray(self.images[index]), 0


def view(size: int):
    from stable_pretraining.data import transforms

    strength = {name: STRONG[name] for name in ("brightness", "contrast", "saturation", "hue")}
    return transforms.Compose(
        transforms.RGB(),
        transforms.RandomResizedCrop((size, size), scale=STRONG["crop"]),
        transforms.RandomHorizontalFlip(p=0.5),
        transforms.ColorJitter(**strength, p=STRONG["jitter"]),
        transforms.RandomGrayscale(p=STRONG["grey"]),
        transforms.PILGaussianBlur(p=STRONG["blur"]),
        transforms.ToImage(mean=MEAN, std=STD),
    )


def main() -> None:
    settings = json.loads(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever the libraries print is no answer

    import lightning as pl
    import stable_pretraining as spt
    from stable_pretraining.forward import simclr

    class OnDemand(pl.Callback):
        def on_train_epoch_start(self, trainer, module) -> None:
            if not sys.stdin.readline():
                os._exit(0)  # step.py is done

        def on_train_epoch_end(self, trainer, module) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            answers.write(f"{trainer.num_training_batches * settings['batch']}\n")
            answers.flush()

    spt.set(
        verbose="WARNING",
        cache_dir=settings["folder"],
        progress_bar="none",
        requeue_checkpoint=False,
        default_loggers={"registry": False},
        default_callbacks=dict.fromkeys(CALLBACKS, False),
    )
    size = settings["size"]
    loader = torch.utils.data.DataLoader(
        spt.data.FromTorchDataset(
            Pictures(np.load(settings["pixels"])),
            names=["image", "label"],
            transform=spt.data.transforms.MultiViewTransform([view(size), view(size)]),
        ),
        batch_size=settings["batch"],
        shuffle=True,
        drop_last=True,
        num_workers=settings["workers"],
        persistent_workers=settings["workers"] > 0,
    )
    torch.manual_seed(0)
    backbone = encoders.create(settings["encoder"], 3, size, settings["stem"])
    hidden, dim = settings["hidden"], settings["dim"]
    module = spt.Module(
        backbone=backbone,
        projector=nn.Sequential(nn.Linear(backbone.dim, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, dim)),
        forward=simclr,
        simclr_loss=spt.losses.NTXEntLoss(temperature=settings["temperature"]),
        optim={
            "optimizer": {"type": "SGD", "lr": settings["lr"]},
            "scheduler": {"type": "LinearWarmupCosineAnnealing"},
            "interval": "epoch",
        },
    )
    cuda = settings["device"].startswith("cuda")
    trainer = pl.Trainer(
        max_epochs=1000,
        num_sanity_val_steps=0,
        callbacks=[OnDemand()],
        accelerator="gpu" if cuda else "cpu",
        devices=1,
        precision="16-mixed" if cuda else "32-true",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    spt.Manager(trainer=trainer, module=module, data=spt.data.DataModule(train=loader), seed=0)()


if __name__ == "__main__":
    main()
