"""Layer-wise learning rates."""
import pytest
import timm
from timm.optim import param_groups_layer_decay

from vision.layers import rates


@pytest.mark.parametrize("name", ["test_vit", "resnet18"])
def test_rates_are_timms_below_one_more_layer(name):
    encoder = timm.create_model(name, num_classes=0)
    groups = param_groups_layer_decay(encoder, layer_decay=0.7)
    theirs = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    found = rates(encoder, 0.7)
    for parameter, p in encoder.named_parameters():
        assert found[parameter] == pytest.approx(0.7 * theirs[id(p)]), parameter


def test_a_convolutional_encoder_decays_by_stage_and_its_stem_learns_less():
    found = rates(timm.create_model("resnet18", num_classes=0), 0.5, stem=0.2, coarse=True)
    assert found["layer4.0.conv1.weight"] == found["layer4.1.conv2.weight"] == 0.5
    assert found["layer1.0.conv1.weight"] == 0.5**4
    assert found["conv1.weight"] == found["bn1.bias"] == pytest.approx(0.2 * 0.5**5)


def test_of_a_transformer_the_patch_embedding_alone_is_the_stem():
    found = rates(timm.create_model("test_vit", num_classes=0), 1.0, stem=0.2, whole=["norm.weight"])
    assert {name for name, share in found.items() if share != 1} == {"patch_embed.proj.weight", "patch_embed.proj.bias"}
    assert rates(timm.create_model("test_vit", num_classes=0), 0.5, whole=["norm.weight"])["norm.weight"] == 1
