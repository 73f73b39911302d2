"""What differs between two configurations, and what of it may change while the agent runs.

Only the names of keys are told, never a value: it may be a secret.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from pg_collector.config.kinds import Section
from pg_collector.config.model import Config, Database

# Sections and keys that are read once, at the start.
NEEDS_RESTART: Final = (
    "api_key",
    "state_dir",
    "buffers",
    "http",
    "local",
)


class Difference(NamedTuple):
    """What is to hold from now on, and the dotted keys that differ, as the file writes them."""

    config: Config
    accepted: tuple[str, ...]
    refused: tuple[str, ...]  # they need a restart, and keep their values


def compare(before: Config, wanted: Config, fixed: Sequence[str] = NEEDS_RESTART) -> Difference:
    """Return what becomes of `before` when `wanted` is to hold, but for what `fixed` names."""
    keys = list(_changed("", before, wanted))
    refused = tuple(key for key in keys if _under(key, fixed))
    accepted = tuple(key for key in keys if not _under(key, fixed))
    config = wanted
    for path in fixed:
        config = _kept(config, before, path.split("."))
    return Difference(config, accepted, refused)


def _under(key: str, sections: Sequence[str]) -> bool:
    return any(key == one or key.startswith(f"{one}.") for one in sections)


def _kept(new: Any, old: Any, names: Sequence[str]) -> Any:
    """Return `new` with the value of a key as `old` has it."""
    name, *rest = names
    value = getattr(old, name)
    if rest:
        value = _kept(getattr(new, name), value, rest)
    return msgspec.structs.replace(new, **{name: value})


def _changed(path: str, before: Any, after: Any) -> Iterator[str]:
    if before == after:
        return
    if path == "databases":
        yield from _databases(before, after)
    elif isinstance(before, Section) and type(before) is type(after):
        for name in before.__struct_fields__:
            yield from _changed(_joined(path, name), getattr(before, name), getattr(after, name))
    elif isinstance(before, dict) and isinstance(after, dict):
        for key in sorted(before.keys() | after.keys()):
            if before.get(key) != after.get(key):
                yield _joined(path, key)
    else:
        yield path


def _databases(before: Sequence[Database], after: Sequence[Database]) -> Iterator[str]:
    old = {one.name: one for one in before}
    new = {one.name: one for one in after}
    for name in (*old, *(name for name in new if name not in old)):
        if name in old and name in new:
            yield from _changed(f"databases.{name}", old[name], new[name])
        else:
            yield f"databases.{name}"
    common = [name for name in old if name in new]
    if common != [name for name in new if name in old]:
        yield "databases"  # their order says which ones a plan covers


def _joined(path: str, name: str) -> str:
    # An interval stands in the file beside the section's other keys: `sampling.activity`.
    path = path.removesuffix(".every") if path == "sampling.every" else path
    return f"{path}.{name}" if path else name
