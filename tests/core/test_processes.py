"""Processes: sums and their gradients, agreement, who a process is, and how a run of many ends."""
import os
import time
from pathlib import Path

import pytest
import torch
from commands import shortened
from processes import forked, on
from torch import Tensor, nn

from core import launch, machine, processes
from core.processes import AnyProcess, gather, local_rows, mean, rank, total, world_size, wrap

ROOT = Path(__file__).resolve().parents[2]
B, D = 3, 2


# ---- collectives: the mean over processes of their losses is one function of all inputs, and gradients are its own


def rows_of(W: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(W * B, D, dtype=torch.float64), torch.randn(W, W * B, D, dtype=torch.float64)


def loss_of(everything: Tensor, upstream: Tensor) -> Tensor:
    """What one process makes of all rows; no two processes make the same."""
    return (everything.sin() * upstream).sum() + everything.square().prod(1).sum() * upstream[0, 0]


def collectives() -> dict:
    W, r = world_size(), rank()
    everything, upstream = rows_of(W)
    mine = local_rows(everything).clone().requires_grad_()
    together = gather(mine)
    loss_of(together, upstream[r]).backward()
    part = torch.full((2,), float(r + 1), requires_grad=True)
    (total(part) * torch.tensor([1.0, r])).sum().backward()
    return {
        "gathered": together.detach(),
        "gradient": mine.grad,
        "total": total(part.detach()),
        "gradient of total": part.grad,
        "mean": mean(torch.tensor(float(r), requires_grad=True)),
        "objects": processes.gather_objects({"rank": r}),
        "broadcast": processes.broadcast_object(("from", r)),
        "half": gather(torch.full((1,), float(r)).bfloat16()).tolist(),
        "strided": gather(torch.arange(4).view(2, 2).T + 10 * r)[2 * r].tolist(),
    }


@pytest.mark.parametrize("W", shortened([2, 4]))
def test_collectives_and_their_gradients(W):
    results = on(W, collectives)
    everything, upstream = rows_of(W)
    everything.requires_grad_()
    sum(loss_of(everything, u) for u in upstream).backward()
    for r, got in enumerate(results):
        assert torch.equal(got["gathered"], everything.detach())
        assert got["total"].tolist() == [W * (W + 1) / 2] * 2
        assert got["gradient of total"].tolist() == [W, W * (W - 1) / 2]
        assert got["mean"].item() == (W - 1) / 2
        assert not got["mean"].requires_grad
        assert got["objects"] == [{"rank": i} for i in range(W)]
        assert got["broadcast"] == ("from", 0)
        assert got["half"] == list(range(W))
        assert got["strided"] == [10 * r, 10 * r + 2]
    joined = torch.cat([got["gradient"] for got in results])
    torch.testing.assert_close(joined, everything.grad, rtol=1e-12, atol=1e-14)  # float64, sums in another order


def test_on_one_process_everything_is_the_identity():
    x = torch.randn(4, 3, requires_grad=True)
    assert gather(x) is x
    assert total(x) is x
    assert torch.equal(local_rows(x), x)
    assert torch.equal(mean(x), x.detach())
    assert processes.gather_objects(1) == [1]
    assert processes.broadcast_object(1) == 1
    assert wrap(net := nn.Linear(2, 2)) is net
    assert [AnyProcess().any_rank(answer) for answer in (False, True)] == [False, True]
    assert (rank(), world_size(), processes.is_main()) == (0, 1, True)


def averaged_gradient() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(rank())  # unlike weights: wrapping makes them alike
    net = nn.Linear(3, 1, bias=False)
    net.register_buffer("own", torch.tensor(float(rank())))
    model = wrap(net)
    torch.manual_seed(7)
    local_rows(model.module(torch.randn(6, 3))).mean()
    x = local_rows(torch.randn(6, 3))
    model(x).square().mean().backward()
    return net.weight.detach(), net.weight.grad, net.own


def test_wrapping_averages_gradients_and_leaves_buffers_alone():
    (weight, gradient, own), (weight_2, gradient_2, own_2) = on(2, averaged_gradient)
    assert torch.equal(weight, weight_2)
    assert torch.equal(gradient, gradient_2)
    assert (own.item(), own_2.item()) == (0, 1)
    torch.manual_seed(7)
    torch.randn(6, 3)
    x, weight = torch.randn(6, 3), weight.requires_grad_()
    (x @ weight.T).square().mean().backward()
    torch.testing.assert_close(gradient, weight.grad, rtol=1e-5, atol=1e-7)  # float32 means of halves


def answers(given: list[list[bool]]) -> list[bool]:
    agreement = AnyProcess()
    heard = []
    for step, answer in enumerate(given[rank()]):
        if step == rank():  # one process is late
            time.sleep(0.2)
        heard.append(agreement.any_rank(answer))
    return heard


def test_agreement_is_alike_everywhere_one_step_later():
    given = [[False, False, False, True, False, False], [False, True, False, False, False, False]]
    first, second = on(2, answers, given)
    assert first == second == [False, False, True, False, True, False]


def fails_in_one() -> None:
    if rank() == 1:
        raise KeyError("boom in one")
    mean(torch.ones(1))


def test_the_tests_own_helper_shows_the_first_error_and_ends():
    start = time.monotonic()
    with pytest.raises(RuntimeError, match=r"process 1 of 2 failed:(.|\n)*boom in one"):
        on(2, fails_in_one)
    assert time.monotonic() - start < 30


# ---- devices and threads


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "tpu"])
def test_a_device_that_does_not_exist_is_refused(name):
    with pytest.raises(ValueError, match=f"device={name}"):
        processes.pick_device(name, 0)


@pytest.mark.parametrize(("variables", "expected"), [
    ({}, 4),
    ({"OMP_NUM_THREADS": "3"}, 3),
    ({"OMP_NUM_THREADS": "3", "TORCHELASTIC_RUN_ID": "none"}, 4),  # torchrun says 1 unless told otherwise
])
def test_a_process_takes_its_share_of_the_cores_and_no_more_than_it_is_told(variables, expected, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(machine, "cpu_quota", lambda: None)
    monkeypatch.setattr(torch, "get_num_threads", lambda: int(variables.get("OMP_NUM_THREADS", 8)))
    for name in ("OMP_NUM_THREADS", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert processes.threads(local_size=2) == expected


# ---- launching: how many processes end

PROCESS = '''
import os, pathlib, signal, sys, time
import torch
from core.guard import run_guarded
from core.processes import mean, session
from core.errors import Stopped

def run():
    with session("cpu") as world:
        guilty, what = world.rank == 1, sys.argv[1]
        mean(torch.ones(1))
        if what == "signal":
            caught = []
            signal.signal(signal.SIGTERM, lambda *_: caught.append(1))
            mean(torch.ones(1))
            if guilty:
                os.kill(os.getppid(), signal.SIGUSR1)
            while not caught:
                time.sleep(0.01)
            raise Stopped("stopped at step 3")
        if guilty:
            pathlib.Path("failing").touch()
            if what == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if what == "exit":
                os._exit(3)
            if what == "raise":
                raise KeyError("boom in one")
            raise ValueError("optim.lr=-1: must be more than 0")
        for _ in range(1200):
            mean(torch.ones(1))
            time.sleep(0.05)
    return 0

sys.exit(run_guarded(run))
'''


def launch_there(folder: Path, what: str) -> int:
    os.chdir(folder)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(folder)])
    return launch.launch("a_process", [what], 2)


def launched(folder: Path, what: str) -> tuple[int, str]:
    (folder / "a_process.py").write_text(PROCESS)
    return forked(launch_there, folder, what)


@pytest.mark.parametrize(("what", "code", "line"), shortened([
    ("kill", 1, "error: process 1 was killed (SIGKILL); the same command continues from the last save"),
    ("exit", 3, "error: process 1 ended with code 3"),
    ("mistake", 2, "error: optim.lr=-1: must be more than 0"),
]))
def test_a_dead_process_ends_all_within_seconds_and_is_told_in_one_line(tmp_path, what, code, line):
    assert launched(tmp_path, what) == (code, line + "\n")
    assert time.time() - (tmp_path / "failing").stat().st_mtime < 20  # the others would go on for a minute


@pytest.mark.long
def test_an_exception_in_one_process_is_shown_once(tmp_path):
    code, said = launched(tmp_path, "raise")
    assert code == 1
    assert said.count("KeyError: 'boom in one'") == said.count("Traceback (most recent call last)") == 1
    assert "onnection" not in said  # what the other then suffered


def test_a_signal_to_the_launcher_reaches_the_processes_and_the_code_requeues(tmp_path):
    assert launched(tmp_path, "signal") == (75, "stopped at step 3\n")
