"""Which issuer an address means."""

from __future__ import annotations

import pytest

from cupola.issuers import is_fetchable, read_issuer

TENANT = "11111111-2222-3333-4444-555555555555"
V2 = f"https://login.microsoftonline.com/{TENANT}/v2.0"


@pytest.mark.parametrize(
    "address",
    [
        V2,
        V2 + "/",
        V2.upper().replace("HTTPS", "https"),
        f"https://login.microsoftonline.com/{TENANT}",
        f"https://login.microsoftonline.com/{TENANT}/v2.0/.well-known/openid-configuration",
        f"https://sts.windows.net/{TENANT}/",
    ],
)
def test_a_tenant_of_entra_in_any_spelling(address: str) -> None:
    """One name, and both versions of its tokens."""
    issuer = read_issuer(address)
    assert issuer.name == V2
    assert issuer.discovery == V2 + "/.well-known/openid-configuration"
    assert issuer.signs_as == {V2, f"https://sts.windows.net/{TENANT}/"}


@pytest.mark.parametrize("tenant", ["common", "organizations", "consumers", "contoso.onmicrosoft.com", ""])
def test_entra_without_one_tenant_is_everybody(tenant: str) -> None:
    """Such issuers would let in whoever has an account anywhere."""
    with pytest.raises(ValueError, match="one tenant by its id"):
        read_issuer(f"https://login.microsoftonline.com/{tenant}/v2.0")


@pytest.mark.parametrize("address", ["https://id.example/realms/a", "https://id.example/realms/a/"])
def test_any_other_issuer(address: str) -> None:
    """The last slash is the issuer's own business."""
    issuer = read_issuer(address)
    assert issuer.name == "https://id.example/realms/a"
    assert issuer.discovery == "https://id.example/realms/a/.well-known/openid-configuration"
    assert issuer.signs_as == {"https://id.example/realms/a", "https://id.example/realms/a/"}


@pytest.mark.parametrize(
    "address",
    [
        "",
        "id.example",
        "ftp://id.example",
        "http://id.example",
        "https://",
        "https://a@id.example",
        "https://id.example?a=b",
        "https://[x",
    ],
)
def test_what_is_no_issuers_address(address: str) -> None:
    """Plain http least of all: whoever is on the way would choose the keys."""
    with pytest.raises(ValueError, match=r".+"):
        read_issuer(address)


def test_this_machine_may_speak_plain_http() -> None:
    """For trying it out."""
    assert read_issuer("http://127.0.0.1:9400").name == "http://127.0.0.1:9400"
    assert is_fetchable("http://localhost:9400/keys")
    assert not is_fetchable("http://id.example/keys")
    assert not is_fetchable(None)
