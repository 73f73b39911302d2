"""Read the configuration: the file, its drop-ins, variables, flags; check it; say where it is from.

Precedence, the highest first: flags, variables, `config.d/*.yaml` in the order of their names,
the file, defaults. Everything that is wrong is told at once.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from pg_collector.config import environment
from pg_collector.config.database_rules import CheckConnString
from pg_collector.config.layers import Layers, too_open
from pg_collector.config.model import Config
from pg_collector.config.problems import DEFAULT, Origin, Problems
from pg_collector.config.reading import Reading, converted
from pg_collector.config.rules import Rules
from pg_collector.samplers._sampler import Sampler

__all__ = ["Loaded", "find", "load"]


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """A valid configuration. `origins` maps the dotted path of a key to where its value is from."""

    config: Config
    origins: dict[str, Origin]
    warnings: tuple[str, ...]
    files: tuple[Path, ...]


def find(environ: Mapping[str, str]) -> Path | None:
    """Return the file to read where none is named, or None where there is none.

    With PGC_CONFIG, which holds a whole configuration, no file is looked for.
    """
    if environ.get(environment.WHOLE):
        return None
    candidates = [(".", "pg-collector.yaml")]
    if home := environ.get("XDG_CONFIG_HOME"):
        candidates.append((home, "pg-collector/config.yaml"))
    elif home := environ.get("HOME"):
        candidates.append((home, ".config/pg-collector/config.yaml"))
    # Somebody else's home, where `sudo -u` leaves one, has nothing for this user.
    found = [Path(place, name) for place, name in candidates if os.access(place, os.X_OK)]
    found.append(Path("/etc/pg-collector/config.yaml"))
    return next((path for path in found if _exists(path)), None)


def load(
    path: Path | None,
    *,
    environ: Mapping[str, str],
    overrides: Sequence[str] = (),
    samplers: Mapping[str, Sampler],
    check_conn_string: CheckConnString | None = None,
    of_another: bool = False,
) -> Loaded:
    """Return the configuration of a file (None: of the environment alone), checked.

    `overrides` are `key=value` texts; `samplers` are those that exist, by name;
    `check_conn_string` returns libpq's complaint about a connection string, or None. With
    `of_another` user's agent it is no fault that this user may not use a file that it names.
    Raises `ConfigurationError` whose text is one problem per line.
    """
    problems = Problems()
    layers = Layers(samplers, problems)
    if path is not None:
        layers.add_file(path)
    _add_whole(layers, path, environ, problems)
    environment.overlay(layers, environ, problems)
    layers.add_flags(overrides)
    reading = Reading(samplers, environ, problems)
    values = reading.config(layers.tree)
    environment.finish(values, reading, environ, layers.warnings)
    if layers.complete and not values["databases"] and "databases" not in reading.bad:
        _no_database(path, reading)
    config: Config | None = converted(values, Config, reading, problems)
    warnings = layers.warnings
    if config is not None:
        rules = Rules(config, reading, check_conn_string, of_another=of_another)
        rules.apply()
        warnings += rules.warnings
    problems.raise_any()
    if config is None:
        raise AssertionError("no configuration and no problem")
    literal = {
        path: reading.place(path)
        for path, given in reading.given.items()
        if not path.endswith("conn_string") and "${" not in (given.text or "")
    }
    warnings += too_open(layers.files, literal)
    return Loaded(
        config=config,
        origins=reading.origins,
        warnings=tuple(warnings),
        files=tuple(layers.files),
    )


def _add_whole(
    layers: Layers, path: Path | None, environ: Mapping[str, str], problems: Problems
) -> None:
    text = environ.get(environment.WHOLE)
    if not text:
        return
    source = f"env {environment.WHOLE}"
    if path is not None:
        remedy = f"unset {environment.WHOLE}, or leave the file out"
        problems.add(Origin(source), "", f"a whole configuration beside {path}", remedy)
    else:
        layers.add_text(text, source)


def _no_database(path: Path | None, reading: Reading) -> None:
    place = Origin(str(path), 1, 1) if path is not None else DEFAULT
    origin = reading.origins.get("databases", place)
    remedy = "list one under `databases:`, or set PG_CONN_STRING or PGHOST"
    if path is None:
        remedy = (
            "name a file with --config, make one with `pgc config init`, "
            "or set PG_CONN_STRING or PGHOST"
        )
    reading.fault(origin, "databases", "no database to connect to", remedy)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # it is there and may not be seen: reading it says so in full
        return True
