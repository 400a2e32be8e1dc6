"""Suites of data sets: a yaml of linear_eval/suite_files, each data set with its metric. No torch here."""
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core import cli

FOLDER = Path(__file__).with_name("suite_files")  # a folder called suite would be a group of Hydra's
TOP1, PER_CLASS, MAP, MAP11 = METRICS = ("top-1", "mean per class", "mAP", "11-point mAP")


@dataclass(frozen=True)
class SuiteSet:
    """changes: dotted settings that make an evaluation one of this data set. needs: the folder below data.root that holds it"""

    name: str
    metric: str
    needs: str
    changes: dict[str, Any]


@dataclass(frozen=True)
class Suite:
    """missing: data sets that belong to it and that no reader here has → why"""

    name: str
    about: str
    sets: list[SuiteSet]
    missing: dict[str, str] = field(default_factory=dict)

    def absent(self, root: str | None) -> dict[str, str]:
        """The sets that are not on this machine → why.  root: data.root; None: data/"""
        where = cli.expand(root or "data")
        return {one.name: f"{where / one.needs} is not there" for one in self.sets if not (where / one.needs).is_dir()}

    def present(self, root: str | None) -> list[SuiteSet]:
        """The sets that are on this machine.  Raises ValueError where none is."""
        absent = self.absent(root)
        if len(absent) == len(self.sets):
            raise ValueError(f"suite={self.name}: none of its data sets is there ({next(iter(absent.values()))}, …); set "
                             "data.root to the folder that holds torchvision's copies")
        return [one for one in self.sets if one.name not in absent]


def named_suites() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read_suite(name: str) -> Suite:
    """The suite of that file.  Raises ValueError for a metric that there is not."""
    from omegaconf import OmegaConf

    content: Any = OmegaConf.to_container(OmegaConf.load(FOLDER / f"{name}.yaml"))
    shared = {"subset": content["subset"], "+data.validation": 0} if "subset" in content else {}
    sets = []
    for key, entry in content["sets"].items():
        metric, needs = entry.pop("metric"), entry.pop("needs")
        if metric not in METRICS:
            raise ValueError(f"suite={name}: {key} has the metric {metric}; there are {', '.join(METRICS)}")
        sets.append(SuiteSet(key, metric, needs, entry | shared))
    return Suite(name, content["about"], sets, content.get("missing", {}))
