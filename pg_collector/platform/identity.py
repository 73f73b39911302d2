"""Who may do what: API keys, devices, token families and commands, in SQLite.

Several processes may use the file at once: the platform, and `pgc platform keys` beside it. Of keys
and tokens only the SHA-256 is kept. Times are seconds since 1970.
"""

import contextlib
import datetime as dt
import hmac
import secrets
import sqlite3
import string
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from pg_collector.errors import CollectorError
from pg_collector.platform.keys import digest
from pg_collector.platform.messages import DeviceTold
from pg_collector.platform.problems import Problem

# The closed list of docs/specs/protocol.md: each command with the arguments that it takes.
COMMANDS: Final[Mapping[str, Mapping[str, type | tuple[type, ...]]]] = {
    "resync": {},
    "pause": {"sampler": str},
    "resume": {"sampler": str},
    "set_interval": {"sampler": str, "seconds": (int, float)},
    "collect_once": {"sampler": str},
    "flush": {},
    "rotate_token": {},
}

_LETTERS: Final = string.ascii_letters + string.digits
_COMMANDS_AT_ONCE: Final = 50  # of these; an agent takes replies of 64 KiB
_ARGUMENTS_MAX: Final = 400  # bytes
_SHOWN: Final = 8  # letters of a key that its prefix has
_TOKENS_KEPT: Final = 90 * 86_400.0  # seconds for which a spent refresh token is recognized
_SCHEMA: Final = """
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE api_keys (
    digest TEXT PRIMARY KEY, prefix TEXT NOT NULL, plan TEXT NOT NULL, devices INTEGER NOT NULL,
    created REAL NOT NULL, revoked REAL, cancelled REAL
) STRICT;
CREATE TABLE devices (
    id TEXT PRIMARY KEY, api_key TEXT NOT NULL REFERENCES api_keys, hostname TEXT NOT NULL,
    agent_version TEXT NOT NULL, activated REAL NOT NULL, activations INTEGER NOT NULL,
    state TEXT NOT NULL, family TEXT, last_contact REAL,
    policy_version INTEGER NOT NULL DEFAULT 0, policy_digest TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX devices_of_key ON devices (api_key);
CREATE TABLE families (
    id TEXT PRIMARY KEY, device TEXT NOT NULL, used TEXT, unused TEXT NOT NULL, ended TEXT
) STRICT;
CREATE TABLE refresh_tokens (
    digest TEXT PRIMARY KEY, family TEXT NOT NULL, made REAL NOT NULL
) STRICT;
CREATE TABLE commands (
    id TEXT PRIMARY KEY, device TEXT NOT NULL, command TEXT NOT NULL, arguments TEXT NOT NULL,
    created REAL NOT NULL, expires REAL NOT NULL, status TEXT, detail TEXT, at TEXT
) STRICT;
CREATE INDEX commands_of_device ON commands (device, status);
PRAGMA user_version = 1;
"""
_DEVICE: Final = """
SELECT d.id, d.hostname, d.agent_version, d.state, d.activated, d.activations, d.last_contact,
       d.policy_version, d.policy_digest, d.family, k.plan, k.prefix, k.revoked, k.cancelled
FROM devices d JOIN api_keys k ON k.digest = d.api_key
"""


class ApiKey(NamedTuple):
    """An API key, without itself."""

    prefix: str
    plan: str
    devices: int  # that it holds for
    active: int  # that use it
    created: float
    revoked: float | None
    cancelled: float | None


class Device(NamedTuple):
    """A device, with what its key says."""

    id: str
    hostname: str
    agent_version: str
    state: str  # active, deactivated or revoked
    activated: float
    activations: int
    last_contact: float | None
    policy_version: int
    policy_digest: str
    family: str | None
    plan: str
    key_prefix: str
    key_revoked: float | None
    key_cancelled: float | None

    def refuse(self) -> None:
        """Raise the Problem that keeps the device from everything, if there is one."""
        if self.state == "revoked":
            raise Problem(403, "device-revoked")
        if self.key_revoked is not None:
            raise Problem(403, "key-revoked")
        if self.key_cancelled is not None:
            raise Problem(403, "subscription-cancelled")


class Issued(NamedTuple):
    """A device, and a refresh token that was just made for it."""

    device: Device
    family: str
    refresh_token: str


class Command(NamedTuple):
    """A command that waits for its result."""

    id: str
    command: str
    arguments: dict[str, Any]
    expires: float


class Identity:
    """The database. Thread-safe. What is written is durable when a method returns."""

    def __init__(self, path: Path) -> None:
        """Open an existing file. Raises CollectorError where it is none of ours."""
        self._lock = threading.RLock()  # guards the connection
        self._db = sqlite3.connect(
            path, timeout=10.0, isolation_level=None, check_same_thread=False
        )
        self._contacts: dict[str, float] = {}  # by device, not yet written
        try:
            self._db.executescript(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;"
            )
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
        except sqlite3.DatabaseError as error:
            raise CollectorError(f"{path}: {error}", remedy="Restore it from a backup.") from None
        if version != 1:
            raise CollectorError(
                f"{path} has format {version}, this platform knows 1",
                remedy="A newer platform wrote it: start that one, or restore a backup of before.",
            )

    @classmethod
    def make(cls, path: Path, settings: Mapping[str, str]) -> None:
        """Make a new file with these settings."""
        db = sqlite3.connect(path)
        with contextlib.closing(db):
            db.executescript(_SCHEMA)
            db.executemany("INSERT INTO settings VALUES (?, ?)", settings.items())
            db.commit()

    def close(self) -> None:
        """Write what is not written, and close."""
        self.flush_contacts()
        with self._lock:
            self._db.close()

    def setting(self, name: str) -> str:
        """Return a setting; empty where there is none."""
        row = self._one("SELECT value FROM settings WHERE name = ?", name)
        return str(row[0]) if row else ""

    def is_admin(self, token: str) -> bool:
        """Tell whether a token is the administrator's."""
        return hmac.compare_digest(digest(token), self.setting("admin_digest"))

    # --- API keys

    def create_key(self, plan: str, devices: int) -> str:
        """Return a new API key, which nobody can read again."""
        key = f"pgc_{plan}_{''.join(secrets.choice(_LETTERS) for _ in range(32))}"
        prefix = key[: len(f"pgc_{plan}_") + _SHOWN]
        with self._writing() as db:
            db.execute(
                "INSERT INTO api_keys (digest, prefix, plan, devices, created)"
                " VALUES (?, ?, ?, ?, ?)",
                (digest(key), prefix, plan, devices, time.time()),
            )
        return key

    def keys(self) -> list[ApiKey]:
        """Return all keys, the oldest first."""
        return [
            ApiKey(*row)
            for row in self._all(
                "SELECT prefix, plan, devices, (SELECT count(*) FROM devices d WHERE"
                " d.api_key = k.digest AND d.state = 'active'), created, revoked, cancelled"
                " FROM api_keys k ORDER BY created"
            )
        ]

    def revoke_key(self, key: str) -> None:
        """End a key for good. `key` is a prefix, or a whole key; raises CollectorError."""
        self._change_key(key, "revoked = coalesce(revoked, ?)", time.time())

    def cancel_key(self, key: str, *, cancelled: bool = True) -> None:
        """Note that the subscription of a key was cancelled, or renewed."""
        self._change_key(key, "cancelled = ?", time.time() if cancelled else None)

    def change_plan(self, key: str, plan: str) -> None:
        """Give the devices of a key another plan, from their next policy on."""
        self._change_key(key, "plan = ?", plan)

    # --- devices and their tokens

    def activate(self, api_key: str, device: str, hostname: str, agent_version: str) -> Issued:
        """Let a key and a device belong together; earlier tokens of the device end.

        Raises Problem.
        """
        with self._writing() as db:
            key = db.execute(
                "SELECT digest, revoked, cancelled, devices FROM api_keys WHERE digest = ?",
                (digest(api_key),),
            ).fetchone()
            if key is None:
                raise Problem(401, "api-key-unknown")
            known = db.execute("SELECT api_key FROM devices WHERE id = ?", (device,)).fetchone()
            _refuse_key(key, self.device(device), known is not None and known[0] == key[0])
            (others,) = db.execute(
                "SELECT count(*) FROM devices WHERE api_key = ? AND state = 'active' AND id <> ?",
                (key[0], device),
            ).fetchone()
            if others >= key[3]:
                raise Problem(403, "key-exhausted", f"the key holds for {key[3]} devices")
            self._end_families(db, device, "activated-again")
            family = secrets.token_hex(16)
            db.execute(
                "INSERT INTO devices (id, api_key, hostname, agent_version, activated,"
                " activations, state, family) VALUES (?, ?, ?, ?, ?, 1, 'active', ?)"
                " ON CONFLICT (id) DO UPDATE SET api_key = excluded.api_key,"
                " hostname = excluded.hostname, agent_version = excluded.agent_version,"
                " activated = excluded.activated, activations = activations + 1,"
                " state = 'active', family = excluded.family",
                (device, key[0], hostname, agent_version, time.time(), family),
            )
            token = self._new_token(db, family)
            db.execute(
                "INSERT INTO families (id, device, unused) VALUES (?, ?, ?)",
                (family, device, digest(token)),
            )
            return Issued(self._known(device), family, token)

    def refresh(self, device: str, token: str) -> Issued:
        """Take a refresh token, return its successor. Raises Problem.

        The token that was used last may be used again as long as nobody used its successor: the
        reply was lost. Any other one of the family ends it.
        """
        mine = digest(token)
        reused = False
        with self._writing() as db:
            row = db.execute(
                "SELECT f.id, f.used, f.unused, f.ended FROM refresh_tokens t"
                " JOIN families f ON f.id = t.family WHERE t.digest = ? AND f.device = ?",
                (mine, device),
            ).fetchone()
            if row is None:
                raise Problem(401, "refresh-token-unknown")
            family, used, unused, ended = row
            if ended is None:
                self._known(device).refuse()
                reused = mine not in {used, unused}
            if ended is None and not reused:
                successor = self._new_token(db, family)
                db.execute(
                    "UPDATE families SET used = ?, unused = ? WHERE id = ?",
                    (mine, digest(successor), family),
                )
                return Issued(self._known(device), family, successor)
            if reused:
                self._end_families(db, device, "refresh-token-reused")
        if reused or ended == "refresh-token-reused":
            raise Problem(401, "refresh-token-reused", "the family of this token has ended")
        raise Problem(401, "refresh-token-unknown", f"its family has ended: {ended}")

    def holder(self, device: str, family: str) -> Device:
        """Return the device that an access token of this family stands for. Raises Problem."""
        found = self.device(device)
        if found is None or found.state == "deactivated":
            raise Problem(401, "token-invalid")
        found.refuse()
        if found.family != family:
            raise Problem(401, "token-invalid", "its family has ended")
        return found

    def deactivate(self, device: str) -> None:
        """End the tokens of a device, and free its place."""
        with self._writing() as db:
            self._end_families(db, device, "deactivated")
            db.execute(
                "UPDATE devices SET state = 'deactivated', family = NULL WHERE id = ?", (device,)
            )

    def revoke_device(self, device: str, *, revoked: bool = True) -> None:
        """Shut a device out, or let it in again. Raises CollectorError where there is none."""
        self._known_here(device)
        with self._writing() as db:
            if revoked:
                db.execute("UPDATE devices SET state = 'revoked' WHERE id = ?", (device,))
            else:
                db.execute(
                    "UPDATE devices SET state = 'active' WHERE id = ? AND state = 'revoked'",
                    (device,),
                )

    def device(self, device: str) -> Device | None:
        """Return a device."""
        row = self._one(f"{_DEVICE} WHERE d.id = ?", device)
        return Device(*row) if row else None

    def devices(self) -> list[Device]:
        """Return all devices, the oldest first."""
        with self._lock:
            contacts = dict(self._contacts)
        found = [Device(*row) for row in self._all(f"{_DEVICE} ORDER BY d.activated, d.id")]
        return [d._replace(last_contact=contacts.get(d.id, d.last_contact)) for d in found]

    def policy_version(self, device: Device, policy: str) -> int:
        """Return the version of a device's policy, which grows when the digest is another one."""
        if device.policy_digest == policy:
            return device.policy_version
        with self._writing() as db:
            db.execute(
                "UPDATE devices SET policy_version = policy_version + 1, policy_digest = ?"
                " WHERE id = ? AND policy_digest <> ?",
                (policy, device.id, policy),
            )
            return self._known(device.id).policy_version

    def contact(self, device: str) -> None:
        """Note that a device was heard of; `flush_contacts` writes it."""
        with self._lock:
            self._contacts[device] = time.time()

    def flush_contacts(self) -> None:
        """Write who was heard of."""
        with self._lock:
            contacts, self._contacts = self._contacts, {}
            if contacts:
                with self._writing() as db:
                    db.executemany(
                        "UPDATE devices SET last_contact = ? WHERE id = ?",
                        [(at, device) for device, at in contacts.items()],
                    )

    def forget_old_tokens(self) -> None:
        """Delete spent refresh tokens that are too old to be recognized."""
        with self._writing() as db:
            db.execute(
                "DELETE FROM refresh_tokens WHERE made < ? AND digest NOT IN"
                " (SELECT unused FROM families UNION SELECT used FROM families"
                " WHERE used IS NOT NULL)",
                (time.time() - _TOKENS_KEPT,),
            )

    # --- commands

    def command(self, device: str, name: str, arguments: dict[str, Any], ttl: float) -> str:
        """Put a command for a device, which holds for `ttl` seconds; return its id.

        Raises CollectorError for what is not in the closed list.
        """
        self._known_here(device)
        wanted = COMMANDS.get(name)
        if wanted is None:
            raise CollectorError(f"no command {name}", remedy=f"There are {', '.join(COMMANDS)}.")
        sound = arguments.keys() == wanted.keys() and all(
            isinstance(arguments[key], kind) and not isinstance(arguments[key], bool)
            for key, kind in wanted.items()
        )
        if not sound:
            raise CollectorError(f"{name} takes {', '.join(wanted) or 'no arguments'}")
        text = msgspec.json.encode(arguments)
        if len(text) > _ARGUMENTS_MAX:
            raise CollectorError(f"its arguments are longer than {_ARGUMENTS_MAX} bytes")
        command = str(uuid.uuid4())
        with self._writing() as db:
            db.execute(
                "INSERT INTO commands (id, device, command, arguments, created, expires)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (command, device, name, text.decode(), time.time(), time.time() + ttl),
            )  # fmt: skip
        return command

    def commands(self, device: str) -> list[Command]:
        """Return commands that wait for a device's result, the oldest first: what fits a reply."""
        rows = self._all(
            "SELECT id, command, arguments, expires FROM commands"
            " WHERE device = ? AND status IS NULL AND expires > ? ORDER BY created, rowid LIMIT ?",
            device, time.time(), _COMMANDS_AT_ONCE,
        )  # fmt: skip
        return [Command(i, name, msgspec.json.decode(a), end) for i, name, a, end in rows]

    def results(self, device: str) -> list[dict[str, Any]]:
        """Return all commands of a device with what became of them."""
        names = ("id", "command", "arguments", "status", "detail", "at")
        rows = self._all(
            f"SELECT {', '.join(names)} FROM commands WHERE device = ? ORDER BY created", device
        )
        return [dict(zip(names, row, strict=True)) for row in rows]

    def finish(self, device: str, command: str, status: str, detail: str, at: str) -> None:
        """Keep the result of a command; the first one counts. Raises Problem."""
        with self._writing() as db:
            found = db.execute(
                "UPDATE commands SET status = coalesce(status, ?), detail = coalesce(detail, ?),"
                " at = coalesce(at, ?) WHERE id = ? AND device = ?",
                (status, detail, at, command, device),
            )
            if not found.rowcount:
                raise Problem(404, "not-found", "this device has no such command")

    # --- inside

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """Give the connection, in a transaction that an exception rolls back."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def _one(self, sql: str, *values: Any) -> Any:
        with self._lock:
            return self._db.execute(sql, values).fetchone()

    def _all(self, sql: str, *values: Any) -> list[Any]:
        with self._lock:
            return self._db.execute(sql, values).fetchall()

    def _known(self, device: str) -> Device:
        found = self.device(device)
        if found is None:
            raise Problem(401, "token-invalid")
        return found

    def _known_here(self, device: str) -> None:
        if self.device(device) is None:
            raise CollectorError(
                f"no device {device}", remedy="pgc platform devices list shows them."
            )

    def _change_key(self, key: str, change: str, value: object) -> None:
        with self._writing() as db:
            found = db.execute(
                "SELECT digest FROM api_keys WHERE digest = ?"
                " OR (length(?) > 4 AND substr(prefix, 1, length(?)) = ?)",
                (digest(key), key, key, key),
            ).fetchall()
            if len(found) != 1:
                several = "several keys begin so" if found else "no key begins so"
                raise CollectorError(several, remedy="pgc platform keys list shows prefixes.")
            db.execute(f"UPDATE api_keys SET {change} WHERE digest = ?", (value, found[0][0]))

    @staticmethod
    def _new_token(db: sqlite3.Connection, family: str) -> str:
        token = f"pgr_{secrets.token_urlsafe(32)}"
        db.execute(
            "INSERT INTO refresh_tokens VALUES (?, ?, ?)", (digest(token), family, time.time())
        )
        return token

    @staticmethod
    def _end_families(db: sqlite3.Connection, device: str, why: str) -> None:
        db.execute(
            "UPDATE families SET ended = ? WHERE device = ? AND ended IS NULL", (why, device)
        )
        db.execute("UPDATE devices SET family = NULL WHERE id = ?", (device,))


def told(device: Device) -> DeviceTold:
    """Return what is shown of a device."""
    if device.state == "revoked":
        state = "revoked"
    elif device.key_revoked is not None:
        state = "key-revoked"
    elif device.key_cancelled is not None:
        state = "subscription-cancelled"
    else:
        state = device.state
    return DeviceTold(
        device_id=device.id,
        hostname=device.hostname,
        agent_version=device.agent_version,
        key=device.key_prefix,
        plan=device.plan,
        state=state,
        activated_at=_rfc3339(device.activated),
        activations=device.activations,
        last_contact=None if device.last_contact is None else _rfc3339(device.last_contact),
        policy_version=device.policy_version,
    )


def _rfc3339(seconds: float) -> str:
    moment = dt.datetime.fromtimestamp(seconds, dt.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _refuse_key(key: tuple[Any, ...], device: Device | None, own: bool) -> None:  # noqa: FBT001
    """Raise the Problem that keeps a key from activating a device, if there is one."""
    _, revoked, cancelled, _ = key
    if revoked is not None:
        raise Problem(403, "key-revoked")
    if cancelled is not None:
        raise Problem(403, "subscription-cancelled")
    if device is None:
        return
    if device.state == "revoked":
        raise Problem(403, "device-revoked")
    usable = device.key_revoked is None and device.key_cancelled is None
    if not own and device.state == "active" and usable and device.family is not None:
        # A device's id is no secret: who has a key of his own may not take another's device.
        raise Problem(400, "bad-request", "the device is active with another key")
