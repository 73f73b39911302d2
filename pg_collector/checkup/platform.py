"""The platform: the way there, whether it is what answers, and how the device stands."""

import datetime as dt
import hmac
import re
import time
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any, Final

import msgspec

from pg_collector.activation.state import fingerprint
from pg_collector.checkup import account
from pg_collector.checkup.asked import Asked
from pg_collector.checkup.finding import Finding, Level
from pg_collector.checkup.plan import Plan
from pg_collector.clock import SystemClock
from pg_collector.config.model import Config
from pg_collector.errors import CollectorError, DeliveryError, Unexpected, Unreachable
from pg_collector.outlets.answers import date, failed
from pg_collector.web import Reply, Web

CLOCK = "clock_skew_s"  # of the platform, among the figures
_ASKED_FOR: Final = "/.well-known/jwks.json"  # needs no login, changes nothing, is small
_WRONG: Final = "Is platform.url right, and nothing in between that wants a login or a click?"
# Somebody is there, but something has to be mended before one can talk to it.
_ANSWERED: Final = re.compile(r": TLS: |: the proxy ")
_KEY_REFUSED: Final = re.compile(r"\bapi key unknown\b|\bkey (?:revoked|exhausted)\b")
_COMMAND: Final = re.compile(r"(?:(?<=&& )|^)pgc ")
_THEN: Final = "and restart the agent (under systemd: systemctl restart pg-collector)"
_SECOND: Final = 1.0  # what a Date header is exact to


class _Keys(msgspec.Struct, frozen=True):
    """What only the platform answers with."""

    keys: list[dict[str, Any]]
    version: int


def findings(asked: Asked, plan: Plan) -> Iterator[Finding]:
    """Go to the platform and back, then say how the device stands."""
    config = asked.config
    if config.local.enabled:
        said = f"none: samples are written to files in {config.local.path}"
        yield Finding(section="platform", level=Level.OK, found=said)
        return
    if config.platform.url is None:
        yield Finding(
            section="platform",
            level=Level.WARN,
            found="nothing is delivered: there is no platform.url, and local is off",
            remedy="Set platform.url and api_key, or: pgc start --local DIR",
        )
        return
    yield _way(config, asked)
    for one in _device(config, plan, str(asked.loaded.origins.get("api_key", "api_key"))):
        yield msgspec.structs.replace(one, remedy=_as_service(one.remedy, asked))


def _way(config: Config, asked: Asked) -> Finding:
    web: Web | None = None
    try:
        web = Web(config.platform, SystemClock(), asked.environ)
        reply, skew = _reply(web, asked)
    except DeliveryError as error:
        return Finding(
            section="platform",
            level=Level.FAIL,
            found=_failed(web, str(error)),
            remedy=error.remedy,
            unreachable=isinstance(error, Unreachable) and not _ANSWERED.search(str(error)),
        )  # fmt: skip
    except CollectorError as error:
        return Finding(section="platform", level=Level.FAIL, found=str(error), remedy=error.remedy)
    finally:
        if web is not None:
            web.close()
    said = [f"{web.url}{_by(web)}", f"{reply.seconds * 1000:.0f} ms", f"HTTP {reply.status}"]
    if skew is not None:
        said.append(f"clock {skew:+.1f} s")
    return Finding(
        section="platform",
        level=Level.OK,
        found=", ".join(said),
        measured={"ms": round(reply.seconds * 1000, 1), "status": reply.status, CLOCK: skew},
    )


def _reply(web: Web, asked: Asked) -> tuple[Reply, float | None]:
    """Ask, and make sure that it is the platform. Raises a DeliveryError."""
    within = max(0.1, min(web.timeout, asked.left()))
    before = time.time()
    reply = web.request("GET", _ASKED_FOR, {}, within=within)
    after = time.time()
    if not HTTPStatus.OK <= reply.status < HTTPStatus.MULTIPLE_CHOICES:
        raise failed(reply, dt.datetime.now(dt.UTC))
    try:
        msgspec.json.decode(reply.body, type=_Keys)
    except (msgspec.DecodeError, UnicodeDecodeError):
        kind = reply.headers.get("content-type", "no type").partition(";")[0]
        raise Unexpected(
            f"{web.place}: something else answers: {reply.status}, {kind[:60]}, and no keys of a "
            "platform",
            remedy=_WRONG,
        ) from None
    told = date(reply.headers.get("date", ""))
    return reply, None if told is None else _skew(told.timestamp(), before, after)


def _skew(told: float, before: float, after: float) -> float:
    """Return how far the far side's clock is ahead; within the header's exactness that is 0."""
    if before - _SECOND <= told <= after:
        return 0.0
    return round(told - (after if told > after else before - _SECOND), 1)


def _failed(web: Web | None, said: str) -> str:
    """Say with whom an exchange failed, and who would have been trusted."""
    if web is None:
        return said
    place = "" if web.place in said else f"{web.place}: "
    return f"{place}{said}" + (f" (CA {web.authorities})" if web.authorities is not None else "")


def _by(web: Web) -> str:
    """Say which way it is, and who is trusted on it."""
    _, _, proxy = web.place.partition(" by the proxy ")
    said = f" via proxy {proxy}" if proxy else ""
    return said + (f", CA {web.authorities}" if web.authorities is not None else "")


def _device(config: Config, plan: Plan, place: str) -> Iterator[Finding]:
    """Say how the device stands, as far as is known."""
    if config.api_key is None and (plan.told is None or plan.told.policy is None):
        yield Finding(
            section="platform",
            level=Level.FAIL,
            found="there is no api_key, and the device is not activated",
            remedy="Set api_key_file, API_KEY, or the systemd credential api_key",
        )
        return
    if plan.told is None:
        yield Finding(section="platform", level=Level.FAIL, found=plan.trouble, remedy=plan.remedy)
        return
    told, key = plan.told, config.api_key
    mine = fingerprint(key.reveal()) if key is not None else ""
    if plan.key_sha256 and mine and not hmac.compare_digest(mine, plan.key_sha256):
        yield Finding(
            section="platform",
            level=Level.FAIL,
            found="API key mismatch: the device is activated with another key",
            remedy="pgc deactivate && pgc activate   # or put the former api_key back",
        )
        return
    level, found, remedy = _standing(told.state, told.reason, told.remedy, told.trouble, place)
    measured = {"state": told.state, "contact_age_s": told.contact_age_s}
    yield Finding(section="platform", level=level, found=found, remedy=remedy, measured=measured)


def _as_service(remedy: str, asked: Asked) -> str:
    """Say of commands under whose account they are typed: files of root's shut the agent out."""
    here = account.current()
    try:
        uid = asked.state_dir.stat().st_uid
    except OSError:
        service = here
    else:
        service = account.owner(uid) if uid else here
    if service == (asked.typed_by or here):
        return remedy
    return _COMMAND.sub(f"sudo -u {service} pgc ", remedy)


def _standing(
    state: str, reason: str, remedy: str, trouble: str, place: str
) -> tuple[Level, str, str]:
    """Return level, finding and remedy; `place` is where the API key is from."""
    why = "; ".join(dict.fromkeys(filter(None, (reason, trouble))))
    said = f"device {state}" + (f": {why}" if why else "")
    if state == "ACTIVE":
        return (Level.WARN if trouble else Level.OK), said, remedy if trouble else ""
    if state == "UNPROVISIONED" and _KEY_REFUSED.search(why):
        return Level.FAIL, said, f"Put a key that the platform knows into {place}, {_THEN}"
    if state == "UNPROVISIONED" and not trouble:
        said = "the device is not activated yet, and only that tries the api_key"
        return Level.WARN, said, "pgc activate"
    level = Level.WARN if state == "GRACE" else Level.FAIL
    return level, said, remedy or "pgc device"
