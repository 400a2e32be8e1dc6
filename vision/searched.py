"""Networks of many shapes for architecture search, in timm's registry: `searched_resnet` and `searched_mobile`.

Both are timm's own classes (ByobNet and EfficientNet) with each stage's shape as numbers, so that a shape is a few
arguments that JSON can hold: `timm.create_model("searched_resnet", stages=(("basic", 1, 32, 3), …))` after this import.
Transformers need nothing of ours: timm's take depth, width, heads and the like by name.
"""
from collections.abc import Sequence

from timm.layers import get_act_layer
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._efficientnet_builder import decode_arch_def
from timm.models.byobnet import ByoBlockCfg, ByobNet, ByoModelCfg
from timm.models.efficientnet import EfficientNet
from torch import nn

BLOCKS = {"basic": ("basic", 1.0), "bottleneck": ("bottle", 0.25)}  # ours → timm's, width inside as a share of its output's
ATTENTION = {"none": {}, "se": {"attn_layer": "se", "attn_kwargs": {"rd_ratio": 0.25}}, "cbam": {"attn_layer": "cbam"}}
SE_RATIO = 0.25  # of an MBConv's width inside, as MobileNetV3

default_cfgs = generate_default_cfgs({
    "searched_resnet.untrained": {"input_size": (3, 224, 224), "first_conv": "stem.conv", "classifier": "head.fc"},
    "searched_mobile.untrained": {"input_size": (3, 224, 224), "first_conv": "conv_stem", "classifier": "classifier"},
})


@register_model
def searched_resnet(
    pretrained: bool = False, stages: Sequence[tuple[str, int, int, int]] = (("basic", 2, 64, 3),), attention: str = "none",
    activation: str = "relu", stem_width: int = 32, **kwargs,
) -> nn.Module:
    """A residual network: a 3×3 stem of stride 2, then stages of (block, depth, width, kernel), halving from the second on.

    block: basic (two convolutions, kernel × kernel) or bottleneck (1×1, kernel × kernel, 1×1; a quarter of the width inside).
    attention: none, se (Hu et al. 2018, arXiv 1709.01507) or cbam (arXiv 1807.06521) in every block. Shortcuts that change
    shape pool first, as ResNet-D (arXiv 1812.01187). timm makes a stage's width a multiple of eight.

    Raises ValueError for a word that is none of these.
    """
    if attention not in ATTENTION:
        raise ValueError(f"attention={attention}: there are {', '.join(ATTENTION)}")
    blocks = []
    for i, (block, depth, width, kernel) in enumerate(stages):
        if block not in BLOCKS:
            raise ValueError(f"block={block}: there are {', '.join(BLOCKS)}")
        kind, ratio = BLOCKS[block]
        shape = {"d": depth, "c": width, "s": 1 if i == 0 else 2, "br": ratio}
        blocks.append(ByoBlockCfg(kind, **shape, block_kwargs={"kernel_size": kernel}))
    config = ByoModelCfg(
        tuple(blocks), downsample="avg", stem_type="3x3", stem_pool="", stem_chs=stem_width, act_layer=activation,
        **ATTENTION[attention],
    )
    feature = dict(flatten_sequential=True)
    return build_model_with_cfg(ByobNet, "searched_resnet", pretrained, model_cfg=config, feature_cfg=feature, **kwargs)


@register_model
def searched_mobile(
    pretrained: bool = False, stages: Sequence[tuple[int, int, int, int]] = ((4, 2, 24, 3),), se: bool = False,
    activation: str = "hard_swish", stem_width: int = 16, head_width: int = 256, **kwargs,
) -> nn.Module:
    """Inverted residuals (MobileNetV2, arXiv 1801.04381): a 3×3 stem of stride 2, stages of (expansion, depth, width, kernel)
    that halve from the second on, and a 1×1 convolution to `head_width` features.  se: squeeze-and-excitation inside.
    """
    squeeze = f"_se{SE_RATIO}" if se else ""
    text = [
        [f"ir_r{depth}_k{kernel}_s{1 if i == 0 else 2}_e{expansion}_c{width}{squeeze}"]
        for i, (expansion, depth, width, kernel) in enumerate(stages)
    ]
    return build_model_with_cfg(
        EfficientNet, "searched_mobile", pretrained, block_args=decode_arch_def(text), num_features=head_width,
        stem_size=stem_width, fix_stem=True, round_chs_fn=lambda channels, **_: int(channels),
        act_layer=get_act_layer(activation), feature_cfg=dict(flatten_sequential=True), **kwargs,
    )
