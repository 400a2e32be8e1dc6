"""An encoder file as a model that timm builds from a name and arguments alone, or the reason why there is none."""
from pathlib import Path

import timm
import torch
from torch import nn

from core.errors import SettingError
from vision import artifact
from vision.encoders import timm_model as bare_model
from vision.geometry import LETTERBOX

EXPORT = "python -m deploy.export writes files that hold it whole"


def timm_model(path: str | Path) -> tuple[nn.Module, artifact.EncoderHeader]:
    """The file's weights in timm's own model, in evaluation mode; a classifier's last layer as timm's head.

    Raises ValueError where timm cannot express the model or its input.
    """
    whole, header = artifact.load_whole(path)
    if why := inexpressible(header):
        raise SettingError("encoder", f"{path}: {why}; {EXPORT}")
    state = artifact.encoder_in(whole).state_dict()
    model = bare_model(header.spec)
    if header.classes:
        model.reset_classifier(len(header.classes))
        head = model.get_classifier()
        if not isinstance(head, nn.Linear) or head.weight.shape != whole.head.weight.shape:
            raise SettingError("encoder", f"{path}: timm's {header.spec.name} has another classifier; give the "
                               "encoder.safetensors beside it")
        name = next(name for name, module in model.named_modules() if module is head)
        state = state | {f"{name}.{part}": tensor for part, tensor in whole.head.state_dict().items()}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise SettingError("encoder", f"{path}: its weights are not timm's for {header.spec.name}; {EXPORT}") from error
    return model.eval(), header


def inexpressible(header: artifact.EncoderHeader) -> str | None:
    """What of an encoder timm has no name or argument for; None where it has them all."""
    spec = header.spec
    if any(spec.name.split(".")[0] in names for names in artifact.OURS.values()) or ":" in spec.name:
        return f"{spec.name} is a network that timm does not have"
    if spec.pruned:
        return "it is pruned, and timm builds whole channels"
    if spec.attention != "none":
        return f"attention={spec.attention} is not timm's"
    if artifact.has_surgery(spec):
        return f"its stem ({spec.stem}) is not timm's; pretrain with --stem full"
    if header.pixels is not None:
        return "its images are read by bands and a range, which timm has no transform for"
    return "images are letterboxed, which timm has no equal transform for" if spec.fit == LETTERBOX else None


@torch.inference_mode()
def check_equal(folder: Path, model: nn.Module, header: artifact.EncoderHeader) -> None:
    """Raises ValueError where what timm reads from the folder gives other outputs."""
    read = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    images = torch.rand(2, *header.spec.shape, generator=torch.Generator().manual_seed(0))
    if not torch.equal(read(images), model(images)):
        raise ValueError(f"encoder={header.spec.name}: timm reads another model from its own format; {EXPORT}")
