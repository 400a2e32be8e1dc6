"""Students by name take shape and fit of the teacher's file, unless the command line says otherwise."""
from dataclasses import replace

import pytest

from core import cli
from distill.train import TOOL, inherited_fit, inherited_size, jobs
from vision import artifact, encoders
from vision.augment import Augmentation


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("teacher") / "encoder.safetensors"
    encoder = encoders.create("test_resnet", 1, (16, 24))
    encoder.spec = replace(encoder.spec, fit="letterbox", fill=(0.25,))
    path.write_bytes(artifact.dumps(encoder, Augmentation((16, 24), (0.25,), (0.5,)), {}))
    return str(path)


def settings_of(teacher: str, *words: str):
    return cli.compose(TOOL, ["data=digits", "method=kd", f"teacher='{teacher}'", *words])


def test_of_a_name(teacher):
    settings = settings_of(teacher, "student=test_resnet")
    assert (inherited_size(settings), inherited_fit(settings)) == ((16, 24), "letterbox")
    [job] = jobs(settings)
    assert (job.image_size, job.image_fit, job.encoder) == ((16, 24), "letterbox", "test_resnet")
    [job] = jobs(settings_of(teacher, "student=test_resnet", "image_size=32", "image_fit=crop"))
    assert (job.image_size, job.image_fit) == (32, "crop")


def test_a_student_of_a_file_keeps_its_own_fit(teacher):
    assert [job.image_fit for job in jobs(settings_of(teacher, f"student='{teacher},tiny'"))] == ["auto", "letterbox"]
