"""Continued pretraining is watched against its start: row 0 of the curve, an alarm, and the weights that are kept.

With labels by kNN on validation images; else by the effective rank of their features (RankMe, arXiv 2210.02885), which compares
encoders of one architecture on the same images, and says less than labels do.
"""
import copy
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor, nn

from core.errors import Declined
from core.run import Run, log_line
from core.settings import PretrainSettings
from ssl.alarm import AGAIN, AT_ONCE, Change, change, hits, is_worse, left_out_hits
from ssl.health import FELL_RANK, Health
from ssl.old_domain import OldDomain, old_domain
from vision.augment import Augmentation
from vision.multilabel import is_multilabel
from vision.splits import Dataset

ADVICE = "try a lower adapt.encoder_lr, or lora"
LABELS = {"knn": "kNN", "knn_map": "kNN mAP", "rankme": "effective rank (RankMe, for want of labels)"}


class Watch(Health):
    """Health whose start is the very weights that training began with, BatchNorm's statistics included.

    The alarm: kNN on validation and training images, or on those of the old domain, is below the start's by more than sampling
    noise (ssl/alarm.py); without labels, or with several an image, the effective rank is below half of the start's.
    """

    recalibrates = False

    def __init__(
        self, settings: PretrainSettings, dataset: Dataset, recipe: Augmentation, device: torch.device, encoder: nn.Module,
        began: str, predicts_pixels: bool = False,
    ) -> None:
        super().__init__(dataset, recipe, device, settings.seed, encoder, began, predicts_pixels)
        self.keep = settings.adapt.keep or "last"
        self.stop = settings.adapt.stop_on_alarm
        several = self.bank is not None and is_multilabel(self.bank.labels)
        self.criterion = "rankme" if self.bank is None else "knn_map" if several else "knn"
        self.old: OldDomain | None = old_domain(settings, recipe, device, encoder.spec)
        self.hits: Tensor | None = None  # of the last measurement
        self.start_hits: dict[str, Tensor] = {}  # "" | "old_" → at the start
        self.best: dict[str, Tensor] | None = None  # weights of the best check, where it beat the start

    # ---- measuring

    def right(self, rows: Tensor, labels: Tensor, z: Tensor, truth: Tensor, positions: Tensor) -> np.ndarray:
        found = super().right(rows, labels, z, truth, positions)
        self.hits = hits(positions, torch.from_numpy(found), len(self.watched))
        return found

    def _scores(self, bank: Tensor, rows: Tensor, watched: Tensor, z: Tensor) -> dict[str, float]:
        figures = super()._scores(bank, rows, watched, z)
        if self.criterion == "knn":
            others = left_out_hits(rows, self.bank.labels[bank], bank, len(self.bank), len(self.classes))
            self.hits = torch.cat([self.hits, others])
        return figures

    def measure(self, encoder: nn.Module) -> dict[str, float]:
        figures = super().measure(encoder)
        if self.old is not None:
            figures |= self.old.measure(encoder)
        for prefix, start in self.start_hits.items():
            changed = change(start, self._hits[prefix])
            figures |= {f"{prefix}lost": changed.lost, f"{prefix}gained": changed.gained}
        return figures

    @property
    def _hits(self) -> dict[str, Tensor]:
        both = {"": self.hits, "old_": self.old.hits if self.old else None}
        return {prefix: found for prefix, found in both.items() if found is not None}

    def calibrated(self, encoder: nn.Module) -> nn.Module:
        return copy.deepcopy(encoder)

    def start(self, encoder: nn.Module) -> None:
        super().start(encoder)
        self.measure_start()  # row 0 of the curve
        self.start_hits = self._hits

    def log_start(self, run: Run) -> None:
        if not any(row["step"] == 0 for row in run.metrics()):
            run.log(0, self.baselines.untrained)

    def state(self) -> dict:
        return super().state() | {"start_hits": self.start_hits, "best": self.best}

    def restore(self, state: dict) -> None:
        super().restore(state)
        self.start_hits, self.best = state["start_hits"], state["best"]

    def check(
        self, step: int, encoder: nn.Module, stop: bool, training: Mapping[str, float] = MappingProxyType({})
    ) -> dict[str, float]:
        """As Health's; keeps the best weights.  Raises Declined, if it is to stop, when two checks in a row are alarming."""
        before = self.best_check[1]
        figures = super().check(step, encoder, stop, training)
        if self.keep == "best" and figures[self.criterion] > before:
            self.best = {name: value.detach().cpu().clone() for name, value in encoder.state_dict().items()}
        last = len(self.history) - 1
        for text in self.alarms(last):
            log_line(f"ALARM at step {step}: {text}; {ADVICE}")
        if self.stop and last and self.declined(last - 1) and (text := self.declined(last)):
            raise Declined(f"adapt.stop_on_alarm: by step {step} {text}; {ADVICE}")
        return figures

    # ---- the alarm

    def declined(self, number: int) -> str:
        """How the encoder was worse than its start on the new images at a check; nothing where it was not."""
        return self._fell("", number) if self.criterion == "knn" else self._narrowed("", number)

    def alarms(self, number: int) -> list[str]:
        old = self._fell("old_", number) or self._narrowed("old_", number)
        return [text for text in (self.declined(number), old) if text]

    def _fell(self, prefix: str, number: int) -> str:
        checks = [figures for _, figures in self.history[: number + 1]]
        if f"{prefix}lost" not in checks[-1]:
            return ""
        changes = [Change(int(figures[f"{prefix}lost"]), int(figures[f"{prefix}gained"])) for figures in checks]
        if not is_worse(changes):
            return ""
        images = "images of the old domain" if prefix else f"of {len(self.watched):,} validation images"
        level = f"p < {AT_ONCE:g}" if changes[-1].p_value < AT_ONCE else f"p < {AGAIN:g} at two checks in a row"
        now, before = checks[-1][f"{prefix}knn"], self.baselines.untrained[f"{prefix}knn"]
        return (f"kNN went from {before:.1f} to {now:.1f} % {images}; of these and training images, {changes[-1].lost} right "
                f"at the start are wrong now, {changes[-1].gained} the reverse, more than chance allows (sign test, {level})")

    def _narrowed(self, prefix: str, number: int) -> str:
        now, before = (figures.get(f"{prefix}rankme") for figures in (self.history[number][1], self.baselines.untrained))
        if now is None or before is None or now >= FELL_RANK * before:
            return ""
        images = " on images of the old domain" if prefix else ""
        return (f"the effective rank{images} is {now:.0f}, less than half of the {before:.0f} at the start (where images have "
                "one label each, kNN is looked at)")

    def verdict(self) -> str:
        alarming = [(step, found) for number, (step, _) in enumerate(self.history) if (found := self.alarms(number))]
        if not alarming:
            return super().verdict()
        step, found = alarming[-1]
        if step == self.history[-1][0]:
            return f"ALARM: {'; '.join(found)}. Beside that: {super().verdict()}"
        steps = ", ".join(str(step) for step, _ in alarming)
        return f"{super().verdict()}; an alarm at step {steps} has passed"

    # ---- what is kept

    @property
    def best_check(self) -> tuple[int, float]:
        """(step, criterion) of the best check, the start, step 0, among them; of equal ones the first."""
        checks = [(0, self.baselines.untrained), *self.history]
        step, figures = max(checks, key=lambda check: check[1][self.criterion])
        return step, figures[self.criterion]

    @property
    def kept_check(self) -> tuple[int, dict[str, float]]:
        """(step, figures) of the weights that are kept; step 0 is the start."""
        start = 0, self.baselines.untrained
        last = self.history[-1] if self.history else start
        if self.keep == "best":
            step = self.best_check[0]
            return next(check for check in (start, *self.history) if check[0] == step)
        worse = last[1][self.criterion] < start[1][self.criterion]
        return start if self.keep == "start-if-worse" and worse else last

    @property
    def latest(self) -> dict[str, float]:
        return self.kept_check[1]

    def kept(self, encoder: nn.Module, start: Callable[[], nn.Module]) -> nn.Module:
        if self.keep == "last" or (self.keep == "start-if-worse" and (self.kept_check[0] or not self.history)):
            return encoder
        if self.kept_check[0] == 0:
            return start()
        encoder = copy.deepcopy(encoder)
        encoder.load_state_dict(self.best)
        return encoder

    def closing(self) -> list[str]:
        """What was kept and why; what became of the old domain."""
        return [self._kept_sentence(), *self._old_sentence()]

    def _old_sentence(self) -> list[str]:
        start, kept = self.baselines.untrained, self.latest
        if "old_knn" in start:
            return [f"Old domain: kNN {kept['old_knn']:.1f} %, at the start {start['old_knn']:.1f} %."]
        if "old_rankme" in start:
            rank, before = kept["old_rankme"], start["old_rankme"]
            return [f"Old domain: effective rank {rank:.1f}, at the start {before:.1f}; it has no labels."]
        return []

    def _kept_sentence(self) -> str:
        name, before = LABELS[self.criterion], self._value(self.baselines.untrained)
        step, figures = self.kept_check
        if step == 0:
            if not self.history:
                which = "weights that training began with" if self.keep == "best" else "last weights"
                return f"Kept: the {which}; no check was made."
            found = "the last ones had a lower" if self.keep == "start-if-worse" else "no check had a higher"
            return f"Kept: the weights that training began with; {found} {name} on validation images than their {before}."
        which = {"best": f"the best by {name} on validation images", "last": "the last"}.get(self.keep, "the last, not worse")
        return f"Kept: the weights of step {step:,}, {which}: {self._value(figures)}, at the start {before}."

    def _value(self, figures: dict[str, float]) -> str:
        return f"{figures[self.criterion]:.1f}{' %' if self.criterion != 'rankme' else ''}"


def health_of(
    settings: PretrainSettings, dataset: Dataset, recipe: Augmentation, device: torch.device, encoder: nn.Module, began: str,
    predicts_pixels: bool = False,
) -> Health:
    """What watches a run: against its start where it goes on from trained weights by `adapt` or `lora`."""
    a = settings.adapt
    if a.on or a.keep is not None or a.old_data is not None or settings.lora:
        return Watch(settings, dataset, recipe, device, encoder, began, predicts_pixels)
    return Health(dataset, recipe, device, settings.seed, encoder, began, predicts_pixels)
