"""What texts and names are masked with: as the configuration asks, as far as the plan has it."""

import contextlib
import logging
import os
import secrets
from pathlib import Path
from typing import Final, NamedTuple

from pg_collector.config.model import Config
from pg_collector.errors import StateError
from pg_collector.folders import sync, sync_folder
from pg_collector.health import vitals
from pg_collector.health.vitals import Vital
from pg_collector.metrics import PII, Metrics
from pg_collector.plan import DEMO, Grant
from pg_collector.privacy.mask import Masker
from pg_collector.privacy.names import SECRET_BYTES
from pg_collector.privacy.pii import Detector, Kind

log = logging.getLogger(__name__)
audit = logging.getLogger("pg_collector.audit")

FILE: Final = "masking.key"  # in the state directory: what level full makes its tokens with
FILE_MODE: Final = 0o600
FOLDER_MODE: Final = 0o700
REMEDY: Final = "Let the agent's user write to its state directory, and restart it."


class Masking:
    """Makes the masker of an agent, and follows its configuration and its plan."""

    def __init__(self, metrics: Metrics, state_dir: Path | None) -> None:
        """Without a state directory, tokens of level full are of this process only."""
        self._metrics = metrics
        self._found_total = {kind: metrics.pii_found_total.labels(kind) for kind in PII}
        self._directory = state_dir
        self._secret = b""
        self._trouble = ""  # why the secret is of this process only
        self.masker = Masker()
        self._terms: _Terms | None = None

    def made(self, config: Config, grant: Grant | None) -> Masker:
        """Return what is to mask from now on: the one that does, where nothing changes.

        Raises ConfigurationError for patterns that cannot be used. Where the secret of level full
        can be neither read nor made, names get tokens that hold for this process.
        """
        terms = _terms(config, grant)
        if terms == self._terms:
            return self.masker
        level, pii, patterns, tags = terms
        if level == "full" and not self._secret:
            self._secret = self._installed()
        return Masker(
            level,
            patterns=patterns,
            secret=self._secret,
            detector=Detector(pii, on_found=self._found),
            keep_tags=tags,
            on_failure=self._failed,
        )

    def follow(self, config: Config, grant: Grant | None) -> None:
        """Mask as a configuration asks, and a plan allows. Raises as `made` does."""
        made = self.made(config, grant)
        if made is self.masker:
            return
        before, self.masker = self.masker, made
        self._terms = level, pii, _, tags = _terms(config, grant)
        told = {"masking": level, "pii": pii, **({"tags": ", ".join(tags)} if tags else {})}
        audit.info("masking is at the level %s", level, extra=told)
        asked = config.security.query_masking_level
        if made.level != asked:
            log.warning("texts are masked at the level %s: the plan has no %s", made.level, asked)
        elif made.level != before.level:
            log.log(
                logging.WARNING if made.level == "none" else logging.INFO,
                "texts are masked at the level %s from now on",
                made.level,
            )

    def _installed(self) -> bytes:
        try:
            return installation_secret(self._directory)
        except StateError as error:
            log.error("%s", error, extra={"remedy": error.remedy})
            self._trouble = f"names get other tokens after a restart: {error}"
            return installation_secret(None)

    def vital(self) -> Vital:
        """Say in the health report where texts leave the host as they are."""
        if self._trouble and self.masker.level == "full":
            return Vital(state=vitals.State.DEGRADED, reason=self._trouble, remedy=REMEDY)
        if self.masker.level != "none":
            return vitals.OK
        return Vital(
            state=vitals.State.OK,
            reason="texts are sent as they are, but for credentials",
            remedy="security.query_masking_level: basic masks them.",
        )

    def _found(self, kind: Kind, count: int) -> None:
        self._found_total[kind].inc(count)

    def _failed(self, reason: str) -> None:
        self._metrics.masking_failures_total.labels(reason=reason).inc()


def as_configured(config: Config, state_dir: Path) -> Masker:
    """Return a masker as a configuration asks for it, whatever the plan; for a command.

    Its tokens are the agent's where that has made its secret and this user may read it. Raises
    StateError where this user may not.
    """
    security = config.security
    level, secret = security.query_masking_level, b""
    if level == "full":
        secret = installation_secret(state_dir if (state_dir / FILE).exists() else None)
    return Masker(
        level,
        patterns=security.masking_patterns,
        secret=secret,
        detector=Detector("full"),
        keep_tags=security.keep_query_tags,
    )


class _Terms(NamedTuple):
    """What a masker is made of, beside its secret."""

    level: str
    pii: str
    patterns: tuple[str, ...]
    tags: tuple[str, ...]


def _terms(config: Config, grant: Grant | None) -> _Terms:
    """Return what the configuration asks for, as far as the plan has it."""
    features = (grant or DEMO).features
    asked = config.security.query_masking_level
    level = asked if grant is None and asked != "none" else features.masking(asked)
    pii = features.pii if features.pii in {"basic", "full"} else "basic"
    return _Terms(level, pii, config.security.masking_patterns, config.security.keep_query_tags)


def installation_secret(directory: Path | None) -> bytes:
    """Return this installation's secret for tokens, made the first time. It never leaves the host.

    Raises StateError.
    """
    if directory is None:
        return secrets.token_bytes(SECRET_BYTES)
    path = directory / FILE
    try:
        directory.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            return _checked(path, path.read_bytes())
        new = directory / f".{FILE}.{secrets.token_hex(8)}"
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
        with os.fdopen(fd, "wb") as file:
            file.write(secrets.token_bytes(SECRET_BYTES))
            file.flush()
            sync(file.fileno())
        with contextlib.suppress(FileExistsError):  # another process was quicker: its secret holds
            os.link(new, path)
        new.unlink()
        sync_folder(directory)
        return _checked(path, path.read_bytes())
    except OSError as error:
        raise StateError(
            f"the secret for masked names cannot be kept: {path}: {error.strerror}",
            remedy=REMEDY,
        ) from error


def kept_secret(directory: Path) -> bytes:
    """Return this installation's secret for tokens as it is kept; nothing is made.

    Raises StateError where there is none, PermissionError where this user may not read it.
    """
    path = directory / FILE
    try:
        return _checked(path, path.read_bytes())
    except FileNotFoundError:
        raise StateError(
            f"{path}: there is no such file",
            remedy="The agent makes it in its state directory once it masks at level full: name "
            "that directory (state_dir), on that host.",
        ) from None
    except PermissionError:
        raise
    except OSError as error:
        raise StateError(
            f"{path}: {error.strerror}",
            remedy="Name the agent's state directory: state_dir.",
        ) from error


def _checked(path: Path, secret: bytes) -> bytes:
    if len(secret) != SECRET_BYTES:
        raise StateError(
            f"{path} is damaged: {len(secret)} bytes instead of {SECRET_BYTES}",
            remedy="Restore it from a backup; or remove it, and names get other tokens.",
        )
    return secret
