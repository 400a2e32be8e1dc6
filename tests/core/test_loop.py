"""The loop, with a method of three numbers: what it does at which step, and what it refuses to go on with."""
import math
import os
import signal
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from core import checkpoint
from core.errors import Diverged, Stopped
from core.loop import Meter, Signals, TrainConfig, pieces, seed, train
from core.method import Batch, Method, Output, Record
from core.run import Run


@dataclass(frozen=True)
class Staged(Record):
    rows: Tensor  # B


@dataclass(frozen=True)
class Images(Record):
    images: Tensor  # B,3


class Regression(Method):
    """Mean squared distance to the batch's images: a mean over rows, so pieces of a batch add up."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(3, 3)
        self.seen: list[tuple] = []

    def forward(self, batch, progress):
        self.seen.append(("forward", progress))
        return Output((self.encoder(batch.views[0]) - batch.views[1]).square().mean(), {"half": 0.5}, Staged(batch.indices))

    def after_step(self, staged, progress):
        assert staged.rows.tolist() == list(range(8))  # of all pieces
        self.seen.append(("after", progress))


def batches(start=0, poison=None):
    for step in range(start, 1000):
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
        yield Batch([x, x.flip(1) * (math.nan if step == poison else 1)], torch.arange(8))


def plan(steps=10, **changes) -> TrainConfig:
    given = {"steps_an_epoch": 4, "batch_size": 8, "evals": frozenset(), "rate": lambda p: 0.1 * (1 - p)} | changes
    return TrainConfig(steps=steps, **given)


def trained(folder, the_plan, optimizer=torch.optim.SGD, evaluate=lambda step: {}, poison=None, lr=0.1):
    torch.manual_seed(0)
    method = Regression()
    run = Run(folder, {})
    run.begin()
    device = torch.device("cpu")
    train(method, batches(run.step, poison), optimizer(method.parameters(), lr), the_plan, run, device, evaluate)
    return method, run


def test_the_order_of_a_step_and_its_progress(tmp_path):
    method, _ = trained(tmp_path, plan(4))
    assert method.seen == [(what, step / 4) for step in range(4) for what in ("forward", "after")]


def test_it_is_gradient_descent(tmp_path):
    """The same updates as torch's SGD in five lines."""
    method, _ = trained(tmp_path, plan(5))
    torch.manual_seed(0)
    other = Regression()
    for step, batch in zip(range(5), batches(), strict=False):
        loss = other(batch, 0.0).loss
        gradients = torch.autograd.grad(loss, list(other.parameters()))
        for p, g in zip(other.parameters(), gradients, strict=True):
            p.data -= 0.1 * (1 - step / 5) * g
    assert torch.allclose(method.encoder.weight, other.encoder.weight, atol=1e-7)  # a float32 unit


def test_pieces_add_up_to_the_batch(tmp_path):
    whole, run = trained(tmp_path / "1", plan(log_every=1))
    cut, other = trained(tmp_path / "4", plan(log_every=1, accumulate=4))
    assert torch.allclose(whole.encoder.weight, cut.encoder.weight, atol=1e-6)  # sums in another order, ten steps
    assert [r["loss"] for r in run.metrics()] == pytest.approx([r["loss"] for r in other.metrics()], rel=1e-5)
    assert [what for what, _ in cut.seen[:5]] == ["forward"] * 4 + ["after"]


def test_pieces_keep_rows_together():
    views, boxes = [torch.arange(6.0), torch.arange(6.0) + 10], [torch.arange(30.0).view(6, 5)] * 2
    batch = Batch(views, torch.arange(6), torch.arange(6) + 20, 3, 7, 5, boxes, [torch.arange(6) + 30])
    cut = list(pieces(batch, 3))
    assert [last for last, _ in cut] == [False, False, True]
    for i, (_, piece) in enumerate(cut):
        rows = [2 * i, 2 * i + 1]
        assert piece.indices.tolist() == rows
        assert piece.views[1].tolist() == [r + 10 for r in rows]
        assert piece.labels.tolist() == [r + 20 for r in rows]
        assert piece.boxes[1].tolist() == boxes[1][rows].tolist()
        assert piece.clean[0].tolist() == [r + 30 for r in rows]
        assert (piece.epoch, piece.step, piece.seed) == (3, 7, 5)
    with pytest.raises(ValueError, match="accumulate=4"):
        list(pieces(batch, 4))


class Apart(Regression):
    """The same in two parts."""

    def embed(self, batch):
        return self.encoder(batch.views[0])[:, None]

    def targets(self, batch):
        return Images(batch.views[1])

    def objective(self, features, targets, progress):
        loss = (features[:, 0] - targets.images).square().mean()
        return Output(loss, {"half": 0.5}, Staged(torch.arange(len(features))))


def test_chunks_take_the_place_of_the_batch(tmp_path):
    """The loop's two ways give the same weights and the same log, up to rounding; SGD hides no wrong scale."""
    ends = []
    for name, chunk in (("whole", None), ("chunked", 2)):
        torch.manual_seed(0)
        method, run = Apart().double(), Run(tmp_path / name, {})
        run.begin()
        doubled = (Batch([v.double() for v in b.views], b.indices) for b in batches())
        the_plan = plan(10, chunk=chunk, decay=lambda progress: progress)
        train(method, doubled, torch.optim.SGD(method.parameters(), 0.1), the_plan, run, torch.device("cpu"), lambda step: {})
        ends.append((method.encoder.weight.detach(), [row["loss"] for row in run.metrics()]))
    torch.testing.assert_close(ends[0][0], ends[1][0], rtol=1e-12, atol=1e-12)
    assert ends[0][1] == pytest.approx(ends[1][1], rel=1e-7)  # metrics.jsonl holds 8 digits


def test_weight_decay_follows_its_schedule(tmp_path):
    method, run, seen = Regression(), Run(tmp_path, {}), []
    run.begin()
    optimizer = torch.optim.SGD(method.parameters(), 0.1)
    method.after_step = lambda staged, progress: seen.append(optimizer.param_groups[0]["weight_decay"])
    train(method, batches(), optimizer, plan(4, decay=lambda p: 0.1 + p), run, torch.device("cpu"), lambda step: {})
    assert seen == [0.1, 0.35, 0.6, 0.85]


def test_clipping(tmp_path):
    """Every gradient is longer than 1e-3, so each update is exactly that long (times lr)."""
    torch.manual_seed(0)
    before = Regression().encoder
    method, run = trained(tmp_path, plan(1, clip=1e-3, log_every=1))
    moved = [(a - b).detach().norm() for a, b in zip(method.encoder.parameters(), before.parameters(), strict=True)]
    assert float(torch.stack(moved).norm()) == pytest.approx(0.1 * 1e-3, rel=1e-3)  # weights' own float32 grain
    assert run.metrics()[0]["gradient_norm"] > 0.1, "as it was before clipping"


def test_a_run_that_has_enough_ends_before_the_next_step_and_stays_ended(tmp_path):
    seen = []
    early = plan(10, evals=frozenset({2, 4, 6}), should_stop=lambda: len(seen) >= 2)
    for _ in range(2):  # the second time from what was saved
        _, run = trained(tmp_path, early, evaluate=lambda step: seen.append(step) or {})
        assert seen == [2, 4]
        assert checkpoint.load(run.last)["step"] == 4


def test_when_it_logs_looks_and_saves(tmp_path):
    looked, run_saves = [], []

    def evaluate(step):
        looked.append(step)
        run_saves.append(os.path.exists(tmp_path / "last.pt") and checkpoint.load(tmp_path / "last.pt")["step"])
        return {"rank": 3.0}

    _, run = trained(tmp_path, plan(10, log_every=4, evals=frozenset({3, 9})), evaluate=evaluate)
    assert [row["step"] for row in run.metrics()] == [3, 4, 8, 9, 10], "each step has one row"
    assert [row["step"] for row in run.metrics() if "rank" in row] == looked == [3, 9]
    assert run_saves == [False, 3], "a check is saved after it was passed"
    assert run.step == checkpoint.load(tmp_path / "last.pt")["step"] == 10
    row = run.metrics()[1]
    assert row["epoch"] == 1.0
    assert row["lr"] == pytest.approx(0.07)
    assert row["half"] == 0.5
    assert 0 <= row["waiting_for_data"] <= 1


def test_a_number_that_is_none_ends_the_run_with_its_step(tmp_path):
    with pytest.raises(Diverged, match="at step 7 the loss is nan"):
        trained(tmp_path, plan(20, log_every=5, evals=frozenset({5})), poison=6)
    state = checkpoint.load(tmp_path / "last.pt")
    assert state["step"] == 5
    assert all(t.isfinite().all() for t in state["method"].values())


def test_weights_that_overflow_are_not_saved_over_good_ones(tmp_path):
    """The loss of the last step is still a number; what the update made of the weights is not."""
    with pytest.raises(Diverged, match="at step 1 the weights"):
        trained(tmp_path, plan(1, rate=lambda p: 1e38, log_every=100))
    assert not (tmp_path / "last.pt").exists()


def test_a_signal_saves_and_names_the_step(tmp_path):
    def evaluate(step):
        os.kill(os.getpid(), signal.SIGUSR1)
        return {}

    before = [signal.getsignal(s) for s in Signals.CAUGHT]
    with pytest.raises(Stopped, match="at step 4 of 10") as stopped:  # it came while step 3 was being looked at
        trained(tmp_path, plan(10, evals=frozenset({3})), evaluate=evaluate)
    assert stopped.value.code == 75
    assert checkpoint.load(tmp_path / "last.pt")["step"] == 4
    assert [signal.getsignal(s) for s in Signals.CAUGHT] == before, "handlers are given back"


def test_a_second_ctrl_c_ends_at_once():
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.agreed()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_each_step_has_random_numbers_of_its_own_whatever_the_seed():
    drawn = []
    for number in (0, 1, 20_240_101, 2**63 - 1):
        for step in range(100):
            seed(torch.device("cpu"), number, step)
            drawn.append(tuple(torch.rand(2).tolist()))
    assert len(set(drawn)) == 400
    seed(torch.device("cpu"), 0, 0)
    assert tuple(torch.rand(2).tolist()) == drawn[0]


def test_a_resumed_run_draws_what_an_undisturbed_one_draws(tmp_path):
    """It stops after step 3; step 4 draws what it would have drawn."""

    class Dropping(Regression):
        def forward(self, batch, progress):
            self.seen.append(torch.rand(1).item())
            return super().forward(batch, progress)

    def drawn(folder) -> list[float]:
        method, run, cpu = Dropping(), Run(folder, {}), torch.device("cpu")
        optimizer = torch.optim.SGD(method.parameters(), 0.1)
        run.restore(method, optimizer)
        run.begin()
        try:
            checked = plan(6, evals=frozenset({3}))
            train(method, batches(run.step), optimizer, checked, run, cpu, evaluate)
        except ZeroDivisionError:
            run.save(3, method, optimizer, {})
        return [x for x in method.seen if isinstance(x, float)]

    def evaluate(step):
        return {"inverse": 1 / (0 if hold else step)}

    hold = False
    alone = drawn(tmp_path / "alone")
    hold = True
    first = drawn(tmp_path / "run")
    hold = False
    torch.rand(100)
    assert first + drawn(tmp_path / "run") == alone
    assert len(set(alone)) == 6


def test_time_spent_looking_and_saving_is_not_training_time(monkeypatch):
    from core import loop

    clock = iter([0.0, 10.0, 60.0, 80.0])  # 10 s of steps, 50 s of other things, 20 s of steps
    monkeypatch.setattr(loop.time, "monotonic", lambda: next(clock))
    meter = Meter(batch_size=30)
    meter.step(torch.tensor(1.0))
    with meter.excluded():
        pass
    monkeypatch.setattr(loop.time, "monotonic", lambda: 80.0)
    meter.losses = [torch.tensor(2.0)]
    assert meter.figures(1)["images_per_second"] == pytest.approx(1.0)
