"""The local authority: strict clients accept it, it lasts, and the bundle stays what it is."""

from __future__ import annotations

import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from cupola.errors import SetupError
from cupola.web.tls import CONTAINER_NAMES, LOCAL_NAMES, Authority, ServerCertificate, write_bundle

DAY = timedelta(days=1)


def handshake(server: ServerCertificate, roots: str, name: str) -> str | None:
    """The TLS version agreed on, in memory, by a client as strict as Python 3.13's default."""
    context = ssl.create_default_context(cadata=roots)
    context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(to_client, to_server, server_hostname=name)
    other = server.context().wrap_bio(to_server, to_client, server_side=True)
    for side in (client, other, client, other):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    return client.version()


@pytest.mark.parametrize("name", [*LOCAL_NAMES, *CONTAINER_NAMES, "172.18.0.1"])
def test_a_strict_client_accepts_every_name(tmp_path: Path, name: str) -> None:
    """Names and addresses, of this machine and as containers call it."""
    authority = Authority.open(tmp_path)
    server = authority.issue("callbacks", [*LOCAL_NAMES, *CONTAINER_NAMES, "172.18.0.1", "localhost"])
    assert handshake(server, authority.pem, name) == "TLSv1.3"


def test_a_name_that_was_not_given_is_refused(tmp_path: Path) -> None:
    """A certificate is good for its listener's names only."""
    authority = Authority.open(tmp_path)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(authority.issue("clients", ["localhost"]), authority.pem, "127.0.0.1")


def test_the_authority_is_kept(tmp_path: Path) -> None:
    """The next start signs with the same authority; its key is for its owner only."""
    first = Authority.open(tmp_path)
    assert Authority.open(tmp_path).pem == first.pem
    assert stat.S_IMODE((tmp_path / "ca.key").stat().st_mode) == 0o600
    assert stat.S_IMODE(first.issue("clients", ["localhost"]).key.stat().st_mode) == 0o600
    assert first.not_after - datetime.now(UTC) > 2 * 365 * DAY


def test_a_renewed_authority_is_trusted_by_who_trusted_the_old_one(tmp_path: Path) -> None:
    """Near its end it is made anew with the same key and name, so loaded bundles go on working."""
    now = datetime.now(UTC)
    old = Authority.open(tmp_path, now=now - 3300 * DAY)
    new = Authority.open(tmp_path, now=now)
    assert new.pem != old.pem
    assert new.not_after > now + 9 * 365 * DAY
    server = new.issue("clients", ["localhost"])
    assert handshake(server, old.pem, "localhost") == handshake(server, new.pem, "localhost") == "TLSv1.3"


def test_no_listener_outlives_its_authority(tmp_path: Path) -> None:
    """Listeners' certificates are short, and the authority is renewed long before its end."""
    now = datetime.now(UTC)
    Authority.open(tmp_path, now=now - 3280 * DAY)
    authority = Authority.open(tmp_path, now=now)
    issued = x509.load_pem_x509_certificate(authority.issue("clients", ["localhost"]).certificate.read_bytes())
    assert now + 180 * DAY < issued.not_valid_after_utc < authority.not_after
    assert issued.not_valid_before_utc < now


def test_two_installations_do_not_trust_each_other(tmp_path: Path) -> None:
    """Their authorities differ in key and in name."""
    one, two = (Authority.open(_made(tmp_path / name)) for name in ("one", "two"))
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(one.issue("clients", ["localhost"]), two.pem, "localhost")


@pytest.mark.parametrize("name", ["ca.key", "ca.pem"])
def test_a_damaged_authority_stops_the_start(tmp_path: Path, name: str) -> None:
    """It is not silently replaced: clients trust the old one."""
    Authority.open(tmp_path)
    (tmp_path / name).write_text("no PEM")
    with pytest.raises(SetupError, match=f"{name} cannot be read"):
        Authority.open(tmp_path)


def test_a_certificate_of_another_key_stops_the_start(tmp_path: Path) -> None:
    """Key and certificate belong together."""
    Authority.open(_made(tmp_path / "one"))
    other = Authority.open(_made(tmp_path / "two"))
    (tmp_path / "one" / "ca.pem").write_text(other.pem)
    with pytest.raises(SetupError, match=r"ca\.pem"):
        Authority.open(tmp_path / "one")


def test_the_bundle_holds_the_machines_roots_and_ours(tmp_path: Path) -> None:
    """Where the shell names a bundle of its own, that one is taken, for our variable replaces it."""
    authority = Authority.open(_made(tmp_path / "ca"))
    corporate = Authority.open(_made(tmp_path / "corporate"))
    requests = Authority.open(_made(tmp_path / "requests"))
    environment = {"SSL_CERT_FILE": str(corporate.certificate), "REQUESTS_CA_BUNDLE": str(requests.certificate)}
    bundle = tmp_path / "bundle.pem"
    assert write_bundle(bundle, authority, environment) == 2
    assert _certificates(bundle) == [corporate.pem, requests.pem, authority.pem]
    assert stat.S_IMODE(bundle.stat().st_mode) == 0o644


def test_the_bundle_does_not_grow_with_every_start(tmp_path: Path) -> None:
    """When the variables name our own bundle, what was ours in it is left out; what was the shell's stays."""
    authority = Authority.open(_made(tmp_path / "ca"))
    corporate = Authority.open(_made(tmp_path / "corporate"))
    bundle = tmp_path / "bundle.pem"
    write_bundle(bundle, authority, {"SSL_CERT_FILE": str(corporate.certificate)})
    ours = {"SSL_CERT_FILE": str(bundle), "REQUESTS_CA_BUNDLE": str(bundle)}
    write_bundle(bundle, authority, ours)
    once = _certificates(bundle)
    write_bundle(bundle, authority, ours)
    assert _certificates(bundle) == once
    assert once.count(authority.pem) == 1
    assert corporate.pem in once


def test_the_bundle_of_another_installation_is_not_taken_over(tmp_path: Path) -> None:
    """A platform started in a shell of another one trusts the machine's roots, not the other's authority."""
    one, two = (Authority.open(_made(tmp_path / name)) for name in ("one", "two"))
    write_bundle(tmp_path / "one.pem", one, {})
    write_bundle(tmp_path / "two.pem", two, {"SSL_CERT_FILE": str(tmp_path / "one.pem")})
    assert one.pem not in _certificates(tmp_path / "two.pem")
    assert two.pem in _certificates(tmp_path / "two.pem")


def test_a_variable_that_names_nothing_is_passed_over(tmp_path: Path) -> None:
    """A bundle that does not exist falls back to the system's roots."""
    authority = Authority.open(_made(tmp_path / "ca"))
    named = write_bundle(tmp_path / "a.pem", authority, {"SSL_CERT_FILE": str(tmp_path / "none.pem")})
    assert named == write_bundle(tmp_path / "b.pem", authority, {})


def test_every_reader_can_load_the_bundle(tmp_path: Path) -> None:
    """OpenSSL finds our authority in it, comments and all."""
    authority = Authority.open(tmp_path)
    write_bundle(tmp_path / "bundle.pem", authority, {"SSL_CERT_FILE": str(authority.certificate)})
    context = ssl.create_default_context(cafile=tmp_path / "bundle.pem")
    assert len(context.get_ca_certs()) == 1


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory


def _certificates(bundle: Path) -> list[str]:
    ends = bundle.read_text().split("-----END CERTIFICATE-----\n")[:-1]
    return ["-----BEGIN" + part.partition("-----BEGIN")[2] + "-----END CERTIFICATE-----\n" for part in ends]
