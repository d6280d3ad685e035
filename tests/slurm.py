"""A SLURM of one node on this machine, for the tests: its own folder, ports and keys."""

import os
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager

DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue")

SETTINGS = """
ClusterName=local
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
SchedulerParameters=sched_interval=1,bf_interval=1
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Why SLURM cannot run here, if it cannot."""
    if os.geteuid() != 0:
        return "the daemons of SLURM are started by root"
    absent = [name for name in DAEMONS if not shutil.which(name)]
    return f"{', '.join(absent)} not installed (Debian: slurm-wlm, munge)" if absent else None


def free_ports(n: int) -> list[int]:
    """Ports that nobody uses."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


@contextmanager
def cluster(folder):
    """Run the daemons; yields the environment in which SLURM's commands find them.

    Snakemake's executor removes SLURM's variables from the environment of a job, so that the
    commands are wrapped.
    """
    host = socket.gethostname().split(".")[0]
    for name in ("state", "spool", "bin"):
        (folder / name).mkdir()
    configuration = folder / "slurm.conf"
    configuration.write_text(SETTINGS.format(host=host, folder=folder, ports=free_ports(2)))
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o600)
    for name in ("sbatch", "srun", "squeue", "sinfo", "scancel", "scontrol", "sacct", "sacctmgr"):
        wrapper = folder / "bin" / name
        wrapper.write_text(
            f'#!/bin/sh\nSLURM_CONF={configuration} exec {shutil.which(name)} "$@"\n'
        )
        wrapper.chmod(0o755)
    paths = {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "SLURM_CONF": str(configuration)}
    environment = {**os.environ, **paths}
    munge = ["munged", "--foreground", "--force"]
    for option, name in (("key", "key"), ("log", "log"), ("seed", "seed"), ("pid", "pid")):
        munge.append(f"--{option}-file={folder / 'munge'}.{name}")
    daemons = []
    try:
        for command in (
            [*munge, f"--socket={folder / 'munge.socket'}"],
            ["slurmctld", "-D", "-c"],
            ["slurmd", "-D"],
        ):
            with open(folder / f"{command[0]}.out", "w") as out:
                daemons.append(subprocess.Popen(command, env=environment, stdout=out, stderr=out))
            time.sleep(1)
        wait_for_node(environment)
        yield environment
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(30)


def wait_for_node(environment: dict, patience: float = 60) -> None:
    """Return when the node takes jobs."""
    deadline = time.time() + patience
    while time.time() < deadline:
        command = ["sinfo", "--noheader", "--format=%T"]
        state = subprocess.run(command, env=environment, capture_output=True, text=True)
        if state.stdout.strip() == "idle":
            return
        time.sleep(0.5)
    raise RuntimeError(f"SLURM's node does not become idle: {state.stdout}{state.stderr}")
