"""Connects to a running Ray cluster, or starts one on this machine that ends with the process."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from system.descendants import temporary_folder
from system.errors import InputError

_ANSWER_SECONDS = 5.0
_LEAST_STORE = 2**27
"""Bytes of the smallest object store; Ray itself refuses less than 75 MiB."""


def check_address(address: str) -> None:
    """Raises InputError if Ray is not installed, `runtime.address` is malformed, or nothing listens there."""
    if importlib.util.find_spec("ray") is None:
        raise InputError('runtime=cluster needs Ray, which is not installed: pip install "mimpala[ray]".')
    if address in ("", "auto"):
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 2**16:
        raise InputError(
            f"runtime.address={address} is no address: give the head node's host:port, auto, or leave it empty for a "
            "cluster of this machine alone."
        )
    try:
        socket.create_connection((host, int(port)), _ANSWER_SECONDS).close()
    except OSError as error:
        raise InputError(
            f"runtime.address={address} does not answer ({error}): give the address that `ray start --head` printed."
        ) from error


@contextlib.contextmanager
def joined(address: str, *, num_cpus: int, store_bytes: int = 0) -> Iterator[ModuleType]:
    """Yields the module `ray`, connected to the cluster. Raises InputError if there is none at the address.

    A cluster on this machine listens on the loopback interface only, sends no usage statistics, and leaves no files behind.

    Args:
        address: Of a running cluster, `auto`, or empty to start one on this machine.
        num_cpus, store_bytes: CPUs of a cluster on this machine, and bytes that its object store must hold.
    """
    # Ray reads these variables when it is imported.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Each attempt takes 40 seconds, and the default is twenty attempts.
    os.environ["RAY_NUM_REDIS_GET_RETRIES"] = "2"
    settings: dict[str, Any] = {
        "address": address or "local",
        "log_to_driver": False,
        "logging_level": "error",
        "runtime_env": {
            "env_vars": {"PYTHONPATH": os.pathsep.join(own_paths())},
            # Ray puts the working directory in front of PYTHONPATH, and it may have packages of the same names.
            "worker_process_setup_hook": "mimpala.location.find_own_packages_first",
        },
    }
    folder = ""
    if not address:
        # "0" makes Ray use the loopback interface as the node's address, also on Linux.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        # It holds sockets, whose paths must be short.
        folder = tempfile.mkdtemp(prefix="ray-", dir=temporary_folder() or "/tmp")
        settings |= {
            "num_cpus": num_cpus,
            "object_store_memory": max(_LEAST_STORE, store_bytes),
            "include_dashboard": False,
            "_temp_dir": folder,
        }

    import ray

    try:
        try:
            ray.init(**settings)
        except (ConnectionError, RuntimeError, ValueError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(
                f"runtime.address={address or '(empty)'} cannot be joined as a Ray cluster ({reason}): start one with `ray start "
                "--head`, of the same versions of Ray and Python, or leave it empty."
            ) from error
        yield ray
    finally:
        ray.shutdown()
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


def own_paths() -> list[str]:
    """The entries of sys.path outside the Python installation: where another node finds the same modules."""
    installed = {Path(prefix).resolve() for prefix in (sys.prefix, sys.base_prefix)}
    found = [Path(entry or ".").resolve() for entry in sys.path]
    return [str(path) for path in found if not installed & {path, *path.parents}]


def node_id() -> str:
    """Ray's id of the node on which this process runs."""
    import ray

    return str(ray.get_runtime_context().get_node_id())
