"""A collection of files → the same with the labels that files hold (data.labels) and with groups (data.group)."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from vision.box_labels import read_coco, read_voc
from vision.groups import check_apart, group_names, numbers
from vision.label_files import VOC, GivenLabels, PathIndex, is_given, label_file, read_table, sorted_classes
from vision.listing import counted, one_line
from vision.multilabel import UNLABELLED, has_label, multi_hot
from vision.splits import Collection
from vision.streamed import Files


def use_labels_and_groups(collection: Collection, labels: str, group: str | None, multilabel: str = "false") -> None:
    """Gives the splits, which are Files, the labels of the files that `labels` names, and the groups that `group` means.

    Unlabelled images of train are for pretraining alone; those of the other splits are left out, and so is what a table with
    groups does not name. The notes say how many there are, and what the files name that is not there.  Raises ValueError.
    """
    files = {role: split for role, split in collection.splits.items() if isinstance(split, Files)}
    paths = [path for split in files.values() for path in split.relative_paths()]
    given = None
    if is_given(labels):
        given = _use_labels(collection, files, paths, _read(labels, Path(collection.root), paths, group, multilabel))
    if group:
        _use_groups(collection, files, paths, group, given)
    for role, split in files.items():
        keep = torch.ones(len(split), dtype=torch.bool)
        if given and role != "train" and split.labels is not None:
            keep &= has_label(split.labels)
        if split.groups is not None:
            keep &= split.groups >= 0
        collection.splits[role] = split.select(keep.nonzero().flatten())
        if role != "train" and not keep.any():
            del collection.splits[role]


def _use_labels(collection: Collection, files: dict[str, Files], paths: list[str], given: GivenLabels) -> GivenLabels:
    for end, count in given.used.items():
        collection.ignored[end] -= min(count, collection.ignored[end])
    labelled = given.classes if given.several is None else given.several
    of_role: dict[str, range] = {}
    start = 0
    for role, split in files.items():
        of_role[role] = range(start, start + len(split))
        start += len(split)
    if not any(image in labelled for image in of_role["train"]):
        raise ValueError(f"{given.source} labels no image of train; add some of its images, or set data.labels=none")
    one_or_several = _one if given.several is None else _several
    collection.classes, labels = one_or_several(given, of_role)
    for role, split in files.items():
        split.labels = labels[role]
    parts = [f"{given.source}: {len(labelled):,} of {counted(len(paths), 'image')} labelled"]
    for role, split in files.items():
        missing = [i for i, image in enumerate(of_role[role])
                   if image not in labelled and (given.groups is None or image in given.groups)]
        if missing:
            use = "for pretraining alone" if role == "train" else "left out"
            where = "" if len(files) == 1 else f" of {role}"
            parts.append(f"{len(missing):,}{where} without a label, {use} (first: {split.name(missing[0])})")
    collection.notes.append("; ".join(parts + given.notes))
    return given


def _one(given: GivenLabels, of_role: dict[str, range]) -> tuple[tuple[str, ...], dict[str, Tensor]]:
    """(classes, labels of each split: N int64), one an image."""
    names = {role: [given.classes.get(image) for image in images] for role, images in of_role.items()}
    classes, class_of = sorted_classes([name for name in names["train"] if name is not None], given.source)
    place, labels = {name: number for number, name in enumerate(classes)}, {}
    for role, some in names.items():
        if strange := next((name for name in some if name is not None and name not in class_of), None):
            raise ValueError(f"{given.source}: {role} has the label {strange}, which no image of train has; label some of "
                             f"train so, or take that label away")
        numbers_of = [UNLABELLED if name is None else place[class_of[name]] for name in some]
        labels[role] = torch.tensor(numbers_of, dtype=torch.int64)
    return classes, labels


def _several(given: GivenLabels, of_role: dict[str, range]) -> tuple[tuple[str, ...], dict[str, Tensor]]:
    """(classes, labels of each split: N,K int8), several an image. Classes are those of train; a note names others."""
    assert given.several is not None
    names = {role: [given.several.get(image) for image in images] for role, images in of_role.items()}
    found = {role: list(dict.fromkeys(name for one in some if one for name in one)) for role, some in names.items()}
    if len(found["train"]) < 2:
        raise ValueError(f"{given.source} has {counted(len(found['train']), 'class', 'classes')} with an image of train; label "
                         f"a second one, or set data.labels=none")
    if given.order:
        classes = tuple(name for name in given.order if name in found["train"])
    else:
        numbered = all(name.isascii() and name.isdigit() for name in found["train"])
        classes = tuple(sorted(found["train"], key=int if numbered else None))
    known = set(classes)
    for role, some in found.items():
        if strange := [name for name in some if name not in known]:
            given.notes.append(f"{counted(len(strange), 'class', 'classes')} of {role} without an image of train, so left out "
                               f"(first: {strange[0]})")
    if lacking := [name for name in given.order if name not in known]:
        given.notes.append(f"{counted(len(lacking), 'class', 'classes')} without an image, so left out (first: {lacking[0]})")
    return classes, {role: multi_hot(some, classes) for role, some in names.items()}


def _read(labels: str, root: Path, paths: list[str], group: str | None, multilabel: str) -> GivenLabels:
    index = PathIndex(root, paths)
    if labels == VOC:
        return read_voc(labels, root, index, multilabel)
    file = label_file(labels, root)
    given = read_table(file, labels, index, group, multilabel) if file.is_table else read_coco(file, labels, index, multilabel)
    if file.path.absolute().is_relative_to(root.absolute()):
        given.used[file.path.suffix.lower()] = 1
    return given


def _use_groups(
    collection: Collection, files: dict[str, Files], paths: list[str], group: str, given: GivenLabels | None
) -> None:
    names = group_names(group, paths, given)
    labelled = {} if given is None else given.classes if given.several is None else given.several
    if lacking := [path for image, path in enumerate(paths) if names[image] is None and image in labelled]:
        raise ValueError(f"data.group={group}: that column is empty for {counted(len(lacking), 'labelled image')} (first: "
                         f"{one_line(lacking[0])}); fill it, for an image without a group could be in any split")
    if unknown := [path for path, name in zip(paths, names, strict=True) if name is None]:
        collection.notes.append(f"data.group={group}: {counted(len(unknown), 'image')} without label and group "
                                f"left out, from pretraining too (first: {one_line(unknown[0])})")
    start, of_split, groups = 0, {}, {}
    for role, split in files.items():
        of_split[role] = names[start : start + len(split)]
        split.groups = groups[role] = numbers(of_split[role])
        start += len(split)
    check_apart(groups, of_split, group)
