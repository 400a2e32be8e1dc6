"""The files of docs/examples: what their schedulers read, and commands that the tool understands."""
import shlex

import pytest
import yaml
from commands import ROOT

from core import cli
from core.errors import Stopped
from ssl.pretrain import TOOL

FOLDER = ROOT / "docs" / "examples"
NAMES = ("kubernetes_job.yaml", "skypilot.yaml")


def content(name: str) -> dict:
    return yaml.safe_load((FOLDER / name).read_text())


def words(name: str) -> list[str]:
    """The command of an example, from the tool's name on."""
    found = content(name)
    if name == "skypilot.yaml":
        gpus = found["resources"]["accelerators"].split(":")[1]
        line = shlex.split(found["run"].replace("\\\n", " ").replace("$SKYPILOT_NUM_GPUS_PER_NODE", gpus))
    else:
        (container,) = found["spec"]["template"]["spec"]["containers"]
        line = container["command"] + container["args"]
    return line[line.index("ssl.pretrain") + 1 :]


def test_every_example_is_here():
    assert sorted(path.name for path in FOLDER.iterdir()) == sorted(NAMES)
    page = (ROOT / "docs" / "cluster.md").read_text()
    assert all(f"examples/{name}" in page for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_its_command_is_understood(name):
    overrides, flags = cli.parse(words(name), TOOL.settings)
    assert not flags
    settings = cli.compose(TOOL, overrides)
    assert (settings.encoder, settings.devices) == ("resnet50", 8)


def test_kubernetes_ignores_a_stop_and_gives_up_on_a_mistake():
    spec = content("kubernetes_job.yaml")["spec"]
    pod = spec["template"]["spec"]
    names = {container["name"] for container in pod["containers"]}
    rules = [(rule["action"], rule["onExitCodes"]) for rule in spec["podFailurePolicy"]["rules"] if "onExitCodes" in rule]
    assert {action: codes["values"] for action, codes in rules} == {"Ignore": [Stopped.code], "FailJob": [2]}
    assert all(codes["containerName"] in names and codes["operator"] == "In" for _, codes in rules)
    assert pod["restartPolicy"] == "Never", "podFailurePolicy is refused with another"
    (container,) = pod["containers"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    gpus = container["resources"]["limits"]["nvidia.com/gpu"]
    assert f"--devices={gpus}" in container["args"]


def test_skypilot_recovers_from_a_stop():
    found = content("skypilot.yaml")
    assert found["resources"]["job_recovery"]["recover_on_exit_codes"] == [Stopped.code]
