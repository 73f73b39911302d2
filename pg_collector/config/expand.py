"""`${VAR}`, `${VAR:-default}`, `${file:/path}` and `$${` in one scalar.

Expansion happens after YAML is parsed and its result is not looked at again, so that a value can
bring in neither structure nor further expansions.
"""

import re
from collections.abc import Mapping
from typing import Final

from pg_collector.config.document import Scalar
from pg_collector.config.files import expanded, read_secret
from pg_collector.config.problems import did_you_mean
from pg_collector.errors import ConfigurationError

_MAX_CHARACTERS: Final = 256 * 1024
_PIECE: Final = re.compile(r"\$\$\{|\$\{(?P<inside>[^{}]*)\}|\$\{")
_VARIABLE: Final = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>.*))?", re.DOTALL)
_FORMS: Final = "write ${NAME}, ${NAME:-default}, ${file:/path}, or $${ for a literal ${"


def expand(scalar: Scalar, environ: Mapping[str, str]) -> str | None:
    """Return the scalar's text with every reference replaced; None for YAML's null.

    Raises `ConfigurationError` for a variable that is not set, a file that cannot be read, and a
    reference that is not well formed.
    """
    text = scalar.text
    if not scalar.template or text is None or "${" not in text:
        return text
    pieces: list[str] = []
    length = 0
    end = 0
    for match in _PIECE.finditer(text):
        piece = "${" if match[0] == "$${" else _value(match["inside"], environ)
        pieces += (text[end : match.start()], piece)
        length += len(piece)
        if length > _MAX_CHARACTERS:
            raise ConfigurationError("the expanded value is too long", remedy="shorten it")
        end = match.end()
    pieces.append(text[end:])
    return "".join(pieces)


def escape(text: str) -> str:
    """Return the text so that `expand` gives it back."""
    return text.replace("${", "$${")


def _value(inside: str | None, environ: Mapping[str, str]) -> str:
    if inside is None:
        raise ConfigurationError("a `${` that is never closed, or one in another", remedy=_FORMS)
    if inside.startswith("file:"):
        return read_secret(expanded(inside.removeprefix("file:").strip()))
    match = _VARIABLE.fullmatch(inside)
    if match is None:
        raise ConfigurationError("not a reference to a variable or a file", remedy=_FORMS)
    name, default = match["name"], match["default"]
    value = environ.get(name, "")
    if default is not None:
        return value or str(default)
    if name not in environ:
        hint = did_you_mean(name, environ)
        raise ConfigurationError(
            f"the variable {name} is not set{hint}",
            remedy=f"set it, or write ${{{name}:-}} where it may be missing",
        )
    return value
