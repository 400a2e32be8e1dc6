"""Encoders of rectangular images: which are built, which are refused by name, what they cost, how positions are adapted."""
import pytest
import timm
import torch
from timm.layers import resample_abs_pos_embed

from core.image_size import sides
from vision import artifact, cost, encoders
from vision.input_sizes import cut_patches, patch_for, patches_of, smaller_sizes
from vision.published import Architecture, with_weights


@pytest.mark.parametrize(("name", "size"), [
    ("small", (48, 64)), ("resnet18", (64, 96)), ("test_vit", (32, 48)), ("test_vit", (96, 160)), ("test_convnext", (64, 96)),
    ("test_efficientnet", (33, 65)), ("lenet5", (28, 36)),
])  # fmt: skip
def test_an_encoder_comes_back_from_its_file(tmp_path, name, size):
    torch.manual_seed(0)
    encoder = encoders.create(name, 3, size, several_sizes=name == "test_vit").eval()
    assert encoder.spec.shape == (3, *size)
    header = artifact.EncoderHeader(encoder.spec, (0.5,) * 3, (0.25,) * 3, encoder.dim, {})
    path = tmp_path / "e.safetensors"
    path.write_bytes(artifact.dumps(encoder, header, {}))
    again, found = artifact.load(path)
    assert found.spec == encoder.spec == again.spec
    x = torch.randn(2, 3, *size)
    with torch.no_grad():
        assert torch.equal(again(x), encoder(x))


def test_sides_that_are_no_multiples_of_the_patch_name_the_two_nearest_sizes():
    message = ("^image_size=100×150: encoder=vit_tiny_patch16_224 cuts images into patches of 16 px, and both sides must be "
               "multiples of that: the nearest are 96×144 or 112×160$")
    with pytest.raises(encoders.Unfit, match=message):
        encoders.create("vit_tiny_patch16_224", 3, (100, 150))
    assert cut_patches((96, 150), 16).endswith("96×144 or 96×160")
    assert cut_patches((10, 100), 16).endswith("16×96 or 16×112")
    assert cut_patches((96, 160), 16) is None
    assert cut_patches(100, 16) is None  # a square loses a rim, as ever


@pytest.mark.parametrize("name", ["maxvit_tiny_rw_224", "swinv2_tiny_window8_256", "coat_tiny"])
def test_an_encoder_that_cannot_is_refused_by_name(name):
    """What cannot depends on timm's release."""
    why = None
    try:
        encoder = encoders.create(name, 3, (96, 160))
        assert encoder(torch.zeros(2, 3, 96, 160)).shape == (2, encoder.dim)
    except ValueError as error:
        why = str(error)
    assert why is None or (why.startswith(f"encoder={name}") and "96×160 px" in why and "\n" not in why)


def test_small_stems_and_patches():
    assert encoders.create("resnet18", 3, (48, 64)).spec.stem == "small"
    assert encoders.create("resnet18", 3, (48, 96)).spec.stem == "full"
    assert encoders.create("tiny", 3, (48, 64)).spec.stem == "half"
    assert (patch_for((32, 48)), patch_for(32), patch_for(28), patch_for(31)) == (4, 4, 4, 3)
    assert patches_of((32, 48)) == [2, 4, 8]
    found = smaller_sizes((96, 160), 16)
    assert (48, 64) in found
    assert all(side % 16 == 0 for size in found for side in sides(size))


def test_cost_counts_the_true_shape():
    """Of a convolutional network, twice the pixels are twice the multiply-adds."""
    square, wide = (encoders.create("resnet18", 3, size, "full") for size in (64, (64, 128)))
    assert cost.macs(wide) == pytest.approx(2 * cost.macs(square), rel=1e-9)
    assert cost.parameters(wide) == cost.parameters(square)
    assert cost.memory(wide) > cost.memory(square)
    assert set(cost.latency(wide, torch.device("cpu"), timed=2)) == {"p50", "p95"}


def test_positions_of_published_weights_are_interpolated_as_timm_does(tmp_path):
    torch.manual_seed(0)
    source = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=64)
    torch.nn.init.normal_(source.pos_embed)
    torch.save(source.state_dict(), tmp_path / "w.pth")
    encoder = with_weights(tmp_path / "w.pth", Architecture("vit_tiny_patch16_224", (64, 96)), 3)
    expected = resample_abs_pos_embed(source.pos_embed, [4, 6], [4, 4], num_prefix_tokens=1)
    torch.testing.assert_close(encoder.pos_embed, expected)
    assert any("pos_embed" in change for change in encoder.loaded.changes)
