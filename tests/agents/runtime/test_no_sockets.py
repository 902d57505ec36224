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
        # This process may have those of other tests.
        assert not set(psutil.Process().net_connections("inet")) - before
    finally:
        runtime.close()


def listening() -> set[tuple[str, int]]:
    """Address and port of every socket at which this process can be reached."""
    found = psutil.Process().net_connections("inet")
    return {(one.laddr.ip, one.laddr.port) for one in found if one.status == psutil.CONN_LISTEN}


def own_address() -> str:
    """One of this machine's beside the loopback's; that one where there is no other."""
    every = [
        address.address
        for found in psutil.net_if_addrs().values()
        for address in found
        if address.family == socket.AF_INET
    ]
    return next((address for address in every if not address.startswith("127.")), "127.0.0.1")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", own_address()])
def test_the_first_learner_listens_where_the_others_find_it_and_nowhere_else(host: str) -> None:
    before = listening()
    first, port = listen(host, 2)
    ((address, found),) = listening() - before
    assert found == port and address in ("127.0.0.1", "::1") if host == "localhost" else address == host
    assert not first.is_complete()
    second = meet_at_port(host, port, 1, 2)
    eventually(first.is_complete)
    assert second.is_complete()


FOREIGN = next(f"192.0.2.{number}" for number in range(1, 255) if f"192.0.2.{number}" != own_address())
"""192.0.2.0/24 is for examples alone, and this machine may have one of it."""


@pytest.mark.parametrize("foreign", [FOREIGN, "name-of-this-machine"])
def test_an_address_at_which_others_would_not_find_it_is_not_relied_on(
    foreign: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one than others see, as behind a router that translates it; or a name that means loopback to the machine itself."""
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


def test_learners_that_somebody_else_has_started_meet_at_the_address_that_they_are_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    told = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for name, value in told.items():
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
