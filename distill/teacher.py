"""A frozen teacher: one of our files, a timm model, or several of them together; asked anew or read from a cache.

It is no submodule of a method: no optimizer, checkpoint or process sees its weights, and nothing changes a bit of it.
"""
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core import cli
from core.errors import SettingError
from core.image_size import Size, sides
from core.method import Batch
from distill.cache import Cache, half
from distill.method import map_shapes, maps_of
from distill.pre_activation import PreActivation
from distill.settings import DistillSettings, listed
from linear_eval.features import fingerprint
from vision import artifact, encoders
from vision.normalization import IMAGENET, Known, Moments, choose, moments_note
from vision.pixels import normalize
from vision.published import Architecture, with_weights


@dataclass(frozen=True)
class Member:
    """One network, with the input that it was trained on."""

    name: str
    encoder: nn.Module
    head: nn.Linear | None
    classes: tuple[str, ...] | None
    mean: Tensor  # C
    std: Tensor
    notes: tuple[str, ...] = ()  # on its weights


class Teacher:
    """Outputs of the members on views that were made for the student: B,C,S,S normalised by the student's mean and std.

    An ensemble's features are the members' side by side, each of length 1; its logits log of their mean probability.
    Outputs are rounded to half precision whether they are kept or not, so that a cache changes no bit.
    """

    def __init__(self, members: list[Member], mean: Tensor, std: Tensor, device: torch.device | str = "cpu"):
        self.alike = {m.name for m in members if torch.equal(mean, m.mean) and torch.equal(std, m.std)}  # normalised alike
        self.members, self.mean, self.std = members, mean.to(device), std.to(device)
        for member in members:
            member.encoder.requires_grad_(False).eval().to(device, memory_format=torch.channels_last)
            if member.head is not None:
                member.head.requires_grad_(False).eval().to(device)
        self.notes = [f"teacher: {note}" for m in members for note in m.notes]
        self.name = ",".join(m.name for m in members)
        self.dim = sum(m.encoder.dim for m in members)
        classes = {m.classes for m in members}
        self.classes = classes.pop() if len(classes) == 1 else None  # names, where all members have the same
        self.output_names = ("features",) if self.classes is None else ("features", "logits")
        self.head = members[0].head if len(members) == 1 else None
        self.cache: Cache | None = None
        self._before_relu: PreActivation | None = None
        self.sizes: tuple[int, ...] = ()  # at which methods of tokens show it images; none: each member's own

    def __call__(self, batch: Batch, needs: tuple[str, ...]) -> dict[str, Tensor]:
        """features: B,V,D; logits: B,V,K; those that are needed, by name, in the views' precision.

        All outputs are computed and kept, so that methods which need different ones share one cache.
        """
        if not needs:
            return {}
        like = batch.views[0]
        kept = self.cache and self.cache.get(batch.epoch, batch.indices.numpy())
        if kept is None:
            rows = half(torch.stack([self.outputs(view) for view in batch.views], 1))  # B,V,D+K
            if self.cache:
                self.cache.put(batch.epoch, batch.indices.numpy(), rows.flatten(1).cpu().numpy())
        else:
            rows = torch.from_numpy(kept).unflatten(1, (len(batch.views), -1))
        parts = rows.to(like.device, like.dtype).split([self.width(name) for name in self.output_names], dim=2)
        return {name: part for name, part in zip(self.output_names, parts, strict=True) if name in needs}

    def width(self, name: str) -> int:
        return self.dim if name == "features" else len(self.classes)

    @torch.no_grad()
    def outputs(self, view: Tensor) -> Tensor:
        """Features, and logits where it has classes, side by side.  B,C,S,S → B,D or B,D+K float32"""
        features = [m.encoder(self.seen(view, m)).float() for m in self.members]
        found = torch.cat([F.normalize(x, dim=1) for x in features], 1) if len(features) > 1 else features[0]
        if self.classes is None:
            return found
        logits = [m.head(x.to(m.head.weight.dtype)).float() for m, x in zip(self.members, features, strict=True)]
        return torch.cat([found, logits[0] if len(logits) == 1 else torch.stack(logits).log_softmax(2).logsumexp(0)], 1)

    @torch.no_grad()
    def maps(self, view: Tensor, count: int, before_relu: bool = False) -> list[Tensor]:
        """The last feature maps of a single teacher.  B,C,S,S → B,c,h,w each"""
        encoder, x = self.members[0].encoder, self.seen(view, self.members[0])
        if before_relu and self._before_relu is None:
            self._before_relu = PreActivation(encoder, count)
        found, _ = self._before_relu(x) if before_relu and self._before_relu else maps_of(encoder, x, count)
        return [m.to(view.dtype) for m in found]

    def map_shapes(self, count: int) -> list[tuple[int, ...]]:
        if len(self.members) > 1:
            raise ValueError(f"teacher={self.name}: this method compares feature maps, and an ensemble has several; name one")
        return map_shapes(self.members[0].encoder, count, "teacher")

    def seen(self, view: Tensor, member: Member, size: Size | None = None) -> Tensor:
        """The view as this member was trained to see images: its size (or another), channels and normalisation."""
        spec, dtype = member.encoder.spec, next(member.encoder.parameters()).dtype
        if member.name in self.alike and view.shape[1] == spec.channels == len(member.mean):
            x = view
        else:
            x = view * self.std.to(view).view(-1, 1, 1) + self.mean.to(view).view(-1, 1, 1)  # 0..1
            x = normalize(encoders.fit_channels(x, spec.channels), member.mean.to(x), member.std.to(x))
        to = sides(size or spec.image_size)
        if x.shape[-2:] != to:
            smaller = x.shape[-1] > to[1] or x.shape[-2] > to[0]
            x = F.interpolate(x, to, mode="bilinear", antialias=smaller, align_corners=False)
        return x.to(dtype).contiguous(memory_format=torch.channels_last)

    def fingerprint(self) -> str:
        """Of all weights and inputs."""
        digest = hashlib.sha256()
        for m in self.members:
            digest.update(fingerprint(m.encoder).encode())
            digest.update(repr((m.mean.tolist(), m.std.tolist(), m.classes)).encode())
            for value in (m.head.state_dict() if m.head is not None else {}).values():
                digest.update(value.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    @property
    def parameters(self) -> int:
        parts = [part for m in self.members for part in (m.encoder, m.head) if part is not None]
        return sum(p.numel() for part in parts for p in part.parameters())


@dataclass(frozen=True)
class Foreign:
    """Another program's weights for a teacher, and the setting that says what its input is normalized by."""

    weights: str
    normalization: str = "auto"


def foreign(settings: DistillSettings) -> Foreign | None:
    """What the settings say of the teacher's weights."""
    return Foreign(settings.teacher_weights, settings.teacher_normalization) if settings.teacher_weights else None


def foreign_member(name: str, source: Foreign, several_sizes: bool = False) -> Member:
    """A timm architecture with another program's weights."""
    setting = "teacher_normalization"
    try:
        found = encoders.pretrained_input(name)
        size = found[2] if found else 224
        architecture = Architecture(name, size, several_sizes=several_sizes)
        encoder = with_weights(cli.expand(source.weights), architecture, 3, "teacher_weights")
    except SettingError as error:
        raise (error.of("teacher") if str(error).startswith("encoder=") else error) from error
    stated = Moments(*found[:2]) if found else None
    known = Known(stated if stated and "." in name else IMAGENET, stated, None)
    chosen = choose(source.normalization, known, encoder.spec.channels, setting)
    notes = (*encoder.loaded.notes, moments_note(source.normalization, chosen, setting))
    return Member(name, encoder, None, None, torch.tensor(chosen.mean), torch.tensor(chosen.std), notes)


def member(name: str, several_sizes: bool = False) -> Member:
    """A teacher by its file, or by timm's name for it, with timm's published weights."""
    if not name.endswith(".safetensors"):
        try:
            found = encoders.pretrained_input(name)
        except SettingError as error:
            raise error.of("teacher") from error
        if found is None:
            raise ValueError(f"teacher={name}: no published weights by that name; give a file or a timm model that has some")
        mean, std, size = found
        encoder = encoders.create(name, 3, size, pretrained=True, several_sizes=several_sizes)
        return Member(name, encoder, None, None, torch.tensor(mean), torch.tensor(std))
    return from_file(name, "teacher", several_sizes)


def from_file(name: str, setting: str, several_sizes: bool = False) -> Member:
    """setting: the one that named the file, which an error is to name."""
    path = cli.expand(name)
    try:
        if artifact.read_header(path).classes is None:
            (encoder, card), head = artifact.load(path, several_sizes), None
        else:
            whole, card = artifact.load_classifier(path)
            encoder, head = artifact.load(path, True)[0] if several_sizes else whole.encoder, whole.head
    except SettingError as error:
        raise error.of(setting) from error
    if card.multilabel:  # its outputs are no logits of one class among others
        head, classes = None, None
    else:
        classes = card.classes
    return Member(name, encoder, head, classes, torch.tensor(card.mean), torch.tensor(card.std))


def load(
    names: str, mean, std, device: torch.device | str = "cpu", source: Foreign | None = None, sizes: Sequence[int] = ()
) -> Teacher:
    """One teacher, or several by comma.  mean, std: C, of the views that it will be shown; source: of one teacher's weights.

    sizes: at which methods of tokens are to show it images (teacher_sizes).
    """
    members, several = [], bool(sizes)
    for name in listed(names):
        try:
            members.append(foreign_member(name, source, several) if source else member(name, several))
        except encoders.Unfit as error:
            if not several:
                raise
            raise ValueError(f"teacher_sizes={list(sizes)}: teacher={name} takes images of its own size alone; leave "
                             "teacher_sizes out, or name another teacher") from error
    teacher = Teacher(members, torch.as_tensor(mean), torch.as_tensor(std), device)
    teacher.sizes = tuple(sizes)
    return teacher
