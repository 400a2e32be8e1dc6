"""Segmenters: masks follow their images' crops, losses are those of loops over pixels, every decoder learns."""
import numpy as np
import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import hflip, resized_crop

from core.method import Batch
from core.processes import World
from linear_eval.segment.decoders import pyramid
from linear_eval.segment.segmenter import Segmenter, cross_entropy, cut_mask, dice_loss
from vision import encoders
from vision.augment import Augmentation
from vision.loaders import BatchSampler, MemoryLoader
from vision.segmentation import MasksInMemory
from vision.splits import Images

CNN = ("small", "small", 3, 32)
VIT = ("vit_tiny_patch4_depth4", "full", 3, 32)


def encoder(which):
    name, stem, channels, size = which
    torch.manual_seed(0)
    return encoders.build(encoders.specify(name, channels, size, stem))


def segmenter(which=CNN, classes: int = 3, masks=None, **more) -> Segmenter:
    return Segmenter(encoder(which), masks or MasksInMemory(np.zeros((4, 32, 32), np.uint8)), classes, **more)


def test_a_mask_is_cut_as_torchvision_cuts_by_nearest_centers():
    rng = np.random.default_rng(0)
    mask = rng.integers(0, 9, (37, 53)).astype(np.uint8)
    for _ in range(20):
        height, width = int(rng.integers(1, 38)), int(rng.integers(1, 54))
        top, left, flip = int(rng.integers(0, 38 - height)), int(rng.integers(0, 54 - width)), bool(rng.integers(2))
        cut = resized_crop(torch.from_numpy(mask)[None], top, left, height, width, [16, 24], InterpolationMode.NEAREST_EXACT)
        expected = (hflip(cut) if flip else cut)[0].numpy()
        box = np.float32([top / 37, left / 53, height / 37, width / 53, flip])
        found = cut_mask(mask, box.tolist(), (16, 24))
        assert np.array_equal(found, expected)


def test_crops_and_flips_of_masks_are_those_of_their_images():
    masks = np.zeros((8, 40, 40), np.uint8)
    for index in range(8):
        masks[index, 4 + index : 24, 6 : 20 + 2 * index] = 1
    images = Images(torch.from_numpy(masks * 255)[:, None].repeat(1, 3, 1, 1))
    augmentation = Augmentation(32, (0.0,) * 3, (1.0,) * 3, views=1, crop=(0.3, 1.0), flip=0.5, jitter=0, grey=0, blur=0)
    sampler = BatchSampler(8, 8, 0, World(0, 1, 0, 1, torch.device("cpu")))
    method = segmenter(masks=MasksInMemory(masks))
    for batch in MemoryLoader(images, augmentation, sampler, 3).batches(0, 6):
        labels = method.targets(batch).labels
        pixels = batch.views[0][:, 0]
        sure = (pixels - 0.5).abs() > 0.49  # away from edges, which the image's resampling mixes
        assert sure.float().mean() > 0.5
        assert torch.equal(labels[sure], (pixels > 0.5).long()[sure])


def test_losses_are_those_of_loops_over_images_and_classes():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, 5, 6, generator=generator)
    labels = torch.randint(0, 3, (3, 5, 6), generator=generator)
    labels[0, :2], labels[2] = 255, 255
    p = logits.softmax(1).numpy().astype(np.float64)
    ce, dice = [], []
    for image in range(3):
        known = [(y, x) for y, x in np.ndindex(5, 6) if labels[image, y, x] != 255]
        ce.append(-np.mean([np.log(p[image, labels[image, y, x], y, x]) for y, x in known]) if known else 0.0)
        each = []
        for k in range(4):
            both = sum(p[image, k, y, x] for y, x in known if labels[image, y, x] == k)
            true, guess = sum(int(labels[image, y, x]) == k for y, x in known), sum(p[image, k, y, x] for y, x in known)
            if true:
                each.append(1 - (2 * both + 1) / (guess + true + 1))
        dice.append(np.mean(each) if each else 0.0)
    assert float(cross_entropy(logits, labels)) == pytest.approx(np.mean(ce), rel=1e-5)
    assert float(dice_loss(logits, labels)) == pytest.approx(np.mean(dice), rel=1e-5)


@pytest.mark.parametrize("decoder", ["linear", "fpn", "unet"])
@pytest.mark.parametrize("which", [CNN, VIT])
def test_every_decoder_gives_each_pixel_a_score_and_reaches_every_weight(which, decoder):
    rng = np.random.default_rng(0)
    masks = MasksInMemory(rng.integers(0, 3, (4, 32, 32)).astype(np.uint8))
    method = segmenter(which, masks=masks, decoder=decoder, width=16, dice=1.0)
    batch = Batch([torch.randn(4, 3, 32, 32)], torch.arange(4), boxes=[torch.tensor([[0.0, 0, 1, 1, 0]] * 4)])
    assert method.logits(batch.views[0]).shape == (4, 3, 32, 32)
    method(batch, 0.0).loss.backward()
    assert [name for name, p in method.named_parameters() if p.grad is None] == []


def test_a_frozen_encoder_keeps_weights_and_statistics():
    method = segmenter(trains="decoder", decoder="fpn", width=16)
    before = {name: value.clone() for name, value in method.encoder.state_dict().items()}
    batch = Batch([torch.randn(4, 3, 32, 32)], torch.arange(4), boxes=[torch.tensor([[0.0, 0, 1, 1, 0]] * 4)])
    method(batch, 0.0).loss.backward()
    assert all(p.grad is None for p in method.encoder.parameters())
    assert all(torch.equal(value, before[name]) for name, value in method.encoder.state_dict().items())


def test_a_pyramid_is_fine_to_coarse_for_convolutions_and_for_transformers():
    images = torch.zeros(2, 3, 32, 32)
    for which in (CNN, VIT):
        sides = [x.shape[2] for x in pyramid(encoder(which).eval(), images)]
        assert sides == sorted(sides, reverse=True)
        assert len(set(sides)) == len(sides) > 2


def test_sides_that_the_stride_does_not_divide_are_continued_by_reflection():
    method = segmenter().eval()
    assert method.stride > 1
    side = 2 * method.stride + 3
    images = torch.randn(2, 3, side, side)
    wide = torch.nn.functional.pad(images, (0, 3 * method.stride - side) * 2, mode="reflect")
    with torch.no_grad():
        assert torch.equal(method.logits(images), method.logits(wide)[:, :, :side, :side])


@pytest.mark.parametrize(("more", "message"), [
    ({"decoder": "deeplab"}, "method.decoder=deeplab: must be one of linear, fpn, unet"),
    ({"width": 20}, "method.width=20: must be a multiple of 16"),
    ({"trains": "head"}, "method.trains=head: must be one of all, decoder"),
    ({"trains": "decoder", "layer_decay": 0.5}, "method.layer_decay=0.5: must be 1 with trains=decoder"),
    ({"dice": -1.0}, "method.dice=-1.0: must be 0 or more"),
])
def test_settings_that_cannot_be_are_refused(more, message):
    with pytest.raises(ValueError, match=message):
        segmenter(**more)
