"""lightly's PyTorch example for SimCLR (docs.lightly.ai, examples/simclr) on digits, until its first optimizer step.

    python -m experiments.speed.lightly_first_step DEVICE WORKERS

Encoder and batch are those that ssl.pretrain takes by default; ends by itself, without waiting for its workers.
"""
import os
import sys

import timm
import torch
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from lightly.transforms.simclr_transform import SimCLRTransform
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn

BATCH, SIZE = 256, 8


class Digits(torch.utils.data.Dataset):
    def __init__(self):
        self.images = (load_digits().images * (255 / 16)).astype("uint8")
        self.transform = SimCLRTransform(input_size=SIZE)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int):
        return self.transform(Image.fromarray(self.images[index]).convert("RGB"))


def main() -> None:
    device, workers = sys.argv[1], int(sys.argv[2])
    encoder = timm.create_model("resnet18d", num_classes=0, layers=(1, 1, 1, 1), channels=(32, 64, 128, 256), stem_width=16)
    model = nn.Sequential(encoder, SimCLRProjectionHead(256, 512, 128)).to(device)
    loader = torch.utils.data.DataLoader(Digits(), BATCH, shuffle=True, drop_last=True, num_workers=workers)
    criterion, optimizer = NTXentLoss(), torch.optim.SGD(model.parameters(), lr=0.06)
    for first, second in loader:
        loss = criterion(model(first.to(device)), model(second.to(device)))
        loss.backward()
        optimizer.step()
        loss.item()
        os._exit(0)


if __name__ == "__main__":
    main()
