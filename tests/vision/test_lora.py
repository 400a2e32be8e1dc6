"""Low-rank changes: the encoder that is written computes what the trained one did, under timm's names."""
import pytest
import timm
import torch

from vision import encoders, lora


def changed(name: str, rank: int = 3, size: int = 32) -> torch.nn.Module:
    """timm's encoder in float64 with changes that are not zero."""
    torch.manual_seed(0)
    encoder = lora.attach(encoders.create(name, 3, size, "full").double().eval(), rank)
    for module in encoder.modules():
        if isinstance(module, lora.LowRank):
            torch.nn.init.normal_(module.up, std=0.3)
    return encoder


@pytest.mark.parametrize("name", ["test_vit", "test_efficientnet", "test_convnext"])
def test_merged_is_plain_timm_and_computes_the_same(name):
    encoder, images = changed(name), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    merged, plain = lora.merged(encoder), encoders.create(name, 3, 32, "full").double().eval()
    plain.load_state_dict(merged.state_dict())  # strict: every name, no other
    assert (plain(images) - encoder(images)).abs().max() < 1e-12  # float64's rounding, of numbers near 1
    assert lora.has_changes(encoder), "the one that trains stays as it is"
    assert not lora.has_changes(merged)


def test_changes_begin_at_nothing_and_alone_are_trained():
    torch.manual_seed(0)
    encoder, images = encoders.create("test_vit", 3, 32, "full").double().eval(), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    before = encoder(images)
    lora.attach(encoder, 2, trainable=("patch_embed.proj.weight",))
    assert (encoder(images) - before).abs().max() < 1e-12
    encoder(images).square().sum().backward()
    moved = {name for name, p in encoder.named_parameters() if p.grad is not None}
    assert all("parametrizations.weight.0." in name for name in moved - {"patch_embed.proj.weight"})
    assert {name.split(".parametrizations")[0] for name in moved if name.startswith("blocks.0")} == {
        "blocks.0.attn.qkv", "blocks.0.attn.proj"}
    weight = timm.create_model("test_vit").blocks[0].attn.qkv.weight
    assert encoder.blocks[0].attn.qkv.parametrizations.weight[0].down.shape == (2, weight.shape[1])


def test_squeeze_and_excitation_is_left_alone():
    names = lora.pointwise_layers(timm.create_model("efficientnet_b0", num_classes=0))
    assert "blocks.1.0.conv_pw" in names
    assert not any(".se." in name for name in names)


def test_an_encoder_of_wide_convolutions_is_refused():
    with pytest.raises(ValueError, match=r"^lora=4: resnet18 has no attention, and only 2% of its weights lie in 1×1"):
        lora.attach(encoders.create("resnet18", 3, 64, "full"), 4)
