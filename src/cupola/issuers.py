"""Which OpenID Connect issuer is meant by an address, and under which names it signs. No I/O.

Entra signs under two names, one per version of its tokens, with the same keys: whoever trusts a tenant trusts both.
Source: OpenID Connect Discovery 1.0 §4; Entra's "access tokens" reference.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_ENTRA = re.compile(r"login\.microsoftonline\.(?:com|us)|login\.partner\.microsoftonline\.cn")
_ENTRA_V1 = "sts.windows.net"
_TENANT = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_WELL_KNOWN = "/.well-known/openid-configuration"


@dataclass(frozen=True, slots=True)
class Issuer:
    """An issuer: its one name here, where its configuration is, and the `iss` of tokens that may be its own."""

    name: str
    discovery: str
    signs_as: frozenset[str]

    def is_named(self, name: object) -> bool:
        """Whether `name`, as it came from outside, is one of the issuer's."""
        return isinstance(name, str) and name in self.signs_as


def read_issuer(address: str) -> Issuer:
    """The issuer at `address`. Raises ValueError with what is wrong."""
    parts = urlsplit(address.strip())
    host = (parts.hostname or "").lower()
    if parts.scheme != "https" and not (parts.scheme == "http" and host in _LOOPBACK):
        raise ValueError("an issuer is an https address (http on this machine only)")
    if not host or parts.query or parts.fragment or parts.username:
        raise ValueError("an issuer is an address with a host, without user, query or fragment")
    if _ENTRA.fullmatch(host) or host == _ENTRA_V1:
        return _entra(host, parts.path)
    name = address.strip().removesuffix(_WELL_KNOWN).rstrip("/")
    return Issuer(name, name + _WELL_KNOWN, frozenset({name, name + "/"}))


def is_fetchable(address: object) -> bool:
    """Whether keys may be fetched from there: https, or this machine."""
    if not isinstance(address, str):
        return False
    parts = urlsplit(address)
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)


def _entra(host: str, path: str) -> Issuer:
    tenant = path.strip("/").partition("/")[0].lower()
    if not _TENANT.fullmatch(tenant):
        raise ValueError(
            "an issuer of Entra names one tenant by its id: https://login.microsoftonline.com/<tenant id>/v2.0"
        )
    login = "login.microsoftonline.com" if host == _ENTRA_V1 else host
    name = f"https://{login}/{tenant}/v2.0"
    return Issuer(name, name + _WELL_KNOWN, frozenset({name, f"https://{_ENTRA_V1}/{tenant}/"}))
