"""The long run: thousands of kills, power cuts and damaged files, for hours if need be.

    python -m tests.fault.nightly DIRECTORY kills=1000 cuts=500 corruptions=500 [--write]

goes on where an earlier run in DIRECTORY was broken off. With `--write` the figures go into
docs/reliability.md.
"""

import datetime as dt
import json
import math
import os
import platform
import sys
from pathlib import Path
from typing import Final

from tests.fault import campaign
from tests.fault.crash import trials

PAGE: Final = Path(__file__).parents[2] / "docs" / "reliability.md"
BEGIN: Final = "<!-- figures of the last long run; written by `make fault-nightly` -->\n"
END: Final = "<!-- end of figures -->\n"

# A trial is one state directory, or one recorded life: so many kills, or images, come of it.
PER_TRIAL: Final = {
    "kills": trials.KILLS,
    "cuts": 2 * trials.POINTS,
    "corruptions": trials.POINTS,
    "outages": 1,
    "pairs": trials.KILLS,
}
TRIALS: Final = {
    "kills": trials.kills,
    "cuts": trials.cuts,
    "corruptions": trials.corruptions,
    "outages": trials.outages,
    "pairs": trials.pairs,
}


def main() -> int:
    """Run the campaign; return 0, 1 after a violation, 2 for wrong arguments."""
    arguments = [one for one in sys.argv[1:] if one != "--write"]
    directory, *rest = arguments or [""]
    counts = []
    for one in rest:
        kind, _, number = one.partition("=")
        if kind in PER_TRIAL and number.isdigit():
            counts.append(f"{kind}={math.ceil(int(number) / PER_TRIAL[kind])}")
        else:
            counts.append(one)
    code = campaign.main(TRIALS, [directory, *counts])
    if code != 2 and "--write" in sys.argv:
        write(Path(directory))
    return code


def write(directory: Path) -> None:
    """Put the figures of a run into the page."""
    page = PAGE.read_text()
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(before + BEGIN + figures(directory) + END + after)


def figures(directory: Path) -> str:
    """Return the figures as a table: what was done, and what came of it."""
    found = json.loads((directory / "summary.json").read_text())
    day = dt.datetime.now(dt.UTC).date()
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    lines = [
        "",
        f"{day}, {machine}.",
        "",
        "| | trials | violations | figures |",
        "|---|---|---|---|",
    ]
    for one in found:
        told = ", ".join(
            f"{name.replace('_', ' ')} {value:,.0f}"
            for name, value in sorted(one["figures"].items())
            if not name.startswith("of_")
        )
        lines.append(f"| {one['kind']} | {one['trials']:,} | {one['violations']} | {told} |")
    return "\n".join([*lines, "", ""])


if __name__ == "__main__":
    sys.exit(main())
