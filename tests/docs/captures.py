"""Make docs/tour.md anew: what a terminal shows of the demo, and of the commands beside it.

    python -m tests.docs.captures

Everything in it was on a terminal of this run.
"""

import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Final

import yaml

from pg_collector.demo import shop
from tests.support.daemon import PGC
from tests.support.vt import Running

PAGE: Final = Path(__file__).parents[2] / "docs" / "tour.md"
SIZE: Final = (100, 40)
SECONDS: Final = 90
TEXT: Final = """\
# What it looks like

Each picture is from one run: `make captures` starts the [demo](demo.md), looks at its agent from
another terminal, and writes this page.

## pgc demo

A throw-away PostgreSQL with a small shop, a platform, and the agent between them. `pgc demo` shows
what was sampled; here the platform is away, and samples wait in the buffer.

```
{demo}
```

## pgc top

The same agent, from another terminal: the target's sessions by what they wait for, who blocks
whom, statements by their time since the sample before. Keys turn it; `pgc top --once` prints it.

```
{top}
```

## pgc status

How the agent itself is. `can hold` is for how long an outage of the platform could last.

```
{status}
```

## pgc check

Before the start, or when something is wrong: the whole path, and what mends it. Here the agent
runs, and its own sessions are used.

```
{check}
```

[cli.md](cli.md) has every command.
"""


def captured() -> dict[str, str]:
    """Return what is seen, by name."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        there = {**os.environ, "TERM": "xterm", "HOME": folder, "COLUMNS": str(SIZE[0])}
        for name in ("NO_COLOR", "XDG_RUNTIME_DIR", "XDG_STATE_HOME"):
            there.pop(name, None)
        command = [*PGC, "demo", "--seconds", str(SECONDS), "--http", "off"]
        with Running(command, there, home, SIZE) as demo:
            demo.sees("RUNTIME_DIRECTORY=", within=60)
            found = re.search(r"RUNTIME_DIRECTORY=(\S+)", demo.screen.text)
            port = re.search(r"127\.0\.0\.1:(\d+)", demo.screen.text)
            assert found is not None
            assert port is not None
            place = Path(found[1])
            there["RUNTIME_DIRECTORY"] = str(place)
            demo.sees("platform away (", within=60)
            seen = {"demo": demo.screen.text}
            demo.sees("platform ACTIVE", within=60)
            file = home / "config.yaml"
            file.write_text(_configuration(place, int(port[1]), home))
            file.chmod(0o600)
            said = {
                "top": ["top", "--once", "--config", str(file)],
                "status": ["status", "--config", str(file)],
                "check": ["check", "--config", str(file)],
            }
            for name, words in said.items():
                seen[name] = _printed(words, there)
    return {name: _trimmed(text.replace(str(home), "~")) for name, text in seen.items()}


def main() -> None:
    """Write the page."""
    PAGE.write_text(TEXT.format(**captured()))


def _configuration(place: Path, port: int, home: Path) -> str:
    uri = f"postgresql://{shop.MONITOR}@127.0.0.1:{port}/{shop.DATABASE}?sslmode=disable"
    postgres = {
        "conn_string": uri,
        "auth_method": "password",
        "password_file": str(place / "password"),
    }
    return yaml.safe_dump({
        "databases": [{"name": "demo", "postgres": postgres}],
        "local": {"enabled": True, "path": str(home / "output")},
        "http": {"address": "off"},
    })  # fmt: skip


def _printed(words: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(
        [*PGC, *words], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout, done.stderr
    return f"$ pgc {words[0]}{' --once' if '--once' in words else ''}\n{done.stdout}"


def _trimmed(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.rstrip().splitlines())


if __name__ == "__main__":
    main()
