"""Feature maps before the ReLU that ends them: what OFD and ReviewKD compare."""
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from core.image_size import sides
from distill.method import maps_of

RELUS = (F.relu, F.relu_, F.relu6, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_)


class PreActivation:
    """`maps_of` with maps as they are before their ReLU; a map that no ReLU makes stays what it is.

    The ReLUs are found by running the encoder once: those whose output is one of the maps.
    """

    def __init__(self, encoder: nn.Module, count: int):
        self.encoder, self.count = encoder, count
        modes, like = {m: m.training for m in encoder.modules()}, next(encoder.parameters())
        images = like.new_zeros(2, encoder.spec.channels, *sides(encoder.spec.image_size))
        try:
            with torch.no_grad(), _Relus() as calls:
                maps, _ = maps_of(encoder.eval(), images, count)
        finally:
            for module, mode in modes.items():
                module.training = mode
        outputs = [output.data_ptr() for output in calls.outputs]
        self.at = [outputs.index(m.data_ptr()) if m.data_ptr() in outputs else None for m in maps]  # which call of a ReLU

    def __call__(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """→ maps B,C,h,w, and features B,D"""
        with _Relus({number for number in self.at if number is not None}) as calls:
            maps, features = maps_of(self.encoder, images, self.count)
        return [calls.inputs.get(number, m) for number, m in zip(self.at, maps, strict=True)], features


class _Relus(TorchFunctionMode):
    """Inside, calls of a ReLU are counted.  kept: whose inputs are kept, by number; None: all outputs are"""

    def __init__(self, kept: set[int] | None = None):
        super().__init__()
        self.kept, self.count = kept, 0
        self.inputs: dict[int | None, Tensor] = {}
        self.outputs: list[Tensor] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func not in RELUS:
            return func(*args, **(kwargs or {}))
        if self.kept is not None and self.count in self.kept:
            self.inputs[self.count] = args[0].clone()  # it may work in place
        self.count += 1
        output = func(*args, **(kwargs or {}))
        if self.kept is None:
            self.outputs.append(output)
        return output
