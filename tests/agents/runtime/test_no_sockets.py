"""Nothing of a run can be reached over a network, and learners on several machines where they must be and nowhere else."""

from __future__ import annotations

import socket

import psutil
import pytest
from counted import counting_pool, counting_runtime
from counting import CountingNetwork
from processes import eventually

from agents.distributed.process_group import listen, meet_at_port, meet_at_torchrun
from system.errors import InputError


@pytest.mark.usefixtures("nothing_is_left_behind")
def test_no_process_of_a_run_listens() -> None:
    before = set(psutil.Process().net_connections("inet"))
    runtime = counting_runtime("server", counting_pool(1), CountingNetwork())
    try:
        runtime.collect()
        processes = [psutil.Process(pid) for pid in runtime.processes().values()]
        assert len(processes) >= 2
        assert not [found for process in processes for found in process.net_connections("inet")]
        # Other tests may have left sockets in this process.
        assert not set(psutil.Process().net_connections("inet")) - before
    finally:
        runtime.close()


def listening() -> set[tuple[str, int]]:
    """Address and port of every listening socket of this process."""
    found = psutil.Process().net_connections("inet")
    return {(one.laddr.ip, one.laddr.port) for one in found if one.status == psutil.CONN_LISTEN}


def own_address() -> str:
    """An address of this machine other than the loopback's, if there is one."""
    every = [
        address.address
        for found in psutil.net_if_addrs().values()
        for address in found
        if address.family == socket.AF_INET
    ]
    return next((address for address in every if not address.startswith("127.")), "127.0.0.1")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", own_address()])
def test_the_first_learner_listens_at_its_address_only(host: str) -> None:
    before = listening()
    first, port = listen(host, 2)
    ((address, found),) = listening() - before
    assert found == port and address in ("127.0.0.1", "::1") if host == "localhost" else address == host
    assert not first.is_complete()
    second = meet_at_port(host, port, 1, 2)
    eventually(first.is_complete)
    assert second.is_complete()


FOREIGN = next(f"192.0.2.{number}" for number in range(1, 255) if f"192.0.2.{number}" != own_address())
"""An address that is not this machine's, of 192.0.2.0/24, which is reserved for examples."""


@pytest.mark.parametrize("foreign", [FOREIGN, "name-of-this-machine"])
def test_an_unreachable_address_makes_the_first_learner_listen_everywhere(
    foreign: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A foreign address, as behind NAT, or a host name that resolves to loopback on the machine itself."""
    resolve = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *rest, **more: resolve("127.0.1.1" if host == "name-of-this-machine" else host, *rest, **more),
    )
    before = listening()
    first, port = listen(foreign, 2)
    assert listening() - before == {("0.0.0.0", port)}
    second = meet_at_port("127.0.0.1", port, 1, 2)
    eventually(first.is_complete)
    assert second.is_complete()


def test_learners_of_torchrun_meet_at_master_addr(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    variables = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    before = listening()
    first = meet_at_torchrun()
    assert listening() - before == {("127.0.0.1", port)}
    monkeypatch.setenv("RANK", "1")
    assert meet_at_torchrun().size == 2
    eventually(first.is_complete)
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(InputError, match=f"port {port} of 127.0.0.1 is taken: give the learners another MASTER_PORT"):
        meet_at_torchrun()
