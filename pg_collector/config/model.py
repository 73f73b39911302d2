"""The configuration as frozen values, one class per section of the file.

Field names are the file's keys. Durations are seconds, sizes are bytes, whatever unit the file
used; texts that are secret are `Secret`. Defaults stand here and nowhere else. Reading, checking
and error messages are `config.load`'s work; a `Config` that exists is valid.
"""

import enum
from pathlib import Path
from typing import Annotated

import msgspec

from pg_collector.secret import Secret

Seconds = float
Bytes = int
Fraction = float  # 0.1 is 10 %

KIB = 1024
MIB = 1024 * KIB


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


class Tls(Section, frozen=True):
    """TLS to PostgreSQL. `ca_file: system` is the operating system's bundle."""

    mode: TlsMode | None = None
    ca_file: str = "system"
    cert_file: Path | None = None
    key_file: Path | None = None


class AwsIam(Section, frozen=True):
    """RDS and Aurora IAM authentication."""

    region: str | None = None
    role_arn: str | None = None


class GcpIam(Section, frozen=True):
    """Cloud SQL IAM authentication; nothing to set."""


class AzureAd(Section, frozen=True):
    """Microsoft Entra authentication."""

    client_id: str | None = None


class Postgres(Section, frozen=True):
    """One connection's settings; empty parts of `conn_string` fall back to libpq's environment."""

    conn_string: Secret = Secret("postgresql:///postgres")
    auth_method: AuthMethod = AuthMethod.AUTO
    password: Secret | None = None
    password_file: Path | None = None
    connect_timeout: Seconds = 5.0
    query_timeout: Seconds = 5.0
    lock_timeout: Seconds = 0.1
    max_connections: Annotated[int, msgspec.Meta(ge=1, le=2)] = 2
    application_name: str = "pg-collector"
    tls: Tls = Tls()
    aws_iam: AwsIam = AwsIam()
    gcp_iam: GcpIam = GcpIam()
    azure_ad: AzureAd = AzureAd()


class Discover(Section, frozen=True):
    """Which further databases of the same server the per-database samplers visit."""

    enabled: bool = False
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ("template0", "template1", "rdsadmin")


class Database(Section, frozen=True):
    """A target."""

    name: str
    enabled: bool = True
    samplers: tuple[str, ...] = ()  # empty: all that the plan allows
    tags: dict[str, str] = {}
    discover: Discover = Discover()
    postgres: Postgres = Postgres()


class Sampling(Section, frozen=True):
    """How often. An absent interval is the sampler's own default."""

    enabled: dict[str, bool] = {}
    every: dict[str, Seconds] = {}  # in the file: one key per sampler, beside the others
    jitter: Fraction = 0.1
    budget: Fraction | None = 0.05  # of one core of the server; None is off
    query_text_max: Bytes = 64 * KIB


class Durability(enum.StrEnum):
    """What the buffer promises across a crash."""

    WAL = "wal"
    OVERFLOW = "overflow"
    MEMORY = "memory"


class Buffers(Section, frozen=True):
    """The two tiers between sampling and sending."""

    durability: Durability = Durability.WAL
    memory_max: Bytes = 4 * MIB
    disk_path: Path | None = None  # None: `buffer` in the state directory
    disk_max: Bytes = 500 * MIB
    min_free: Fraction = 0.05


class ClientCert(Section, frozen=True):
    """The certificate that the agent shows to the platform or a proxy."""

    cert_file: Path | None = None
    key_file: Path | None = None


class PlatformTimeout(Section, frozen=True):
    """Bounds of one request."""

    connect: Seconds = 5.0
    total: Seconds = 30.0


class Compression(enum.StrEnum):
    """Content-Encoding of a batch."""

    ZSTD = "zstd"
    GZIP = "gzip"


class Platform(Section, frozen=True):
    """Where the samples go."""

    url: str | None = None
    proxy: Secret | None = None
    no_proxy: str | None = None
    ca_file: str = "system"
    client_cert: ClientCert = ClientCert()
    batch_max_lines: int = 500
    batch_max_bytes: Bytes = 512 * KIB
    linger: Seconds = 5.0
    drain_rate_max: Bytes = 1 * MIB
    resume_delay_max: Seconds = 30.0
    timeout: PlatformTimeout = PlatformTimeout()
    compression: Compression = Compression.ZSTD


class Breaker(Section, frozen=True):
    """After `failures` in a row, leave it alone for `reset` seconds."""

    failures: int = 5
    reset: Seconds = 30.0


class Breakers(Section, frozen=True):
    """One breaker per far side."""

    postgres: Breaker = Breaker()
    platform: Breaker = Breaker()
    identity: Breaker = Breaker(reset=60.0)


class HttpTls(Section, frozen=True):
    """TLS of the agent's own endpoints."""

    cert_file: Path | None = None
    key_file: Path | None = None


class Http(Section, frozen=True):
    """The agent's own endpoints: health and metrics. `address: off` opens none."""

    address: str = "127.0.0.1:8080"
    read_timeout: Seconds = 5.0
    write_timeout: Seconds = 10.0
    trusted_proxies: tuple[str, ...] = ()
    token_file: Path | None = None
    tls: HttpTls = HttpTls()


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


class Log(Section, frozen=True):
    """The log on stderr; `file` is for hosts without systemd."""

    level: LogLevel = LogLevel.INFO
    format: LogFormat = LogFormat.JSON
    repeat_window: Seconds = 60.0
    file: Path | None = None


class MaskingLevel(enum.StrEnum):
    """How much of a query text leaves the host."""

    NONE = "none"
    BASIC = "basic"
    FULL = "full"
    CUSTOM = "custom"


class IpAllowlist(Section, frozen=True):
    """Who may ask the agent's endpoints."""

    enabled: bool = False
    allowlist: tuple[str, ...] = ()


class Security(Section, frozen=True):
    """What leaves the host, and who may look."""

    query_masking_level: MaskingLevel = MaskingLevel.BASIC
    drop_utility_text: bool = True
    pii_detection: str = "auto"
    keep_query_tags: tuple[str, ...] = ()
    masking_patterns: tuple[str, ...] = ()
    audit_logging: bool = False
    audit_log_path: Path = Path("/var/log/pg-collector/audit.log")
    ip_allowlist: IpAllowlist = IpAllowlist()


class Fsync(enum.StrEnum):
    """When the file outlet forces its files to the disk."""

    BATCH = "batch"  # before a batch counts as delivered
    ROTATE = "rotate"  # when a file is complete, and at the end
    NEVER = "never"


class Local(Section, frozen=True):
    """Samples as files of JSON lines, for a demo or an air-gapped host."""

    enabled: bool = False
    path: Path = Path("./output")
    format: str = "jsonl"
    rotate_size: Bytes = 64 * MIB
    rotate_age: Seconds = 86_400.0
    keep: Bytes = 1024 * MIB  # of complete files, all together; the oldest go first; 0 keeps all
    fsync: Fsync = Fsync.BATCH


class Config(Section, frozen=True):
    """The whole configuration, checked."""

    databases: tuple[Database, ...]
    api_key: Secret | None = None
    sampling: Sampling = Sampling()
    state_dir: Path | None = None
    buffers: Buffers = Buffers()
    platform: Platform = Platform()
    breakers: Breakers = Breakers()
    http: Http = Http()
    log: Log = Log()
    security: Security = Security()
    local: Local = Local()
