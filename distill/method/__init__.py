"""One file, one paper; its yaml beside it. What they share: a frozen teacher's outputs, and a classifier where labels are."""
import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.method import Batch, Method, Output, Record, Traits, at_least_fp32, check_natural
from vision.heads import mlp


@dataclass(frozen=True)
class Targets(Record):
    """Of the teacher what a method needs, and the labels where it uses them."""

    features: Tensor | None = None  # B,V,E
    logits: Tensor | None = None  # B,V,K
    maps: tuple[Tensor, ...] = ()  # of the first view, last one last: B,c,h,w each
    labels: Tensor | None = None  # B int64


@dataclass(frozen=True)
class TeacherRows(Record):
    """What a queue of teacher embeddings is to take in."""

    features: Tensor  # B,V,E of length 1


@dataclass(frozen=True)
class Student(Record):
    """What the student makes of one view."""

    features: Tensor  # B,D
    logits: Tensor | None = None  # B,K float32, with a classifier
    maps: tuple[Tensor, ...] = ()  # as the teacher's


class Distillation(Method):
    """A student encoder and a teacher that no gradient reaches: it is no submodule, and its outputs are `targets`.

    needs: which of the teacher's outputs the method needs: "features" (B,V,D), "logits" (B,V,K).
    maps: how many of the last feature maps, of both networks; they are never cached.
    before_relu: the teacher's as they are before the ReLU that ends them (distill/pre_activation.py).
    """

    needs: tuple[str, ...] = ("features",)
    maps = 0
    before_relu = False

    def __init__(self, encoder: nn.Module, teacher, classes: int = 0):
        super().__init__()
        self.encoder, self.teacher, self.classes = encoder, teacher, classes
        if "logits" in self.needs and teacher.classes is None:
            raise ValueError(
                f"teacher={teacher.name} has no classifier, which this method needs; give a classifier.safetensors "
                "(linear_eval.finetune makes one), or a method that needs features alone: crd, rkd, pkt"
            )

    def targets(self, batch: Batch) -> Targets:
        maps = tuple(self.teacher.maps(batch.views[0], self.maps, self.before_relu)) if self.maps else ()
        return Targets(**self.teacher(batch, self.needs), maps=maps, labels=batch.labels)


class Labelled(Distillation):
    """ce · cross-entropy of a linear classifier + weight · what `distill` returns. One view.

    ce = 0: without labels and without a classifier, where the method allows that.
    """

    traits = Traits(views=1, needs_labels=True)

    def __init__(self, encoder: nn.Module, teacher, classes: int, ce: float, weight: float):
        super().__init__(encoder, teacher, classes)
        check_natural(ce=ce, weight=weight)
        self.ce, self.weight = ce, weight
        needs_labels = ce > 0 or "logits" in self.needs
        self.traits = dataclasses.replace(self.traits, needs_labels=needs_labels)
        if needs_labels and not classes:
            raise ValueError(
                "this method needs labels, and the data has none to train on; tokens, queue_tokens, seed, compress, cosine, "
                "queue_kl, dino and simkd need none, nor do crd, rkd and pkt with method.ce=0"
            )
        self.head = nn.Linear(encoder.dim, classes) if needs_labels else None

    def objective(self, features: Tensor, targets: Targets, progress: float) -> Output:
        return self.combine(Student(features[:, 0]), targets, progress)

    def combine(self, student: Student, targets: Targets, progress: float) -> Output:
        """Cross-entropy and distillation of the first view.  student: without logits"""
        scalars, loss = {}, 0.0
        if self.head is not None:
            logits = at_least_fp32(self.head(student.features))
            ce = F.cross_entropy(logits, targets.labels)  # with ce = 0 it still shows how the classifier fares
            scalars = {"ce": ce.detach(), "train_accuracy": (logits.argmax(1) == targets.labels).float().mean() * 100}
            loss, student = self.ce * ce, dataclasses.replace(student, logits=logits)
        found = self.distill(student, first_view(targets), progress)
        distilled = self.weight * found.loss
        return Output(loss + distilled, scalars | {"distill": distilled.detach()} | dict(found.scalars), found.staged)

    def distill(self, student: Student, teacher: Targets, progress: float) -> Output:
        """teacher: the first view's, B,E and B,K  → the loss to be weighted, and what to stage"""
        raise NotImplementedError(f"{type(self).__name__} defines no distill")


def first_view(targets: Targets) -> Targets:
    """B,V,… → B,…"""
    one = {name: None if x is None else x[:, 0] for name, x in (("features", targets.features), ("logits", targets.logits))}
    return dataclasses.replace(targets, **one)


class WithMaps(Labelled):
    """The same for losses on the last `maps` feature maps of both networks."""

    needs = ()

    def __init__(self, encoder: nn.Module, teacher, classes: int, ce: float, weight: float):
        super().__init__(encoder, teacher, classes, ce, weight)
        self.shapes = list(zip(map_shapes(encoder, self.maps), teacher.map_shapes(self.maps), strict=True))  # C,h,w of both

    def embed(self, batch: Batch) -> tuple[Tensor, ...]:
        """→ features B,D, and the maps"""
        maps, features = maps_of(self.encoder, batch.views[0], self.maps)
        return (features, *maps)

    def objective(self, features: tuple[Tensor, ...], targets: Targets, progress: float) -> Output:
        return self.combine(Student(features[0], maps=features[1:]), targets, progress)


def maps_of(encoder: nn.Module, images: Tensor, count: int) -> tuple[list[Tensor], Tensor]:
    """The last `count` feature maps, last one last, and the output, in one pass.  → maps B,C,h,w and B,D"""
    out, maps = encoder.forward_intermediates(images, indices=count, output_fmt="NCHW")
    return maps, encoder.forward_head(out)


@torch.no_grad()
def map_shapes(encoder: nn.Module, count: int, name: str = "student") -> list[tuple[int, ...]]:
    """C,h,w of the last `count` maps.  Raises ValueError where the encoder has none to give."""
    spec, modes = encoder.spec, {m: m.training for m in encoder.modules()}
    images = torch.zeros(2, *spec.shape)
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
