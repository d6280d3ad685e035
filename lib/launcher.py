"""Start a step as a copy of a process that has imported the libraries already.

A kernel takes some 10 s of processor time to import TensorFlow and what comes with it: most of a
short step. Where a chain runs without GPUs, it therefore starts one process that imports them once
and makes a copy of itself (``fork``) for each step; the step makes another one for its kernel
(`lib.kernels`). Copies share the memory of what was imported. No module of `lib` is imported
before the copy is made, so a step runs the code that its receipt names.

``python -m lib.launcher run <step> ...`` takes the arguments of `lib.steps`. It lets that process
run the step, and stays until it has ended; where there is none, it runs the step itself. What a
step costs then is seen in ``tests/benchmarks``.
"""

from __future__ import annotations

import gc
import importlib
import json
import math
import os
import signal
import socket
import socketserver
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from lib.processes import CHAIN, end_with, end_with_the_chain

SOCKET = "SPIRAL_ARMS_LAUNCHER"
"""Environment variable with the place of the socket at which copies are asked for."""

LIBRARIES = (
    "papermill",
    "jupytext",
    "ipykernel.ipkernel",
    "IPython.display",
    "numpy",
    "pandas",
    "pyarrow.parquet",
    "pandera.pandas",
    "scipy.stats",
    "sklearn.metrics",
    "PIL.Image",
    "astropy.io.fits",
    "astropy.table",
    "astropy.visualization",
    "matplotlib.pyplot",
)
"""Imported for every step, while Snakemake reads its rules."""
NETWORKS = (
    "tensorflow",
    "keras",
    "tf_keras_vis.saliency",
    "tf_keras_vis.gradcam_plus_plus",
    "huggingface_hub.file_download",
    "sklearn.linear_model",
)
"""Imported as well from the first step on that trains or explains."""


@dataclass(frozen=True)
class Request:
    """What a copy takes over from the process that asks for it."""

    arguments: list[str]
    folder: str
    environment: dict[str, str]
    files: list[int]
    """Standard input, output and error."""

    @property
    def needs_networks(self) -> bool:
        """Whether the step trains or explains."""
        return "--gpu" in self.arguments


def send(connection: socket.socket, arguments: list[str]) -> None:
    """Ask for a copy that runs `lib.steps` as this process would."""
    text = json.dumps([arguments, os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(connection, [len(text).to_bytes(8, "big")], [0, 1, 2])
    connection.sendall(text)


def receive(connection: socket.socket) -> Request:
    """Read what `send` has sent."""
    length, files, _, _ = socket.recv_fds(connection, 8, 3)
    with connection.makefile("rb") as stream:
        return Request(*json.loads(stream.read(int.from_bytes(length, "big"))), files)


class Launcher(socketserver.ForkingMixIn, socketserver.UnixStreamServer):
    """Makes a copy of this process for each request."""

    max_children = math.inf  # Snakemake knows how many steps may go at a time
    request_queue_size = 128

    def process_request(self, connection: socket.socket, _) -> None:
        """Import what the step needs, then make a copy, in which `finish_request` is called."""
        request = receive(connection)
        if request.needs_networks:
            _import(NETWORKS)
        gc.freeze()  # the collector would write into the pages that copies share
        super().process_request(connection, request)
        for file in request.files:
            os.close(file)

    def finish_request(self, connection: socket.socket, request: Request) -> None:
        """In the copy: run the step and say how it ended."""
        self.socket.close()
        for number, file in enumerate(request.files):
            os.dup2(file, number)
            os.close(file)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.chdir(request.folder)
        os.environ.clear()
        os.environ.update(request.environment)
        end_with(connection.fileno())
        from lib import kernels, steps

        kernels.preloaded = True
        try:
            code = steps.main(request.arguments)
        except SystemExit as end:  # argparse's, of a wrong command
            code = end.code
        sys.stdout.flush()
        connection.sendall(bytes([code]))


@contextmanager
def launcher(folder: Path) -> Iterator[dict[str, str]]:
    """Have a process that starts steps, and tell how to find it.

    Parameters
    ----------
    folder : Path
        Folder for what that process itself prints, at the end of ``.launcher.log``.

    Yields
    ------
    dict
        Environment variables for the steps.
    """
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as private,
        open(folder / ".launcher.log", "a", encoding="utf-8") as log,
    ):
        path = os.path.join(private, "socket")
        # The socket is there before anybody can ask.
        with (
            Launcher(path, None) as listening,
            subprocess.Popen(
                [sys.executable, "-m", "lib.launcher", "serve", str(listening.fileno())],
                pass_fds=[listening.fileno()],
                env={**os.environ, CHAIN: "1", "TMPDIR": private},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
            ) as process,
        ):
            listening.socket.close()
            try:
                yield {SOCKET: path}
            finally:
                process.kill()


def serve(listening: int) -> None:
    """Make copies on request until the chain ends."""
    end_with_the_chain()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # steps end by it, and then the chain
    # As a kernel sets them, but these are read at import.
    os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    _import(LIBRARIES)
    server = Launcher(None, None, bind_and_activate=False)
    server.socket = socket.socket(fileno=listening)
    server.serve_forever()


def _import(modules: Iterable[str]) -> None:
    for module in modules:
        with suppress(ImportError):  # the step itself says what is missing, if it needs it
            importlib.import_module(module)


def ask(path: str, arguments: list[str]) -> int | None:
    """Exit status of a step that the launcher has run; None if nobody listens."""
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(path)
        except OSError:
            return None
        send(connection, arguments)
        answer = connection.recv(1)
    return answer[0] if answer else 1


def main(arguments: list[str]) -> int:
    """Run a step in a copy of the launcher if there is one, else here; returns the exit status."""
    code = ask(os.environ[SOCKET], arguments) if SOCKET in os.environ else None
    if code is None:
        from lib import steps

        code = steps.main(arguments)
    return code


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]))
    else:
        sys.exit(main(sys.argv[1:]))
