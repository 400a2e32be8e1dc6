"""Who a process is: the variables of torchrun and SLURM are read exactly, or refused in one line."""
import os

import pytest

from core import world
from core.world import environment, first_host, slurm_rendezvous, tasks_per_node

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
SRUN = {"SLURM_PROCID": "9", "SLURM_STEP_NUM_TASKS": "16", "SLURM_LOCALID": "1", "SLURM_STEP_TASKS_PER_NODE": "8(x2)"}
SRUN |= {"SLURM_NODEID": "1", "SLURM_JOB_ID": "4242", "SLURM_STEP_ID": "0", "SLURM_JOB_NODELIST": "node[1-2]"}
UNEQUAL = SRUN | {"SLURM_STEP_NUM_TASKS": "20", "SLURM_STEP_TASKS_PER_NODE": "8(x2),4"}


@pytest.fixture
def variables(monkeypatch):
    """Set these and none else of the kind."""

    def give(given: dict[str, str]) -> None:
        for name in list(os.environ):
            if name.startswith(("SLURM_", "RANK", "WORLD_SIZE", "LOCAL_", "MASTER_")):
                monkeypatch.delenv(name)
        for name, value in given.items():
            monkeypatch.setenv(name, value)

    return give


@pytest.mark.parametrize(("given", "expected"), [
    ({}, None),
    (TORCHRUN, (5, 8, 1, 4)),
    ({"RANK": "0", "WORLD_SIZE": "1"}, (0, 1, 0, 1)),
    ({"WORLD_SIZE": "1"}, None),  # some images set it alone
    ({"RANK": "", "WORLD_SIZE": ""}, None),
    ({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "5"}, (5, 8, 5, 1)),  # a launcher of one's own
    (SRUN, (9, 16, 1, 8)),
    (UNEQUAL | {"SLURM_PROCID": "17", "SLURM_NODEID": "2"}, (17, 20, 1, 4)),  # the third node has four
    (UNEQUAL, (9, 20, 1, 8)),
    (SRUN | {"SLURM_STEP_NUM_TASKS": "1"}, None),  # a batch script, or srun of one task: alone
    ({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, None),  # sbatch without srun has no step
    (SRUN | TORCHRUN, (5, 8, 1, 4)),  # torchrun inside srun: torchrun knows
    (SRUN | {"SLURM_HET_SIZE": "2", "SLURM_STEP_NUM_TASKS": "24"}, (9, 24, 1, 8)),
])
def test_environment(given, expected, variables):
    variables(given)
    assert environment() == expected


@pytest.mark.parametrize(("given", "said"), [
    ({"RANK": "0"}, "RANK=0 without WORLD_SIZE"),
    ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2 without RANK"),
    ({"RANK": "1", "WORLD_SIZE": "2"}, "RANK=1 and WORLD_SIZE=2 without LOCAL_RANK"),
    (TORCHRUN | {"RANK": "8"}, "RANK=8: must be less than 8 (WORLD_SIZE)"),
    (TORCHRUN | {"RANK": "-1"}, "RANK=-1: must be a whole number from 0"),
    (TORCHRUN | {"RANK": "one"}, "RANK=one: must be a whole number"),
    (TORCHRUN | {"WORLD_SIZE": "2.0"}, "WORLD_SIZE=2.0: must be a whole number"),
    (TORCHRUN | {"WORLD_SIZE": "0"}, "WORLD_SIZE=0: must be a whole number from 1"),
    (TORCHRUN | {"LOCAL_RANK": "4"}, "LOCAL_RANK=4: must be less than 4 (LOCAL_WORLD_SIZE)"),
    (SRUN | {"SLURM_STEP_NUM_TASKS": "many"}, "SLURM_STEP_NUM_TASKS=many: must be a whole number"),
    (SRUN | {"SLURM_PROCID": "16"}, "SLURM_PROCID=16: must be less than 16"),
    ({k: v for k, v in SRUN.items() if k != "SLURM_PROCID"}, "SLURM_PROCID is missing"),
    (SRUN | {"SLURM_LOCALID": "8"}, "SLURM_LOCALID=8: must be less than 8 (tasks of this node)"),
    (UNEQUAL | {"SLURM_NODEID": "3"}, "SLURM_NODEID=3: must be less than 3"),
    (UNEQUAL | {"SLURM_NODEID": ""}, "SLURM_NODEID is missing"),
    (UNEQUAL | {"SLURM_NODEID": "2", "SLURM_LOCALID": "4"}, "SLURM_LOCALID=4: must be less than 4"),
    (SRUN | {"SLURM_STEP_TASKS_PER_NODE": "4,2"}, "SLURM_STEP_TASKS_PER_NODE=4,2 is not the 16 tasks"),
    (SRUN | {"SLURM_STEP_TASKS_PER_NODE": "8(x2"}, "SLURM_STEP_TASKS_PER_NODE=8(x2: must be like"),
    (SRUN | {"SLURM_STEP_TASKS_PER_NODE": ""}, "SLURM_STEP_TASKS_PER_NODE=: must be like"),
])
def test_variables_that_make_no_sense_are_one_line(given, said, variables):
    variables(given)
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the text is what the test is about)
        environment()
    assert str(error.value).startswith(said)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("text", "counts"), [("8", [8]), ("8(x2)", [8, 8]), ("8(x2),4", [8, 8, 4]), ("1,2(x3)", [1, 2, 2, 2])])
def test_tasks_per_node(text, counts):
    assert tasks_per_node(text) == counts


@pytest.mark.parametrize(("nodes", "host"), [
    ("node1", "node1"), ("node[1-2]", "node1"), ("gpu[03-05,9]-ib,login", "gpu03-ib"), ("a,b[1-3]", "a"),
    ("rack[2-3]n[07,9]", "rack2n07"), ("n-1.cluster.org,n-2", "n-1.cluster.org"),
])
def test_the_first_host_of_a_list_is_found_without_scontrol(nodes, host):
    assert first_host(nodes) == host


@pytest.mark.parametrize("nodes", ["", "node[1-2", "[", "(null)"])
def test_no_list_of_nodes_is_one_line(nodes):
    with pytest.raises(ValueError, match="no list of nodes"):
        first_host(nodes)


def test_a_step_meets_on_its_own_first_node_at_a_port_of_its_own(variables):
    """A step on a part of a job; two steps of a job, and jobs beside each other, never share a port."""
    variables(SRUN | {"SLURM_STEP_NODELIST": "node2", "SLURM_JOB_NODELIST": "node[1-2]"})
    assert slurm_rendezvous()[0] == "node2"
    ports = []
    for job in range(4_200, 4_300):
        for step in range(8):
            variables(SRUN | {"SLURM_JOB_ID": str(job), "SLURM_STEP_ID": str(step)})
            ports.append(slurm_rendezvous()[1])
    assert len(set(ports)) == 800
    assert min(ports) >= 1024
    assert max(ports) < 32_768, "Linux gives the ports from there to whoever asks for any"


def test_several_processes_without_a_place_to_meet_are_one_line(variables):
    variables(TORCHRUN)
    with pytest.raises(ValueError, match="without MASTER_ADDR"):
        slurm_rendezvous()


@pytest.mark.parametrize(("given", "devices", "said"), [
    ({}, 8, None),
    ({"WORLD_SIZE": "1"}, 2, None),  # nobody started processes: we do
    ({"RANK": "0", "WORLD_SIZE": "1"}, 1, None),
    ({"RANK": "0", "WORLD_SIZE": "1"}, 2, "devices=2: torchrun started 1 process"),
    (TORCHRUN, 1, None),
    (TORCHRUN, 8, None),
    (TORCHRUN, 4, None),  # of each machine
    (TORCHRUN, 2, "devices=2: torchrun started 8 processes"),
    (SRUN, 2, "devices=2: srun started 16 processes"),
    (SRUN | {"SLURM_STEP_NUM_TASKS": "1"}, 2, None),
])
def test_devices_that_contradict_the_launcher_are_refused(given, devices, said, variables):
    variables(given)
    if said is None:
        return world.check_devices(devices)
    with pytest.raises(ValueError, match=said):
        world.check_devices(devices)
