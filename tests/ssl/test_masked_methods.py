"""Methods on patches: what the encoder sees, what it is left with, and what its file says of it."""
import pytest
import torch
from safetensors.torch import load_file
from small_methods import ON_TOKENS, B, batch, made

from core import cli
from core.method import Batch
from linear_eval.features import _columns
from ssl.pretrain import TOOL, pretrain
from vision import artifact, encoders, tokens
from vision.encoders import NAMED

WORDS = ["data=synthetic", "image_size=64", "encoder=test_vit", "steps=2", "batch_size=16", "evals=1", "report=false",
         "trackers=none", "method.decoder_width=32", "method.decoder_depth=1", "method.decoder_heads=2", "precision=fp32"]


def lengths(method, data: Batch) -> set[int]:
    """Of the sequences that the encoder's first block sees in `embed`."""
    seen = set()
    with method.encoder.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.add(inputs[0].shape[1])):
        method.embed(data)
    return seen


def test_the_encoder_sees_the_kept_patches_alone_where_patches_are_left_out():
    assert lengths(made("mae"), batch("mae")) == {1 + 9}  # class token and a quarter of 36: cost falls with them
    assert lengths(made("simmim"), batch("simmim")) == {1 + 36}
    assert lengths(made("ibot"), batch("ibot")) == {1 + 36}
    assert max(lengths(made("ijepa"), batch("ijepa"))) < 1 + 36 - 4 * 3


@pytest.mark.parametrize("name", ON_TOKENS)
def test_masks_are_another_each_epoch_and_the_same_in_any_piece(name):
    method, data = made(name).double(), batch(name, dtype=torch.float64)
    whole = method.targets(data)
    parts = [method.targets(part) for part in data.split(5)]
    for field in vars(whole):
        joined = torch.cat([getattr(part, field) for part in parts])
        torch.testing.assert_close(joined, getattr(whole, field), rtol=1e-9, atol=1e-9)
    later = method.targets(Batch(data.views, data.indices, epoch=1))
    assert any(getattr(later, field).shape != value.shape or not torch.equal(getattr(later, field), value)
               for field, value in vars(whole).items())


@pytest.mark.parametrize("name", ["mae", "simmim"])
def test_masked_pixels_have_no_influence_on_what_is_predicted_of_them(name):
    method, data = made(name).double().eval(), batch(name, dtype=torch.float64)
    if name == "mae":
        mask = torch.ones(B, 36, dtype=torch.bool).scatter(1, method.places(data)[0], False)
    else:
        mask = method.mask(data)
        assert mask.sum(1).tolist() == [24] * B  # ceil(.6 · 9) cells of 2×2
    pixels = mask.view(B, 1, 6, 6).repeat_interleave(16, 2).repeat_interleave(16, 3)
    other = torch.where(pixels, torch.randn_like(data.views[0]), data.views[0])
    assert torch.equal(method.embed(Batch([other], data.indices)), method.embed(data))
    other = torch.where(pixels, data.views[0], torch.randn_like(data.views[0]))
    assert not torch.equal(method.embed(Batch([other], data.indices)), method.embed(data))


def test_an_image_too_small_for_its_patches_is_refused():
    for name, match in (("mae", "masks 1 of an image's 1 patches"), ("ijepa", "may cover all of 1×1 patches")):
        with pytest.raises(ValueError, match=match):
            made(name, "image_size=16")
    with pytest.raises(ValueError, match=r"method=mae needs an encoder that takes some .* and resnet18d does not"):
        made("mae", "encoder=small")
    with pytest.raises(ValueError, match=r"method\.norm_pixels=true: patches of one gray pixel"):
        made("mae", "encoder=vit_tiny_patch16_224", "image_size=8")


def test_a_pixels_method_starts_from_trained_weights_as_they_are():
    torch.manual_seed(0)
    encoder = encoders.create("test_vit", 1, 64)
    encoder.trained = True
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    from ssl.method.ijepa import IJEPA
    from ssl.method.mae import MAE

    MAE(encoder, 0.75, True, 32, 1, 2)
    assert all(torch.equal(before[key], value) for key, value in encoder.state_dict().items())
    assert encoder.pos_embed.requires_grad
    encoder.trained = False
    MAE(encoder, 0.75, True, 32, 1, 2)
    assert not encoder.pos_embed.requires_grad
    assert not torch.equal(before["pos_embed"], encoder.pos_embed)
    teacher = IJEPA(encoders.create("test_vit", 1, 96), 4, 32, 1, 2, (0.9, 1.0)).train().teacher
    assert not teacher.training


def test_mae_of_hiera_leaves_out_its_mask_units():
    from ssl.method.mae import MAE

    arguments = {"embed_dim": 8, "num_heads": 1, "stages": (1, 1, 2, 1), "img_size": (96, 96)}
    method = MAE(encoders.build(encoders.Spec("hiera_tiny_224", 3, 96, "full", arguments)), 0.6, True, 32, 1, 2)
    assert method.grid == (3, 3)
    data = Batch([torch.randn(4, 3, 96, 96)], torch.arange(4))
    assert method.embed(data).shape == method.targets(data).patches.shape == (4, 6, 32 * 32 * 3)
    method(data, 0.0).loss.backward()
    assert all(p.grad is not None for name, p in method.named_parameters() if not name.startswith("encoder.head"))


@pytest.mark.slow
def test_a_run_leaves_a_file_whose_features_are_the_mean_and_a_further_run_keeps_its_weights(tmp_path):
    first = pretrain(cli.compose(TOOL, [*WORDS, "method=mae", f"out={tmp_path / 'first'}"]))
    header = artifact.read_header(first.encoder)
    assert header.spec.arguments["global_pool"] == "avg"
    assert header.spec.arguments["fc_norm"] is False
    encoder, _ = artifact.load(first.encoder)
    x = torch.randn(3, header.spec.channels, 64, 64)
    found = tokens.tokens(encoder, x)
    torch.testing.assert_close(encoder(x), found.patches.mean(1), rtol=1e-5, atol=1e-5)
    columns = _columns(encoder, x, 1)  # what an evaluation takes: mean and maximum, not the class token
    torch.testing.assert_close(columns[0], found.patches.mean(1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(columns[1], found.patches.amax(1), rtol=1e-5, atol=1e-5)

    words = [word for word in WORDS if not word.startswith(("encoder", "method.decoder"))]
    words += ["method.hidden=32", "method.dim=16", "method.prototypes=20", f"encoder={first.encoder}"]
    words += ["optim.lr=1e-9", "optim.end_lr=0"]
    second = pretrain(cli.compose(TOOL, [*words, "method=ibot", f"out={tmp_path / 'second'}"]))
    spec = artifact.read_header(second.encoder).spec
    assert spec.arguments["global_pool"] == "token"
    before, after = load_file(first.encoder), load_file(second.encoder)
    assert before.keys() == after.keys()
    torch.testing.assert_close(after["pos_embed"], before["pos_embed"], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("size", "patch"), [(8, 2), (28, 4), (32, 4), (64, 4)])
def test_the_named_transformers_have_small_patches(size, patch):
    for name in [name for name in NAMED if name.startswith("vit")]:
        spec = encoders.specify(name, 1, size, "small")
        assert spec.arguments["patch_size"] == patch
        assert spec.arguments["img_size"] == size
    encoder = encoders.create("vit_tiny_patch4", 1, size)
    assert tokens.grid(encoder, size) == (size // patch, size // patch)
    assert encoder.dim == 192


def test_views_smaller_than_the_images_are_refused(tmp_path):
    given = ["--method", "mae", "--data", "digits", "--encoder", "vit_tiny_patch4", "--augment.view_size", "0.5"]
    with pytest.raises(ValueError, match=r"^augment\.view_size=0\.5: method=mae masks the grid of patches"):
        pretrain(cli.compose(TOOL, cli.parse([*given, "--out", str(tmp_path), "--device", "cpu"])[0]))
