"""Splits that keep groups together: all images of a patient, scene or slide are in one of train, validation and test.

Images of one group look alike for reasons that are not their class, so a split by image scores too well.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from core import counter_rng
from vision.label_files import GivenLabels
from vision.listing import class_name, counted, one_line
from vision.multilabel import class_counts, is_multilabel

PARENT = "parent"  # a value of data.group: the name of the folder that an image lies in
ROLES = ("train", "validation", "test")


def group_names(group: str, paths: Sequence[str], given: GivenLabels | None) -> list[str | None]:
    """Of each image its group; None for images of which a table has no group.

    group: a column of the table that data.labels names; "parent"; or a regular expression that is searched in the path
    relative to data.root: what its groups in parentheses match, or without any what it matches itself.  Raises ValueError
    where an image has none.
    """
    if given is not None and given.groups is not None:
        return [given.groups.get(image) for image in range(len(paths))]
    if group == PARENT:
        return [class_name(path.rpartition("/")[0].rpartition("/")[2]) for path in paths]
    columns = f"the columns of {given.source} are {', '.join(given.columns)}" if given and given.columns else (
        "data.labels names no table with a header that could have such a column")
    try:
        pattern = re.compile(group)
    except re.error as error:
        raise ValueError(f"data.group={group} is no column ({columns}) and no regular expression ({error})") from None
    found = [pattern.search(path) for path in paths]
    if not any(found):
        raise ValueError(f"data.group={group} is no column ({columns}), and as a regular expression it matches no path (first: "
                         f"{one_line(paths[0]) if paths else 'no image'}); {PARENT} takes the folder that an image lies in")
    if lacking := [path for path, match in zip(paths, found, strict=True) if match is None]:
        raise ValueError(f"data.group={group} does not match {counted(len(lacking), 'path')} of {len(paths):,} (first: "
                         f"{one_line(lacking[0])}); every image needs a group, so widen it or move those images")
    return ["\0".join(part or "" for part in match.groups()) if match.groups() else match[0] for match in found if match]


def numbers(names: Sequence[str | None]) -> Tensor:
    """Of each name a number that depends on nothing else, so that a group keeps it when others come and go; −1 for None."""
    of = {name: int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:8], "big") >> 1
          for name in set(names) if name is not None}
    return torch.tensor([-1 if name is None else of[name] for name in names], dtype=torch.int64)


def hold_out(labels: Tensor, groups: Tensor, share: float, cap: int, seed: int, use: int) -> Tensor:
    """Which images to hold out, whole groups of them.  labels: N int64, or N,K of several an image; groups: N int64 → N bool.

    Groups come in random order; one is taken where that brings the counts of its classes and of all images nearer to `share`
    (in the sum of absolute differences) and keeps an image of every class. Then each class that has none yet gets its
    smallest group that can be taken. At most `cap` images where that is possible.  Nothing is held out at share 0.
    """
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    if share == 0 or not len(labels):
        return held_out
    ids, member = groups.unique(return_inverse=True)
    if is_multilabel(labels):
        classes = labels.shape[1]
        images, of = labels.nonzero(as_tuple=True)
        pairs, pair_counts = (member[images] * classes + of).unique(return_counts=True)
    else:
        classes = int(labels.max()) + 1
        pairs, pair_counts = (member * classes + labels).unique(return_counts=True)
    ends = np.searchsorted((pairs // classes).numpy(), np.arange(len(ids) + 1))
    of_class, count = (pairs % classes).numpy(), pair_counts.numpy()
    total, size = class_counts(labels, classes).numpy(), member.bincount().numpy()
    wanted = total * (min(round(share * len(labels)), cap) / len(labels))
    wanted_images = min(round(share * len(labels)), cap) if is_multilabel(labels) else wanted.sum()
    held, taken, images_held = np.zeros(classes, np.int64), np.zeros(len(ids), bool), 0

    def possible(group: int) -> bool:
        rows = slice(ends[group], ends[group + 1])
        keeps = (held[of_class[rows]] + count[rows] < total[of_class[rows]]).all()
        return bool(keeps) and not taken[group] and images_held + size[group] <= max(cap, 1)

    def take(group: int) -> None:
        nonlocal images_held
        rows = slice(ends[group], ends[group + 1])
        held[of_class[rows]] += count[rows]
        taken[group] = True
        images_held += size[group]

    for group in counter_rng.keys(seed, use, ids, counter_rng.SPLIT).argsort(stable=True).tolist():
        rows = slice(ends[group], ends[group + 1])
        missing = np.append(wanted[of_class[rows]] - held[of_class[rows]], wanted_images - images_held)  # of each, of all
        more = np.append(count[rows], size[group])
        if np.abs(missing - more).sum() < np.abs(missing).sum() and possible(group):
            take(group)
    owner = (pairs // classes).numpy()
    for one in np.flatnonzero(total):
        candidates = [group for group in owner[of_class == one].tolist() if possible(group)] if not held[one] else []
        if candidates:
            take(min(candidates, key=lambda group: size[group]))
    return torch.from_numpy(taken)[member]


def check_apart(groups: Mapping[str, Tensor], names: Mapping[str, Sequence[str | None]], group: str) -> None:
    """ValueError where a group is in two of the official splits.  groups, names: of each split's images."""
    roles = [role for role in ROLES if role in groups]
    for k, one in enumerate(roles):
        for other in roles[k + 1 :]:
            shared = np.intersect1d(groups[one].numpy(), groups[other].numpy())
            if len(shared := shared[shared >= 0]):
                place = int((groups[one] == int(shared[0])).nonzero()[0])
                name = one_line(str(names[one][place]).replace("\0", " "))
                count = counted(len(shared), "group")
                raise ValueError(f"data.group={group}: {count} (first: {name}) in both the {one} and the {other} folder; move "
                                 f"each to one of them, or put all images into one folder, which is then split by group")


def sizes_note(group: str, groups: Mapping[str, Tensor], labels: Mapping[str, Tensor | None]) -> str:
    """One line: images and groups of every split, and how many classes of train have no image in the others."""
    parts = [f"{role} {counted(len(some), 'image')} of {counted(len(some.unique()), 'group')}" for role, some in groups.items()]
    note = f"data.group={group}: {', '.join(parts)}; no group is in two of them"
    known = labels.get("train")
    for role in ROLES[1:]:
        there = labels.get(role)
        if known is not None and there is not None and (missing := _classes_in(known) - _classes_in(there)):
            note += f"; {counted(len(missing), 'class', 'classes')} without an image in {role}"
    return note


def _classes_in(labels: Tensor) -> set[int]:
    return set((class_counts(labels, labels.shape[1]).nonzero().flatten() if is_multilabel(labels) else labels).tolist())
