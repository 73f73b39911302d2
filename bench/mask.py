"""Prints how fast masking is: texts per CPU second, worst texts of 64 KiB, the cache, the import.

Run: python bench/mask.py
"""

import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

from pg_collector.privacy.mask import TEXT_LIMIT, Masker

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


def _seconds(work: Callable[[], object], times: int = 1) -> float:
    started = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - started) / times


def _rate(length: int, count: int) -> float:
    masker = Masker(cache_bytes=0)
    whole = [(QUERY.format(n=n) + " union all ") * (length // 350 + 1) for n in range(count)]
    texts = [text[:length] for text in whole]

    def work() -> None:
        for text in texts:
            masker.mask(text, "activity")

    return count / _seconds(work)


def main() -> None:
    """Print every figure beside its goal."""
    print(f"500 B cold      {_rate(500, 4000):10.0f} texts/s    (goal 20000)")
    print(f"5 KB cold       {_rate(5000, 400):10.0f} texts/s    (goal 2000)")
    masker = Masker()
    text = QUERY.format(n=1)
    masker.mask(text, "activity")
    cached = _seconds(lambda: masker.mask(text, "activity"), 20_000)
    print(f"cached          {cached * 1e6:10.2f} us         (goal 5)")
    cold = Masker(cache_bytes=0, budget_seconds=10)
    for name, unit in STORMS.items():
        storm = "select " + unit * TEXT_LIMIT
        spent = min(_seconds(partial(cold.mask, storm, "activity")) for _ in range(3))
        print(f"64 KiB {name:14s} {spent * 1e3:6.1f} ms         (goal 60)")
    code = (
        "import time; a = time.process_time(); import pg_collector.privacy.mask as m;"
        "m.Masker().mask('select 1', 'activity'); print((time.process_time() - a) * 1e3)"
    )
    command = [sys.executable, "-c", code]
    answer = subprocess.run(command, capture_output=True, check=True, text=True)
    spent = float(answer.stdout)
    print(f"import + first  {spent:10.1f} ms         (goal 80)")


if __name__ == "__main__":
    main()
