"""Masks: exact counts, a function of the image alone, and distributed as their papers say."""
import pytest
import torch
from processes import on

from vision import masks

GRID, N, MANY = (8, 8), 64, 4000
HALF_KINDS = [kind for kind in masks.KINDS if kind not in ("multiblock", "prefix")]


def words(indices: torch.Tensor, epoch: int = 3, crop: int = 1) -> torch.Tensor:
    return masks.words(7, epoch, indices, crop, masks.words_needed(N))


def example(kind: str, indices: torch.Tensor, share: float = 0.5, epoch: int = 3, crop: int = 1) -> torch.Tensor:
    return masks.example(kind, words(indices, epoch, crop), GRID, share, masks.block_sizes(7, 5, GRID))


@pytest.mark.parametrize("kind", masks.KINDS)
def test_a_mask_is_its_images_own_however_the_batch_is_ordered_or_cut(kind):
    indices = torch.randperm(1000, generator=torch.Generator().manual_seed(0))[:40]
    whole = example(kind, indices)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    assert torch.equal(example(kind, indices[order]), whole[order])
    assert torch.equal(torch.cat([example(kind, part) for part in indices.split(7)]), whole)
    assert not torch.equal(example(kind, indices, epoch=4), whole)
    assert not torch.equal(example(kind, indices, crop=0), whole)
    assert len(whole.unique(dim=0)) > 20


def on_a_process(kind: str) -> torch.Tensor:
    return example(kind, torch.arange(10))


@pytest.mark.long
def test_processes_have_the_same_masks():
    for kind in masks.KINDS:
        assert all(torch.equal(found, on_a_process(kind)) for found in on(2, on_a_process, kind))


@pytest.mark.parametrize("kind", HALF_KINDS)
@pytest.mark.parametrize("share", [0.02, 0.1, 0.3, 0.6, 0.75, 0.98])
def test_counts_are_exact(kind, share):
    mask = example(kind, torch.arange(200), share)
    count = max(1, round(N * share))
    assert mask.sum(1).tolist() == [count] * 200
    found = masks.places(mask, count)
    assert torch.equal(found, found.sort(dim=1).values)
    assert torch.equal(torch.zeros_like(mask).scatter(1, found, True), mask)  # none twice


@pytest.mark.parametrize("grid", [(1, 1), (2, 2), (3, 5), (7, 7), (14, 14)])
def test_grids_of_all_sizes_have_exact_counts_too(grid):
    patches = grid[0] * grid[1]
    drawn = masks.words(0, 0, torch.arange(50), 0, masks.words_needed(patches))
    for count in {0, 1, patches // 2, patches - 1}:
        for mask in (
            masks.random(drawn[:, :patches], count), masks.cells(drawn, grid, 2, count), masks.block(drawn, grid, count),
            masks.inverse_block(drawn, grid, count), masks.inverse_block(drawn, grid, count, roll=False),
        ):
            assert mask.shape == (50, patches)
            assert (mask.sum(1) == count).all()


def test_each_image_may_have_a_count_of_its_own():
    counts = torch.arange(50)
    mask = masks.block(words(torch.arange(50)), GRID, counts)
    assert torch.equal(mask.sum(1), counts)
    found = masks.places(mask, 49)
    assert torch.equal(mask.gather(1, found), torch.arange(49)[None] < counts[:, None])  # what is not masked comes last


def test_random_masks_are_even_and_independent():
    mask = example("random", torch.arange(MANY)).double()
    assert (mask.mean(0) - 0.5).abs().max() < 5 * 0.5 / MANY**0.5  # five standard deviations
    together = (mask.T @ mask / MANY)[~torch.eye(N, dtype=torch.bool)]  # two patches both masked: 32·31 / 64·63
    assert (together - 32 * 31 / (64 * 63)).abs().max() < 6 * 0.5 / MANY**0.5


def test_cells_are_squares_of_the_paper():
    mask = masks.cells(words(torch.arange(100)), GRID, 2, 4 * 10).view(100, 4, 2, 4, 2)
    inside = mask.permute(0, 1, 3, 2, 4).flatten(3)  # B,4,4,4 patches of a cell
    assert torch.equal(inside.all(3), inside.any(3))
    assert (inside.all(3).sum((1, 2)) == 10).all()


def test_block_masks_are_blocks():
    """Masked patches have masked neighbors much more often than at random; a single block of the image's size fits too."""
    beside = lambda mask: (mask.view(-1, 8, 8)[:, :, 1:] & mask.view(-1, 8, 8)[:, :, :-1]).sum((1, 2)).float().mean()  # noqa: E731
    indices = torch.arange(1000)
    assert beside(example("block", indices)) > 1.35 * beside(example("random", indices))
    coverage = example("block", torch.arange(MANY)).double().mean(0).view(8, 8)
    assert coverage[3:5, 3:5].mean() > coverage[0, 0]  # blocks lie inside the image


def test_the_last_row_and_column_are_reached_as_the_first():
    """The authors' I-JEPA code never has them; 5 standard deviations of a share of MANY images."""
    for kind in ("block", "inverse_block", "multiblock"):
        mask = example(kind, torch.arange(MANY)).double().view(MANY, 8, 8).mean(0)
        for first, last in ((mask[0], mask[-1]), (mask[:, 0], mask[:, -1])):
            assert (first.mean() - last.mean()).abs() < 5 * 0.5 / MANY**0.5
    assert example("multiblock", torch.arange(MANY)).view(MANY, 8, 8)[:, -1].any()


def test_a_rolled_inverse_block_is_flat_and_one_that_is_not_is_central():
    rolled, inside = (1 - example(kind, torch.arange(MANY), 0.65).double().mean(0) for kind in
                      ("inverse_block_roll", "inverse_block"))
    assert (rolled - rolled.mean()).abs().max() < 5 * 0.5 / MANY**0.5
    assert inside.view(8, 8)[3:5, 3:5].mean() > 2 * inside.view(8, 8)[0, 0]


def test_target_blocks_are_rectangles_outside_the_context():
    seen = set()
    for step in range(60):
        sizes = masks.block_sizes(0, step, GRID)
        (height, width), N_context = sizes.target, N - 4 * sizes.target[0] * sizes.target[1]
        assert 0.1 < height * width / N < 0.26  # 15 to 20 %, rounded to whole patches
        seen.add(sizes)
        blocks = masks.multiblock(words(torch.arange(20)), GRID, sizes)
        assert blocks.targets.shape == (20, 4, height * width)
        assert blocks.context.shape == (20, N_context)
        for context, targets in zip(blocks.context.tolist(), blocks.targets.tolist(), strict=True):
            assert len(set(context)) == N_context
            assert not set(context) & {place for target in targets for place in target}
            for target in targets:
                rows, columns = {place // 8 for place in target}, {place % 8 for place in target}
                assert (len(rows), len(columns), len(set(target))) == (height, width, height * width)
                assert max(rows) - min(rows) == height - 1
                assert max(columns) - min(columns) == width - 1
    assert len(seen) > 5


def test_a_grid_without_room_for_a_context_is_refused():
    with pytest.raises(ValueError, match="too small for 4 target blocks"):
        masks.multiblock(words(torch.arange(2)), (2, 2), masks.block_sizes(0, 0, (2, 2)))


def test_a_prefix_is_a_first_stretch():
    mask = masks.prefix(words(torch.arange(MANY)), 16, 2, 15)
    lengths = (~mask).sum(1)
    assert torch.equal(mask, torch.arange(16)[None] >= lengths[:, None])
    assert set(lengths.tolist()) == set(range(2, 16))
