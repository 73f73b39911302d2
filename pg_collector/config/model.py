"""The configuration as frozen values, one class per section of the file.

Field names are the file's keys. Durations are seconds, sizes are bytes, whatever unit the file
used; texts that are secret are `Secret`. Defaults, bounds and descriptions stand here (and in
`target`, `kinds`) and nowhere else: the reference is made from them. Reading, checking and error
messages are `config.load`'s work; a `Config` that exists is valid.
"""

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, field

from pg_collector.config.kinds import (
    DAY,
    GIB,
    KIB,
    MIB,
    AuthMethod,
    Bytes,
    Compression,
    Durability,
    Fraction,
    Fsync,
    Interval,
    LogFormat,
    LogLevel,
    MaskingLevel,
    Seconds,
    Section,
    Timeout,
    TlsMode,
)
from pg_collector.config.target import (
    AwsIam,
    AzureAd,
    Database,
    Discover,
    GcpIam,
    Postgres,
    Tls,
)
from pg_collector.secret import Secret

__all__ = [
    "KIB",
    "MIB",
    "AuthMethod",
    "AwsIam",
    "AzureAd",
    "Breaker",
    "Breakers",
    "Buffers",
    "Bytes",
    "ClientCert",
    "Compression",
    "Config",
    "Database",
    "Discover",
    "Durability",
    "Fraction",
    "Fsync",
    "GcpIam",
    "Http",
    "HttpTls",
    "IpAllowlist",
    "Local",
    "Log",
    "LogFormat",
    "LogLevel",
    "MaskingLevel",
    "Platform",
    "PlatformTimeout",
    "Postgres",
    "Sampling",
    "Seconds",
    "Section",
    "Security",
    "Tls",
    "TlsMode",
]


class Sampling(Section, frozen=True):
    """How often. An absent interval is the sampler's own default."""

    enabled: Annotated[
        dict[str, bool],
        Meta(
            description="`{statements: false}` switches one off; the plan says what may be on",
            extra={"of": "samplers"},
        ),
    ] = field(default_factory=dict)
    every: Annotated[
        dict[str, Interval],  # in the file: one key per sampler, beside the others
        Meta(
            description="a sampler's interval: `activity: 10s`; clamped to the plan's minimum",
            extra={"of": "samplers", "beside": True},
        ),
    ] = field(default_factory=dict)
    jitter: Annotated[
        Fraction, Meta(description="how far runs are spread, as a part of the interval")
    ] = 0.1
    budget: Annotated[
        Fraction | None,
        Meta(
            description="server time that all samplers of a target may take, of one core; or `off`",
            extra={"off": True},
        ),
    ] = 0.05
    query_text_max: Annotated[
        Bytes, Meta(ge=KIB, le=MIB, description="longer query texts are cut")
    ] = 64 * KIB


class Buffers(Section, frozen=True):
    """Between sampling and sending."""

    durability: Annotated[
        Durability,
        Meta(
            description="wal: on disk before it is sent; overflow: on disk when memory is full, "
            "while nothing is delivered, and at the end; memory: never on disk, and lost when the "
            "process ends"
        ),
    ] = Durability.WAL
    memory_max: Annotated[Bytes, Meta(ge=512 * KIB, le=GIB, description="lines held in memory")] = (
        4 * MIB
    )
    disk_path: Annotated[
        Path | None,
        Meta(description="for this agent alone; by default `buffer` in the state directory"),
    ] = None
    disk_max: Annotated[
        Bytes,
        Meta(
            ge=MIB, description="beyond it samples are thinned, then dropped, counted and declared"
        ),
    ] = 500 * MIB
    min_free: Annotated[Fraction, Meta(description="of the volume, which is never filled")] = 0.05


class ClientCert(Section, frozen=True):
    """The certificate that the agent shows to the platform or a proxy."""

    cert_file: Annotated[Path | None, Meta(description="needs `key_file`, too")] = None
    key_file: Annotated[Path | None, Meta(description="mode 0600")] = None


class PlatformTimeout(Section, frozen=True):
    """Bounds of one request."""

    connect: Annotated[Timeout, Meta(description="until connected")] = 5.0
    total: Annotated[Timeout, Meta(description="until the whole answer is there")] = 30.0


class Platform(Section, frozen=True):
    """Where the samples go."""

    url: Annotated[
        str | None, Meta(description="required with an `api_key`", extra={"url": True})
    ] = None
    proxy: Annotated[
        Secret | None, Meta(description="by default HTTPS_PROXY and NO_PROXY are followed")
    ] = None
    no_proxy: Annotated[str | None, Meta(description="hosts to reach without the proxy")] = None
    ca_file: Annotated[
        str, Meta(description="`system` or a file of certificates", extra={"place": True})
    ] = "system"
    crl_file: Annotated[
        Path | None,
        Meta(description="list of revoked certificates, of every authority in the chain"),
    ] = None
    client_cert: ClientCert = ClientCert()
    batch_max_lines: Annotated[
        int, Meta(ge=1, le=10_000, description="a request holds at most so many lines")
    ] = 500
    batch_max_bytes: Annotated[
        Bytes, Meta(ge=16 * KIB, le=16 * MIB, description="a request holds at most so much")
    ] = 512 * KIB
    linger: Annotated[
        Seconds, Meta(ge=0, le=300, description="so long may a batch wait to grow; 0.05s at least")
    ] = 5.0
    drain_rate_max: Annotated[
        Bytes, Meta(ge=KIB, description="bytes a second on the wire after an outage")
    ] = MIB
    resume_delay_max: Annotated[
        Seconds,
        Meta(ge=0, le=3600, description="random, so that a fleet does not return at once"),
    ] = 30.0
    retry_max: Annotated[
        Seconds,
        Meta(ge=1, le=3600, description="longest pause between two attempts while none succeeds"),
    ] = 60.0
    timeout: PlatformTimeout = PlatformTimeout()
    compression: Annotated[Compression, Meta(description="of a request's body")] = Compression.ZSTD


class Breaker(Section, frozen=True):
    """After `failures` in a row, leave it alone for `reset`."""

    failures: Annotated[int, Meta(ge=1, le=1000, description="in a row, to open")] = 5
    reset: Annotated[Seconds, Meta(ge=1, le=3600, description="until the next attempt")] = 30.0


class Breakers(Section, frozen=True):
    """One breaker per far side; `identity` is the key service: activation, tokens, policy."""

    postgres: Breaker = Breaker()
    platform: Breaker = Breaker()
    identity: Breaker = Breaker(reset=60.0)


class HttpTls(Section, frozen=True):
    """TLS of the agent's own endpoints."""

    cert_file: Annotated[Path | None, Meta(description="needs `key_file`, too")] = None
    key_file: Annotated[Path | None, Meta(description="mode 0600")] = None


class Http(Section, frozen=True):
    """The agent's own endpoints: health and metrics."""

    address: Annotated[
        str,
        Meta(description="`host:port`, `:port` for every address of the host, or `off`"),
    ] = "127.0.0.1:8080"
    read_timeout: Annotated[Timeout, Meta(description="for a whole request")] = 5.0
    write_timeout: Annotated[Timeout, Meta(description="for a whole answer")] = 10.0
    trusted_proxies: Annotated[
        tuple[str, ...],
        Meta(description="networks whose X-Forwarded-For is believed: `[10.0.0.0/8]`"),
    ] = ()
    token_file: Annotated[
        Path | None, Meta(description="file with the bearer token that a request must show")
    ] = None
    tls: HttpTls = HttpTls()


class Log(Section, frozen=True):
    """The log on stderr."""

    level: Annotated[LogLevel, Meta(description="the lowest level that is written")] = LogLevel.INFO
    format: Annotated[
        LogFormat, Meta(description="one JSON object a line, or lines for people")
    ] = LogFormat.JSON
    repeat_window: Annotated[
        Seconds,
        Meta(ge=0, le=DAY, description="a repeated line is written once in it, then counted"),
    ] = 60.0
    file: Annotated[
        Path | None, Meta(description="a file that gets the lines, too, on hosts without systemd")
    ] = None


class IpAllowlist(Section, frozen=True):
    """Who may ask the agent's endpoints."""

    enabled: Annotated[bool, Meta(description="refuse everybody else")] = False
    allowlist: Annotated[tuple[str, ...], Meta(description="addresses and networks")] = ()


class Security(Section, frozen=True):
    """What leaves the host, and who may look."""

    query_masking_level: Annotated[
        MaskingLevel, Meta(description="how much of a query text leaves the host")
    ] = MaskingLevel.BASIC
    drop_utility_text: Annotated[
        bool, Meta(description="of CREATE, SET and their like only the command's name is kept")
    ] = True
    pii_detection: Annotated[
        Literal["auto"], Meta(description="the plan's level; it cannot be switched off")
    ] = "auto"
    keep_query_tags: Annotated[
        tuple[str, ...],
        Meta(description="keys of sqlcommenter comments whose values are sent: `[route]`"),
    ] = ()
    masking_patterns: Annotated[
        tuple[str, ...], Meta(description="what level `custom` masks beside `basic`")
    ] = ()
    audit_logging: Annotated[
        bool, Meta(description="keep a file of who was let in, what was refused, what changed")
    ] = False
    audit_log_path: Annotated[Path, Meta(description="that file; its owner alone may read it")] = (
        Path("/var/log/pg-collector/audit.log")
    )
    ip_allowlist: IpAllowlist = IpAllowlist()


class Local(Section, frozen=True):
    """Samples as files of JSON lines, for a demo or an air-gapped host; not with an `api_key`."""

    enabled: Annotated[bool, Meta(description="write files")] = False
    path: Annotated[Path, Meta(description="the directory; made when missing")] = Path("./output")
    format: Annotated[Literal["jsonl"], Meta(description="one sample a line")] = "jsonl"
    rotate_size: Annotated[
        Bytes, Meta(ge=64 * KIB, description="a larger file is closed, and a new one begun")
    ] = 64 * MIB
    rotate_age: Annotated[Seconds, Meta(ge=1, le=30 * DAY, description="so is an older one")] = DAY
    keep: Annotated[
        Bytes,
        Meta(ge=0, description="of closed files, all together; the oldest go first; 0 keeps all"),
    ] = GIB
    fsync: Annotated[
        Fsync,
        Meta(
            description="batch: before a batch counts as delivered; rotate: when a file is closed, "
            "and at the end; never"
        ),
    ] = Fsync.BATCH


class Config(Section, frozen=True):
    """The whole configuration, checked."""

    databases: Annotated[
        tuple[Database, ...],
        Meta(description="the targets; without any, PG_CONN_STRING or PGHOST names the only one"),
    ]
    api_key: Annotated[
        Secret | None,
        Meta(description="of the platform; also API_KEY, or the systemd credential `api_key`"),
    ] = None
    sampling: Sampling = Sampling()
    state_dir: Annotated[
        Path | None,
        Meta(
            description="by default $STATE_DIRECTORY, else /var/lib/pg-collector where writable, "
            "else pg-collector in $XDG_STATE_HOME, on macOS in ~/Library/Application Support"
        ),
    ] = None
    buffers: Buffers = Buffers()
    platform: Platform = Platform()
    breakers: Breakers = Breakers()
    http: Http = Http()
    log: Log = Log()
    security: Security = Security()
    local: Local = Local()
