"""The alarm of --adapt on published weights and photographs: silent at the recipe's rate, loud at ten times that."""
from pathlib import Path

import pytest
from commands import start

from experiments import picture_sets

SHAPE = ["--adapt", "--data=folder", "--encoder=tf_efficientnet_lite0", "--normalization=weights", "--image_size=64",
         "--batch_size=32", "--steps=120", "--evals=6", "--pause_at=1.45", "--report=false", "--trackers=none"]
# paused in the second epoch of 28 steps, behind the second check


@pytest.fixture(scope="module")
def begin(tmp_path_factory) -> list[str]:
    """Settings of the photographs and of EfficientNet-Lite0's ImageNet weights."""
    root: Path = tmp_path_factory.mktemp("begin")
    try:
        picture_sets.weights("efficientnet-lite0", root / "lite0.pth")
        picture_sets.build("photos", root / "photos")
    except SystemExit as missing:
        pytest.skip(str(missing))
    return [f"--data.root={root / 'photos'}", f"--weights={root / 'lite0.pth'}"]


@pytest.mark.long
@pytest.mark.parametrize(("rate", "sounds"), [("0.1", False), ("1", True)])
def test_the_alarm_sounds_at_ten_times_the_recipes_rate_alone(tmp_path, begin, rate, sounds):
    words = [*SHAPE, *begin, f"--adapt.encoder_lr={rate}", f"--out={tmp_path / 'run'}"]
    ended = start(*words, logs=tmp_path).wait(timeout=3600)
    assert ended.code == 0, ended.err
    assert ("ALARM at step 40: kNN went from" in ended.err) is sounds
    assert ("ALARM" in ended.err) is sounds
