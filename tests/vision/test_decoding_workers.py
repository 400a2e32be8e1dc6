"""Decoding processes that die, hang or find no shared memory end a run in one line, or are done without."""
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data._utils import signal_handling

from core.errors import RunError
from core.processes import World
from vision import workers
from vision.augment import Augmentation
from vision.folder import load_folder
from vision.loaders import BatchSampler, StreamLoader

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker")  # on a machine of one core


class Numbers(Dataset):
    """Item i: the tensor i. At item 3 something happens to the worker."""

    def __init__(self, happens=lambda: None):
        self.happens = happens

    def __len__(self) -> int:
        return 8

    def __getitem__(self, i: int) -> torch.Tensor:
        if i == 3 and os.getpid() != PID:
            self.happens()
        return torch.tensor(i)


PID = os.getpid()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(workers, "POLL", 0.2)


def taken(dataset: Dataset, count: int = 2) -> list[int]:
    return [int(item) for item in workers.items(dataset, count, pin_memory=False)]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_items_come_in_their_order(count):
    assert taken(Numbers(), count) == list(range(8))


def test_a_slow_item_is_waited_for():
    """Many polls, less than the timeout."""
    assert taken(Numbers(lambda: time.sleep(1.5))) == list(range(8))


@pytest.mark.parametrize(("number", "why"), [
    (signal.SIGKILL, "killed by SIGKILL, as happens when memory runs out"),
    (signal.SIGSEGV, "killed by SIGSEGV"),
    (signal.SIGBUS, "--shm-size=8g"),
])
def test_a_killed_worker_is_one_line_that_names_the_way_out(number, why):
    def die():
        signal.signal(signal.SIGBUS, signal.SIG_DFL)
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    handler = signal.getsignal(signal.SIGCHLD)
    with pytest.raises(workers.WorkerFailed) as error:
        taken(Numbers(die))
    assert isinstance(error.value, RunError)
    message = str(error.value)
    assert "\n" not in message
    assert why in message
    assert "--workers 0" in message
    assert signal.getsignal(signal.SIGCHLD) == handler


@pytest.fixture
def torchs_handler(monkeypatch):
    """SIGCHLD's handler as a DataLoader of somebody else in this process leaves it."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    monkeypatch.setattr(signal_handling, "_SIGCHLD_handler_set", False)
    assert len(list(DataLoader(Numbers(), batch_size=None, num_workers=1))) == 8
    assert callable(signal.getsignal(signal.SIGCHLD))
    yield
    signal.signal(signal.SIGCHLD, before)


@pytest.mark.parametrize("other_loader", [False, True])
def test_a_death_is_noticed_by_the_loader_and_not_amid_other_work(request, other_loader):
    """torch's own handler would raise in whatever runs when the worker dies, such as a write of last.pt."""
    if other_loader:
        request.getfixturevalue("torchs_handler")
    iterator = workers.items(Numbers(lambda: os.kill(os.getpid(), signal.SIGKILL)), 1, pin_memory=False)
    assert [int(next(iterator)), int(next(iterator))] == [0, 1]  # the worker is two items ahead
    deadline = time.monotonic() + 60
    while any(child.is_alive() for child in workers.active_children()) and time.monotonic() < deadline:
        time.sleep(0.05)  # other work, in which nothing is raised
    with pytest.raises(workers.WorkerFailed):
        list(iterator)


def test_a_hung_worker_ends_the_wait_and_is_killed(monkeypatch):
    monkeypatch.setattr(workers, "TIMEOUT", 1)
    with pytest.raises(workers.WorkerFailed, match=r"gave no batch for .*--workers 0"):
        taken(Numbers(lambda: os.kill(os.getpid(), signal.SIGSTOP)))
    deadline = time.monotonic() + 60
    while workers.active_children() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not workers.active_children(), "a stopped process would keep this one from ending"


@pytest.mark.parametrize(("error", "why"), [
    (MemoryError(), "no memory left"),
    (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), "no memory left"),
    (RuntimeError("unable to allocate shared memory(shm) for file </torch_1_2>: No space left on device"), "/dev/shm is full"),
])
def test_a_worker_that_lacks_memory_is_one_line(error, why):
    def fail():
        raise error

    with pytest.raises(workers.WorkerFailed, match=why):
        taken(Numbers(fail))


def test_a_fault_of_the_code_keeps_its_traceback():
    def fail():
        raise RuntimeError("timed out after a bug")

    with pytest.raises(RuntimeError, match="timed out after a bug") as error:
        taken(Numbers(fail))
    assert not isinstance(error.value, RunError)


def test_where_no_process_can_be_started_this_one_decodes(monkeypatch, capsys):
    """As without /dev/shm, where semaphores live."""

    def refuse(*arguments, **more):
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr("_multiprocessing.SemLock", refuse)
    monkeypatch.setattr("multiprocessing.synchronize._multiprocessing.SemLock", refuse)
    assert taken(Numbers()) == list(range(8))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("note: workers=2 cannot be started (No such file")


def images(folder: Path) -> Path:
    from PIL import Image

    for i in range(12):
        path = folder / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.frombytes("RGB", (9, 8), bytes((i * 31 + k) % 256 for k in range(9 * 8 * 3))).save(path)
    return folder


def batches(folder: Path, count: int) -> list:
    split = load_folder(folder, "auto", 0.2, 0.1, 0).pretrain
    plan = BatchSampler(len(split), 4, 0, World(0, 1, 0, 1, torch.device("cpu")))
    augmentation = Augmentation(8, (0.5,) * 3, (0.25,) * 3)
    return list(StreamLoader(split, augmentation, plan, 3, count).batches(0, 3))


@pytest.mark.long
def test_with_little_shared_memory_batches_go_through_pipes_and_are_the_same(tmp_path, monkeypatch, capsys):
    expected = batches(images(tmp_path), 0)
    monkeypatch.setattr(workers.os, "statvfs", lambda path: os.statvfs_result((512, 512, 0, 1, 1, 0, 0, 0, 0, 255)))
    for ours, theirs in zip(batches(tmp_path, 2), expected, strict=True):
        assert torch.equal(ours.indices, theirs.indices)
        assert all(torch.equal(a, b) for a, b in zip(ours.views, theirs.views, strict=True))
    assert "note: /dev/shm has 0 MB free" in capsys.readouterr().err


@pytest.mark.parametrize(("free", "needed", "expected"), [(1 << 20, 1 << 19, None), (1 << 20, 1 << 21, 1 << 20)])
def test_shared_memory_is_counted(monkeypatch, free, needed, expected):
    block = 4096
    status = os.statvfs_result((block, block, 0, free // block, free // block, 0, 0, 0, 0, 255))
    monkeypatch.setattr(workers.os, "statvfs", lambda path: status)
    assert workers.shared_memory_short(needed) == expected


def test_a_system_without_such_a_place_is_not_short_of_it(monkeypatch, tmp_path):
    monkeypatch.setattr(workers, "SHARED", tmp_path / "absent")
    assert workers.shared_memory_short(1 << 60) is None
