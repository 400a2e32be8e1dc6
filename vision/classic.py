"""LeNet-5 and AlexNet, the two classics that timm lacks, in its registry: `timm.create_model("lenet5")` after this import.

LeCun, Bottou, Bengio, Haffner 1998, "Gradient-based learning applied to document recognition", Proc. IEEE 86(11), §II.B.
Krizhevsky 2014, "One weird trick for parallelizing convolutional neural networks", arXiv 1404.5997: AlexNet (2012) as one
tower, layer for layer and name for name torchvision's, so that its published weights load.
"""
from collections import OrderedDict

import torch
import torch.nn.functional as F
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

from vision.staged import Staged


class Chain(Staged):
    """A model whose `features` are a sequence of layers; a stage ends at its activation, before the pool."""

    features: nn.Sequential

    @property
    def path(self) -> tuple[str, ...]:
        return tuple(f"features.{name}" for name, _ in self.features.named_children())

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        return self.features(x)


# --------------------------------------------------------------------------------------------------------------- LeNet-5


class Field(nn.Module):
    """Images in the middle of a field of at least `side` pixels, as the paper lays MNIST's 28 into 32."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        down, right = (max(0, self.side - n) for n in x.shape[-2:])
        return F.pad(x, (right // 2, right - right // 2, down // 2, down - down // 2))


class Squash(nn.Module):
    """The paper's A tanh(S a), with A = 1.7159 and S = 2/3 (equation 6, appendix A)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 1.7159 * torch.tanh(2 / 3 * x)


class LeNet5(Chain):
    """B,C,H,W → B,84, or B,K with classes.

    As most write it today, C3 sees every map of S2, the two subsamplings only average, and the output layer is linear in
    place of distances to drawn digits. Images beyond 32 pixels give C5 several positions, whose mean goes on.
    """

    def __init__(self, num_classes: int = 1000, in_chans: int = 3) -> None:
        super().__init__()
        self.features = nn.Sequential(OrderedDict(
            field=Field(32),
            c1=nn.Conv2d(in_chans, 6, 5), squash1=Squash(), s2=nn.AvgPool2d(2),  # 32 → 28 → 14
            c3=nn.Conv2d(6, 16, 5), squash3=Squash(), s4=nn.AvgPool2d(2),  # 14 → 10 → 5
            c5=nn.Conv2d(16, 120, 5), squash5=Squash(),  # 5 → 1
        ))
        self.f6 = nn.Linear(120, 84)
        self.squash = Squash()
        self.feature_info = [
            {"num_chs": 6, "reduction": 1, "module": "features.squash1"},
            {"num_chs": 16, "reduction": 2, "module": "features.squash3"},
            {"num_chs": 120, "reduction": 4, "module": "features.squash5"},
        ]
        self.num_features, self.head_hidden_size = 120, 84
        self.reset_classifier(num_classes)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        self.num_classes = num_classes
        self.output = nn.Linear(84, num_classes) if num_classes else nn.Identity()

    def get_classifier(self) -> nn.Module:
        return self.output

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        x = self.squash(self.f6(x.mean((2, 3))))  # B,84
        return x if pre_logits else self.output(x)


# --------------------------------------------------------------------------------------------------------------- AlexNet


class AlexNet(Chain):
    """B,C,H,W → B,4096, or B,K with classes. Without local response normalization, as arXiv 1404.5997 has it."""

    def __init__(self, num_classes: int = 1000, in_chans: int = 3, drop_rate: float = 0.5) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(in_chans, 64, 11, stride=4, padding=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2),  # 224 → 55 → 27
            nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2),  # 27 → 13
            nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(inplace=True),
            nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(inplace=True),
            nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2),  # 13 → 6
        )
        self.avgpool = nn.AdaptiveAvgPool2d(6)
        self.classifier = nn.Sequential(
            nn.Dropout(drop_rate), nn.Linear(256 * 6 * 6, 4096), nn.ReLU(inplace=True),
            nn.Dropout(drop_rate), nn.Linear(4096, 4096), nn.ReLU(inplace=True),
            nn.Identity(),
        )
        self.feature_info = [
            {"num_chs": 64, "reduction": 4, "module": "features.1"},
            {"num_chs": 192, "reduction": 8, "module": "features.4"},
            {"num_chs": 256, "reduction": 16, "module": "features.11"},
        ]
        self.num_features, self.head_hidden_size = 256, 4096
        self.reset_classifier(num_classes)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        self.num_classes = num_classes
        self.classifier[6] = nn.Linear(4096, num_classes) if num_classes else nn.Identity()

    def get_classifier(self) -> nn.Module:
        return self.classifier[6]

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        x = self.avgpool(x).flatten(1)  # B,9216
        return self.classifier[:6](x) if pre_logits else self.classifier(x)


default_cfgs = generate_default_cfgs({
    "lenet5.untrained": {
        "input_size": (3, 32, 32), "num_classes": 10, "first_conv": "features.c1", "classifier": "output",
    },
    "alexnet.tv_in1k": {
        "url": "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth", "license": "bsd-3-clause",
        "input_size": (3, 224, 224), "interpolation": "bilinear", "first_conv": "features.0", "classifier": "classifier.6",
    },
})


@register_model
def lenet5(pretrained: bool = False, **kwargs) -> LeNet5:
    return build_model_with_cfg(LeNet5, "lenet5", pretrained, **kwargs)


@register_model
def alexnet(pretrained: bool = False, **kwargs) -> AlexNet:
    return build_model_with_cfg(AlexNet, "alexnet", pretrained, **kwargs)
