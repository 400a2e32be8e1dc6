"""Boxes drawn around objects → one class an image, or all of them: Pascal VOC's XML (LabelImg writes it too), COCO's JSON.

The class of an image is that of its largest box; among equally large ones, the class with most boxes, then the first by name.
So an image whose boxes are all of one class has that class. Formats: Everingham et al., "The Pascal Visual Object Classes
Challenge" (IJCV 2010), devkit §4; Lin et al., "Microsoft COCO" (arXiv 1405.0312), cocodataset.org/#format-data.
"""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from vision.decode import reason
from vision.label_files import GivenLabels, LabelFile, PathIndex
from vision.listing import class_name, counted, one_line
from vision.multilabel import understood

ANNOTATIONS = "Annotations"  # VOC's folder, beside that of the images


@dataclass(frozen=True)
class Box:
    """area: in pixels; 0 where it is not known"""

    name: str
    area: float


def image_class(boxes: Iterable[Box]) -> str:
    """The class of the largest box; then the one with most boxes, then the first by name."""
    boxes = list(boxes)
    count = Counter(box.name for box in boxes)
    return min(boxes, key=lambda box: (-box.area, -count[box.name], box.name)).name


def _labelled(
    given: GivenLabels, boxes: dict[int, list[Box]], index: PathIndex, multilabel: str, order: tuple[str, ...] = ()
) -> GivenLabels:
    """`given` with the classes, and a note on images with boxes of several classes.

    multilabel: "true", an image has the classes of all its boxes, none without a box; else that of the largest.
    order: of the classes, where the file has one.
    """
    if multilabel == "true":
        given.several = {image: tuple(sorted({box.name for box in some})) for image, some in boxes.items()}
        given.order = order
        given.notes.append(understood(given.several, "those of all its boxes"))
        return given
    given.classes = {image: image_class(some) for image, some in boxes.items() if some}
    mixed = [image for image, some in boxes.items() if len({box.name for box in some}) > 1]
    if mixed:
        given.notes.append(f"{counted(len(mixed), 'image')} with boxes of several classes: the largest box's is the label "
                           f"(first: {one_line(index.paths[mixed[0]])}, {given.classes[mixed[0]]}); all with "
                           "data.multilabel=true")
    if without := [image for image, some in boxes.items() if not some]:
        given.notes.append(f"{counted(len(without), 'image')} without a box (first: {one_line(index.paths[without[0]])})")
    return given


# -------------------------------------------------------------------------------------------------------------- Pascal VOC


def read_voc(labels: str, root: Path, index: PathIndex, multilabel: str = "false") -> GivenLabels:
    """The XML file of each image: of its name beside it, or in Annotations/ beside the folder that it lies in.

    Of several images with one XML file (a.jpg and a.png; a picture and its mask), the one that <filename> names has it.
    A file that is no such XML is noted, and its image unlabelled.  Raises ValueError where no image has one.
    """
    given = GivenLabels(f"data.labels={labels}")
    claims: dict[str, list[int]] = defaultdict(list)  # XML file → its images
    for image, path in enumerate(index.paths):
        if found := _xml_of(root / path):
            claims[found].append(image)
    if not claims:
        raise ValueError(f"{given.source}: no image below {root} has an XML file of its name beside it, or in {ANNOTATIONS}/ "
                         f"beside its folder")
    boxes: dict[int, list[Box]] = {}
    wrong: dict[str, str] = {}
    for file, images in claims.items():
        try:
            tree = ElementTree.parse(file).getroot()
            if len(images) > 1:
                filename = (tree.findtext("filename") or "").strip()
                images = [image for image in images if os.path.basename(index.paths[image]) == filename]
                if not images:
                    raise ValueError(f"several images have its name, and <filename> is that of none: {filename[:40]}")
            some = _voc_boxes(tree)
        except (ElementTree.ParseError, OSError, ValueError) as error:
            wrong[file] = reason(error)
            continue
        boxes[images[0]] = some
    given.used[".xml"] = len(claims)
    if wrong:
        file, why = next(iter(wrong.items()))
        given.notes.append(f"{counted(len(wrong), 'XML file')} cannot be used (first: {one_line(file)}, {one_line(why)})")
    return _labelled(given, boxes, index, multilabel)


def _xml_of(image: Path) -> str | None:
    places = (image.parent, image.parent.parent / ANNOTATIONS, image.parent / ANNOTATIONS)
    return next((str(file) for place in places if (file := place / f"{image.stem}.xml").is_file()), None)


def _voc_boxes(tree: ElementTree.Element) -> list[Box]:
    """<object> with <name> and <bndbox> (xmin … ymax, inclusive).  Raises ValueError."""
    if tree.tag != "annotation":
        raise ValueError(f"its root is <{tree.tag[:40]}>, and not <annotation>")
    boxes = []
    for thing in tree.iter("object"):
        name = class_name((thing.findtext("name") or "").strip())
        if not name:
            raise ValueError("an object without a name")
        box = thing.find("bndbox")
        left, top, right, bottom = (float(box.findtext(side) or "nan") if box is not None else 0.0
                                    for side in ("xmin", "ymin", "xmax", "ymax"))
        area = (right - left) * (bottom - top)
        if not area >= 0:
            raise ValueError("a box without four numbers, or turned inside out")
        boxes.append(Box(name, area))
    return boxes


# -------------------------------------------------------------------------------------------------------------------- COCO


def read_coco(file: LabelFile, labels: str, index: PathIndex, multilabel: str = "false") -> GivenLabels:
    """Instances of COCO's JSON: `images` by file_name, `annotations` with category_id and maybe bbox, `categories`.

    An annotation without bbox or area, as of an image's class, is a box without extent.  Raises ValueError, one line, for a
    file of another kind, and one that names no image.
    """
    given = GivenLabels(f"data.labels={labels}")
    try:
        content = json.loads(file.path.read_bytes())
        category = {int(one["id"]): class_name(str(one["name"])) for one in content["categories"]}
        names = {one["id"]: str(one["file_name"]) for one in content["images"]}
        annotations = [(one["image_id"], Box(category[int(one["category_id"])], _coco_area(one)))
                       for one in content["annotations"]]
    except OSError as error:
        raise ValueError(f"{given.source} cannot be read: {reason(error)}") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else reason(error)
        raise ValueError(f"{given.source} is no COCO file of images, annotations and categories: {one_line(what)}") from None
    image_of: dict[Any, int] = {}
    strange = []
    for number, name in names.items():
        image = index.find(name)
        if image is None:
            strange.append(name)
        else:
            image_of[number] = image
    if not image_of:
        there = f"an image there: {index.paths[0]}" if index.paths else "there is no image"
        raise ValueError(f"{given.source}: none of its {counted(len(names), 'image')} lies below {index.root} (first: "
                         f"{strange[0] if strange else 'no image'}; {there}); file_name is relative to data.root")
    boxes: dict[int, list[Box]] = {image: [] for image in image_of.values()}
    for number, box in annotations:
        if number in image_of:
            boxes[image_of[number]].append(box)
    if strange:
        given.notes.append(f"{counted(len(strange), 'image')} of it not found, or several (first: {one_line(strange[0])})")
    order = tuple(dict.fromkeys(category[number] for number in sorted(category)))
    return _labelled(given, boxes, index, multilabel, order)


def _coco_area(annotation: dict[str, Any]) -> float:
    """Width × height of the box [x, y, width, height], in pixels; 0 without one."""
    box = annotation.get("bbox")
    return float(box[2]) * float(box[3]) if box else 0.0
