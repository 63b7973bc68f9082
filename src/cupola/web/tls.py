"""The local certificate authority: https on localhost that official clients accept.

The SDKs refuse bearer tokens over plain http (control-plane.md §5.1), so the platform signs certificates for its own
listeners. The authority is made once and kept; listeners get new certificates at every start; clients and sandboxes
trust `bundle.pem`, the roots of this machine and ours in one file, because the variables that name it replace the
roots and do not add to them (control-plane.md §5.2). Certificates for a public name are not made here.
"""

from __future__ import annotations

import ipaddress
import re
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cupola.errors import SetupError
from cupola.installation import write_private

LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
"""What clients on this machine call it."""

CONTAINER_NAMES = ("host.docker.internal", "host.containers.internal")
"""What container engines call the machine they run on."""

_AUTHORITY_LIFE = timedelta(days=3650)
_AUTHORITY_RENEWAL = timedelta(days=365)
_LISTENER_LIFE = timedelta(days=200)  # less than the renewal: no listener outlives its authority
_SKEW = timedelta(days=1)  # clocks of containers and virtual machines lag behind
_MARK = "# Below: the local authority of Cupola"
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----")
_USUAL_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Alpine, Arch
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, RHEL
    "/etc/ssl/ca-bundle.pem",  # openSUSE
    "/etc/ssl/cert.pem",  # macOS, BSD
)


@dataclass(frozen=True, slots=True)
class ServerCertificate:
    """The files of one listener, as uvicorn wants them (`ssl_certfile`, `ssl_keyfile`)."""

    certificate: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        """A server's context. Loading newer files into it serves new connections without a restart."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        context.load_cert_chain(self.certificate, self.key)
        return context


@dataclass(frozen=True, slots=True)
class Authority:
    """The authority of one installation, kept in `directory`."""

    directory: Path
    _certificate: x509.Certificate
    _key: ec.EllipticCurvePrivateKey

    @classmethod
    def open(cls, directory: Path, *, now: datetime | None = None) -> Self:
        """The authority kept in `directory`; made if missing, renewed near its end. Raises SetupError.

        A renewed authority keeps its key and name: who trusts the old certificate trusts what the new one signs.
        """
        now = now or datetime.now(UTC)
        key_path, path = directory / "ca.key", directory / "ca.pem"
        if not key_path.exists():
            key = ec.generate_private_key(ec.SECP256R1())
            write_private(key_path, _key_pem(key))
            path.unlink(missing_ok=True)
        key = _read_key(key_path)
        certificate = _read_certificate(path)
        if certificate is not None and certificate.public_key() != key.public_key():
            raise SetupError(_damaged(path))
        if certificate is None or certificate.not_valid_after_utc - now < _AUTHORITY_RENEWAL:
            certificate = _authority_certificate(key, now)
            write_private(path, certificate.public_bytes(Encoding.PEM), 0o644)
        return cls(directory, certificate, key)

    @property
    def certificate(self) -> Path:
        return self.directory / "ca.pem"

    @property
    def pem(self) -> str:
        return self._certificate.public_bytes(Encoding.PEM).decode()

    @property
    def not_after(self) -> datetime:
        return self._certificate.not_valid_after_utc

    def issue(self, listener: str, names: Iterable[str], *, now: datetime | None = None) -> ServerCertificate:
        """A new key and certificate for the listener called `listener`, good for these host names and addresses."""
        files = ServerCertificate(self.directory / f"{listener}.pem", self.directory / f"{listener}.key")
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._listener_certificate(key, _alternative_names(names), now or datetime.now(UTC))
        write_private(files.key, _key_pem(key))
        write_private(files.certificate, certificate.public_bytes(Encoding.PEM), 0o644)
        return files

    def _listener_certificate(
        self, key: ec.EllipticCurvePrivateKey, names: x509.SubjectAlternativeName, now: datetime
    ) -> x509.Certificate:
        authority_key_id = self._certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        return (
            _builder("Cupola", self._certificate.subject, key, now, now + _LISTENER_LIFE)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(names, critical=False)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(authority_key_id), critical=False
            )
            .sign(self._key, hashes.SHA256())
        )


def write_bundle(path: Path, authority: Authority, environment: Mapping[str, str]) -> int:
    """Writes the roots of this machine and our authority's to `path`; returns how many roots are not ours.

    The roots are those of `SSL_CERT_FILE` and `REQUESTS_CA_BUNDLE`, which our own variables will replace, or else the
    system's. When they already name a bundle of ours, its part that is not ours is taken, with the system's as they
    are now.
    """
    named = [Path(environment[name]) for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE") if environment.get(name)]
    texts = [text for text in map(_read, named) if text]
    roots = [root for text in texts for root in _foreign(text)]
    if all(_MARK in text for text in texts):
        roots += _system_roots()
    roots = list(dict.fromkeys(roots))
    lines = ["# Written by Cupola at every start: the roots of this machine.", *roots, _MARK, authority.pem]
    write_private(path, "\n".join(lines).encode(), 0o644)
    return len(roots)


def _foreign(bundle: str) -> list[str]:
    """The certificates of a bundle without those that we added to it."""
    return _CERTIFICATE.findall(bundle.partition(_MARK)[0])


def _system_roots() -> list[str]:
    paths = ssl.get_default_verify_paths()
    for file in (paths.openssl_cafile, *_USUAL_BUNDLES):
        roots = _foreign(_read(Path(file)))
        if roots:
            return roots
    directory = Path(paths.openssl_capath)
    files = sorted(directory.glob("*.pem")) if directory.is_dir() else []
    return [root for file in files for root in _foreign(_read(file))]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError) as error:
        raise SetupError(_damaged(path)) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise SetupError(_damaged(path))
    return key


def _read_certificate(path: Path) -> x509.Certificate | None:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise SetupError(_damaged(path)) from error


def _damaged(path: Path) -> str:
    return (
        f"{path} cannot be read as part of the local certificate authority: restore it from a backup, or remove "
        f"{path.parent} to have a new authority made (clients then need `cupola env` again)."
    )


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _authority_certificate(key: ec.EllipticCurvePrivateKey, now: datetime) -> x509.Certificate:
    # Renewals keep the name: it is made from the key, so that two installations are told apart.
    name = f"Cupola local authority {_fingerprint(key)}"
    return (
        _builder(name, _subject(name), key, now, now + _AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _fingerprint(key: ec.EllipticCurvePrivateKey) -> str:
    return x509.SubjectKeyIdentifier.from_public_key(key.public_key()).digest.hex()[:8]


def _subject(name: str) -> x509.Name:
    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Cupola"), x509.NameAttribute(NameOID.COMMON_NAME, name)]
    )


def _builder(
    name: str, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime, not_after: datetime
) -> x509.CertificateBuilder:
    public_key = key.public_key()
    return (
        x509.CertificateBuilder()
        .subject_name(_subject(name))
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(not_after)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _alternative_names(names: Iterable[str]) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([_general_name(name) for name in dict.fromkeys(names)])


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
