"""The table of faults for `pgc check`: what a case is, and what several of them need."""

import shutil
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Final, NamedTuple

from pg_collector.checkup.finding import Finding, Level, Part
from tests.support import process
from tests.support.checkup import TRUST, Bench
from tests.support.pki import Leaf

PASSWORD: Final = "correct horse battery"  # noqa: S105
# Seeds a fault, is sent the finding, does what its remedy says, and ends.
Case = Generator[None, Finding, None]
Seeding = Callable[[Bench], Case]


class Seeded(NamedTuple):
    """A fault: where it shows, how bad it is, words that explain it, and how it comes and goes."""

    section: str
    level: Level
    words: str
    part: Part
    case: Seeding


class Cases(dict[str, Seeded]):
    """Cases by their names."""

    def case(self, section: str, level: Level, words: str) -> Callable[[Seeding], Seeding]:
        """Put a function into the table."""

        def put(function: Seeding) -> Seeding:
            part = Finding(section=section, level=level, found="").part
            self[function.__name__] = Seeded(section, level, words, part, function)
            return function

        return put


def with_password(bench: Bench, written: str) -> None:
    """Have a role with a password, and a file that holds what is `written`."""
    bench.sql(
        "drop role if exists secret", f"create role secret login password '{PASSWORD}'",
        "grant pg_monitor to secret",
    )  # fmt: skip
    bench.server.allow(["host all secret 127.0.0.1/32 scram-sha-256", *TRUST])
    bench.stack.callback(bench.server.allow, TRUST)
    bench.dsn("secret")
    bench.postgres["password_file"] = str(bench.secret(written))


def with_certificate(bench: Bench, leaf: Leaf) -> Path:
    cert = bench.own(leaf, "own")
    bench.secured(cert_file=str(cert), key_file=str(cert.with_suffix(".key")))
    return cert


def present(bench: Bench, leaf: Leaf) -> None:
    """Let the server show this certificate from now on."""
    for source, name in ((leaf.certificate, "server.crt"), (leaf.key, "server.key")):
        process.give(Path(shutil.copy(source, bench.server.base / name)), 0o600)
    bench.server.reload()
