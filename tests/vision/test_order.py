"""Orders in windows: every image once, shards kept together, and the plain order where a window holds all."""
import torch

from core import counter_rng
from core.processes import World
from vision.loaders import BatchSampler
from vision.order import Windows


def test_windows_hold_whole_shards():
    shard = torch.tensor([0] * 5 + [1] * 9 + [4] * 3 + [7] * 8 + [9] * 6)
    windows = Windows(shard, 2)
    orders = [windows.permutation(3, epoch) for epoch in range(20)]
    firsts = set()
    for order in orders:
        assert order.sort().values.tolist() == list(range(31))
        seen = shard[order].tolist()
        blocks = []  # by hand: shards that follow each other without another in between, two by two
        while seen:
            pair = list(dict.fromkeys(seen))[:2]
            count = sum(number in pair for number in seen)
            assert set(seen[:count]) == set(pair)
            blocks.append(tuple(sorted(pair)))
            seen = seen[count:]
        assert [len(block) for block in blocks] == [2, 2, 1]
        firsts.add(blocks[0])
    assert len(firsts) > 5
    assert not torch.equal(orders[0], orders[1])
    assert torch.equal(windows.permutation(3, 4), orders[4])


def test_one_window_is_the_order_without():
    shard = torch.arange(40) // 7
    assert torch.equal(Windows(shard, 6).permutation(5, 2), counter_rng.permutation(5, 2, 40))
    assert torch.equal(Windows(shard, 100).permutation(5, 2), counter_rng.permutation(5, 2, 40))


def test_processes_share_a_window():
    """What one process sees is what two see together; looking ahead into the next epoch changes nothing."""
    windows = Windows(torch.arange(64) // 8, 2)
    worlds = [World(0, 1, 0, 1, torch.device("cpu")), *(World(r, 2, r, 2, torch.device("cpu")) for r in range(2))]
    one, *two = (BatchSampler(64, 16, 0, world, windows=windows) for world in worlds)
    for step in range(8):
        one.at(step + 3)
        both = torch.cat([deal.at(step)[1] for deal in two])
        assert sorted(both.tolist()) == sorted(one.at(step)[1].tolist())
        assert len((one.at(step)[1] // 8).unique()) <= 2
