"""What timm asks of a model that is a path of modules with stages on it: its features, and its stages' maps."""
import torch
from timm.models._features import feature_take_indices
from torch import nn


class Staged(nn.Module):
    """The modules of `path`, one after the other, then the subclass's `forward_head`."""

    path: tuple[str, ...]  # names, the stages' among them
    norm: tuple[str, ...] = ()  # those behind the last stage that make its norm
    feature_info: list[dict]  # the end of each stage

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        for name in self.path:
            x = self.get_submodule(name)(x)
        return x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self, x: torch.Tensor, indices: int | list[int] | None = None, norm: bool = False, stop_early: bool = False,
        output_fmt: str = "NCHW", intermediates_only: bool = False,
    ):
        """timm's: (the last map, the stages' maps that `indices` takes), or those alone.

        norm: the last stage's map comes from behind the modules of `norm`, where there are any.
        """
        assert output_fmt == "NCHW"
        take, last = feature_take_indices(len(self.feature_info), indices)
        ends = [info["module"] for info in self.feature_info]
        maps = []
        for name in self.path:
            x = self.get_submodule(name)(x)
            if name in ends:
                maps.append(x)
                if stop_early and len(maps) - 1 == last < len(ends) - 1:
                    break
            elif norm and name in self.norm:
                maps[-1] = x
        maps = [stage for i, stage in enumerate(maps) if i in take]
        return maps if intermediates_only else (x, maps)
