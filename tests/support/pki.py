"""Certificates for tests: a CA, servers and clients, right and wrong ones. All in milliseconds."""

import datetime as dt
import functools
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_DAY = dt.timedelta(days=1)


@dataclass(frozen=True)
class Leaf:
    """A certificate and its key (mode 0600) as PEM files."""

    certificate: Path
    key: Path
    serial: int


class Pki:
    """A certificate authority with its files in `directory`."""

    def __init__(self, directory: Path, name: str = "lab CA") -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named(name)
        self.ca = directory / "ca.crt"
        self.ca.write_bytes(self._self_signed().public_bytes(serialization.Encoding.PEM))

    # --- what most tests need

    @functools.cached_property
    def server(self) -> Leaf:
        """Valid for localhost, 127.0.0.1, ::1."""
        return self.issue("server", "localhost", ("localhost", "127.0.0.1", "::1"))

    @functools.cached_property
    def wrong_name_server(self) -> Leaf:
        return self.issue("wrong_name", "db.example.test", ("db.example.test",))

    @functools.cached_property
    def expired_server(self) -> Leaf:
        return self.issue("expired_server", "localhost", ("localhost", "127.0.0.1"), days=(-9, -1))

    @functools.cached_property
    def client(self) -> Leaf:
        """For the role pgcollector."""
        return self.issue("client", "pgcollector", client=True)

    @functools.cached_property
    def expired_client(self) -> Leaf:
        return self.issue("expired_client", "pgcollector", client=True, days=(-9, -1))

    @functools.cached_property
    def other(self) -> "Pki":
        """A CA that nobody trusts, with the same kinds of certificates."""
        return Pki(self.directory / "other", "other CA")

    # --- making them

    def issue(
        self,
        file: str,
        name: str,
        alternatives: tuple[str, ...] = (),
        *,
        client: bool = False,
        days: tuple[int, int] = (-1, 30),
    ) -> Leaf:
        """Sign a certificate for the common `name`, valid from and to `days` from now."""
        key = ec.generate_private_key(ec.SECP256R1())
        usage = ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = (
            _valid(*days)
            .subject_name(_named(name))
            .issuer_name(self._name)
            .public_key(key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(issuer, critical=False)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        )
        if alternatives:
            names = x509.SubjectAlternativeName([_alternative(one) for one in alternatives])
            builder = builder.add_extension(names, critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        return self._written(file, certificate, key)

    def revocations(self, *revoked: Leaf) -> Path:
        """Write the list of revoked certificates and return its path."""
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._name)
            .last_update(now - _DAY)
            .next_update(now + 7 * _DAY)
        )
        for leaf in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(leaf.serial)
            builder = builder.add_revoked_certificate(entry.revocation_date(now - _DAY).build())
        path = self.directory / "ca.crl"
        signed = builder.sign(self._key, hashes.SHA256())
        path.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        return path

    def _written(
        self, file: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey
    ) -> Leaf:
        paths = self.directory / f"{file}.crt", self.directory / f"{file}.key"
        paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        paths[1].touch(mode=0o600)
        paths[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return Leaf(*paths, certificate.serial_number)

    def _self_signed(self) -> x509.Certificate:
        public = self._key.public_key()
        usage = x509.KeyUsage(
            digital_signature=False, content_commitment=False, key_encipherment=False,
            data_encipherment=False, key_agreement=False, key_cert_sign=True, crl_sign=True,
            encipher_only=False, decipher_only=False,
        )  # fmt: skip
        return (
            _valid(-3650, 3650)
            .subject_name(self._name)
            .issuer_name(self._name)
            .public_key(public)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .sign(self._key, hashes.SHA256())
        )


def _valid(start: int, end: int) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + start * _DAY)
        .not_valid_after(now + end * _DAY)
    )


def _named(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
