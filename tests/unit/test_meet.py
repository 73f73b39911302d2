"""Types that are met before threads read them do not end the process."""

import subprocess
import sys

# Each round has a type that nothing has met. Without `meet`, every sixth or so would crash.
PROGRAM = """
import sys, threading
import msgspec
from pg_collector.meet import meet

sys.setswitchinterval(1e-6)
for round in range(60):
    inner = msgspec.defstruct("Inner", [("a", int, 0), ("b", str | None, None)])
    outer = msgspec.defstruct("Outer", [("one", inner), ("many", list[inner], [])])
    meet(outer)
    together = threading.Barrier(4)
    read = []

    def go():
        together.wait()
        read.append(msgspec.json.decode(b'{"one":{"a":1},"many":[{"b":"x"}]}', type=outer))

    threads = [threading.Thread(target=go) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(read) == 4 and read[0].many[0].b == "x"
"""


def test_types_that_were_met_can_be_read_by_several_threads_at_once() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
