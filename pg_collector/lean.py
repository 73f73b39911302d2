"""Keeps libraries from loading what they can do without.

A memory of 64 MB is small: what is loaded and never used is looked for, and left out where its
user says that it may be missing.
"""

import sys
import types
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without(*names: str) -> Iterator[None]:
    """Let imports in the block find no modules of these names; warnings of that are not shown.

    What is loaded already stays. For the main thread, while no other one imports.
    """
    absent = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]  # how import is told so
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name in absent:
            del sys.modules[name]


@contextmanager
def stand_in(name: str, **attributes: object) -> Iterator[None]:
    """Let imports in the block find a module of this name that has these attributes alone.

    For one that a library imports and does not use, or of which it uses that much. What is loaded
    already stays. For the main thread, while no other one imports.
    """
    if name in sys.modules:
        yield
        return
    module = types.ModuleType(name)
    vars(module).update(attributes)
    sys.modules[name] = module
    try:
        yield
    finally:
        del sys.modules[name]


def escaped(text: str, *, quote: bool = True) -> str:
    """Return a text as HTML shows it, as html.escape does."""
    for one, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        text = text.replace(one, entity)
    if quote:
        text = text.replace('"', "&quot;").replace("'", "&#x27;")
    return text
