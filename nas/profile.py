"""Measures some networks of a space on this device, and fits a model of latency that a search can use.

    uv run python -m nas.profile --space resnetd --image_size 28 --channels 1 --limit macs:15
    uv run python -m nas.search --space resnetd --data fashion_mnist --objectives knn,int8_latency --latency_profile FILE

The model is ridge regression of log latency on the logarithms of multiply-adds, parameters, layers and the size of all
layers' outputs. Its error is stated of networks left out one at a time.
"""
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from core import cli, training
from core.errors import NotQuantizable, RunError
from core.image_size import size_text
from core.settings import check_allowed
from nas.latency_profile import FIGURES, FigureModel, LatencyProfile, descriptors
from nas.settings import ProfileSettings, parse_limits, parse_space

if TYPE_CHECKING:
    from nas.device_timing import Timed

ROOT = Path(__file__).resolve().parent.parent
TOOL = cli.Tool(
    module="nas.profile",
    primary=ROOT / "nas" / "profile.yaml",
    searched=(),
    summary="Model latency on this device: python -m nas.profile --space resnetd --image_size 28 --channels 1",
    settings=ProfileSettings,
)
LIMITS = ("macs", "parameters", "memory")  # that networks can be kept within before they are measured
SAMPLED = 3  # networks for each one that is measured
DRAWS = 40  # at most, for each
LEAST_NETWORKS = 8  # that could be measured, below which nothing is fitted


def check(settings: ProfileSettings) -> None:
    """Raises ValueError for the first setting that is wrong."""
    check_allowed(settings)
    wrong = {}
    if not set(settings.figures.split(",")) <= set(FIGURES):
        wrong["figures"] = f"some of {', '.join(FIGURES)}, by commas"
    if settings.out != "auto" and not settings.out.endswith(".json"):
        wrong["out"] = "a file's name that ends with .json"
    if not set(parse_limits(settings.limit)) <= set(LIMITS):
        wrong["limit"] = f"of {', '.join(LIMITS)}"
    training.refuse(cli.flat(settings), wrong)
    parse_space(settings.space)


def profile(settings: ProfileSettings) -> Path:
    """Measure, fit and write the profile.  → its file.  Raises ValueError, RunError."""
    check(settings)

    import torch

    from core import checkpoint
    from core.machine import processors, provenance_of
    from core.processes import pick_device
    from core.run import counting, log_line
    from nas.device_timing import DeviceTimer, Place
    from vision import encoders

    out = cli.expand(settings.out)
    if settings.out == "auto":
        name = f"{Path(settings.space.partition(':')[0]).stem}-{size_text(settings.image_size).replace('×', 'x')}.json"
        out = cli.expand("runs") / "profiles" / name
    place = Place(pick_device(settings.device, 0), settings.threads)
    timer = DeviceTimer(settings.figures.split(","), place, settings.channels, settings.image_size)
    networks, rows, timed = spread(settings), [], []
    with counting("measuring networks") as progress:
        for i, network in enumerate(networks):
            progress(i, len(networks))
            torch.manual_seed(settings.seed)
            try:
                timed.append(timer(encoders.build(network.spec)))
            except NotQuantizable as error:
                log_line(f"note: a network is left out: {error}")
                continue
            times = {figure: one.json | {"steady": one.steady} for figure, one in timed[-1].items()}
            rows.append({"encoder": network.spec.json, "descriptors": network.descriptors, "timed": times})
        progress(len(networks), len(networks))
    if len(rows) < LEAST_NETWORKS:
        raise RunError(f"networks={settings.networks}: only {len(rows)} could be measured, too few for a model")
    machine = processors()
    described = [row["descriptors"] for row in rows]
    models = {figure: fit(described, [times[figure] for times in timed]) for figure in timed[0]}
    found = LatencyProfile(models, settings.space, settings.image_size, settings.channels, settings.threads, settings.device,
                           machine)
    document = found.json | {"rows": rows, "limit": settings.limit}
    document |= provenance_of([settings.seed], ("torch", "onnxruntime", "timm", "scikit-learn"))
    out.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.write(out, json.dumps(document, indent=1) + "\n")
    return out


@dataclass(frozen=True)
class Network:
    """spec: encoders.Spec; descriptors: by name, all above 0"""

    spec: object
    descriptors: dict[str, float]


def spread(settings: ProfileSettings) -> list[Network]:
    """So many networks of the space, far from each other in the logarithms of their descriptors.

    Raises ValueError where the space has too few within the limits.
    """
    import numpy as np
    import optuna

    from core.run import counting
    from nas import space
    from nas.observation import excess
    from nas.pareto import diversity_order
    from vision import cost, encoders

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    limits, function, failure = parse_limits(settings.limit), space.space_by_name(settings.space), ""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(settings.seed))
    found: dict[str, Network] = {}
    wanted = SAMPLED * settings.networks
    with counting("sampling networks") as progress:
        for _ in range(DRAWS * settings.networks):
            if len(found) == wanted:
                break
            try:
                candidate = space.sample(study.ask(), function, settings.channels, settings.image_size, [], {})
                if candidate.hash in found:
                    continue
                encoder = encoders.build(candidate.spec)
                known = descriptors(encoder) | ({"memory": cost.memory(encoder)} if "memory" in limits else {})
            except Exception as error:  # whatever the space, timm or torch raise for a point
                failure = f"; one could not be built: {' '.join(str(error).split())[:160]}"
                continue
            if all(by <= 0 for by in excess(known, limits).values()):
                found[candidate.hash] = Network(candidate.spec, {k: v for k, v in known.items() if k != "memory"})
                progress(len(found), wanted)
    if len(found) < LEAST_NETWORKS:
        raise ValueError(f"space={settings.space}: {len(found)} networks were found within limit={settings.limit}, and "
                         f"{LEAST_NETWORKS} are needed{failure}; set a wider limit")
    networks = [*found.values()]
    order = diversity_order(np.log([[*network.descriptors.values()] for network in networks]))
    return [networks[i] for i in order[: settings.networks]]


def fit(described: Sequence[dict[str, float]], timed: "Sequence[Timed]") -> FigureModel:
    """The model of one figure.  described: `descriptors` of each network"""
    import numpy as np
    from scipy.stats import spearmanr
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import LeaveOneOut, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    names = [*described[0]]
    x = np.log([[row[name] for name in names] for row in described])
    y = np.log([one.ratio for one in timed])
    model = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-3, 2, 11)))
    left_out = cross_val_predict(model, x, y, cv=LeaveOneOut())
    error = 100 * np.abs(np.expm1(left_out - y))
    scaler, ridge = model.fit(x, y)
    rank = partial(lambda a, b: float(spearmanr(a, b).statistic), y)

    def by_name(values) -> dict[str, float]:
        return dict(zip(names, map(float, values), strict=True))

    return FigureModel(
        reference=float(np.median([one.reference for one in timed])), intercept=float(ridge.intercept_),
        mean=by_name(scaler.mean_), scale=by_name(scaler.scale_), coefficients=by_name(ridge.coef_),
        median_error=float(np.median(error)), largest_error=float(error.max()),
        spearman=rank(left_out), spearman_macs=rank(x[:, names.index("macs")]),
    )


def run(settings: ProfileSettings) -> int:
    """The command: measure, and print how good the model is."""
    out = profile(settings)
    document = json.loads(out.read_text())
    for name, model in LatencyProfile.from_json(document).models.items():
        unsteady = sum(not row["timed"][name]["steady"] for row in document["rows"])
        print(f"{name}: {len(document['rows'])} networks; each left out in turn, predicted within {model.median_error:.2g} % "
              f"in the median, {model.largest_error:.2g} % at most; Spearman's ρ {model.spearman:.2f} (multiply-adds alone "
              f"{model.spearman_macs:.2f})" + (f"; times of {unsteady} varied too much" if unsteady else ""))
    print(f"file: {out}")
    return 0


def start(settings: ProfileSettings) -> int:
    check(settings)

    from core import guard

    return guard.run_guarded(partial(run, settings))


def main() -> int:
    return cli.main(TOOL, start)


if __name__ == "__main__":
    sys.exit(main())
