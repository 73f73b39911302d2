"""The sections that describe a target: the database, its connection, its TLS."""

from pathlib import Path
from typing import Annotated

from msgspec import Meta, field

from pg_collector.config.kinds import AuthMethod, Seconds, Section, Timeout, TlsMode
from pg_collector.secret import Secret


class Tls(Section, frozen=True):
    """TLS to PostgreSQL; not used on Unix sockets."""

    mode: Annotated[
        TlsMode | None,
        Meta(
            description="libpq's sslmode. `conn_string` goes first, then this, then PGSSLMODE or "
            "the service file, then verify-full"
        ),
    ] = None
    ca_file: Annotated[
        str,
        Meta(
            description="certificates of the authorities to trust; `system` is the operating "
            "system's bundle",
            extra={"place": True},
        ),
    ] = "system"
    cert_file: Annotated[
        Path | None, Meta(description="client certificate; needs `key_file`, too")
    ] = None
    key_file: Annotated[
        Path | None,
        Meta(description="key of the client certificate; mode 0600, or 0640 where root owns it"),
    ] = None
    crl_file: Annotated[
        Path | None,
        Meta(description="list of revoked server certificates, of every authority in the chain"),
    ] = None


class AwsIam(Section, frozen=True):
    """RDS and Aurora IAM authentication."""

    region: Annotated[
        str | None,
        Meta(description="of the server; by default its host name says it, else AWS_REGION"),
    ] = None
    role_arn: Annotated[str | None, Meta(description="role to assume first, by way of AWS STS")] = (
        None
    )


class GcpIam(Section, frozen=True):
    """Cloud SQL IAM authentication; nothing to set."""


class AzureAd(Section, frozen=True):
    """Microsoft Entra authentication."""

    client_id: Annotated[
        str | None, Meta(description="client id, where the host has several identities")
    ] = None


class Postgres(Section, frozen=True):
    """One connection's settings; empty parts of `conn_string` fall back to libpq's environment."""

    conn_string: Annotated[
        Secret,
        Meta(
            description="URI or `key=value` string as psql takes it; what it leaves out comes from "
            "PGHOST and its like, from the service file and from the password file",
            extra={"conninfo": True},
        ),
    ] = Secret("postgresql:///postgres")
    auth_method: Annotated[
        AuthMethod, Meta(description="`auto` is whatever libpq finds, as psql does")
    ] = AuthMethod.AUTO
    password: Annotated[
        Secret | None, Meta(description="better in `password_file` or libpq's password file")
    ] = None
    password_file: Annotated[
        Path | None, Meta(description="file that holds the password; read at each connection")
    ] = None
    connect_timeout: Annotated[
        Timeout, Meta(description="bound of one attempt per address, name lookup included")
    ] = 5.0
    query_timeout: Annotated[
        Seconds,
        Meta(
            ge=1,
            le=600,
            description="bound of one query on our side; the server's statement_timeout is one "
            "second less, or half of it below 2s",
        ),
    ] = 5.0
    lock_timeout: Annotated[
        Seconds, Meta(ge=0.001, le=60, description="how long a query may wait for a lock")
    ] = 0.1
    max_connections: Annotated[
        int, Meta(ge=1, le=2, description="sessions on this target at the same time")
    ] = 2
    application_name: Annotated[
        str, Meta(max_length=63, description="how the sessions show in pg_stat_activity")
    ] = "pg-collector"
    tls: Tls = Tls()
    aws_iam: AwsIam = AwsIam()
    gcp_iam: GcpIam = GcpIam()
    azure_ad: AzureAd = AzureAd()


class Discover(Section, frozen=True):
    """Which further databases of the same server the per-database samplers visit."""

    enabled: Annotated[bool, Meta(description="visit them")] = False
    include: Annotated[tuple[str, ...], Meta(description="shell patterns of names")] = ("*",)
    exclude: Annotated[tuple[str, ...], Meta(description="shell patterns of names")] = (
        "template0",
        "template1",
        "rdsadmin",
    )


class Database(Section, frozen=True):
    """A target."""

    name: Annotated[
        str,
        Meta(
            description="unique; the label of every sample, and a directory's name: letters, "
            "digits, `.`, `_` and `-`, at most 63"
        ),
    ]
    enabled: Annotated[bool, Meta(description="`false` keeps the entry and does not connect")] = (
        True
    )
    samplers: Annotated[
        tuple[str, ...],
        Meta(
            description="only these; empty means all that the plan allows", extra={"of": "samplers"}
        ),
    ] = ()
    tags: Annotated[
        dict[str, str],
        Meta(description="labels of low cardinality, sent with the samples: `tags: {env: prod}`"),
    ] = field(default_factory=dict)
    discover: Discover = Discover()
    postgres: Postgres = Postgres()
