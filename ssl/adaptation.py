"""What `--adapt` does in training: the encoder waits, then learns at low rates, and its average is the result."""
import dataclasses
from operator import attrgetter

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from core.loop import StepHook
from core.method import Method, ema_copy
from core.processes import world_size
from core.settings import PretrainSettings
from vision import encoders, lora
from vision.layers import rates
from vision.stems import stem_weights

LONGEST = 0.999  # momentum of the average, unless it is set


class Adaptation(StepHook):
    """Where no setting asks for it, does nothing: the encoder itself is the result.

    Made before the optimizer, whose rates it decides by the method's traits; `start` when the method is where it trains.
    """

    def __init__(self, settings: PretrainSettings, method: Method) -> None:
        a = settings.adapt
        self.method, self.encoder, self.settings = method, method.encoder, settings
        self.new_stem = new_stem(settings, self.encoder)
        self.heads = any(p.requires_grad for name, p in method.named_parameters() if not name.startswith("encoder."))
        self.warmup = (a.warmup or 0.0) if self.heads else 0.0
        self.fixed_batchnorm = settings.lora is not None or a.batchnorm in ({"fixed"} if self.new_stem else {"auto", "fixed"})
        trainable = {name: p for name, p in self.encoder.named_parameters() if p.requires_grad}
        self.waiting = [p for name, p in trainable.items() if name not in self.new_stem] if self.warmup else []
        self.average: nn.Module | None = None
        self._frozen: bool | None = None  # as modes and gradients now have it
        method.traits = self._traits()

    def _traits(self):
        a, o, traits = self.settings.adapt, self.settings.optim, self.method.traits
        scale, decay = a.encoder_lr or 1.0, a.layer_decay or o.layer_decay or 1.0
        stem = next((share for share in (a.stem_lr, o.stem_lr) if share is not None), 1.0)
        changes: dict = {}
        if (scale, decay, stem) != (1.0, 1.0, 1.0):
            shares = rates(self.encoder, decay, stem, self.by_stage, self.new_stem)
            changes["lr_scale"] = {**traits.lr_scale, **{f"encoder.{name}": scale * share for name, share in shares.items()}}
        if self.waiting:
            changes["unfreeze_at"] = {**traits.unfreeze_at, "encoder": self.warmup, **self._stem(0.0)}
        if a.ramp:
            changes["ramp"] = {**traits.ramp, "encoder": a.ramp, **self._stem(0.0)}
        return dataclasses.replace(traits, **changes)

    def _stem(self, value: float) -> dict[str, float]:
        return {f"encoder.{name}": value for name in self.new_stem}

    @property
    def by_stage(self) -> bool:
        """Is a layer a stage? In encoders without attention; a block in others."""
        return not lora.attention_layers(self.encoder)

    def start(self, steps: int) -> None:
        """The method is on its device; the run has so many steps."""
        a = self.settings.adapt
        self.momentum = a.ema if a.ema is not None else min(1 - 10 / max(steps, 20), LONGEST) if a.on else 0.0
        if self.momentum:
            self.average = ema_copy(lora.merged(self.encoder)).eval()

    @property
    def result(self) -> nn.Module:
        """The encoder to measure and to keep, as timm knows it."""
        return lora.merged(self.encoder) if self.average is None else self.average

    # ---- at each step

    def begin(self, progress: float) -> None:
        frozen = bool(self.waiting) and progress < self.warmup
        if frozen == self._frozen or not (self.waiting or self.fixed_batchnorm):
            return
        self._frozen = frozen
        for norm in self._norms():
            norm.train(not (frozen or self.fixed_batchnorm))
        if world_size() == 1 or self.settings.chunk:  # DistributedDataParallel wants the same gradients at every step
            for p in self.waiting:
                p.requires_grad_(not frozen)

    def backward_done(self, progress: float) -> None:
        """What waits has no gradient: it neither moves nor counts in the gradient's norm, and has no momentum later."""
        if self._frozen:
            for p in self.waiting:
                p.grad = None

    @torch.no_grad()
    def end(self, progress: float) -> None:
        if self.average is None or (self._frozen and not self.new_stem):
            return
        state = self.average.state_dict()
        old, new = [], []
        for name, value in state.items():
            now = self._now(name)
            if value.is_floating_point():
                old.append(value)
                new.append(now)
            else:
                value.copy_(now)
        torch._foreach_lerp_(old, new, 1 - self.momentum)

    def _now(self, name: str) -> Tensor:
        """A weight or a statistic of the encoder, with its low-rank change."""
        return attrgetter(name)(self.encoder).detach()

    def _norms(self) -> list[_BatchNorm]:
        """BatchNorm layers of the encoder and of a teacher's copies of it."""
        encoder_copies = [m for m in self.method.modules() if hasattr(m, "spec") and hasattr(m, "dim")]
        return [norm for one in encoder_copies for norm in one.modules() if isinstance(norm, _BatchNorm)]

    # ---- for the user, and for last.pt

    def notes(self) -> list[str]:
        a, found = self.settings.adapt, []
        if a.on:
            layer = "stage" if self.by_stage else "block"
            lines = [f"features: {pooling(self.encoder)}, as the weights' architecture has it"]
            if self.waiting:
                lines.append(f"heads train alone for {self.warmup:.0%} of the run, then the encoder's rate rises over "
                             f"{a.ramp or 0:.0%}")
            if self._norms():
                until = "" if self.fixed_batchnorm else f" for {self.warmup:.0%} of the run, then new ones of augmented images"
                lines.append(f"BatchNorm keeps the weights' statistics{until}")
            o = self.settings.optim
            decay = f", {a.layer_decay:g} times as much in each {layer} further down" if a.layer_decay != 1 else ""
            lines.append(f"optim.lr={o.lr:g} ({o.name}); the encoder's is {a.encoder_lr:g} of it{decay}, the stem's "
                         f"{a.stem_lr:g} of that")
            found.append(f"adapt: {'; '.join(lines)}")
        if a.warmup and not self.heads:
            method = self.settings.method.name
            found.append(f"adapt.warmup={a.warmup:g}: method={method} has no heads to train first; it is left out")
        if self.new_stem and self.warmup:
            found.append("adapt: the stem is new to these channels: it trains from the first step, at the encoder's whole rate")
        if self.settings.lora:
            count = sum(p.numel() for p in self.encoder.parameters() if p.requires_grad)
            found.append(f"lora={self.settings.lora}: {count:,} parameters of the encoder are trained, all else in it is "
                         "fixed, BatchNorm too; the encoder file has them added to its weights")
        return found

    def state(self) -> dict:
        return {} if self.average is None else {"average": self.average.state_dict()}

    def restore(self, state: dict) -> None:
        if self.average is not None:
            self.average.load_state_dict(state["average"])


def new_stem(settings: PretrainSettings, encoder: nn.Module) -> tuple[str, ...]:
    """Names of the stem's weights where they are not the trained ones: adapted to other channels, or random."""
    if settings.pretrained and encoders.has_new_stem(encoder):
        return stem_weights(encoder)
    return tuple(getattr(encoder, "adapted", ()))


def with_lora(settings: PretrainSettings, encoder: nn.Module) -> nn.Module:
    """The encoder with changes of the settings' rank, if they have one. In place.  Raises ValueError where it takes none."""
    return lora.attach(encoder, settings.lora, new_stem(settings, encoder)) if settings.lora else encoder


def pooling(encoder: nn.Module) -> str:
    """How an encoder's features come from its maps or tokens, in words."""
    kinds = {"token": "the class token", "avg": "the mean of all places", "map": "attention pooling", "max": "the maximum",
             "avgmax": "half of mean and maximum", "catavgmax": "mean and maximum"}
    for owner in (encoder, getattr(encoder, "head", None)):
        found = getattr(owner, "global_pool", None)
        kind = found if isinstance(found, str) else getattr(found, "pool_type", None)
        if kind in kinds:
            return kinds[kind]
    return "the encoder's own pooling"
