"""SLURM on this machine: Debian's munged, slurmctld and a slurmd a node, in a folder and on ports of their own.

A node is a slurmd in namespaces of its own (hostname, mounts), so that several run here and their names resolve inside them.
"""
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

NODES = ("node1", "node2")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "unshare")
OVER = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY")
CONF = """
ClusterName=nolabel
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort={ports[0]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=60
SlurmdTimeout=10
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=bf_interval=1,sched_interval=2
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
GresTypes=license
PartitionName=debug Nodes=ALL Default=YES DefaultTime=10 PriorityTier=1
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF
"""
NODE = "NodeName={name} NodeHostname={name} NodeAddr=127.0.0.1 Port={port} CPUs=4 Feature={name}s Gres=license:2\n"
ENTER = "mount --bind {folder}/hosts /etc/hosts && mount -t tmpfs tmpfs /sys/fs/cgroup && hostname {name} && exec slurmd -D -N "


def lacking() -> str | None:
    """Why no SLURM can be started here."""
    if missing := [name for name in PROGRAMS if not shutil.which(name)]:
        return f"needs {', '.join(missing)} (Debian: apt-get install slurmctld slurmd slurm-client munge)"
    try:
        subprocess.run(["unshare", "--uts", "--mount", "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return "needs to be root, and a kernel that gives namespaces"
    return None


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    found = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return found


def _host(pid: int | str) -> str | None:
    """The hostname's namespace in which a process is."""
    try:
        return os.readlink(f"/proc/{pid}/ns/uts")
    except OSError:  # it ended
        return None


class Slurm:
    """Running from construction to `stop`."""

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="nolabel-slurm-"))
        ports, host = free_ports(1 + len(NODES)), socket.gethostname()
        nodes = "".join(NODE.format(name=name, port=port) for name, port in zip(NODES, ports[1:], strict=True))
        above, partitions = CONF.split("PartitionName", 1)
        conf = f"{above.format(folder=self.folder, host=host, ports=ports)}{nodes}PartitionName{partitions}"
        files = {"slurm.conf": conf, "cgroup.conf": "CgroupPlugin=cgroup/v1\n", "gres.conf": "Name=license Count=2\n"}
        files["hosts"] = f"127.0.0.1 localhost {host} {' '.join(NODES)}\n"
        for name, text in files.items():
            (self.folder / name).write_text(text)
        for name in ("state", *(f"spool/{node}" for node in NODES)):
            (self.folder / name).mkdir(parents=True)
        self.environment = os.environ | {"SLURM_CONF": str(self.folder / "slurm.conf")}
        self.processes: list[subprocess.Popen] = []
        self.nodes: dict[str, subprocess.Popen] = {}
        try:
            self._munge()
            self._start("slurmctld", "slurmctld", "-D", "-c")
            self.await_(lambda: self.call("scontrol", "ping", check=False).count("UP") == 1)
            for name in NODES:
                self._node(name)
            self.await_(self.idle)
        except BaseException:
            self.stop()
            raise

    def _munge(self) -> None:
        key = self.folder / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        files = {"socket": "munge.socket", "key-file": "key", "pid-file": "munge.pid", "seed-file": "seed"}
        self._start("munged", "munged", "-F", "--force", *(f"--{name}={self.folder / file}" for name, file in files.items()))
        self.await_((self.folder / "munge.socket").exists)

    def _node(self, name: str) -> None:
        enter = ENTER.format(folder=self.folder, name=name) + name
        self.nodes[name] = self._start(name, "unshare", "--uts", "--mount", "bash", "-c", enter)

    def _start(self, name: str, *command: str) -> subprocess.Popen:
        with open(self.folder / f"{name}.log", "w") as log:
            self.processes.append(subprocess.Popen(command, stdout=log, stderr=log, env=self.environment))
        return self.processes[-1]

    def stop(self) -> None:
        """Its own processes and jobs alone."""
        if len(self.processes) > 1:
            self.call("scancel", "--user=root", check=False)
            self.await_(lambda: not self.call("squeue", "-h", check=False).strip(), fail=False)
        for process in reversed(self.processes):
            process.terminate()
        for process in self.processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    # ---- what tests ask

    def idle(self) -> bool:
        """Are all nodes up, and is none in use?"""
        return self.call("sinfo", "-h", "-N", "-p", "debug", "-o", "%t").split() == ["idle"] * len(NODES)

    @contextmanager
    def lost(self, name: str) -> Iterator[None]:
        """Without a node and all that runs on it, as if the power went; afterwards it comes back."""
        own = _host(self.nodes[name].pid)
        assert own not in (None, _host("self")), "a namespace of its own, or all of this machine would be killed"
        for pid in [int(path.name) for path in Path("/proc").glob("[0-9]*") if _host(path.name) == own]:
            with suppress(ProcessLookupError):  # it ended meanwhile
                os.kill(pid, signal.SIGKILL)
        self.nodes[name].wait()
        try:
            yield
        finally:
            self._node(name)
            self.await_(self.idle)

    def call(self, *command: str, check: bool = True, timeout: float = 60) -> str:
        """What a command prints, in the test's environment."""
        environment = os.environ | {"SLURM_CONF": self.environment["SLURM_CONF"]}
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)
        assert not check or not ended.returncode, f"{command}: {ended.stderr}"
        return ended.stdout

    def await_(self, done, timeout: float = 90, fail: bool = True) -> None:
        """Wait until done() is true."""
        deadline = time.monotonic() + timeout
        while not done():
            if time.monotonic() > deadline:
                logs = {path.name: path.read_text(errors="replace")[-1500:] for path in self.folder.glob("*.log")}
                assert not fail, f"not within {timeout} s: {logs}"
                return
            time.sleep(0.2)

    def show(self, job: str) -> dict[str, str]:
        """A job's fields, such as JobState and Account."""
        return dict(re.findall(r"(\S+?)=(\S+)", self.call("scontrol", "show", "job", "-o", job)))

    def ended(self, job: str, timeout: float = 300) -> dict[str, str]:
        """Its fields, once it is over and not queued again."""
        self.await_(lambda: self.show(job)["JobState"] in OVER, timeout)
        return self.show(job)
