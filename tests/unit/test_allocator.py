"""What the C library is told about memory."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import threading
from pg_collector import allocator
tuned = allocator.tune()
def work():
    for _ in range(200):
        bytearray(100_000), [b"x" * 700 for _ in range(100)]
threads = [threading.Thread(target=work) for _ in range(12)]
for one in threads: one.start()
for one in threads: one.join()
print(tuned)
"""


SETTLED = """
import gc
from pg_collector import agent, allocator
allocator.settle()
ring = []
ring.append(ring)
del ring
print(gc.get_freeze_count() > 20_000, gc.isenabled(), gc.collect() >= 1)
"""


def test_what_is_there_at_the_start_is_spared_and_what_comes_later_is_collected():
    run = [sys.executable, "-c", SETTLED]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True"] * 3


TRIMMED = """
import gc, os, sys
from pg_collector import allocator
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
if "settle" in sys.argv:
    allocator.settle()
held = [bytearray(2_000) for _ in range(10_000)]
full = resident()
held = held[::200]  # what stays lies above what is free: glibc gives back only the top by itself
gc.collect()
print(full - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="others have no malloc_trim")
def test_what_a_full_collection_frees_goes_back_to_the_system():
    freed = {}
    for word in ("", "settle"):
        run = [sys.executable, "-c", TRIMMED, word]
        done = subprocess.run(run, capture_output=True, text=True, check=True)
        freed[word] = int(done.stdout)
    assert freed["settle"] > freed[""] + 5_000_000


def test_it_is_told_where_it_is_glibc_and_nothing_breaks():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    libc = subprocess.run(["ldd", "--version"], capture_output=True, text=True, check=False)
    glibc = "GNU" in libc.stdout or "GLIBC" in libc.stdout
    assert done.stdout == f"{glibc}\n"
