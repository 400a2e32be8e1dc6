"""Dropout and drop path per image: what is drawn depends on the image and the step, not on who computes it with whom."""
import pytest
import torch
from timm.layers import DropPath
from torch import Tensor, nn

from core import dropout
from core.method import Batch

LAYERS = {
    "dropout": (lambda p: nn.Dropout(p), (7,)),
    "channels": (lambda p: nn.Dropout2d(p), (6, 3, 3)),
    "path": (lambda p: DropPath(p), (5, 4)),
}


def batch(count: int = 64, step: int = 2, seed: int = 3) -> Batch:
    indices = torch.randperm(1000, generator=torch.Generator().manual_seed(0))[:count]
    return Batch([torch.zeros(count, 1)], indices, step=step, seed=seed)


def dropped(layer: nn.Module, data: Batch, x: Tensor) -> Tensor:
    with dropout.drawn_for(data):
        return layer(x)


def made(kind: str, p: float = 0.3) -> tuple[nn.Sequential, Tensor]:
    layer, shape = LAYERS[kind]
    return dropout.per_image(nn.Sequential(layer(p), layer(p))), torch.ones(64, *shape)


@pytest.mark.parametrize("kind", LAYERS)
def test_a_part_of_the_batch_drops_what_the_whole_drops(kind):
    net, x = made(kind)
    data = batch()
    whole = dropped(net, data, x)
    parts = [dropped(net, piece, x[: len(piece.indices)]) for piece in data.split(10)]
    assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(dropped(net, data, x), whole), "the same again: no generator moved"


@pytest.mark.parametrize("kind", LAYERS)
def test_views_layers_steps_and_seeds_differ(kind):
    net, x = made(kind)
    data = batch()
    whole = dropped(net[0], data, x)
    with dropout.drawn_for(data):
        one_by_one = [net[0](x), net[0](x)]
    assert torch.equal(dropped(net[0], data, torch.cat([x, x])), torch.cat(one_by_one)), "views joined or one by one"
    assert torch.equal(one_by_one[0], whole)
    others = [one_by_one[1], dropped(net[1], data, x), dropped(net[0], batch(step=3), x), dropped(net[0], batch(seed=4), x)]
    assert not any(torch.equal(whole, other) for other in others)


@pytest.mark.parametrize(("kind", "units"), [("dropout", 64 * 7), ("channels", 64 * 6), ("path", 64)])
def test_a_share_is_dropped_whole_and_the_rest_scaled(kind, units):
    net, x = made(kind)
    y = dropped(net[0], batch(), x)
    assert y.unique().tolist() == [0.0, pytest.approx(1 / 0.7)]
    kept = float((y > 0).float().mean())
    assert abs(kept - 0.7) < 5 * (0.3 * 0.7 / units) ** 0.5  # five deviations
    if kind != "dropout":  # channels and rows as a whole
        rows = y.flatten(2) if kind == "channels" else y.flatten(1)
        assert torch.equal(rows.amin(-1), rows.amax(-1))


def test_evaluation_p_0_and_rows_of_no_image():
    net, x = made("dropout")
    assert torch.equal(dropped(net.eval(), batch(), x), x)
    none = nn.Sequential(nn.Dropout(0.0), DropPath(0.0))
    assert [type(m) for m in dropout.per_image(none)] == [nn.Dropout, DropPath], "nothing to draw: as it was"
    net.train()
    torch.manual_seed(0)
    expected = nn.functional.dropout(x, 0.3)
    torch.manual_seed(0)
    assert torch.equal(net[0](x), expected), "without a batch, torch's generator"
    torch.manual_seed(0)
    assert torch.equal(dropped(net[0], batch(60), x), expected), "64 rows are not 60 images"


def test_state_dicts_keep_their_keys_and_a_vit_drops_paths_per_image():
    from timm.models import create_model

    torch.manual_seed(0)
    vit = create_model("test_vit", img_size=32, drop_path_rate=0.5, num_classes=0)
    keys = list(vit.state_dict())
    vit = dropout.per_image(vit).train()
    assert list(vit.state_dict()) == keys
    assert sum(isinstance(m, dropout.DropPath) for m in vit.modules()) > 1
    with torch.no_grad():
        for p in vit.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    data, x = batch(8), torch.randn(8, 3, 32, 32)
    whole = dropped(vit, data, x)
    parts = [dropped(vit, piece, rows) for piece, rows in zip(data.split(4), x.split(4), strict=True)]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-4, atol=1e-5)  # float32 products of other shapes
    assert not torch.allclose(dropped(vit, batch(8, step=5), x), whole, rtol=1e-2)
