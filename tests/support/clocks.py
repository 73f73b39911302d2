"""A wall clock that a test sets, for a program of its own, and no other clock: libfaketime."""

from pathlib import Path

from tests.support.lab.server import LabMissing

_LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))


def faked(setting: Path) -> dict[str, str]:
    """Return the environment of a program whose wall clock is off by what a file says.

    Raises LabMissing without the library.
    """
    if not _LIBRARIES:
        raise LabMissing("no libfaketime: apt-get install faketime")
    return {
        "LD_PRELOAD": str(_LIBRARIES[0]),
        "FAKETIME_TIMESTAMP_FILE": str(setting),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
