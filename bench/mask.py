"""Prints what masking costs: texts per CPU second, worst texts, the cache, the import, the memory.

Run: python bench/mask.py [--json]

Times are CPU times, the best of several, and of one machine. Beside each stands how often the
floor fits in, which can be compared: one pass of a plain pattern over the same texts, which finds
quotes and digits and knows nothing else. For the worst texts it is that over an ordinary one of
64 KiB; for the import it is that of the standard library's modules that masking needs.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

from pg_collector.privacy.mask import TEXT_LIMIT, Masker
from pg_collector.privacy.names import SECRET_BYTES
from pg_collector.privacy.pii import Detector

QUERY = (
    "select u.id, u.email, count(*) as n from public.users u join orders o on o.user_id = u.id"
    " where u.email = 'bob{n}@example.com' and o.created_at > '2024-01-01' and o.total > 100.50"
    " and o.status in ('paid', 'shipped', 'new') and o.note <> $${n}$$ group by u.id, u.email"
    " having count(*) > 3 order by n desc limit 50 offset {n} /* app:web */"
)
STORMS = {
    "numbers": "1 ",
    "read twice": "E'\\'' 1 ",
    "in 4 readings": "E'\\'' \u2018 1 \u2019 2 ",
    "in many readings": "\\'='\u201c",
    "touched quotes": "e'",
    "strings": "'a',",
    "quotes": "'",
    "backslashes": "'\\'",
    "double quotes": '"',
    "dollars": "$a$",
    "comments": "/*",
    "lines": "-- \n",
    "statements": "set a=b;",
    "commands": "end;",
    "parentheses": "(1),",
    "curly": "\u2018 x\\'",
    "uuids": "1-a-",
}
FLOOR = re.compile(r"'[^']*'|[0-9]+")
ROUNDS = 5
PATTERNS = ("ssn", "credit_card", "re:secret_[a-z]+")
DISTINCT = 5_000  # texts in a full cache
CACHE = 4 << 20  # and the bytes that bound it

# Run in processes of their own.
MODULES = """
import sys
import pg_collector.privacy.mask
print(*(name for name in sys.modules if not name.startswith(("pg_collector", "__main__"))))
"""
IMPORT = """
import time
started = time.process_time()
import pg_collector.privacy.mask
pg_collector.privacy.mask.Masker().mask("select 1", "activity")
print(time.process_time() - started)
"""
IMPORT_OF_OTHERS = """
import importlib, sys, time
started = time.process_time()
for name in sys.argv[1:]:
    importlib.import_module(name)
print(time.process_time() - started)
"""
# As the agent does it (allocator.py), so that what was freed is not counted.
MEMORY = """
import gc, importlib, json, os, sys
from pg_collector import allocator

def resident():
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20

given = json.load(sys.stdin)
allocator.tune()
for name in given["others"]:
    importlib.import_module(name)
allocator.settle()
found = [resident()]
from pg_collector.privacy.mask import Masker
from pg_collector.privacy.pii import Detector
secret = bytes(32) if given["level"] == "full" else b""
masker = Masker(
    given["level"], secret=secret, detector=Detector("full"), cache_bytes=given["cache"],
    budget_seconds=10,
)
for texts in given["texts"]:
    for text in texts:
        masker.mask(text, "activity")
    found.append(resident())
print(json.dumps(found))
"""


class Figure(NamedTuple):
    """One figure; `floors` is how often the floor fits into it."""

    name: str
    value: float
    unit: str
    goal: float | None = None
    floors: float | None = None


def _best(works: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Return the CPU seconds of each, the best of several rounds in which they take turns."""
    best = dict.fromkeys(works, float("inf"))
    for _ in range(ROUNDS):
        for name, work in works.items():
            started = time.process_time()
            work()
            best[name] = min(best[name], time.process_time() - started)
    return best


def _texts(length: int, count: int) -> list[str]:
    """Return ordinary statements, no two alike."""
    whole = [(QUERY.format(n=n) + " union all ") * (length // 350 + 1) for n in range(count)]
    return [text[:length] for text in whole]


def _mask(masker: Masker, texts: list[str]) -> None:
    for text in texts:
        masker.mask(text, "activity")


def _floor(texts: list[str]) -> None:
    for text in texts:
        FLOOR.sub("?", text)


def _masker(level: str, detector: Detector | None = None) -> Masker:
    return Masker(
        level,
        patterns=PATTERNS if level == "custom" else (),
        secret=bytes(SECRET_BYTES) if level == "full" else b"",
        detector=detector,
        cache_bytes=0,
        budget_seconds=10,
    )


def _rates(
    length: int, count: int, maskers: Mapping[str, tuple[Masker, float | None]]
) -> Iterator[Figure]:
    """Yield how many texts of a length are masked in a CPU second by each, and by the floor."""
    texts = _texts(length, count)
    works = {name: partial(_mask, masker, texts) for name, (masker, _goal) in maskers.items()}
    best = _best({"": partial(_floor, texts), **works})
    floor = best.pop("")
    yield Figure(f"{length} B: the floor", count / floor, "texts/s")
    for name, spent in best.items():
        yield Figure(name, count / spent, "texts/s", maskers[name][1], spent / floor)


def _speed() -> Iterator[Figure]:
    detector = Detector("full")
    levels = ("none", "basic", "full", "custom")
    short: dict[str, tuple[Masker, float | None]] = {"500 B cold": (_masker("basic"), 20_000)}
    short |= {f"500 B, PII, {level}": (_masker(level, detector), None) for level in levels}
    yield from _rates(500, 2000, short)
    yield from _rates(5000, 200, {"5 KB cold": (_masker("basic"), 2000)})
    remembers, text = Masker(), QUERY.format(n=1)
    remembers.mask(text, "activity")
    again = 10_000
    best = _best({"": partial(_mask, remembers, [text] * again)})
    yield Figure("cached", best[""] / again * 1e6, "us", 5)


def _storms() -> Iterator[Figure]:
    cold, floor = _masker("basic"), _texts(TEXT_LIMIT, 1)
    storms = {name: "select " + unit * TEXT_LIMIT for name, unit in STORMS.items()}
    works = {name: partial(cold.mask, storm, "activity") for name, storm in storms.items()}
    best = _best({"": partial(_floor, floor), **works})
    ordinary = best.pop("")
    yield Figure("64 KiB: the floor", ordinary * 1e3, "ms")
    for name, spent in best.items():
        yield Figure(f"64 KiB {name}", spent * 1e3, "ms", 60, spent / ordinary)


def _child(code: str, *arguments: str, given: object = None) -> str:
    command = [sys.executable, "-c", code, *arguments]
    told = json.dumps(given)
    return subprocess.run(command, input=told, capture_output=True, check=True, text=True).stdout


def _import(others: list[str]) -> Iterator[Figure]:
    alone = min(float(_child(IMPORT_OF_OTHERS, *others)) for _ in range(ROUNDS))
    spent = min(float(_child(IMPORT)) for _ in range(ROUNDS))
    yield Figure("import: the floor", alone * 1e3, "ms")
    yield Figure("import + first", spent * 1e3, "ms", 80, spent / alone)


def _memory(others: list[str]) -> Iterator[Figure]:
    """Yield what is resident beside the standard library's modules, which the agent has anyhow.

    A cache has a bound of its own: it is counted apart.
    """
    first = [QUERY.format(n=1), *(QUERY.format(n=1) + unit for unit in STORMS.values())]
    worst = ["select " + unit * TEXT_LIMIT for unit in STORMS.values()]
    for level in ("basic", "full"):
        given: dict[str, Any] = {"others": others, "level": level, "cache": 0}
        found = json.loads(_child(MEMORY, given=given | {"texts": [first, worst]}))
        yield Figure(f"memory, {level}, first texts", found[1] - found[0], "MB", 6)
        yield Figure(f"memory, {level}, after the worst", found[2] - found[0], "MB", 6)
    many = [QUERY.format(n=f"a{n}") + f" as a{n}" for n in range(DISTINCT)]
    given = {"others": others, "level": "basic", "cache": CACHE, "texts": [first, many]}
    found = json.loads(_child(MEMORY, given=given))
    yield Figure(f"and a cache of {DISTINCT:,} texts", found[2] - found[1], "MB")


def _figures() -> Iterator[Figure]:
    yield from _speed()
    yield from _storms()
    others = _child(MODULES).split()
    yield from _import(others)
    yield from _memory(others)


def main() -> None:
    """Print every figure beside its goal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    if options.json:
        print(json.dumps({figure.name: figure._asdict() for figure in _figures()}, indent=1))
        return
    for name, value, unit, goal, floors in _figures():
        beside = "" if floors is None else f"{floors:.1f} floors"
        wanted = "" if goal is None else f"(goal {goal:g})"
        print(f"{name:32s} {value:10,.1f} {unit:8s} {beside:>12s}  {wanted}".rstrip(), flush=True)


if __name__ == "__main__":
    main()
