"""What a choice is worth: trained by ssl.pretrain in a folder of its own, judged on validation images.

Nothing here looks at a test split. A trial's folder is a run like any other: `python -m ssl.pretrain` can go on with it.
"""
import contextlib
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch

import ssl.pretrain
from core import checkpoint, cli, training
from core.distributed import World, end_with_parent
from core.errors import RunError, Stopped
from core.method import Batch
from core.settings import PretrainSettings, types_of
from linear_eval.features import collect, evenly, images_of, normalize_images, of_encoder, rankme
from linear_eval.knn import knn_accuracy
from linear_eval.probe import logistic_accuracy
from nas import proxies, space
from nas.entry import Entry, Lost, run_folders
from nas.retry import StorageError
from nas.sampler import excess
from nas.settings import PROXIES, SearchSettings, limits, objectives, tuned
from nas.space import Choice
from vision import artifact, cost, encoders, loaders
from vision.augment import Recipe
from vision.splits import Dataset

BANK = 10_000  # training images that vote, evenly drawn
BATCH = 64  # of latency_batch
PATIENCE = 120.0  # seconds that a training may take to save and end
STARTUP = 1800  # seconds: the longest that a training may take to its first step
SCORED = 64  # images that a proxy sees at a time
OURS = set(types_of(SearchSettings)) - set(types_of(PretrainSettings))  # settings that pretraining does not know


def foretold(proxy: str, choice: Choice, settings: SearchSettings, data: Dataset) -> float | dict[str, float]:
    """A proxy's score of the encoder as training would begin with it; "az"'s figures, which `proxies.az_score` joins."""
    torch.manual_seed(settings.seed)
    encoder = encoders.build(choice.spec)
    match proxy:
        case "parameters":
            return cost.parameters(encoder)
        case "macs":
            return cost.macs(encoder)
        case "synflow":
            return proxies.synflow(encoder)
        case "naswot":
            return proxies.naswot(encoder, some_images(data, encoder.spec))
        case "az":
            noise = torch.Generator().manual_seed(settings.seed)
            return proxies.az(encoder, torch.randn(some_images(data, encoder.spec).shape, generator=noise))
        case "zico":
            return proxies.zico(encoder, some_losses(settings, data, encoder))
    raise ValueError(f"proxy={proxy}: there are {', '.join(PROXIES)}")


def some_images(data: Dataset, spec: encoders.Spec) -> torch.Tensor:
    images = images_of(data.pretrain, evenly(len(data.pretrain), SCORED), spec.image_size, spec.channels)
    return normalize_images(images, torch.tensor(data.mean), torch.tensor(data.std))


def some_losses(settings: SearchSettings, data: Dataset, encoder) -> list[Callable[[], torch.Tensor]]:
    """The method's loss of two batches."""
    method = training.build_method(settings, encoder)
    method.prepare(len(data.pretrain), SCORED)
    card = artifact.Card(encoder.spec, data.mean, data.std, encoder.dim, {})
    views = batches(settings, data.pretrain, card, SCORED, settings.seed, torch.device("cpu"))
    return [lambda batch=batch: method(batch, 0.0)[0] for batch in islice(views, 2)]


def batches(
    settings: PretrainSettings, split, card: artifact.Card, size: int, seed: int, device: torch.device
) -> Iterator[Batch]:
    """An epoch of the split's views, as an encoder of this card is trained on them."""
    recipe = Recipe(card.spec.image_size, card.mean, card.std, **cli.plain(settings.augment))
    deal = loaders.Plan(len(split), size, seed, World(0, 1, 0, 1, device))
    return loaders.loader(split, recipe, deal, card.spec.channels, 0).batches(0, deal.steps_an_epoch)


class Starting:
    """Signs of life from a thread while images are listed and processes start: no step shows any. Not for longer than
    `STARTUP`, as a training may hang there too.
    """

    def __init__(self, beat: Callable[[], None]):
        self.beat, self.over = beat, threading.Event()

    def __enter__(self) -> "Starting":
        threading.Thread(target=self._run, daemon=True).start()
        return self

    def __exit__(self, *error) -> None:
        self.over.set()

    def _run(self) -> None:
        end = time.monotonic() + STARTUP
        with contextlib.suppress(Stopped, Lost, StorageError):  # the main thread meets them too
            while not self.over.wait(0.5) and time.monotonic() < end:
                self.beat()


class Beating:
    """A listener of a run: each step is a sign of life, and the end of its start."""

    def __init__(self, beat: Callable[[], None], starting: Starting):
        self.beat, self.starting = beat, starting

    def tick(self, step: int) -> None:
        self.starting.over.set()
        self.beat()

    def log(self, step: int, row: dict) -> None:
        pass

    def close(self) -> None:
        pass


class Train:
    """Evaluator (nas/scheduler.py): self-supervised pretraining, resumed from rung to rung."""

    def __init__(self, settings: SearchSettings, device: torch.device, data: Dataset):
        self.settings, self.device, self.limits, self.data = settings, device, limits(settings.limit), data
        self.names = {*objectives(settings.objectives), *self.limits}
        flat = cli.flat(settings)
        tune = tuned(settings.tune, flat)
        shared = dict(channels=self.data.channels, size=settings.image_size, tune=tune, flat=flat)
        chosen = space.named(settings.space)
        self.choose = partial(space.choose, space=chosen, **shared)
        self.opening = space.opening(settings.space, chosen, **shared)
        if not self.data.classes and {"knn", "logistic"} & self.names:
            raise ValueError(f"objectives={settings.objectives}: data={settings.data.name} has no labels; use loss or rankme")

    # ---- before training

    def costs(self, choice: Choice) -> dict[str, float]:
        encoder, names = encoders.build(choice.spec), self.names
        found = {"parameters": cost.parameters(encoder), "macs": cost.macs(encoder)}
        if "memory" in names:
            found["memory"] = cost.memory(encoder)
        if any(by > 0 for by in excess(found, self.limits).values()):
            return found  # it will not be trained: no clock need run for it
        if names & {"latency", "latency_p95"}:
            one = cost.latency(encoder, self.device)
            found |= {"latency": one["p50"], "latency_p95": one["p95"]}
        if "latency_batch" in names:
            found["latency_batch"] = cost.latency(encoder, self.device, BATCH)["p50"]
        return found

    def best(self, choices: list[Choice]) -> int:
        """Which of these `settings.proxy` would train."""
        found = [self.foretold(choice) for choice in choices]
        return int(np.argmax(proxies.az_score(found) if self.settings.proxy == "az" else found))

    def foretold(self, choice: Choice) -> float | dict[str, float]:
        return foretold(self.settings.proxy, choice, self.settings, self.data)

    # ---- training

    def advance(self, choice: dict, entry: Entry, epochs: float, beat: Callable[[], None]) -> dict[str, float]:
        chosen, out = Choice.from_json(choice), self.folder(entry)
        begin = out.parent / f"{choice['hash']}.safetensors"
        if not begin.exists():
            begin.parent.mkdir(parents=True, exist_ok=True)
            checkpoint.write(begin, self.first(chosen))
        settings = self.pretraining(chosen, begin, out, epochs)
        with Starting(beat) as starting:
            if settings.devices > 1:
                launched(ssl.pretrain.TOOL.module, settings, out, Beating(beat, starting).tick)
            else:
                ssl.pretrain.run(settings, [Beating(beat, starting)])
        beat()
        encoder, card = artifact.load(out / "encoder.safetensors")
        figures = self.judge(encoder, card, BANK, beat)
        if "loss" in self.names:
            figures["loss"] = self.loss(settings, encoder, card, out, beat)
        return figures

    def pretraining(self, choice: Choice, begin: Path, out: Path, epochs: float) -> PretrainSettings:
        """The settings of this trial. Its number of epochs is the search's: the schedule is the whole one's."""
        drop = OURS | {"encoder", "out", "until", "report", "image_size"}
        changes = {**choice.words, "encoder": begin, "out": out, "report": False, "checks": 1, "log_every": 50}
        if epochs < self.settings.epochs:
            changes["until"] = float(f"{epochs:.6g}")
        return cli.derive(ssl.pretrain.TOOL, self.settings, drop, changes=changes)

    def first(self, choice: Choice) -> bytes:
        """Where training begins: the seed's random weights."""
        torch.manual_seed(self.settings.seed)
        encoder = encoders.build(choice.spec)
        recipe = Recipe(choice.spec.image_size, self.data.mean, self.data.std, **cli.plain(self.settings.augment))
        return artifact.dumps(encoder, recipe, {"tool": "nas.search", "choice": choice.json})

    def folder(self, entry: Entry) -> Path:
        """The trial's run folder. After a worker was lost, a copy of what it left: should it wake up, it writes to the old."""
        here, *older = run_folders(self.settings.study, entry)
        if not here.exists():
            before = next((run for run in older if (run / "last.pt").exists()), None)
            if before is not None:
                half = here.with_suffix(".half")
                shutil.rmtree(half, ignore_errors=True)
                half.mkdir(parents=True)
                for name in ("last.pt", "config.yaml", "metrics.jsonl"):
                    if (before / name).exists():
                        shutil.copy2(before / name, half / name)
                half.rename(here)
        return here

    # ---- afterwards

    def judge(self, encoder, card: artifact.Card, bank: int, beat: Callable[[], None]) -> dict[str, float]:
        """What its features are worth on validation images; of as many training images as `bank` says, neighbours are found."""
        encoder.to(self.device)
        figures, names = {}, self.names
        mean, std = torch.tensor(card.mean), torch.tensor(card.std)
        plainly = of_encoder("encoder", encoder, mean, std, self.device, maps=False)

        def describe(images: torch.Tensor) -> torch.Tensor:
            beat()
            return plainly.describe(images)

        source = replace(plainly, describe=describe)
        queries = collect(source, self.data.validation, self.device)
        if names & {"knn", "logistic"}:
            known = collect(source, self.data.train.select(evenly(len(self.data.train), bank)), self.device)
            rows = *known.tensors, *queries.tensors
            if "knn" in names:
                figures["knn"] = knn_accuracy(*rows, len(self.data.classes))
            if "logistic" in names:
                figures["logistic"] = logistic_accuracy(*rows)
        if "rankme" in names:
            figures["rankme"] = rankme(torch.from_numpy(queries.x).float())
        return figures

    @torch.no_grad()
    def loss(self, settings: PretrainSettings, encoder, card, out: Path, beat: Callable[[], None]) -> float:
        """The method's loss on views of validation images, the same views for every trial."""
        method = training.build_method(settings, encoder)
        method.prepare(len(self.data.pretrain), settings.batch_size)
        method.load_state_dict(checkpoint.load(out / "last.pt")["method"])
        method.to(self.device).eval()
        split = self.data.validation
        views = batches(settings, split, card, min(settings.batch_size, len(split)), 0, self.device)
        losses = []
        for batch in views:
            beat()
            losses.append(method(batch, 1.0)[0])
        return float(torch.stack(losses).mean())


class Score(Train):
    """Evaluator without training: what the proxy foretells."""

    def advance(self, choice: dict, entry: Entry, epochs: float, beat: Callable[[], None]) -> dict[str, float]:
        beat()
        return {"proxy": self.foretold(Choice.from_json(choice))}


def launched(module: str, settings: PretrainSettings, out: Path, tick: Callable[[int], None]) -> None:
    """A training on several processes: a command of its own, alive while its figures grow.  tick: called when they did"""
    log = out.with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "wb") as file:
        command = [sys.executable, "-m", module, *cli.save(settings, out.with_suffix(".settings.json"))]
        child = subprocess.Popen(command, stdout=file, stderr=file, preexec_fn=end_with_parent)
        metrics = out / "metrics.jsonl"

        def size() -> int:
            return metrics.stat().st_size if metrics.exists() else 0

        seen = size()
        try:
            while child.poll() is None:
                time.sleep(0.5)
                if (now := size()) != seen:
                    seen = now
                    tick(now)
        finally:
            if child.poll() is None:
                child.terminate()
                try:
                    child.wait(PATIENCE)
                except subprocess.TimeoutExpired:  # it hangs
                    child.kill()
                    child.wait()
    if child.returncode == Stopped.code:
        raise Stopped("stopped by a signal; the same command goes on")
    if child.returncode:
        lines = log.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
        raise RunError(f"{settings.devices} processes ended with code {child.returncode}: {lines[-1]}")
