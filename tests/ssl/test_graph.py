"""A recorded step is the loop's. On a CPU by a recorder that replays by calling; on a GPU by CUDA graphs."""
import copy
from functools import partial

import pytest
import torch
from commands import SMALL, run
from small_methods import NAMES, batch, made
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from core import graph, optim
from core.settings import OptimSettings

PLAIN = partial(torch.autocast, "cpu", enabled=False)
STATIC = [name for name in NAMES if made(name).traits.static_step]


class Trace(TorchDispatchMode):
    """Every operation with what of its arguments is no tensor: what a graph holds for good."""

    def __init__(self):
        super().__init__()
        self.operations: list[tuple] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        fixed = [str(a) for a in torch.utils._pytree.tree_leaves((args, kwargs or {})) if not isinstance(a, Tensor)]
        self.operations.append((str(func), *fixed))
        return func(*args, **kwargs or {})


def traced(name: str, step: int, progress: float) -> tuple[list, dict]:
    method, data = made(name), batch(name, step)
    with Trace() as found:
        output = method(data, progress)
        output.loss.backward()
    return found.operations, dict(output.scalars)


def by_calling(work):
    """A recorder for tests: one pass first, as CUDA's has, then the work itself."""
    work()
    return work


@pytest.mark.parametrize("name", STATIC)
def test_a_static_step_does_the_same_whatever_the_batch_and_the_progress(name):
    (first, scalars), (second, _) = traced(name, 0, 0.1), traced(name, 5, 0.9)
    assert first == second
    assert all(isinstance(value, Tensor) for value in scalars.values()), "a number would be logged as it was when recorded"
    waiting = ("_local_scalar_dense", "nonzero", "masked_select")
    assert not [operation for operation, *_ in first if any(name in operation for name in waiting)]


def test_the_comparison_sees_a_number_that_moves():
    assert traced("dino", 0, 0.01)[0] != traced("dino", 0, 0.02)[0]


@pytest.mark.parametrize("name", ["simclr", "nnclr"])
def test_recorded_steps_leave_the_bytes_of_the_loop(name):
    """BatchNorm's statistics, the queue and momentum included; two shapes of views in turn."""
    eager = made(name)
    recorded = copy.deepcopy(eager)
    step = graph.Step(recorded, PLAIN, by_calling)
    optimizers = [optim.build(method, OptimSettings(name="sgd"), 0.1) for method in (eager, recorded)]
    for number in range(6):
        data, progress = batch(name, number, size=16 if number % 3 else 24), number / 6
        outputs = [eager(data, progress), step(data, progress)]
        outputs[0].loss.backward()
        assert torch.equal(outputs[0].loss, outputs[1].loss)
        for method, optimizer, output in zip((eager, recorded), optimizers, outputs, strict=True):
            optimizer.step()
            optimizer.zero_grad(set_to_none=method is eager)
            method.after_step(output.staged, progress)
    for key, value in eager.state_dict().items():
        assert torch.equal(value, recorded.state_dict()[key]), key


@pytest.mark.parametrize(("words", "reason"), [
    (["--graph"], "graph=true: records a step on a GPU, and this run is on cpu; leave it out"),
    (["--graph", "--chunk=8"], "graph=True: must be left out with chunk"),
    (["--graph", "--accumulate=2"], "graph=True: must be left out with accumulate and with devices"),
])
def test_what_cannot_be_recorded_is_refused(tmp_path, words, reason):
    ended = run(*SMALL, "--method=simclr", "--device=cpu", *words, f"--out={tmp_path / 'run'}", logs=tmp_path / "log")
    assert ended.code == 2
    assert reason in ended.err


def test_a_method_whose_loss_changes_with_progress_and_dropout_are_refused():
    gpu = torch.device("cuda")
    assert "DINO may do something else" in (graph.refusal(made("dino"), gpu) or "")
    method = made("simclr")
    assert graph.refusal(method, gpu) is None
    method.encoder.append_module = torch.nn.Dropout(0.1)
    assert "dropout" in (graph.refusal(method, gpu) or "")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", STATIC)
def test_on_a_gpu_losses_of_fifty_steps_are_the_loops(name):
    """cuDNN may choose other kernels while recording: the losses may part by float32's rounding, which fifty steps enlarge."""
    device = torch.device("cuda")
    eager = made(name).to(device)
    recorded = copy.deepcopy(eager)
    step = graph.Step(recorded, partial(torch.autocast, "cuda", enabled=False))
    optimizers = [optim.build(method, OptimSettings(name="sgd"), 0.01) for method in (eager, recorded)]
    for number in range(50):
        data = batch(name, number)
        data = type(data)([view.to(device) for view in data.views], data.indices, data.labels.to(device))
        outputs = [eager(data, 0.5), step(data, 0.5)]
        outputs[0].loss.backward()
        torch.testing.assert_close(outputs[1].loss, outputs[0].loss, rtol=1e-3, atol=1e-5)
        for method, optimizer, output in zip((eager, recorded), optimizers, outputs, strict=True):
            optimizer.step()
            optimizer.zero_grad(set_to_none=method is eager)
            method.after_step(output.staged, 0.5)
