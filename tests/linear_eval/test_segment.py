"""`python -m linear_eval.segment`: scenes end to end, nothing chosen on test, and mistakes in one line."""
import dataclasses
import json

import numpy as np
import pytest
from commands import run

from core import cli
from linear_eval.segment import fit as fitting
from linear_eval.segment.__main__ import segment
from linear_eval.segment.settings import TOOL, check
from vision.segmentation import MasksInMemory

TINY = ["data.images=40", "data.size=32", "image_size=32", "encoder=test_resnet", "batch_size=8", "steps=8",
        "evals=4", "log_every=1", "device=cpu", "trackers=none", "method.width=16"]


def settings(*more: str):
    return cli.compose(TOOL, [*TINY, *more])


def test_a_run_leaves_figures_pictures_and_both_parts(tmp_path):
    words = [f"--{word}" for word in (*TINY, "method=unet", f"out={tmp_path / 'run'}")]
    ended = run(*words, logs=tmp_path, module="linear_eval.segment.__main__")
    assert ended.code == 0, ended.err
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names >= {"encoder.safetensors", "decoder.safetensors", "results.json", "report.html", "report.md"}
    assert "predictions.png" in names
    result = json.loads((tmp_path / "run" / "results.json").read_text())
    own, trivial = result["rows"]
    assert (own["source"], own["method"], own["figures"]["images"]) == ("encoder", "unet", 8)
    assert trivial["figures"]["mean_accuracy"]["value"] == pytest.approx(100 / sum(row["recall"] is not None for row in
                                                                                    result["classes"]))
    assert result["chosen_at"] in (2, 4, 6, 8)
    assert "most common class" in ended.out
    assert (result["train"], result["validation_images"], result["test"]) == (40, 8, 8)


def test_other_labels_of_test_images_change_no_choice(tmp_path, monkeypatch):
    first = segment(settings(f"out={tmp_path / 'one'}"))
    build = fitting.build_segmentation

    def permuted(given):
        data = build(given)
        masks = np.random.default_rng(0).integers(0, 11, (len(data.test), *data.test.masks[0].shape)).astype(np.uint8)
        return dataclasses.replace(data, test=dataclasses.replace(data.test, masks=MasksInMemory(masks)))

    monkeypatch.setattr(fitting, "build_segmentation", permuted)
    second = segment(settings(f"out={tmp_path / 'two'}"))
    assert first.rows[0].figures != second.rows[0].figures
    assert (first.validation, first.chosen_at) == (second.validation, second.chosen_at)
    files = [(tmp_path / name / "decoder.safetensors").read_bytes() for name in ("one", "two")]
    assert files[0] == files[1]


@pytest.mark.parametrize(("more", "message"), [
    (["augment.rotate=10"], "augment.rotate=10.*must be 0: masks follow crops and horizontal flips"),
    (["augment.policy=randaugment"], "augment.policy=randaugment: must be none"),
    (["image_fit=crop"], "image_fit=crop: must be squash"),
    (["devices=2"], "devices=2: must be 1: linear_eval.segment runs in one process"),
    (["method.trains=decoder", "chunk=4"], "chunk=4: must be left out with method.trains=decoder"),
])
def test_settings_that_cannot_be_are_refused_before_anything_is_loaded(more, message):
    with pytest.raises(ValueError, match=message):
        check(settings(*more))


def test_data_without_masks_is_refused(tmp_path):
    with pytest.raises(ValueError, match="data=digits has no masks; take data=scenes or data=segmentation_folder"):
        segment(cli.compose(TOOL, ["data=digits", "steps=2", f"out={tmp_path / 'run'}"]))
