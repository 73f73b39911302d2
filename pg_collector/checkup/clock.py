"""The clocks of this host, of the platform and of the servers, held against each other."""

import datetime as dt
from collections.abc import Iterable, Iterator
from typing import Final

from pg_collector.checkup.finding import Finding, Level

ALLOWED: Final = 30.0  # seconds; certificates, and the tokens of clouds, bear it
SKEW: Final = "clock_skew_s"


def findings(others: Iterable[Finding]) -> Iterator[Finding]:
    """Gather what the other sections measured."""
    skews = {
        one.target or one.section: float(one.measured[SKEW])
        for one in others
        if one.measured.get(SKEW) is not None
    }
    wrong = {name: skew for name, skew in skews.items() if abs(skew) > ALLOWED}
    said = ", ".join(f"{name} {skew:+.1f} s" for name, skew in skews.items())
    if not wrong:
        now = dt.datetime.now(dt.UTC)
        yield Finding(
            section="clock",
            level=Level.OK,
            found=said or f"{now:%Y-%m-%d %H:%M:%S} UTC, compared with nobody's",
            measured={"skew_s": skews},
        )
        return
    everybody = len(wrong) == len(skews) and len(skews) > 1
    who = "this host's clock is wrong, or all others' are" if everybody else "clocks differ"
    yield Finding(
        section="clock",
        level=Level.WARN,
        found=f"{who}: {said}",
        remedy="timedatectl set-ntp true   # here or there; chrony: chronyc makestep",
        measured={"skew_s": skews},
    )
