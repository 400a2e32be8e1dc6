"""How one view of an image is sampled: the settings of an augmentation, and the parameters drawn by them."""
import math
from dataclasses import dataclass
from itertools import permutations

import torch
from torch import Tensor

from core import counter_rng
from core.image_size import Size
from vision import policy
from vision.bands import MOST_CHANNELS
from vision.view_params import ATTEMPTS, ExtendedParams, ViewParams, crop_box, extend

ORDERS = torch.tensor(list(permutations(range(4))))  # 24,4
PAIRS = ("crop", "ratio", "sigma", "gamma")  # settings of two numbers: the smallest and the largest
PROBABILITIES = ("flip", "jitter", "grey", "blur", "solarize", "vflip", "turns", "drop_channel")
POLICY_AT = 8  # where among the numbers of the later operations a policy's begin; those before are of one number an image
BANDS_AT = POLICY_AT + 3 * policy.MOST  # … and those of each channel


@dataclass(frozen=True)
class View:
    """How one view is sampled. PROBABILITIES are so named; the rest are strengths. From `vflip` on, all is off by default."""

    size: Size  # pixels a side, or height and width
    crop: tuple[float, float] = (0.08, 1.0)  # share of the image's area
    ratio: tuple[float, float] = (3 / 4, 4 / 3)  # width : height
    flip: float = 0.5
    jitter: float = 0.8
    brightness: float = 0.8
    contrast: float = 0.8
    saturation: float = 0.8
    hue: float = 0.2  # turns, at most 0.5
    grey: float = 0.2
    blur: float = 0.5
    sigma: tuple[float, float] = (0.1, 2.0)  # pixels
    solarize: float = 0.0
    vflip: float = 0.0  # upside down
    turns: float = 0.0  # a turn by 0, 90, 180 or 270 degrees, each equally often; of a rectangle by 0 or 180
    rotate: float = 0.0  # degrees: an angle of at most so much to either side
    policy: str = policy.NONE  # randaugment or trivialaugment (vision/policy.py)
    policy_n: int = 2  # RandAugment's operations an image
    policy_magnitude: int = 9  # RandAugment's, 0 to 30
    gain: float = 0.0  # each channel times a factor of 1 ± so much
    offset: float = 0.0  # and plus or minus at most so much of the range
    gamma: tuple[float, float] = (1.0, 1.0)  # exponent, its logarithm drawn evenly
    noise: float = 0.0  # largest standard deviation of Gaussian noise, as a share of the range
    drop_channel: float = 0.0  # each channel is set to its mean; one stays at least

    def __post_init__(self):
        for name in PAIRS:
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"augment.{name}={[low, high]}: needs 0 < smallest ≤ largest")
        if self.crop[1] > 1:
            raise ValueError(f"augment.crop={list(self.crop)}: shares of the image's area, at most 1")
        for name in PROBABILITIES:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"augment.{name}={getattr(self, name)}: a probability lies between 0 and 1")
        for name in ("brightness", "contrast", "saturation", "gain", "offset", "noise"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"augment.{name}={getattr(self, name)}: cannot be negative")
        if not 0 <= self.hue <= 0.5:
            raise ValueError(f"augment.hue={self.hue}: hue turns by at most 0.5")
        if not 0 <= self.rotate <= 180:
            raise ValueError(f"augment.rotate={self.rotate}: an angle of 0 to 180 degrees")
        policy.check(self.policy, self.policy_n, self.policy_magnitude)

    @property
    def color(self) -> dict[str, float | str]:
        """The operations on color that this view has: setting → value."""
        jitter = {"saturation": self.saturation, "hue": self.hue} if self.jitter else {}
        named = {"policy": self.policy} if self.policy != policy.NONE else {}
        return {name: value for name, value in (jitter | {"grey": self.grey}).items() if value} | named

    @property
    def is_extended(self) -> bool:
        """Whether there are operations beyond the SimCLR family's."""
        amounts = (self.vflip, self.turns, self.rotate, self.gain, self.offset, self.noise, self.drop_channel)
        return any(amounts) or self.policy != policy.NONE or self.gamma != (1.0, 1.0)

    def sample_params(self, seed: int, epoch: int, indices: Tensor, stream: int, height, width) -> ViewParams:
        """Parameters for the images at `indices` (B), `height` and `width` (B, or scalars) pixels large."""
        u = counter_rng.uniform(seed, epoch, indices, stream, 2 * ATTEMPTS + 14)
        crop, u = u[:, : 2 * ATTEMPTS + 2], u[:, 2 * ATTEMPTS + 2 :].unbind(1)
        sides = [torch.as_tensor(side, device=indices.device).expand(len(indices)) for side in (height, width)]
        source = torch.stack(sides, dim=1)  # B,2
        spread = torch.tensor([self.brightness, self.contrast, self.saturation, self.hue], device=indices.device)
        center = torch.tensor([1.0, 1.0, 1.0, 0.0], device=indices.device)
        low = torch.where(center > 0, (center - spread).clamp(min=0), -spread)
        factors = low + torch.stack(u[3:7], dim=1) * (center + spread - low)  # B,4
        params = ViewParams(
            source=source,
            box=crop_box(crop, source, self.crop, self.ratio),
            flip=u[0] < self.flip,
            jitter=u[1] < self.jitter,
            order=ORDERS.to(indices.device)[(u[2] * len(ORDERS)).long()],
            factors=factors,
            grey=u[7] < self.grey,
            blur=u[8] < self.blur,
            sigma=self.sigma[0] + u[9] * (self.sigma[1] - self.sigma[0]),
            solarize=u[10] < self.solarize,
        )
        return self._extended(params, seed, epoch, indices, stream) if self.is_extended else params

    def _extended(self, params: ViewParams, seed: int, epoch: int, indices: Tensor, stream: int) -> ExtendedParams:
        """With the later operations. Their numbers come from a stream of their own, each from a place of its own."""
        banded = self.gain or self.offset or self.drop_channel
        count = BANDS_AT + 3 * MOST_CHANNELS if banded else BANDS_AT if self.policy != policy.NONE else POLICY_AT
        bits = counter_rng.random_bits(seed, epoch, indices, counter_rng.EXTENDED + stream, count)  # B,count
        u = (bits >> 8).to(torch.float32) * 2.0**-24
        turns = (u[:, 2] * 4).long() if isinstance(self.size, int) else 2 * (u[:, 2] * 2).long()
        changes = {"vflip": u[:, 0] < self.vflip, "turns": torch.where(u[:, 1] < self.turns, turns, 0)}
        if self.rotate:
            changes["angle"] = (2 * u[:, 3:4] - 1) * self.rotate
        if self.policy != policy.NONE:
            n = self.policy_n if self.policy == policy.RANDAUGMENT else 1
            own = u[:, POLICY_AT : POLICY_AT + 3 * n].unflatten(1, (n, 3))
            changes["ops"], changes["magnitudes"] = policy.sample(own, self.policy, self.policy_magnitude, self.size)
        if self.gamma != (1.0, 1.0):
            low, high = map(math.log, self.gamma)
            changes["gamma"] = torch.exp(low + u[:, 4:5] * (high - low))
        if self.noise:
            changes["noise"], changes["noise_key"] = u[:, 5:6] * self.noise, bits[:, 6:8]
        if self.gain or self.offset:
            gain, offset = u[:, BANDS_AT : BANDS_AT + 2 * MOST_CHANNELS].split(MOST_CHANNELS, dim=1)
            changes["gain"] = (1 + (2 * gain - 1) * self.gain).clamp(min=0)
            changes["offset"] = (2 * offset - 1) * self.offset
        if self.drop_channel:
            changes["drop_margin"] = u[:, BANDS_AT + 2 * MOST_CHANNELS :] - self.drop_channel
        return extend(params, **changes)
