"""The verb of the control socket that gives a page of the agent's HTTP server.

So who may ask the agent needs neither its address, nor a token, nor a place on the allow-list; and
an agent without a port can be asked, too.
"""

from collections.abc import Callable
from typing import Final

import msgspec

from pg_collector import control
from pg_collector.control import AgentRequest, Reply
from pg_collector.health.pages import Page

_PROBES: Final = frozenset({"/healthz", "/health", "/livez", "/readyz"})


class PageRequest(AgentRequest, frozen=True, kw_only=True, tag="page"):
    """A path with its query, as /healthz?verbose; the result is a `PageTold`."""

    path: str

    @property
    def repeats(self) -> bool:
        """Whether it is a probe's: these ask for ever, and whoever asks over HTTP is not told."""
        return self.path.partition("?")[0] in _PROBES


class PageTold(msgspec.Struct, frozen=True, kw_only=True):
    """An answer of HTTP: its status, and its body as text."""

    status: int
    body: str


def answers(get: Callable[[str, str], Page]) -> control.Answers:
    """Return what answers the verb; `get` gives the page of a path for an Accept header."""

    def page(request: PageRequest) -> Reply:
        found = get(request.path, "")
        told = PageTold(status=found.status, body=found.body.decode("utf-8", "replace"))
        return Reply(result=msgspec.to_builtins(told))

    return {PageRequest: page}
