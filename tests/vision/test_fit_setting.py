"""image_size and image_fit → an encoder that knows its shape and fit, whatever it begins with."""
import pytest
import torch

from core import cli
from deploy.settings import check_file
from linear_eval.features import images_of
from linear_eval.finetune import TOOL
from vision import artifact, encoders
from vision.augment import Augmentation
from vision.build import build_encoder, notes
from vision.data import build_data
from vision.geometry import Geometry


def built(*overrides: str):
    settings = cli.compose(TOOL, ["data=digits", *overrides])
    torch.manual_seed(0)
    data = build_data(settings)
    encoder, recipe = build_encoder(settings, data)
    return encoder, recipe, notes(encoder, settings, recipe), data


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("encoder") / "encoder.safetensors"
    encoder = encoders.create("test_resnet", 1, (16, 24))
    encoder.spec = encoders.Spec(**encoder.spec.__dict__ | {"fit": "letterbox", "fill": (0.25,)})
    path.write_bytes(artifact.dumps(encoder, Augmentation((16, 24), (0.25,), (0.5,)), {}))
    return str(path)


def test_by_name():
    encoder, recipe, _, data = built("encoder=test_resnet", "image_size=16x24", "image_fit=letterbox")
    assert encoder.spec.shape == (1, 16, 24)
    assert [view.size for view in recipe.views] == [(16, 24)] * len(recipe.views)
    assert encoder.spec.geometry == Geometry(16, 24, "letterbox", tuple(round(float(m), 6) for m in data.mean))
    images = images_of(data.train, torch.arange(3), encoder.spec.geometry, 1)
    assert images.shape == (3, 1, 16, 24)
    assert (images[:, 0, :, :4] == round(255 * data.mean[0])).all()
    assert built("encoder=test_resnet", "image_size=16")[0].spec == encoders.specify("test_resnet", 1, 16, "small")


def test_a_file_keeps_its_shape_and_fit_and_another_fit_can_be_chosen(saved):
    encoder, recipe, said, _ = built(f"encoder={saved}")
    assert encoder.spec.geometry == Geometry(16, 24, "letterbox", (0.25,))
    assert (recipe.size, said) == ((16, 24), [])
    assert built(f"encoder={saved}", "image_fit=squash")[0].spec.geometry == Geometry(16, 24, "squash")
    other = built(f"encoder={saved}", "normalization='0.5;0.5'")[0]
    assert other.spec.fill == (0.5,)
    _, _, said, _ = built(f"encoder={saved}", "image_size=32")
    assert said == ["image_size=32: the encoder's file says 16×24 px, which it keeps"]
    with pytest.raises(ValueError, match="image_fit=crop: the file has its own; leave it out"):
        check_file(cli.compose(TOOL, ["data=digits", f"encoder={saved}", "image_fit=crop"]))


def test_quarter_turns_of_a_rectangle_are_half_turns_and_a_note_says_so():
    said = built("encoder=test_resnet", "image_size=16x24", "augment.turns=0.5")[2]
    assert any(note.startswith("augment.turns: views of 16×24 px") for note in said)
    assert not built("encoder=test_resnet", "image_size=16", "augment.turns=0.5")[2]


def test_local_views_of_a_transformer():
    local = ("augment.local.views=1", "augment.local.size=0.5")
    encoder, recipe, *_ = built("encoder=vit_tiny_patch16_224", "image_size=32x48", *local)
    assert encoder.spec.arguments["patch_size"] == 4
    assert recipe.local_size == (16, 24)
    assert encoder(torch.zeros(2, 1, 16, 24)).shape == (2, encoder.dim)
