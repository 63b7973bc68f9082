"""Which headers cross the gateway, in either direction.

A caller's headers reach a container only if they stand in the contract (container-contract.md §3.1): what is
not listed may hold a credential, or may pretend to come from the platform. A container's headers reach the
caller unless they belong to one connection only or to the platform. Names are bytes in lower case, as ASGI
and `upstream` give them. What the platform itself says to a container (`x-agent-*`) is added by the callers
of this module.
"""

from __future__ import annotations

from collections.abc import Iterable

Header = tuple[bytes, bytes]

HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""Headers about one connection, not about the message (RFC 9110 §7.6.1)."""

_FROM_CALLER = frozenset(
    {
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
    }
)
_FROM_CALLER_PREFIXES = (b"x-client-", b"accept", b"content-")

ISOLATION_KEYS = (b"x-agent-user-isolation-key", b"x-agent-chat-isolation-key")
"""What parted users in protocol 1.0.0. A caller's own are never forwarded, and on later agents they are an error: who
sends them expects an isolation that he would not get (container-contract.md §3.1)."""

_NOT_TO_CALLER = HOP_BY_HOP | {
    b"x-platform-error-detail",  # for the platform's log; may quote what only its operator should see
    b"x-agent-session-id",  # the gateway says which session and which request this is
    b"x-request-id",
    b"apim-request-id",
    b"x-agent-invocation-id",
}


def to_sandbox(headers: Iterable[Header]) -> list[Header]:
    """What of a caller's request a container may see."""
    kept = [header for header in headers if header[0] in _FROM_CALLER or header[0].startswith(_FROM_CALLER_PREFIXES)]
    return _without_nominated(headers, kept)


def isolation_key_of(headers: Iterable[Header]) -> str | None:
    """The name of the first legacy isolation header that a caller has sent."""
    return next((name.decode() for name, _ in headers if name in ISOLATION_KEYS), None)


def to_caller(headers: Iterable[Header]) -> list[Header]:
    """What of a container's reply the caller may see."""
    kept = [header for header in headers if header[0] not in _NOT_TO_CALLER]
    return _without_nominated(headers, kept)


def find(headers: Iterable[Header], name: bytes) -> bytes | None:
    """The value of the first header called `name`."""
    for header in headers:
        if header[0] == name:
            return header[1]
    return None


def _without_nominated(headers: Iterable[Header], kept: list[Header]) -> list[Header]:
    """Drops what `connection` names as its own; hardly ever is there anything."""
    for name, value in headers:
        if name == b"connection":
            nominated = {token.strip().lower() for token in value.split(b",")}
            kept = [header for header in kept if header[0] not in nominated]
    return kept
