"""A real SLURM of one node on this machine: munged, slurmctld and slurmd with files and ports of their own.

Needs root and Debian's packages `munge` and `slurm-wlm`. A requeued job starts after seconds and not after minutes: its
credential, which SLURM waits for, is made short-lived.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.faults.calls import free_port

DAEMONS = ("munged", "slurmctld", "slurmscriptd", "slurmd")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel")
SETTINGS = """\
ClusterName=ddt
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=10
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=60
MailProg=/bin/true
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def lacking() -> str:
    """Why no cluster can be started here; empty where one can."""
    missing = [name for name in PROGRAMS if not shutil.which(name)]
    if missing:
        return f"SLURM needs {', '.join(missing)}: apt-get install munge slurm-wlm"
    return "" if os.geteuid() == 0 else "SLURM's daemons need root"


class Cluster:
    """A cluster that runs until `stop`."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ddt-slurm-"))
        self.folder.chmod(0o755)  # munged wants a socket that everyone may reach
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        host = socket.gethostname().split(".")[0]
        settings = SETTINGS.format(folder=self.folder, host=host, controller=free_port(), node=free_port())
        (self.folder / "slurm.conf").write_text(settings)
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        self.env = {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf")}
        files = {"socket": "munge.socket", "key-file": "munge.key", "pid-file": "munged.pid", "log-file": "munged.log"}
        files["seed-file"] = "munged.seed"
        try:
            self.run("munged", *(f"--{option}={self.folder / file}" for option, file in files.items()))
            self.run("slurmctld")
            self.start_node()
        except Exception:
            self.stop()
            raise

    def run(self, *words: str) -> str:
        """What a command of SLURM prints."""
        done = subprocess.run(words, env=self.env, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{words}: {done.stderr} {done.stdout}"
        return done.stdout

    def start_node(self, *words: str) -> None:
        """Start slurmd, and wait until its node takes jobs."""
        self.run("slurmd", *words)
        self.wait(lambda: "idle" in self.run("sinfo", "-h"), "a node")

    def kill_node(self, job: int) -> None:
        """End slurmd and all it started without a word, as a node that loses its power, and start it again.

        Args:
            job: a job that runs; the controller takes one for lost only if it began some time before the node did.
        """
        self.wait(lambda: self.state(job)["RunTime"] >= "00:00:25", f"the start of job {job}")
        daemon = int((self.folder / "slurmd.pid").read_text())
        for process in [daemon, *self.started()]:
            os.kill(process, signal.SIGKILL)
        self.wait(lambda: not self.started(), "the end of a node")
        self.start_node("-b")  # the machine was started anew

    def started(self) -> list[int]:
        """Processes of jobs, which know the place of the cluster's settings."""
        mark, found = f"SLURM_CONF={self.folder}/".encode(), []
        for place in Path("/proc").glob("[0-9]*"):
            try:
                name, variables = (place / "comm").read_text().strip(), (place / "environ").read_bytes()
                alive = "\nState:\tZ" not in (place / "status").read_text()
            except OSError:
                continue
            if mark in variables and alive and name not in DAEMONS:
                found.append(int(place.name))
        return found

    def submit(self, script: Path, *words: str, **variables: str) -> int:
        """Submit a script; the number of the job."""
        call = ["sbatch", "--parsable", *words, str(script)]
        done = subprocess.run(call, env={**self.env, **variables}, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    def state(self, job: int | str) -> dict[str, str]:
        """What `scontrol show job` says of a job, or of a task of an array such as `3_1`."""
        return dict(re.findall(r"(\w+)=(\S*)", self.run("scontrol", "show", "job", str(job))))

    def end(self, job: int | str, seconds: float = 1200) -> dict[str, str]:
        """The state of a job that has ended, when it has."""
        ended = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
        self.wait(lambda: self.state(job)["JobState"] in ended, f"the end of job {job}", seconds)
        return self.state(job)

    def wait(self, until: Callable[[], bool], what: str, seconds: float = 60) -> None:
        """Wait for something.

        Raises:
            TimeoutError: it has not come.
        """
        deadline = time.monotonic() + seconds
        while not until():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what} has not come after {seconds:g} s; logs are in {self.folder}")
            time.sleep(0.3)

    def stop(self) -> None:
        """End every daemon and every job, and remove the files."""
        for process in self.started():
            os.kill(process, signal.SIGKILL)
        for name in reversed(DAEMONS):
            file = self.folder / f"{name}.pid"
            if file.exists():
                os.kill(int(file.read_text()), signal.SIGTERM)
        self.wait(lambda: not any(self.folder.glob("*.pid")), "the end of the daemons")
        shutil.rmtree(self.folder)
