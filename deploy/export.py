"""Export an encoder or a classifier to files that run without nolabel, and measure which of them to use.

    uv run python -m deploy.export --encoder runs/x/classifier.safetensors --data fashion_mnist

writes model.onnx (any batch size), model.int8.onnx where it passes its gate, model.pt2 (torch.export), with --mobile model.pte
and model.int8.pte (ExecuTorch), and the export report: report.html, card.md, card.json. Every file is written to `.unchecked`
and moved after it was read again and compared. A version that fails is listed with its reason, and the others continue.
Nothing here imports torch before the settings are checked, so that a mistake is answered at once.
"""
import contextlib
import importlib.util
import json
import shutil
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from core import cli, training
from core.identity import identity
from core.page import noting, write_report
from deploy.export_report import PRINTED, ExportResult, ModelCost
from deploy.settings import INT8, ExportSettings, check_file

ROOT = Path(__file__).resolve().parent.parent
TOOL = cli.Tool(
    module="deploy.export",
    primary=ROOT / "deploy" / "export.yaml",
    searched=(ROOT / "vision" / "config",),
    summary="Export and measure: python -m deploy.export --encoder runs/x/classifier.safetensors --data fashion_mnist",
    settings=ExportSettings,
)
UNLABELLED = 500  # images at most that versions are compared on where no split is held out
UNCHECKED = ".unchecked"  # folder of files that were not read again yet


def main() -> int:
    return cli.main(TOOL, partial(training.start, TOOL, check, run))


def run(settings: ExportSettings) -> int:
    """The command: export, and print the report."""
    result = export(settings)
    with noting("the report cannot be printed"):
        print(result.page.text(PRINTED))
    if (page := result.folder / "report.html").exists():
        print(f"report: {page}")
    print(f"files: {result.folder}")
    return 0


def check(settings: ExportSettings) -> None:
    """Refuse what can be refused before anything is loaded."""
    check_file(settings)
    training.check(settings)
    wrong = {name: "more than 0" for name in ("calibration", "batch", "int8_steps") if not getattr(settings, name) > 0}
    wrong |= {name: "0 or more" for name in ("most_lost", "threads", "gallery") if not getattr(settings, name) >= 0}
    wrong |= {} if settings.int8 in INT8 else {"int8": " or ".join(INT8)}
    wrong |= {} if settings.devices == 1 else {"devices": "1: an export is one process"}
    training.refuse(cli.flat(settings), wrong)
    if settings.mobile:
        check_mobile_possible(settings)


def check_mobile_possible(settings: ExportSettings) -> None:
    """Raises ValueError where no ExecuTorch file can be written."""
    if importlib.util.find_spec("executorch") is None:
        raise ValueError("mobile=true needs ExecuTorch, which is not installed: uv sync --group mobile, or leave it out")
    if settings.preprocess:
        raise ValueError("mobile=true: a file for phones takes images of one size, and preprocess=true images of any; leave "
                         "preprocess out: the file states how its input is made")


def export(settings: ExportSettings) -> ExportResult:
    """Write a trained file in every way that runs, measure each, and write the report.  Raises ValueError, RunError."""
    check(settings)

    import torch

    from core.machine import cores, provenance_of
    from core.measured import Configured
    from core.run import Run
    from deploy import export_module, runtime
    from deploy.accuracy import metric
    from deploy.gallery_files import write_gallery
    from deploy.measure import measure
    from deploy.quantize import quantize
    from deploy.versions import Version, add_reference, check_without_torch, write_versions
    from vision.data import build_data, fingerprints

    threads = settings.threads or cores()
    torch.set_num_threads(threads)
    module = export_module.load(cli.expand(settings.encoder), settings.preprocess)
    data = build_data(settings)
    check_classes(settings.data.name, data, module.header)
    data = with_test_images(data)
    check_pixels(settings, module.header, data)
    images = fingerprints(data)
    run = Run(training.folder(settings, f"export-{settings.data.name}", images), settings, images=images)
    reference = None if settings.against is None else export_module.load(cli.expand(settings.against), settings.preprocess)
    run.begin()
    with unchecked_folder(run.folder) as unchecked:
        versions = write_versions(settings, unchecked, module, threads)
        if settings.int8 != "none" and "onnxruntime" in versions:
            file = unchecked / "model.int8.onnx"
            int8 = quantize(settings, module, data, versions.files["onnxruntime"], file, threads)
            versions.refused |= {f"INT8 {kind}": why for kind, why in int8.refused.items()}
            if int8.kind:
                versions[f"INT8 {int8.kind}"] = Version(module, runtime.onnx_file(file, threads), file)
        standalone, mobile = check_without_torch(data, versions), None
        if settings.mobile:
            from deploy.mobile import check_mobile, write_mobile

            write_mobile(settings, unchecked, versions, data, threads)
            mobile = check_mobile(data, versions)
        versions.publish(run.folder)
    onnx = {name: runtime.onnx_requirements(file) for name, file in versions.onnx_files.items()}
    if reference:
        add_reference(versions, reference, run.folder, threads)
    batch = min(settings.batch, len(data.test))
    result = ExportResult(
        folder=run.folder, data=data.name, metric=metric(module, data),
        output_names=module.output_names, metadata=module.metadata,
        model=model_cost(settings.encoder, module), reference=reference and model_cost(settings.against, reference),
        rows=measure(settings, versions, data, batch), batch=batch, threads=threads, most_lost=settings.most_lost,
        deviations={name: version.deviation for name, version in versions.items() if version.deviation is not None},
        refused=versions.refused, standalone=standalone, onnx=onnx, mobile=mobile, configured=Configured(TOOL, settings),
        provenance={"words": identity(settings)}
        | provenance_of([settings.seed], ("torch", "onnx", "onnxruntime", "torchao", "timm")),
    )
    if settings.gallery:
        write_gallery(data, run.folder / "gallery", settings.gallery, module.header.spec.geometry)
    run.write("card.json", json.dumps(result.json, indent=1) + "\n")
    write_report(lambda name, content: run.write("card.md" if name == "report.md" else name, content), lambda: result.page)
    return result


def check_classes(name: str, data, header) -> None:
    """Refuse data whose classes a classifier was not trained for.  data: Dataset; header: EncoderHeader

    An encoder needs no labels: without them the versions are compared with torch.
    """
    if header.classes is None:
        return
    if not data.classes:
        raise ValueError(f"data={name} has no labels, so no accuracy could be measured; give labelled images")
    if tuple(header.classes) != tuple(data.classes):
        here, there = ", ".join(data.classes[:3]), ", ".join(header.classes[:3])
        raise ValueError(
            f"data={name} has {len(data.classes)} classes ({here}, …), the encoder's file {len(header.classes)} ({there}, …); "
            "they must be the same, in the same order: give the data that it was trained on"
        )
    if header.multilabel != data.multilabel:
        theirs, ours = ("several labels" if several else "one label" for several in (header.multilabel, data.multilabel))
        raise ValueError(f"data={name} has {ours} an image, the encoder's file gives {theirs}; set data.multilabel="
                         f"{str(header.multilabel).lower()}, as it was trained")


def with_test_images(data):
    """The data set; without labels, which has no test split, with its validation images in that place, or those of train."""
    from dataclasses import replace

    from core.run import log_line
    from linear_eval.features import evenly

    if len(data.test):
        return data
    split = data.validation if len(data.validation) > 1 else data.pretrain.select(evenly(len(data.pretrain), UNLABELLED))
    log_line(f"note: data={data.name} has no labels: versions are compared with torch on {len(split):,} images, by which image "
             "each finds nearest")
    return replace(data, test=split, validation=split)


def check_pixels(settings: ExportSettings, header, data) -> None:
    """Refuse data that is read otherwise than the encoder's, and what cannot be done with bands.  header: EncoderHeader"""
    theirs = header.spec.channels
    if theirs != data.channels and not {theirs, data.channels} <= {1, 3}:
        raise ValueError(f"encoder={settings.encoder} takes images of {theirs} channels, and data={settings.data.name} has "
                         f"{data.channels}; give images that it was trained on")
    if header.pixels is None and data.pixels is not None:
        raise ValueError(f"encoder={settings.encoder} was trained on 8-bit gray or RGB images, so it is exported with such; "
                         "leave data.bands and data.range out")
    if header.pixels is not None and settings.preprocess:
        raise ValueError("preprocess=true: bands and range are applied where a file is read, which no graph holds; leave "
                         "it out: deploy.serve reads them from the file's metadata")
    if header.pixels is not None and settings.gallery:
        raise ValueError(f"gallery={settings.gallery}: of images with bands no copies are written; leave it out, and give the "
                         "folder of images itself to deploy.serve --gallery")


@contextlib.contextmanager
def unchecked_folder(folder: Path) -> Iterator[Path]:
    """An empty folder inside, which is removed at the end."""
    unchecked = folder / UNCHECKED
    shutil.rmtree(unchecked, ignore_errors=True)
    unchecked.mkdir()
    try:
        yield unchecked
    finally:
        shutil.rmtree(unchecked, ignore_errors=True)


def model_cost(file: str, module) -> ModelCost:
    from vision import artifact, cost

    encoder = artifact.encoder_in(module.model)
    return ModelCost(file, cost.parameters(encoder), cost.macs(encoder))


if __name__ == "__main__":
    sys.exit(main())
