"""The only training loop."""
import contextlib
import math
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Optimizer

from core.distributed import Agreement, mean, rank, world_size, wrap
from core.errors import Diverged, Stopped
from core.method import Batch, Method
from core.run import Run


@dataclass(frozen=True)
class Plan:
    """The numbers of a run."""

    steps: int
    steps_an_epoch: int
    batch_size: int  # images a step, over all processes
    checks: frozenset[int]  # after which steps to look at the features
    rate: Callable[[float], float]  # progress → learning rate
    precision: torch.dtype | None = None  # of autocast; None: none
    accumulate: int = 1
    clip: float | None = None
    seed: int = 0
    log_every: int = 10
    save_seconds: float = 300.0


def train(
    method: Method,
    batches: Iterator[Batch],
    optimizer: Optimizer,
    plan: Plan,
    run: Run,
    device: torch.device,
    observe: Callable[[int], dict],
    extra: Callable[[], dict] = dict,
) -> None:
    """From the run's last saved step to the plan's end.

    observe(step) → figures of the encoder's health, may raise to end the run; extra() → what else last.pt must hold.
    """
    model, window = wrap(method), Window(plan.batch_size)
    params = [p for g in optimizer.param_groups for p in g["params"]]
    saved_at, save = time.monotonic(), lambda step: run.save(step, method, optimizer, extra())
    with Signals() as signals:
        for step in range(run.step, plan.steps):
            progress = step / plan.steps
            torch.manual_seed((plan.seed << 40) + (step << 8) + rank())  # dropout and the like: a function of the step
            for group in optimizer.param_groups:
                group["lr"] = lr = plan.rate(progress)

            with window.waiting():
                batch = next(batches)
            for last, piece in pieces(batch, plan.accumulate):
                with model.no_sync() if world_size() > 1 and not last else contextlib.nullcontext():
                    with torch.autocast(device.type, plan.precision, enabled=plan.precision is not None):
                        loss, scalars = model(piece, progress)
                    (loss / plan.accumulate).backward()
                window.add(loss.detach() / plan.accumulate)
            norm = torch.nn.utils.clip_grad_norm_(params, plan.clip or math.inf)
            optimizer.step()
            optimizer.zero_grad()
            method.after_step(progress)
            window.step(norm)

            done = step + 1
            if done % plan.log_every == 0 or done == plan.steps or done in plan.checks:
                figures = window.figures(done)
                run.log(done, {"epoch": done / plan.steps_an_epoch, **figures, "lr": lr, **_numbers(scalars)})
            if done in plan.checks:
                run.log(done, observe(done))
            stop = signals.agreed()
            due = done in plan.checks or done == plan.steps or time.monotonic() - saved_at > plan.save_seconds
            if due or stop:
                window.check(done)
                save(done)
                saved_at = time.monotonic()
            if stop and done < plan.steps:
                raise Stopped(f"stopped by a signal at step {done} of {plan.steps}; saved: the same command goes on")


def pieces(batch: Batch, count: int) -> Iterator[tuple[bool, Batch]]:
    """(is it the last, a piece of the batch), `count` of them."""
    if len(batch.indices) % count:
        raise ValueError(f"accumulate={count} does not divide the {len(batch.indices)} images of a process")
    views = zip(*(view.chunk(count) for view in batch.views), strict=True)
    labels = [None] * count if batch.labels is None else batch.labels.chunk(count)
    for i, parts in enumerate(zip(views, batch.indices.chunk(count), labels, strict=True)):
        yield i == count - 1, Batch(list(parts[0]), *parts[1:])


def _numbers(scalars: dict) -> dict[str, float]:
    return {name: float(mean(value)) if isinstance(value, Tensor) else value for name, value in scalars.items()}


class Window:
    """Figures since they were last read: mean loss, gradient norm, images a second, share of the time spent waiting.

    Losses stay on the device until then, so the loop never waits for them.
    """

    def __init__(self, batch_size: int):
        self.batch_size = batch_size
        self._clear()

    def _clear(self) -> None:
        self.losses, self.norms, self.steps, self.waited = [], [], 0, 0.0
        self.piece: Tensor | float = 0.0
        self.since = time.monotonic()

    @contextlib.contextmanager
    def waiting(self):
        start = time.monotonic()
        yield
        self.waited += time.monotonic() - start

    def add(self, loss: Tensor) -> None:
        self.piece = self.piece + loss

    def step(self, norm: Tensor) -> None:
        self.losses.append(self.piece)
        self.norms.append(norm)
        self.piece, self.steps = 0.0, self.steps + 1

    def check(self, done: int) -> None:
        """Raise Diverged when a loss since the last reading is not finite, on every process alike."""
        if not self.losses:
            return
        losses, norms = mean(torch.stack(self.losses)), torch.stack(self.norms)
        bad = (~(losses.isfinite() & norms.isfinite())).nonzero()
        if len(bad):
            step = done - len(self.losses) + 1 + int(bad[0])
            raise Diverged(f"the loss or its gradient is {float(losses[bad[0]]):.3g}, no longer finite, at step {step}")

    def figures(self, done: int) -> dict[str, float]:
        self.check(done)
        seconds = time.monotonic() - self.since
        figures = {
            "loss": float(mean(torch.stack(self.losses)).mean()),
            "gradient_norm": float(torch.stack(self.norms).mean()),
            "images_per_second": self.steps * self.batch_size / seconds,
            "waiting_for_data": self.waited / seconds,
        }
        self._clear()
        return figures


class Signals:
    """SIGTERM, SIGUSR1 and Ctrl-C end the run after the step at hand; a second Ctrl-C ends it at once."""

    CAUGHT = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)

    def __enter__(self) -> "Signals":
        self.caught, self.agreement = False, Agreement()
        self.before = {s: signal.signal(s, self._catch) for s in self.CAUGHT}
        return self

    def _catch(self, number, frame) -> None:
        if number == signal.SIGINT and self.caught:
            raise KeyboardInterrupt
        self.caught = True

    def agreed(self) -> bool:
        return self.agreement.any(self.caught)

    def __exit__(self, *_) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
