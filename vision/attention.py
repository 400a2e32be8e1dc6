"""CBAM: attention over channels, then over positions, behind each stage of a convolutional encoder.

Woo, Park, Lee, Kweon 2018, arXiv 1807.06521. The module is timm's: a sixteenth of the channels inside, a 7×7 convolution,
and BatchNorm behind it, as in the authors' code. The paper puts one into every residual block; here one follows each
stage, so that the encoder's own weights, timm's published ones too, keep their names.
"""
import torch
from timm.layers.cbam import CbamModule
from torch import nn

KINDS = ("none", "cbam")


def places(model: nn.Module) -> list[tuple[str, int, bool]]:
    """The ends of a timm model's stages: (module's name, channels, whether it is a chain of blocks to append to).

    What is no chain is the activation that ends a stage of a plain network, such as VGG's.
    Raises ValueError for a model whose stages timm does not keep as chains.
    """
    modules = dict(model.named_modules())
    ends = []
    for i, info in enumerate(getattr(model, "feature_info", [])):
        name, channels = info["module"], info["num_chs"]
        stage = modules.get(name)
        parent, _, _ = name.rpartition(".")
        if isinstance(stage, nn.Sequential):
            ends.append((name, channels, True))
        elif isinstance(getattr(stage, "blocks", None), nn.Sequential):
            ends.append((f"{name}.blocks", channels, True))
        elif isinstance(stage, (nn.MaxPool2d, nn.Identity)):
            continue  # timm notes VGG's last pool too; the stage ended before it
        elif "." not in parent and isinstance(modules.get(parent), nn.Sequential) and not list(stage.parameters()):
            ends.append((name, channels, False))
        elif i > 0:  # the first that timm notes may be the stem
            raise _unfit(model)
    if not ends:
        raise _unfit(model)
    return ends


def attach(model: nn.Module, images: torch.Tensor) -> None:
    """A CBAM behind each stage. In place.  images: B,C,H,W that the model takes; they show whether its stages give maps."""
    for name, channels, chain in places(model):
        stage, cbam = model.get_submodule(name), CbamModule(channels)
        if chain:
            stage.append(cbam)
        else:
            model.set_submodule(name, nn.Sequential(stage, cbam))
    was_training = model.training
    try:
        with torch.no_grad():
            model.eval()(images)
    except (RuntimeError, IndexError) as error:  # B,H,W,C or B,N,C
        raise _unfit(model) from error
    finally:
        model.train(was_training)


def lines(model: nn.Module) -> list[str]:
    """What `attach` does to a model that has none yet, as Python with timm alone."""
    ends = places(model)
    appended = {name: channels for name, channels, chain in ends if chain}
    wrapped = {name: channels for name, channels, chain in ends if not chain}
    new = "timm.layers.cbam.CbamModule(channels).eval()"
    steps = [
        (appended, f"model.get_submodule(name).append({new})"),
        (wrapped, f"model.set_submodule(name, torch.nn.Sequential(model.get_submodule(name), {new}))"),
    ]
    return [f"for name, channels in {where}.items(): {step}" for where, step in steps if where]


def _unfit(model: nn.Module) -> ValueError:
    return ValueError(
        f"attention=cbam does not fit encoder={model.spec.name}, whose stages are no chains of maps B,C,H,W; "
        "use attention=none, or a resnet, convnext, efficientnet, mobilenetv3 or vgg"
    )
