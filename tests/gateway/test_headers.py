"""Which headers cross the gateway."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cupola.gateway.headers import HOP_BY_HOP, Header, find, isolation_key_of, to_caller, to_sandbox

NAMES = st.sampled_from(
    [
        b"accept",
        b"accept-language",
        b"authorization",
        b"connection",
        b"content-type",
        b"cookie",
        b"host",
        b"traceparent",
        b"x-agent-session-id",
        b"x-agent-user-id",
        b"x-client-mood",
        b"x-forwarded-for",
        b"x-ms-user-identity",
        b"x-request-id",
    ]
) | st.from_regex(rb"[a-z][a-z0-9-]{0,15}", fullmatch=True)
HEADERS = st.lists(st.tuples(NAMES, st.binary(max_size=10)), max_size=12)


@pytest.mark.parametrize(
    "name",
    [
        b"x-client-anything",
        b"accept",
        b"accept-encoding",
        b"content-type",
        b"content-length",
        b"traceparent",
        b"tracestate",
        b"baggage",
        b"x-ms-client-request-id",
        b"x-request-id",
        b"request-id",
        b"correlation-context",
        b"request-context",
        b"ms-cv",
        b"user-agent",
    ],
)
def test_a_container_sees_what_the_contract_lists(name: bytes) -> None:
    """Each header of the contract's list goes on as it came."""
    assert to_sandbox([(name, b"v")]) == [(name, b"v")]


@pytest.mark.parametrize(
    "name",
    [
        b"authorization",
        b"cookie",
        b"host",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"forwarded",
        b"x-agent-user-id",
        b"x-agent-session-id",
        b"x-agent-foundry-call-id",
        b"x-ms-user-identity",
        b"api-key",
        b"expect",
        b"te",
        b"transfer-encoding",
        b"upgrade",
        b"connection",
    ],
)
def test_a_container_sees_nothing_else(name: bytes) -> None:
    """Credentials, the platform's own names and what is about the connection stay behind."""
    assert to_sandbox([(name, b"v")]) == []


@given(HEADERS)
def test_only_listed_headers_ever_pass(headers: list[Header]) -> None:
    """Whatever comes, a container sees an ordered part of it, without anything that is not listed."""
    kept = to_sandbox(headers)
    rest = iter(headers)
    assert all(header in rest for header in kept)
    assert not {name for name, _ in kept} & ({b"authorization", b"cookie", b"host"} | HOP_BY_HOP)
    assert not [name for name, _ in kept if name.startswith((b"x-agent-", b"x-forwarded-", b"x-ms-user-"))]


@given(HEADERS)
def test_a_caller_sees_all_but_the_platforms_and_the_connections(headers: list[Header]) -> None:
    """Without a connection header, nothing is lost on the way back but the named few."""
    headers = [header for header in headers if header[0] != b"connection"]
    dropped = HOP_BY_HOP | {b"x-platform-error-detail", b"x-agent-session-id", b"x-request-id"}
    assert to_caller(headers) == [header for header in headers if header[0] not in dropped]


def test_a_caller_sees_which_server_answered() -> None:
    """The adapter's name and the source of an error are for callers, the error's detail is not."""
    headers = [(b"x-platform-server", b"core/2"), (b"x-platform-error-source", b"user")]
    assert to_caller([*headers, (b"x-platform-error-detail", b"secret")]) == headers


@pytest.mark.parametrize("pass_on", [to_sandbox, to_caller])
def test_what_connection_names_stays_behind(pass_on: object) -> None:
    """A header that `connection` nominates is about the connection, whatever its name."""
    headers = [(b"connection", b"close, X-Client-Hop"), (b"x-client-hop", b"1"), (b"x-client-end", b"2")]
    assert callable(pass_on)
    assert pass_on(headers) == [(b"x-client-end", b"2")]


def test_find_takes_the_first() -> None:
    """`find` gives the first value of a name, None without one."""
    assert find([(b"a", b"1"), (b"a", b"2")], b"a") == b"1"
    assert find([], b"a") is None


def test_legacy_isolation_keys_are_found() -> None:
    """Either of them, by its name; nothing else is one."""
    assert isolation_key_of([(b"x-agent-user-id", b"u"), (b"x-agent-chat-isolation-key", b"k")]) == (
        "x-agent-chat-isolation-key"
    )
    assert isolation_key_of([(b"x-agent-user-isolation-key", b"k")]) == "x-agent-user-isolation-key"
    assert isolation_key_of([(b"x-agent-user-id", b"u")]) is None
