"""The secrets of a configuration that is not valid: what its texts hold, and what they name.

It is read as far as it can be: as YAML, and as any text, for it may not even be YAML.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from pg_collector.bundle import known
from pg_collector.bundle.known import Known
from pg_collector.config import document, expand
from pg_collector.config.document import Listing, Node, Scalar, Tree
from pg_collector.config.environment import WHOLE
from pg_collector.config.files import MAX_CONFIG_BYTES, drop_ins, expanded, read_text
from pg_collector.config.problems import Origin, Problems
from pg_collector.errors import CollectorError, ConfigurationError

_KIND: Final = "configuration file"
_NOWHERE: Final = Origin(_KIND)
_CONNECTIONS: Final = frozenset(("conn_string", "proxy"))


class Written(NamedTuple):
    """Where a configuration is from: a file or none, variables, `key=value` texts."""

    path: Path | None
    environ: Mapping[str, str]
    overrides: Sequence[str]


def secrets(written: Written) -> Iterator[Known]:
    """Yield what it holds, and the files and variables that it names. Never raises."""
    for override in written.overrides:
        name, _, value = override.partition("=")
        yield from _of_key(name.rpartition(".")[2].strip(), Scalar(value, _NOWHERE), written)
    for text in _texts(written):
        yield from known.of_text(_KIND, text, whole=False)
        node = document.parse_value(text, _KIND, Problems(), template=True)
        if node is not None:
            for key, scalar in _scalars("", node):
                yield from _of_key(key, scalar, written)


def _texts(written: Written) -> Iterator[str]:
    if written.environ.get(WHOLE):
        yield written.environ[WHOLE]
    if written.path is None:
        return
    files = [written.path]
    with contextlib.suppress(CollectorError, OSError):
        files += drop_ins(written.path)[0]
    for file in files:
        try:
            yield read_text(file, MAX_CONFIG_BYTES)
        except CollectorError:
            continue


def _scalars(key: str, node: Node) -> Iterator[tuple[str, Scalar]]:
    """Yield every scalar with the key that it stands under."""
    if isinstance(node, Scalar):
        yield key, node
    elif isinstance(node, Tree):
        for name, entry in node.entries.items():
            yield from _scalars(name, entry.node)
    elif isinstance(node, Listing):
        for one in node.items:
            yield from _scalars(key, one)


def _of_key(key: str, scalar: Scalar, written: Written) -> Iterator[Known]:
    """Yield what a value holds, with what it refers to filled in where it is secret."""
    text = scalar.text or ""
    yield from known.of_text(_KIND, text, whole=False)
    base = key.removesuffix("_file")
    secret = known.is_label(base)
    if not (secret or base == "key" or base in _CONNECTIONS):
        return
    try:
        text = expand.expand(scalar, written.environ) or ""
        file = expanded(text) if base != key else None
    except ConfigurationError:
        return
    if file is not None:
        yield from known.of_file(base, file)
        return
    yield from known.of_text(base, text, whole=secret)
    yield from known.of_libpq_files(text)
