"""Which costs of deployment a search measures, and what it keeps of them. Imports no torch."""
from collections.abc import Mapping
from dataclasses import dataclass

from nas.settings import DEPLOYED


@dataclass(frozen=True)
class DeploymentCosts:
    """costs: by name; methods: name → how it was measured, of the INT8 accuracy that is yet to come too"""

    costs: dict[str, float]
    methods: dict[str, str]


def missing(names: set[str], known: Mapping[str, float]) -> set[str]:
    """Which costs are to be measured yet.  names: of objectives and limits. An INT8 file shows that there can be one."""
    wanted = (names & {*DEPLOYED}) | ({"int8_size"} if "int8_accuracy" in names else set())
    return wanted - known.keys()
