"""Kernels that are copies of a step's process, in which the libraries are imported already."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning import LocalProvisioner

preloaded = False
"""Whether this process is a copy of the launcher (`lib.launcher`)."""


class Copy:
    """A copy of this process that becomes a kernel when it is told to; used like a Popen.

    It is made before papermill starts threads and an event loop, which do not survive copying.
    """

    stdin = stdout = stderr = None

    def __init__(self):
        context = multiprocessing.get_context("fork")
        orders, self._orders = context.Pipe(duplex=False)
        self._process = context.Process(target=_wait_for_orders, args=(orders, self._orders))
        self._process.start()
        orders.close()
        self.pid = self._process.pid

    def begin(self, command: list[str], cwd: str, env: dict[str, str]) -> None:
        """Become the kernel that a command of a kernelspec, ``python -m ...``, would start."""
        self._orders.send((command[command.index("-m") + 1 :], cwd, env))

    def release(self) -> None:
        """End the copy, if it has not become a kernel, and wait for its end."""
        self._orders.close()
        self._process.join()

    def poll(self) -> int | None:
        """Exit status, negative for a signal; None while it runs."""
        return self._process.exitcode

    def wait(self) -> int | None:
        """Wait for the end; returns the exit status."""
        self._process.join()
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send the process a signal."""
        os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask the process to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the process."""
        self.send_signal(signal.SIGKILL)


def _wait_for_orders(orders: Connection, parents_end: Connection) -> None:
    parents_end.close()
    try:
        argv, folder, environment = orders.recv()
    except EOFError:  # the notebook did not come to start its kernel
        return
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = argv
    runpy.run_module(argv[0], run_name="__main__", alter_sys=True)


class CopyProvisioner(LocalProvisioner):
    """Lets a `Copy` be the kernel instead of a new process."""

    async def launch_kernel(self, cmd: list[str], **kwargs) -> dict:
        """Tell the copy what it is to be; returns how to connect to it."""
        self.process = self.parent.copy
        self.pid = self.pgid = self.process.pid  # it leads a session of its own
        self.cwd = kwargs.get("cwd") or os.getcwd()
        environment = {**kwargs["env"], "JPY_PARENT_PID": str(os.getpid())}
        self.process.begin(cmd, self.cwd, environment)
        return self.connection_info


class CopyKernelManager(AsyncKernelManager):
    """Manager of a kernel that is a `Copy`."""

    copy: Copy

    async def start_kernel(self, **kwargs) -> None:
        """Start the kernel, as the class above does, through `CopyProvisioner`."""
        self.provisioner = CopyProvisioner(kernel_spec=self.kernel_spec, parent=self)
        await super().start_kernel(**kwargs)


@contextmanager
def options() -> Iterator[dict[str, type]]:
    """How papermill is to start its kernel: as a copy, if this process is one of the launcher."""
    if not preloaded:
        yield {}
        return
    copy = Copy()
    try:
        yield {"kernel_manager_class": type("Manager", (CopyKernelManager,), {"copy": copy})}
    finally:
        copy.release()
