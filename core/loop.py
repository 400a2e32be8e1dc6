"""The only training loop."""
import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from core import gradcache, graph, optim, signals
from core.errors import Diverged, Stopped
from core.method import Batch, Method, joined
from core.processes import AnyProcess, full, is_sharded, mean, rank, replicate, without_averaging, wrap
from core.run import Run

ADVICE = "try a lower optim.lr, or clip=1 (what was saved before is untouched)"


class StepHook:
    """What else a run does at each step, where progress is the share of the run before it. This one does nothing."""

    def begin(self, progress: float) -> None:
        """Before the step."""

    def backward_done(self, progress: float) -> None:
        """The gradients are there, not yet clipped."""

    def end(self, progress: float) -> None:
        """The weights have moved."""


@dataclass(frozen=True)
class TrainConfig:
    """The numbers of a run."""

    steps: int
    steps_an_epoch: int
    batch_size: int  # images a step, over all processes
    evals: frozenset[int]  # after which steps to evaluate
    rate: Callable[[float], float]  # progress → learning rate
    precision: torch.dtype | None = None  # of autocast; None: none
    accumulate: int = 1
    graph: bool = False  # record forward and backward (core/graph.py)
    chunk: int | None = None  # images of a process that pass the encoder at a time
    decay: Callable[[float], float] | None = None  # progress → weight decay; None: it stays
    should_stop: Callable[[], bool] = lambda: False  # asked before each step: end here? The same on all processes
    pause_at: int | None = None  # after which step to pause; None: at the end
    clip: float | None = None
    clip_by: str = "all"  # all | module: the method's children, each by itself
    seed: int = 0
    log_every: int = 10
    save_seconds: float = 300.0
    hook: StepHook = field(default_factory=StepHook)
    after_first: Callable[[], None] = lambda: None  # what need not be done before this process's first step


def train(
    method: Method,
    batches: Iterator[Batch],
    optimizer: Optimizer,
    config: TrainConfig,
    run: Run,
    device: torch.device,
    evaluate: Callable[[int], dict],
    extra: Callable[[], dict] = dict,
) -> None:
    """Train from the run's last saved step to the last step, or to the pause.

    evaluate(step) → figures of the encoder, may raise to end the run; extra() → what else last.pt must hold.
    """
    autocast = partial(torch.autocast, device.type, config.precision, enabled=config.precision is not None)
    model, meter = replicate(method) if config.chunk else wrap(method), Meter(config.batch_size)
    params = [p for g in optimizer.param_groups for p in g["params"]]
    clipped = optim.parameters_by_module(method) if config.clip_by == "module" else None
    frozen = optim.frozen_parameters(method, optimizer)
    recorded = graph.Step(method, autocast) if config.graph else None
    goal = min(config.pause_at or config.steps, config.steps)
    saved_at, begun = time.monotonic(), run.step
    saves = AnyProcess() if is_sharded(method) else None  # where all take part in one, they agree on when
    with Signals() as stopping:
        signals.place(": the same command resumes from the last save")
        for step in range(run.step, goal):
            if config.should_stop():
                break
            progress, done = step / config.steps, step + 1
            check, end = done in config.evals, done == goal
            logged = method.logs = done % config.log_every == 0 or check or end
            seed(device, config.seed, step)
            config.hook.begin(progress)
            lr = config.rate(progress)
            optim.schedule(optimizer, lr, config.decay and config.decay(progress), progress)

            with meter.waiting():
                batch = next(batches)
            if config.chunk:
                output = gradcache.backward(method, batch, config.chunk, progress, autocast)
                staged = output.staged
                meter.add(output.loss.detach())
            elif recorded:
                output = recorded(batch, progress)
                staged = output.staged
                meter.add(output.loss)
            else:
                parts = []
                for last, piece in pieces(batch, config.accumulate):
                    method.logs = logged and last
                    with contextlib.nullcontext() if last else without_averaging(model):
                        with autocast():
                            output = model(piece, progress)
                        (output.loss / config.accumulate).backward()
                    meter.add(output.loss.detach() / config.accumulate)
                    parts.append(output.staged)
                staged = joined(parts)
            config.hook.backward_done(progress)
            for p in (p for until, held in frozen if progress < until for p in held):
                p.grad = None  # it neither moves nor decays, and gathers no momentum
            gradients = [p.grad for p in params if p.grad is not None]
            norm = get_total_norm(gradients)
            if config.clip and clipped is None:
                clip_grads_with_norm_(params, config.clip, norm)
            for part in clipped or ():
                clip_grads_with_norm_(part, config.clip, get_total_norm([p.grad for p in part if p.grad is not None]))
            optimizer.step()
            optimizer.zero_grad(set_to_none=recorded is None)
            method.after_step(staged, progress)
            config.hook.end(progress)
            meter.step(full(norm))

            stop = stopping.agreed()
            due = time.monotonic() - saved_at > config.save_seconds
            due = saves.any_rank(due) if saves else due
            with meter.excluded():
                if logged:
                    row = {"epoch": done / config.steps_an_epoch, **meter.figures(done), "lr": lr, **_numbers(output.scalars)}
                    run.training = row
                    run.log(done, row | (evaluate(done) if check else {}))
                if check or end or stop or due:
                    meter.check(done, params)
                    run.save(done, method, optimizer, extra())
                    saved_at = time.monotonic()
                if step == begun:
                    config.after_first()
            run.tick(done)
            if stop and not end:
                raise Stopped(f"stopped by a signal at step {done} of {config.steps}; saved: the same command resumes")
        signals.place(" after training, which is saved: the same command does the rest")
        if stopping.agreed_at_last():
            raise Stopped(f"stopped by a signal at step {run.step} of {config.steps}; saved: the same command does the rest")


def seed(device: torch.device, seed: int, step: int) -> None:
    """What draws from torch's generator becomes a function of the step, another on each process.

    Dropout does not (core/dropout.py). Hashed, because the CPU's generator reads no more than the lowest 32 bits of its seed.
    """
    number = int.from_bytes(hashlib.blake2b(f"{seed} {step} {rank()}".encode(), digest_size=8).digest())
    torch.default_generator.manual_seed(number)  # torch.manual_seed asks every kind of device, at 0.3 ms a step
    if device.type == "cuda":
        torch.cuda.manual_seed(number)


def pieces(batch: Batch, count: int) -> Iterator[tuple[bool, Batch]]:
    """(is it the last, a piece of the batch), `count` of them."""
    if len(batch.indices) % count:
        raise ValueError(f"accumulate={count} does not divide the {len(batch.indices)} images of a process")
    parts = batch.split(len(batch.indices) // count)
    yield from ((part is parts[-1], part) for part in parts)


def _numbers(scalars: dict) -> dict[str, float]:
    return {name: float(mean(value)) if isinstance(value, Tensor) else value for name, value in scalars.items()}


class Meter:
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

    @contextlib.contextmanager
    def excluded(self):
        """Time that is not training: evaluating and saving."""
        start = time.monotonic()
        yield
        self.since += time.monotonic() - max(start, self.since)

    def add(self, loss: Tensor) -> None:
        self.piece = self.piece + loss

    def step(self, norm: Tensor) -> None:
        self.losses.append(self.piece)
        self.norms.append(norm)
        self.piece, self.steps = 0.0, self.steps + 1

    def check(self, done: int, params: Sequence[Tensor] = ()) -> None:
        """Raise Diverged when a loss since the last reading, its gradient or a parameter is not finite.

        No process waits for another here: gradients and parameters are the same on all, so all raise alike.
        """
        if self.losses:
            losses, norms = torch.stack(self.losses), torch.stack(self.norms)
            if len(bad := (~(losses + norms).isfinite()).nonzero()):
                step, loss, norm = done - len(losses) + 1 + int(bad[0]), float(losses[bad[0]]), float(norms[bad[0]])
                raise Diverged(f"at step {step} the loss is {loss:.3g} and its gradient's norm {norm:.3g}; {ADVICE}")
        if len(params) and not full(get_total_norm([p.detach() for p in params])).isfinite():
            raise Diverged(f"at step {done} the weights are too large to count; {ADVICE}")

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
    """Signals that ask to stop (core/signals.py) end the run after the step at hand; a second Ctrl-C ends it at once."""

    CAUGHT = signals.STOPPING

    def __enter__(self) -> "Signals":
        self.agreement, self.at, self.longest = AnyProcess(), time.monotonic(), 0.0
        self.scope = signals.deferred()
        self.scope.__enter__()
        return self

    def agreed(self) -> bool:
        """Asked after each step: did a signal come to any process?  The answer is the same on all."""
        now = time.monotonic()
        self.longest, self.at = max(self.longest, now - self.at), now
        signals.alive(self.longest)
        stop = self.agreement.any_rank(signals.requested() is not None)
        if stop:
            signals.answered()
        return stop

    def agreed_at_last(self) -> bool:
        """The same, asked once more when there is no step left."""
        return self.agreement.last(signals.requested() is not None)

    def __exit__(self, *error) -> None:
        signals.patience()
        self.scope.__exit__(*error)
