"""What is asked of the engine for a sandbox, and how its answers are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cupola.drivers.base import Address, ImageSource, Life, Listener, Observation, SandboxSpec, Step
from cupola.drivers.docker_container import (
    NOWHERE,
    container_config,
    container_name,
    explain_create,
    explain_start,
    has_unprivileged_user,
    home_name,
    inspected_address,
    listed_handle,
    observation,
    output_lines,
    parse_proc_net_tcp,
)
from cupola.drivers.docker_engine import EngineTraits
from cupola.drivers.docker_network import docker_reach, gateway_of, podman_reach

SPEC = SandboxSpec(
    sandbox_id="s1",
    source=ImageSource("agent:1"),
    environment={"GREETING": "good day", "HOME": "/root", "PORT": "80"},
    cpu=0.5,
    memory=1 << 30,
    home="h1",
    labels={"cupola.session": "x"},
    ca_bundle=Path("/ca.pem"),
)


def config(*, publish: bool = False, podman: bool = False) -> dict[str, Any]:
    made: dict[str, Any] = container_config(SPEC, "i", network="net", publish=publish, podman=podman)
    return made


def test_a_sandbox_is_shut_in() -> None:
    """Limits are enforced, capabilities dropped, privileges fixed, processes counted."""
    host = config()["HostConfig"]
    assert host["NanoCpus"] == 500_000_000
    assert host["Memory"] == host["MemorySwap"] == 1 << 30
    assert host["PidsLimit"] == 512
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert host["RestartPolicy"] == {"Name": "no"}
    assert host["NetworkMode"] == "net"
    assert "PortBindings" not in host


def test_the_driver_has_the_last_word_on_its_variables() -> None:
    """A definition cannot move HOME or the port."""
    variables = dict(line.split("=", 1) for line in config()["Env"])
    assert variables["GREETING"] == "good day"
    assert variables["HOME"] == "/home/session"
    assert variables["PORT"] == variables["DEFAULT_AD_PORT"] == "8088"
    assert variables["SSL_CERT_FILE"] == variables["REQUESTS_CA_BUNDLE"] == "/etc/cupola/ca-bundle.pem"


def test_a_sandbox_names_its_owner() -> None:
    """Labels of the spec and of the driver are on the container, the installation's on the home."""
    made = config()
    assert made["Labels"] == {"cupola.session": "x", "cupola.installation": "i", "cupola.sandbox": "s1"}
    home, bundle = made["HostConfig"]["Mounts"]
    assert home["Source"] == "cupola-i-h1"
    assert home["VolumeOptions"]["Labels"] == {"cupola.installation": "i"}
    assert bundle["ReadOnly"] is True


def test_published_ports_are_local() -> None:
    """Where the port has to be published, only this host can reach it."""
    host = config(publish=True)["HostConfig"]
    assert host["PortBindings"] == {"8088/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]}
    assert host["ExtraHosts"] == ["host.docker.internal:host-gateway"]
    assert "ExtraHosts" not in config(publish=True, podman=True)["HostConfig"]


def test_odd_names_never_meet() -> None:
    """A name that an engine would refuse becomes a digest, and no plain name can look like one."""
    odd = home_name("i", "a/../b")
    assert odd.startswith("cupola-i-sha256.")
    assert home_name("i", odd.removeprefix("cupola-i-")) != odd
    assert home_name("i", "a/b") != home_name("i", "a b")
    assert container_name("i", "s-1_X") == "cupola-i-s-1_X"


@pytest.mark.parametrize(
    ("user", "expected"),
    [("", False), ("0", False), ("root", False), ("root:root", False), ("app", True), ("1000:0", True)],
)
def test_who_cannot_write_into_a_new_home(user: str, expected: bool) -> None:
    """A new volume belongs to root; every other user needs it opened."""
    assert has_unprivileged_user({"Config": {"User": user}}) is expected


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ({"Running": True, "Status": "running", "OOMKilled": True}, Observation(Life.RUNNING)),
        ({"Running": False, "Status": "stopping", "ExitCode": 0}, Observation(Life.RUNNING)),  # Podman, until it ends
        ({"Status": "exited", "ExitCode": 3, "OOMKilled": False}, Observation(Life.EXITED, 3)),
        ({"Status": "exited", "ExitCode": 137, "OOMKilled": True}, Observation(Life.EXITED, 137, True)),
        ({"Status": "exited", "ExitCode": 137, "OOMKilled": False}, Observation(Life.EXITED, 137)),
        ({"Status": "exited", "ExitCode": 0, "OOMKilled": True}, Observation(Life.EXITED, 0)),
        ({"Status": "created", "ExitCode": 0}, Observation(Life.EXITED)),
    ],
)
def test_observations(state: dict[str, Any], expected: Observation) -> None:
    """Only a sandbox that failed with the kill was ended by its memory limit."""
    assert observation(state) == expected


def test_an_engine_that_does_not_tell_of_memory() -> None:
    """There an unasked SIGKILL is taken for the memory limit's, and nothing else is."""
    for code, expected in ((137, True), (1, False), (0, False)):
        state = {"Status": "exited", "ExitCode": code, "OOMKilled": False}
        assert observation(state, told_of_memory=False).out_of_memory is expected


def test_addresses() -> None:
    """The address is the sandbox's own or a published port, and none once it has ended."""
    attached = {"NetworkSettings": {"Networks": {"n": {"IPAddress": "172.18.0.2"}}, "Ports": {}}}
    assert inspected_address(attached, publish=False) == Address("172.18.0.2", 8088)
    bound = {"NetworkSettings": {"Ports": {"8088/tcp": [{"HostIp": "127.0.0.1", "HostPort": "32768"}]}}}
    assert inspected_address(bound, publish=True) == Address("127.0.0.1", 32768)
    ended: dict[str, Any] = {"NetworkSettings": {"Networks": {"n": {"IPAddress": ""}}, "Ports": {}}}
    assert inspected_address(ended, publish=False) is None
    assert inspected_address(ended, publish=True) is None


def test_listed_containers_become_handles() -> None:
    """What was never started is CREATED; what has ended has an address where nothing listens."""
    listed: dict[str, Any] = {"Id": "c", "State": "created"}
    assert listed_handle(listed, publish=False).step is Step.CREATED
    listed["State"] = "exited"
    assert listed_handle(listed, publish=False).address == NOWHERE
    listed |= {"State": "running", "Ports": [{"PrivatePort": 8088, "PublicPort": 32768}]}
    assert listed_handle(listed, publish=True).address == Address("127.0.0.1", 32768)


@pytest.mark.parametrize(
    ("message", "exit_code", "said"),
    [
        ('exec: "nosuch": executable file not found in $PATH: unknown', 127, "check CMD"),
        ("exec /app/run.sh: no such file or directory", 127, "#! line"),
        ("exec /app/run.sh: exec format error", 126, "--platform linux/amd64"),
        ('exec: "/app/run.sh": permission denied: unknown', 126, "chmod +x"),
        ("cgroups: something else", None, "something else"),
    ],
)
def test_failed_starts_have_remedies(message: str, exit_code: int | None, said: str) -> None:
    """Each way in which a command cannot be run is named."""
    error = explain_start("agent:1", message)
    assert (error.phase, error.exit_code) == ("start", exit_code)
    assert said in error.message


@pytest.mark.parametrize(
    ("status", "message", "said"),
    [
        (404, "No such image: agent:1", "build or pull it"),
        (409, "Conflict. The container name is already in use", "exists already"),
        (400, "No command specified", "add CMD"),
        (400, "invalid mount config", "invalid mount config"),
    ],
)
def test_failed_creates_have_remedies(status: int, message: str, said: str) -> None:
    """Each way in which a container cannot be created is named."""
    error = explain_create("agent:1", status, message)
    assert error.phase == "create"
    assert said in error.message


def test_output_lines() -> None:
    """Lines are joined from pieces and counted from the end."""
    assert output_lines(["a\nb", "\r\n", "c\n"], 2) == ["b", "c"]
    assert output_lines(["a\n\n"], 5) == ["a", ""]
    assert output_lines([], 5) == []
    assert output_lines(["a\n"], 0) == []


TCP = """  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:1F98 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 28732 1
   1: 0100007F:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 28733 1
   2: 0201590A:1F98 0101590A:EA98 06 00000000:00000000 03:000016ED 00000000     0        0 0 3
   3: 0B00007F:8A2B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 28734 1
  sl  local_address                         remote_address                        st tx_queue rx_queue
   0: 00000000000000000000000000000000:1F99 00000000000000000000000000000000:0000 0A 00000000:00000000
   1: 00000000000000000000000001000000:1F9A 00000000000000000000000000000000:0000 0A 00000000:00000000
"""


def test_listening_sockets_are_read() -> None:
    """Listening sockets of both families, without connections and the engine's own name server."""
    assert parse_proc_net_tcp(TCP) == [
        Listener("0.0.0.0", 8088),
        Listener("127.0.0.1", 80),
        Listener("::", 8089),
        Listener("::1", 8090),
    ]
    assert parse_proc_net_tcp("cat: not found") is None
    assert parse_proc_net_tcp(TCP.splitlines()[0]) == []


def traits(*, shares_kernel: bool) -> EngineTraits:
    return EngineTraits("Docker", "1", "linux", "amd64", False, False, shares_kernel)


def test_the_way_back_to_the_platform() -> None:
    """Through the bridge where this host owns it, else by the engine's name for this host."""
    network = {"IPAM": {"Config": [{"Gateway": "fd00::1"}, {"Gateway": "172.18.0.1"}]}}
    gateway = gateway_of(network)
    here = docker_reach(traits(shares_kernel=True), gateway, ["127.0.0.1", "172.18.0.1"])
    assert (here.bind, here.host) == ("172.18.0.1", "172.18.0.1")
    for shares, addresses in ((True, ["127.0.0.1"]), (False, ["172.18.0.1"])):
        there = docker_reach(traits(shares_kernel=shares), gateway, addresses)
        assert (there.bind, there.host) == ("127.0.0.1", "host.docker.internal")
    assert podman_reach(traits(shares_kernel=False)).bind == "127.0.0.1"
    assert podman_reach(traits(shares_kernel=True)).host == "host.containers.internal"
