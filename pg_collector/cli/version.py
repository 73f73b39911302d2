"""`pgc version`."""

import json
import platform
from importlib import metadata

from pg_collector import __version__
from pg_collector.cli.options import JsonOption

_PARTS = ("psycopg", "APScheduler", "requests", "msgspec", "typer")


def version(as_json: JsonOption = False) -> None:
    """Print the version of pgc, of Python, and of the libraries that matter."""
    parts = {name: metadata.version(name) for name in _PARTS}
    if as_json:
        print(json.dumps({"pgc": __version__, "python": platform.python_version(), **parts}))
        return
    print(f"pgc {__version__}")
    print(f"Python {platform.python_version()} on {platform.platform(terse=True)}")
    for name, number in parts.items():
        print(f"{name} {number}")
