"""One file, one paper; its yaml beside it. What they share: a teacher that is asked, and a classifier where labels are."""
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.method import Batch, Method, check_natural, exact
from vision.heads import mlp


class Distillation(Method):
    """A student encoder and a teacher that no gradient reaches: it is no submodule, and its outputs are `targets`.

    wants: which of the teacher's outputs the method needs: "features" (B,V,D), "logits" (B,V,K). Told before any map.
    """

    wants: tuple[str, ...] = ("features",)
    maps = 0  # how many of the last feature maps, of both; they are never cached

    def __init__(self, encoder: nn.Module, teacher, classes: int = 0):
        super().__init__()
        self.encoder, self.teacher, self.classes = encoder, teacher, classes
        if "logits" in self.wants and teacher.classes is None:
            raise ValueError(
                f"teacher={teacher.name} has no classifier, which this method asks; give a classifier.safetensors "
                "(linear_eval.finetune makes one), or a method that needs features alone: crd, rkd, pkt"
            )

    def targets(self, batch: Batch) -> tuple[Tensor, ...]:
        return self.teacher(batch, self.wants)


class Labelled(Distillation):
    """ce · cross-entropy of a linear classifier + what `distil` says of the teacher. One view.

    ce = 0: without labels and without a classifier, where the method allows that.
    """

    views = 1
    needs_labels = True

    def __init__(self, encoder: nn.Module, teacher, classes: int, ce: float, weight: float):
        super().__init__(encoder, teacher, classes)
        check_natural(ce=ce, weight=weight)
        self.ce, self.weight = ce, weight
        self.needs_labels = ce > 0 or "logits" in self.wants
        if self.needs_labels and not classes:
            raise ValueError(
                "this method needs labels, and the data has none to train on; seed, compress, cosine, queue_kl, dino and simkd "
                "need none, nor do crd, rkd and pkt with method.ce=0"
            )
        self.head = nn.Linear(encoder.dim, classes) if self.needs_labels else None

    def targets(self, batch: Batch) -> tuple[Tensor, ...]:
        labels = (batch.labels.to(batch.views[0].device),) if self.needs_labels else ()
        return (*self.teacher(batch, self.wants), *labels)

    def objective(self, features: Tensor, targets: tuple[Tensor, ...], progress: float) -> tuple[Tensor, dict]:
        told, labels = targets[: len(self.wants)], targets[-1] if self.needs_labels else None
        return self.combine(features[:, 0], [t[:, 0] for t in told], labels, progress)

    def combine(self, features: Tensor, told: list[Tensor], labels: Tensor | None, progress: float, **more):
        """features: B,D; told: the teacher's outputs B,…; labels: B → the loss and what to log"""
        scalars, loss, logits = {}, 0.0, None
        if self.head is not None:
            logits = exact(self.head(features))
            ce = F.cross_entropy(logits, labels)  # with ce = 0 it still shows how the classifier fares
            scalars = {"ce": ce.detach(), "train_accuracy": (logits.argmax(1) == labels).float().mean() * 100}
            loss = self.ce * ce
        distilled = self.weight * self.distil(features, logits, told, labels, progress, **more)
        return loss + distilled, scalars | {"distil": distilled.detach()}

    def distil(self, features: Tensor, logits: Tensor | None, told: list[Tensor], labels: Tensor | None, progress: float):
        raise NotImplementedError(f"{type(self).__name__} defines no distil")


class WithMaps(Labelled):
    """The same for losses on the last `maps` feature maps of both networks, which `distil` gets as pairs."""

    wants = ()

    def __init__(self, encoder: nn.Module, teacher, classes: int, ce: float, weight: float):
        super().__init__(encoder, teacher, classes, ce, weight)
        self.shapes = list(zip(map_shapes(encoder, self.maps), teacher.map_shapes(self.maps), strict=True))  # C,h,w of both

    def forward(self, batch: Batch, progress: float) -> tuple[Tensor, dict]:
        maps, features = maps_of(self.encoder, batch.views[0], self.maps)
        labels = batch.labels.to(features.device) if self.needs_labels else None
        pairs = list(zip(maps, self.teacher.maps(batch.views[0], self.maps), strict=True))
        return self.combine(features, [], labels, progress, pairs=pairs)


def maps_of(encoder: nn.Module, images: Tensor, count: int) -> tuple[list[Tensor], Tensor]:
    """The last `count` feature maps, last one last, and the output, in one pass.  → maps B,C,h,w and B,D"""
    out, maps = encoder.forward_intermediates(images, indices=count, output_fmt="NCHW")
    return maps, encoder.forward_head(out)


@torch.no_grad()
def map_shapes(encoder: nn.Module, count: int, name: str = "student") -> list[tuple[int, ...]]:
    """C,h,w of the last `count` maps.  Raises ValueError where the encoder has none to give."""
    spec, modes = encoder.spec, {m: m.training for m in encoder.modules()}
    images = torch.zeros(2, spec.channels, spec.image_size, spec.image_size)
    images = images.to(next(encoder.parameters()))
    try:
        maps, _ = maps_of(encoder.eval(), images, count)
    except (AttributeError, TypeError, ValueError, RuntimeError, AssertionError, IndexError, KeyError) as error:
        raise ValueError(
            f"{name}={spec.name} gives no {count} feature maps, which this method compares; take one of logits or features"
        ) from error
    finally:
        for module, mode in modes.items():
            module.training = mode
    return [tuple(m.shape[1:]) for m in maps]


def projector(width: int, out: int, hidden: int) -> nn.Module:
    """From the student's width to the teacher's: linear, or with a hidden layer where `hidden` is not 0."""
    check_natural(hidden=hidden)
    return mlp([width, hidden, out]) if hidden else nn.Linear(width, out)
