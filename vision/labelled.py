"""A collection of files → the same with the labels that files hold (data.labels) and with groups (data.group)."""

from __future__ import annotations

from pathlib import Path

import torch

from vision.box_labels import read_coco, read_voc
from vision.groups import check_apart, group_names, numbers
from vision.label_files import VOC, GivenLabels, PathIndex, is_given, label_file, read_table, sorted_classes
from vision.listing import counted, one_line
from vision.splits import Collection
from vision.streamed import Files

UNLABELLED = -1


def use_labels_and_groups(collection: Collection, labels: str, group: str | None) -> None:
    """Gives the splits, which are Files, the labels of the files that `labels` names, and the groups that `group` means.

    Unlabelled images of train are for pretraining alone; those of the other splits are left out, and so is what a table with
    groups does not name. The notes say how many there are, and what the files name that is not there.  Raises ValueError.
    """
    files = {role: split for role, split in collection.splits.items() if isinstance(split, Files)}
    paths = [path for split in files.values() for path in split.relative_paths()]
    given = _use_labels(collection, files, paths, labels, group) if is_given(labels) else None
    if group:
        _use_groups(collection, files, paths, group, given)
    for role, split in files.items():
        keep = torch.ones(len(split), dtype=torch.bool)
        if given and role != "train" and split.labels is not None:
            keep &= split.labels != UNLABELLED
        if split.groups is not None:
            keep &= split.groups >= 0
        collection.splits[role] = split.select(keep.nonzero().flatten())
        if role != "train" and not keep.any():
            del collection.splits[role]


def _use_labels(
    collection: Collection, files: dict[str, Files], paths: list[str], labels: str, group: str | None
) -> GivenLabels:
    root = Path(collection.root)
    given = _read(labels, root, PathIndex(root, paths), group)
    for end, count in given.used.items():
        collection.ignored[end] -= min(count, collection.ignored[end])
    names: dict[str, list[str | None]] = {}
    start = 0
    for role, split in files.items():
        names[role] = [given.classes.get(image) for image in range(start, start + len(split))]
        start += len(split)
    of_train = [name for name in names["train"] if name is not None]
    if not of_train:
        raise ValueError(f"{given.source} labels no image of train; add some of its images, or set data.labels=none")
    collection.classes, class_of = sorted_classes(of_train, given.source)
    place = {name: number for number, name in enumerate(collection.classes)}
    parts = [f"{given.source}: {len(given.classes):,} of {counted(len(paths), 'image')} labelled"]
    for role, split in files.items():
        if strange := next((name for name in names[role] if name is not None and name not in class_of), None):
            raise ValueError(f"{given.source}: {role} has the label {strange}, which no image of train has; label some of "
                             f"train so, or take that label away")
        split.labels = torch.tensor([UNLABELLED if name is None else place[class_of[name]] for name in names[role]],
                                    dtype=torch.int64)
    start = 0
    for role, split in files.items():
        known = [given.groups is None or image in given.groups for image in range(start, start + len(split))]
        missing = [i for i, name in enumerate(names[role]) if name is None and known[i]]
        start += len(split)
        if missing:
            use = "for pretraining alone" if role == "train" else "left out"
            where = "" if len(files) == 1 else f" of {role}"
            parts.append(f"{len(missing):,}{where} without a label, {use} (first: {split.name(missing[0])})")
    collection.notes.append("; ".join(parts + given.notes))
    return given


def _read(labels: str, root: Path, index: PathIndex, group: str | None) -> GivenLabels:
    if labels == VOC:
        return read_voc(labels, root, index)
    file = label_file(labels, root)
    given = read_table(file, labels, index, group) if file.is_table else read_coco(file, labels, index)
    if file.path.absolute().is_relative_to(root.absolute()):
        given.used[file.path.suffix.lower()] = 1
    return given


def _use_groups(
    collection: Collection, files: dict[str, Files], paths: list[str], group: str, given: GivenLabels | None
) -> None:
    names = group_names(group, paths, given)
    labelled = given.classes if given else {}
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
