"""Material → rows of results.json, and the report. On one process, from features alone: the encoder is not run again."""
import json
import time
from collections.abc import Iterator
from dataclasses import replace

from core import cli
from core.run import say
from linear_eval import baselines, heads, knn, probe, report, subsets
from linear_eval.evidence import evidence
from linear_eval.features import Features
from linear_eval.gather import PIXELS, TRAINED, UNTRAINED, Material, is_trained
from linear_eval.outcome import Outcome
from linear_eval.results import averaged, document, row
from linear_eval.settings import EvaluateSettings

ENCODERS = (TRAINED, UNTRAINED)
FIXED = "nothing: fixed"
Bank = tuple[Features, Features, Features]  # train, validation, test


def judge(settings: EvaluateSettings, material: Material, changed: dict, spent: float = 0.0) -> dict:
    """Every protocol of `parts` on every source; writes results.json and the report.  → the content of results.json

    changed: numbers that are not the protocol's; spent: seconds on the material.
    """
    start = time.monotonic()
    protocol, rows, scores = cli.plain(settings.protocol), [], []

    def keep(outcomes: list[Outcome], source: str, images: int, labels, share: float) -> None:
        """One row for an outcome, or for its draws."""
        drawn = [row(outcome, source, images, labels, share) for outcome in outcomes]
        rows.append(averaged(drawn) if len(drawn) > 1 else drawn[0])
        scores.append(outcomes[0].scores)

    for source, share, fitted in material.fitted:
        labels = material.dataset.test.labels.numpy()[fitted.test]
        keep([fitted.outcome], source, fitted.images, labels, share)
    shares = protocol["labels"]["shares"] if "labels" in settings.parts else []
    for source, bank in material.banks.items():
        for share in (1.0, *shares):
            say(f"judging {source}, {100 * share:g} % of the labels")
            draws = range(protocol["labels"]["draws"] if share < 1 else 1)
            drawn = [some(bank, share, settings.seed, draw) for draw in draws]
            each = zip(*(frozen(settings, protocol, source, part, share, material) for part in drawn), strict=True)
            for outcomes in each:
                keep(outcomes, source, len(drawn[0][0].x), bank[2].labels, share)
    results = document(settings, material.encoder, material.dataset, rows, protocol["name"], changed, notes(settings, material))
    if "curve" in settings.parts:
        results["curve"] = list(curves(settings, protocol["curve"], material))
    results["seconds"] = round(spent + time.monotonic() - start, 1)
    material.run.write("results.json", json.dumps(results, indent=1) + "\n")
    report.write(material.run.folder, results, evidence(material, results, scores) if settings.picture else None)
    return results


def some(bank: Bank, share: float, seed: int, draw: int) -> Bank:
    """A share of the labels, in training and validation alike."""
    if share == 1:
        return bank
    train, validation = (part.rows(subsets.share(part.labels, share, seed, draw)) for part in bank[:2])
    return train, validation, bank[2]


def frozen(
    settings: EvaluateSettings, protocol: dict, source: str, bank: Bank, share: float, material: Material
) -> Iterator[Outcome]:
    """What frozen features are worth: each protocol of `parts`, with its settings chosen on the bank's validation images."""
    train, validation, test = bank
    classes, whole = len(material.dataset.classes), share == 1
    labelled = train.last, train.labels, validation.last, validation.labels, test.last
    every = train.x, train.labels, validation.x, validation.labels, test.x
    p, parts = protocol, settings.parts
    if "knn" in parts:
        found = knn.knn_grid(*labelled, classes, p["knn"]["k"] if whole else [p["labels"]["k"]], p["knn"]["temperature"])
        yield found if whole else replace(found, selected_on=FIXED)
    if "linear" in parts and whole:
        n = p["linear"]
        yield heads.linear_heads(
            *every, classes, train.parts, n["rates"], n["epochs"], n["batch_size"], seed=settings.seed, device=material.device
        )
    if "logistic" in parts and (not whole or source in ENCODERS):
        n, given = p["logistic"], labelled
        if settings.smote and whole:
            given = *probe.smote(train.last, train.labels, settings.seed), *labelled[2:]
        found = probe.logistic(*given, classes, n["C"] if whole else [p["labels"]["C"]], n["iterations"], material.device)
        yield found if whole else replace(found, selected_on=FIXED)
    if "ridge" in parts and whole:
        yield probe.ridge(*labelled, classes, p["ridge"]["penalties"], material.device)
    if "baselines" in parts and whole and source not in ENCODERS:
        for name in p["baselines"]["classifiers"]:
            yield baselines.classify(name, *labelled, classes, seed=settings.seed, limit=p["baselines"]["images"])


def curves(settings: EvaluateSettings, p: dict, material: Material) -> Iterator[dict]:
    """Label efficiency: accuracy from so many labels a class, of the encoder and of what it must beat."""
    for source in (*ENCODERS, PIXELS):
        if source in material.banks:
            train, _, test = material.banks[source]
            labelled = train.last, train.labels, test.last, test.labels, len(material.dataset.classes)
            points = probe.label_curve(*labelled, p["per_class"], p["draws"], settings.seed, p["C"], material.device)
            yield {"source": source, "points": points}


def notes(settings: EvaluateSettings, material: Material) -> list[str]:
    dataset, found = material.dataset, [] if is_trained(settings) else ["the encoder has random weights"]
    absent = [c for i, c in enumerate(dataset.classes) if i not in set(dataset.validation.labels.tolist())]
    if absent:
        found.append(f"no validation image of {', '.join(absent[:5])}{', …' if len(absent) > 5 else ''}: they choose nothing")
    if dataset.skipped:
        found.append(f"{len(dataset.skipped)} unreadable files are left out")
    return found
