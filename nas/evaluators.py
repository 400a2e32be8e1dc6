"""Evaluators: a candidate is trained by ssl.pretrain in a folder of its own and measured on validation images.

Nothing here looks at a test split. A trial's folder is a run like any other, which ssl.pretrain can resume until the
trial is over.
"""
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch

import ssl.pretrain
from core import checkpoint, cli, training
from core.method import Batch
from core.processes import World
from core.settings import PretrainSettings, types_of
from linear_eval.features import collect, evenly, images_of, of_encoder, rankme
from linear_eval.knn import knn_accuracy
from linear_eval.probe import logistic_accuracy
from nas import proxies, space
from nas.deployment_costs import DeploymentCosts
from nas.latency_profile import LatencyProfile
from nas.observation import excess
from nas.settings import LATENCY_BATCH, PROXIES, SearchSettings, parse_limits, parse_objectives, parse_tune
from nas.space import Candidate
from nas.training_process import HeartbeatListener, StartupHeartbeat, run_processes
from nas.trial_record import TrialRecord
from vision import artifact, cost, encoders, loaders
from vision.build import augmentation_for, with_fit
from vision.data import build_data
from vision.multilabel import refuse
from vision.pixels import normalize_images
from vision.splits import Dataset

REFERENCE_IMAGES = 10_000  # training images that kNN and logistic regression use, evenly spaced
LABELLED = {"knn", "logistic", "int8_accuracy"}
PROXY_IMAGES = 64  # that a proxy sees at a time
SEARCH_ONLY = set(types_of(SearchSettings)) - set(types_of(PretrainSettings))  # settings that pretraining does not know


def proxy_score(proxy: str, candidate: Candidate, settings: PretrainSettings, data: Dataset) -> float | dict[str, float]:
    """A proxy's score of the encoder as training would begin with it; "az"'s figures, which `proxies.az_score` joins."""
    torch.manual_seed(settings.seed)
    encoder = encoders.build(candidate.spec)
    match proxy:
        case "parameters":
            return cost.parameters(encoder)
        case "macs":
            return cost.macs(encoder)
        case "synflow":
            return proxies.synflow(encoder)
        case "naswot":
            return proxies.naswot(encoder, proxy_images(data, encoder.spec))
        case "az":
            noise = torch.Generator().manual_seed(settings.seed)
            return proxies.az(encoder, torch.randn(proxy_images(data, encoder.spec).shape, generator=noise))
        case "zico":
            return proxies.zico(encoder, proxy_losses(settings, data, encoder))
    raise ValueError(f"proxy={proxy}: there are {', '.join(PROXIES)}")


def proxy_images(data: Dataset, spec: encoders.Spec) -> torch.Tensor:
    images = images_of(data.pretrain, evenly(len(data.pretrain), PROXY_IMAGES), spec.geometry, spec.channels)
    return normalize_images(images, torch.tensor(data.mean), torch.tensor(data.std))


def proxy_losses(settings: PretrainSettings, data: Dataset, encoder) -> list[Callable[[], torch.Tensor]]:
    """The method's loss of two batches."""
    method = training.build_method(settings, encoder)
    method.prepare(len(data.pretrain), PROXY_IMAGES)
    card = artifact.EncoderHeader(encoder.spec, data.mean, data.std, encoder.dim, {}, pixels=data.pixels)
    views = batches(settings, data.pretrain, card, PROXY_IMAGES, settings.seed, torch.device("cpu"))
    return [lambda batch=batch: method(batch, 0.0).loss for batch in islice(views, 2)]


def batches(
    settings: PretrainSettings, split, card: artifact.EncoderHeader, size: int, seed: int, device: torch.device
) -> Iterator[Batch]:
    """An epoch of the split's views, as an encoder of this card is trained on them."""
    recipe = augmentation_for(card, cli.plain(settings.augment))
    deal = loaders.BatchSampler(len(split), size, seed, World(0, 1, 0, 1, device), windows=split.windows)
    return loaders.loader(split, recipe, deal, card.spec.channels, 0).batches(0, deal.steps_an_epoch)


def shaped(candidate: Candidate, settings: SearchSettings, data: Dataset) -> Candidate:
    """The candidate, whose images get its input's shape as `image_fit` says."""
    return replace(candidate, spec=with_fit(candidate.spec, settings.image_fit, data.mean))


@dataclass(frozen=True)
class Bounds:
    """Cost → the most, and the least, that is allowed."""

    limits: dict[str, float]
    least: dict[str, float] = field(default_factory=dict)


class TrainEvaluator:
    """An evaluator (nas/scheduler.py) by self-supervised pretraining, resumed from rung to rung."""

    def __init__(
        self, settings: SearchSettings, device: torch.device, data: Dataset, bounds: Bounds | None = None,
        profile: LatencyProfile | None = None,
    ):
        """bounds: of candidates' costs; None: those of `limit`. profile: predicts latency; None: it is measured"""
        self.settings, self.device, self.data, self.profile = settings, device, data, profile
        self.bounds = bounds or Bounds(parse_limits(settings.limit))
        self.other: TrainEvaluator | None = None  # of another seed
        self.measured = {*parse_objectives(settings.objectives), *self.bounds.limits}
        flat = cli.flat(settings)
        tune = parse_tune(settings.tune, flat)
        shared = dict(channels=self.data.channels, size=settings.image_size, tune=tune, flat=flat)
        function = space.space_by_name(settings.space)
        sampled = partial(space.sample, space=function, **shared)
        self.sample = lambda trial: shaped(sampled(trial), settings, data)
        self.initial = space.initial_params(settings.space, function, **shared)
        if LABELLED & self.measured:
            refuse(self.data.train.labels, f"objectives={settings.objectives}", "use loss or rankme")
        if not self.data.classes and LABELLED & self.measured:
            raise ValueError(f"objectives={settings.objectives}: data={settings.data.name} has no labels; use loss or rankme")

    # ---- before training

    def costs(self, candidate: Candidate) -> dict[str, float]:
        encoder, names = encoders.build(candidate.spec), self.measured
        costs = {"parameters": cost.parameters(encoder), "macs": cost.macs(encoder)}
        if names & {"memory", "peak_memory"}:
            costs["memory"] = cost.memory(encoder)
        if "size" in names:
            costs["size"] = len(self.encoder_file(candidate, encoder)) / 1e6
        if self.profile:
            costs |= self.profile.predict(encoder, names, costs)
        if any(by > 0 for by in excess(costs, self.bounds.limits, self.bounds.least).values()):
            return costs  # it will not be trained: no need to time it
        if names & {"latency", "latency_p95"} - costs.keys():
            one = cost.latency(encoder, self.device)
            costs = {"latency": one["p50"], "latency_p95": one["p95"]} | costs
        if "latency_batch" in names:
            costs["latency_batch"] = cost.latency(encoder, self.device, LATENCY_BATCH)["p50"]
        return costs

    def pick_best(self, candidates: list[Candidate]) -> int:
        """Index of the best by `settings.proxy`."""
        scores = [self.proxy_score(candidate) for candidate in candidates]
        return int(np.argmax(proxies.az_score(scores) if self.settings.proxy == "az" else scores))

    def proxy_score(self, candidate: Candidate) -> float | dict[str, float]:
        return proxy_score(self.settings.proxy, candidate, self.settings, self.data)

    def deployment_costs(self, candidate: dict, heartbeat: Callable[[], None]) -> DeploymentCosts:
        """Costs that take seconds, of random weights.  candidate: its JSON.  Raises NotQuantizable."""
        from nas import deployment  # onnxruntime is loaded where it is needed

        parsed, names = Candidate.from_json(candidate), self.measured
        torch.manual_seed(self.settings.seed)
        encoder = encoders.build(parsed.spec)
        with StartupHeartbeat(heartbeat):
            predicted = {*self.profile.models} if self.profile else set()
            found = deployment.measure(names - predicted, encoder, self.header(parsed, encoder), self.data)
        heartbeat()
        return found

    # ---- training

    def advance(self, candidate: dict, record: TrialRecord, epochs: float, heartbeat: Callable[[], None]) -> dict[str, float]:
        if record.replicate:
            return self.of_seed(record.replicate.seed)._advance(candidate, record, epochs, heartbeat)
        return self._advance(candidate, record, epochs, heartbeat)

    def of_seed(self, more: int) -> "TrainEvaluator":
        """The same with another seed, its validation images and initial weights too. The last one made is kept."""
        if self.other is None or self.other.settings.seed != self.settings.seed + more:
            settings = replace(self.settings, seed=self.settings.seed + more)
            self.other = TrainEvaluator(settings, self.device, build_data(settings), self.bounds, self.profile)
        return self.other

    def _advance(self, candidate: dict, record: TrialRecord, epochs: float, heartbeat: Callable[[], None]) -> dict[str, float]:
        parsed, out = Candidate.from_json(candidate), self.folder(record)
        name = f"{candidate['hash']}-seed{self.settings.seed}" if record.replicate else candidate["hash"]
        begin = out.parent / f"{name}.safetensors"
        if not begin.exists():
            begin.parent.mkdir(parents=True, exist_ok=True)
            checkpoint.write(begin, self.initial_weights(parsed))
        settings = self.pretrain_settings(parsed, begin, out, epochs)
        with StartupHeartbeat(heartbeat) as startup:
            listener = HeartbeatListener(heartbeat, startup)
            if settings.devices > 1:
                run_processes(ssl.pretrain.TOOL.module, settings, out, listener.tick)
            else:
                ssl.pretrain.pretrain(settings, [listener])
        heartbeat()
        encoder, card = artifact.load(out / "encoder.safetensors")
        figures = self.evaluate(encoder, card, REFERENCE_IMAGES, heartbeat)
        if "loss" in self.measured:
            figures["loss"] = self.loss(settings, encoder, card, out, heartbeat)
        return figures

    def pretrain_settings(self, candidate: Candidate, begin: Path, out: Path, epochs: float) -> PretrainSettings:
        """The settings of this trial. Its number of epochs is the search's: the schedule is the whole one's."""
        drop = SEARCH_ONLY | {"encoder", "out", "pause_at", "report", "image_size", "budget"}
        changes = {**candidate.settings, "encoder": begin, "out": out, "report": False, "evals": 1, "log_every": 50}
        changes["seed"] = self.settings.seed
        if epochs < self.settings.epochs:
            changes["pause_at"] = float(f"{epochs:.6g}")
        return cli.derive(ssl.pretrain.TOOL, self.settings, drop, changes=changes)

    def initial_weights(self, candidate: Candidate) -> bytes:
        """The encoder file that training begins with: random weights of the seed."""
        torch.manual_seed(self.settings.seed)
        return self.encoder_file(candidate, encoders.build(candidate.spec))

    def encoder_file(self, candidate: Candidate, encoder) -> bytes:
        recipe = augmentation_for(self.header(candidate, encoder), cli.plain(self.settings.augment))
        return artifact.dumps(encoder, recipe, {"tool": "nas.search", "choice": candidate.json})

    def header(self, candidate: Candidate, encoder) -> artifact.EncoderHeader:
        data = self.data
        return artifact.EncoderHeader(candidate.spec, data.mean, data.std, encoder.dim, {}, pixels=data.pixels)

    def folder(self, record: TrialRecord) -> Path:
        """The trial's run folder. After an expired lease, a copy of the last one: a worker that wakes up writes to its own."""
        folder, *older = record.run_folders(self.settings.study)
        before = next((run for run in older if (run / "last.pt").exists()), None)
        if folder.exists() or before is None:
            return folder
        incomplete = folder.with_suffix(".half")
        shutil.rmtree(incomplete, ignore_errors=True)
        incomplete.mkdir(parents=True)
        for name in ("last.pt", "config.yaml", "metrics.jsonl"):
            if (before / name).exists():
                shutil.copy2(before / name, incomplete / name)
        incomplete.rename(folder)
        return folder

    # ---- afterwards

    def evaluate(
        self, encoder, card: artifact.EncoderHeader, reference_images: int, heartbeat: Callable[[], None]
    ) -> dict[str, float]:
        """How good its features are on validation images, by at most so many training images."""
        encoder.to(self.device)
        figures, names = {}, self.measured
        mean, std = torch.tensor(card.mean), torch.tensor(card.std)
        silent = of_encoder("encoder", encoder, mean, std, self.device, maps=False)

        def describe(images: torch.Tensor) -> torch.Tensor:
            heartbeat()
            return silent.describe(images)

        source = replace(silent, describe=describe)
        queries = collect(source, self.data.validation, self.device)
        if names & {"knn", "logistic"}:
            reference = collect(
                source, self.data.train.select(evenly(len(self.data.train), reference_images)), self.device
            )
            rows = *reference.tensors, *queries.tensors
            if "knn" in names:
                figures["knn"] = knn_accuracy(*rows, len(self.data.classes))
            if "logistic" in names:
                figures["logistic"] = logistic_accuracy(*rows)
        if "rankme" in names:
            figures["rankme"] = rankme(torch.from_numpy(queries.x).float())
        if "int8_accuracy" in names:
            from nas import deployment

            logistic = "logistic" in names and "knn" not in names
            with StartupHeartbeat(heartbeat):
                figures["int8_accuracy"] = deployment.int8_accuracy(
                    encoder, card, self.data, reference_images, logistic=logistic
                )
            heartbeat()
            encoder.to(self.device)
        return figures

    @torch.no_grad()
    def loss(self, settings: PretrainSettings, encoder, card, out: Path, heartbeat: Callable[[], None]) -> float:
        """The method's loss on views of validation images, the same views for every trial."""
        method = training.build_method(settings, encoder)
        method.prepare(len(self.data.pretrain), settings.batch_size)
        method.load_state_dict(checkpoint.load(out / "last.pt")["method"])
        method.to(self.device).eval()
        split = self.data.validation
        views = batches(settings, split, card, min(settings.batch_size, len(split)), 0, self.device)
        losses = []
        for batch in views:
            heartbeat()
            losses.append(method(batch, 1.0).loss)
        return float(torch.stack(losses).mean())


class ProxyEvaluator(TrainEvaluator):
    """The proxy's score, without training."""

    def advance(self, candidate: dict, record: TrialRecord, epochs: float, heartbeat: Callable[[], None]) -> dict[str, float]:
        heartbeat()
        return {"proxy": self.proxy_score(Candidate.from_json(candidate))}
