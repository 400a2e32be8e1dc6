"""An evaluator whose candidates are parts of one supernet (nas/supernet.py)."""
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from filelock import FileLock
from torch import nn

from core import cli
from core.settings import types_of
from linear_eval.features import evenly, images_of
from nas import supernet
from nas.evaluators import SEARCH_ONLY, Bounds, TrainEvaluator
from nas.latency_profile import LatencyProfile
from nas.settings import SearchSettings, SupernetSettings
from nas.space import Candidate
from nas.storage import study_folder
from nas.training_process import run_processes
from nas.trial_record import TrialRecord
from vision import artifact
from vision.build import augmentation_for
from vision.encoders import Spec
from vision.splits import Dataset

BATCHNORM_IMAGES = 2_000  # from which a part's BatchNorm statistics are recomputed


class SupernetEvaluator(TrainEvaluator):
    """At no epochs, the supernet's own weights are evaluated; then training continues from them."""

    def __init__(
        self, settings: SearchSettings, device: torch.device, data: Dataset, bounds: Bounds | None = None,
        profile: LatencyProfile | None = None,
    ):
        super().__init__(settings, device, data, bounds, profile)
        out = study_folder(settings.study) / "supernet"
        out.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(out.with_suffix(".lock")):  # one worker trains it
            if not (out / "encoder.safetensors").exists():
                self.train(out)
        self.encoder, self.card = artifact.load(out / "encoder.safetensors")
        spec, pretrain = self.card.spec, self.data.pretrain
        self.images = images_of(pretrain, evenly(len(pretrain), BATCHNORM_IMAGES), spec.geometry, spec.channels)

    def train(self, out: Path) -> None:
        drop = (SEARCH_ONLY - set(types_of(SupernetSettings))) | {"encoder", "pause_at"}
        settings = cli.derive(supernet.TOOL, self.settings, drop, changes={
            "space": self.settings.space, "out": out, "epochs": float(f"{self.settings.supernet_epochs:g}"), "report": False,
            "evals": 1,
        })
        if settings.devices > 1:
            run_processes(supernet.TOOL.module, settings, out, lambda step: None)
        else:
            supernet.pretrain(settings)

    def part(self, spec: Spec) -> nn.Module:
        return supernet.inherited_encoder(self.encoder, self.card, spec, self.images, self.device)

    def initial_weights(self, candidate: Candidate) -> bytes:
        header = replace(self.card, spec=candidate.spec)
        recipe = augmentation_for(header, cli.plain(self.settings.augment))
        return artifact.dumps(self.part(candidate.spec), recipe, {"tool": supernet.TOOL.module, "choice": candidate.json})

    def advance(self, candidate: dict, record: TrialRecord, epochs: float, heartbeat: Callable[[], None]) -> dict[str, float]:
        if epochs:
            return super().advance(candidate, record, epochs, heartbeat)
        heartbeat()
        return self.evaluate(self.part(Candidate.from_json(candidate).spec), self.card, len(self.images), heartbeat)
