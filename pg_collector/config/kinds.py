"""The kinds of values that a configuration holds: units, choices, and the parent of sections.

`Meta.extra` tells `schema` what the type alone does not say: the unit in which the file writes a
number, which names have to be samplers' names, and which texts are URLs or paths.
"""

import enum
from typing import Annotated, Final

import msgspec
from msgspec import Meta

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB
DAY: Final = 86_400.0

Seconds = Annotated[float, Meta(extra={"unit": "duration"})]
Bytes = Annotated[int, Meta(extra={"unit": "size"})]
Fraction = Annotated[float, Meta(ge=0, le=1, extra={"unit": "percent"})]  # 0.1 is 10 %

Interval = Annotated[Seconds, Meta(ge=0.001, le=DAY)]
Timeout = Annotated[Seconds, Meta(ge=0.1, le=600)]


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parent of every section."""


class AuthMethod(enum.StrEnum):
    """How the agent proves to PostgreSQL who it is."""

    AUTO = "auto"  # whatever libpq finds: password file, service, peer, certificate
    CERT = "cert"
    AWS_IAM = "aws_iam"
    GCP_IAM = "gcp_iam"
    AZURE_AD = "azure_ad"
    PASSWORD = "password"  # noqa: S105  # the method's name
    PEER = "peer"


class TlsMode(enum.StrEnum):
    """libpq's sslmode (https://www.postgresql.org/docs/current/libpq-ssl.html)."""

    DISABLE = "disable"
    ALLOW = "allow"
    PREFER = "prefer"
    REQUIRE = "require"
    VERIFY_CA = "verify-ca"
    VERIFY_FULL = "verify-full"


class Durability(enum.StrEnum):
    """What the buffer promises across a crash."""

    WAL = "wal"
    OVERFLOW = "overflow"
    MEMORY = "memory"


class Compression(enum.StrEnum):
    """Content-Encoding of a batch."""

    ZSTD = "zstd"
    GZIP = "gzip"


class LogFormat(enum.StrEnum):
    """One JSON object a line, or a line for people."""

    JSON = "json"
    CONSOLE = "console"


class LogLevel(enum.StrEnum):
    """The lowest level that is written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class MaskingLevel(enum.StrEnum):
    """How much of a query text leaves the host."""

    NONE = "none"
    BASIC = "basic"
    FULL = "full"
    CUSTOM = "custom"


class Fsync(enum.StrEnum):
    """When the file outlet forces its files to the disk."""

    BATCH = "batch"  # before a batch counts as delivered
    ROTATE = "rotate"  # when a file is complete, and at the end
    NEVER = "never"
