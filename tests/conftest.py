"""What all tests share: real servers, started when first asked for, one set per worker.

PGC_TEST_VERSIONS=14,18 narrows the versions. A missing part skips its tests with one line that
says how to get it; with CI=true it fails them.
"""

import itertools
import os
import signal
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import Any, NoReturn, TypeVar

import pytest

from tests.support.lab.home import MAJORS
from tests.support.lab.replication import Pair, start_pair
from tests.support.lab.server import Database, LabMissing, Server
from tests.support.netns import Network, two_namespaces
from tests.support.pgbouncer import PgBouncer, start_pgbouncer
from tests.support.pki import Pki
from tests.support.proxy import FaultProxy
from tests.support.scratch import new_directory
from tests.support.workers import ByVersion

T = TypeVar("T")

# A shell that runs the tests in the background ignores SIGINT, and so would all that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
_names = itertools.count(1)


def chosen_majors() -> tuple[int, ...]:
    """Return the PostgreSQL versions to test against."""
    text = os.environ.get("PGC_TEST_VERSIONS", "")
    chosen = tuple(int(word) for word in text.replace(",", " ").split())
    if unknown := set(chosen) - set(MAJORS):
        raise pytest.UsageError(f"PGC_TEST_VERSIONS: {sorted(unknown)} not in {MAJORS}")
    return chosen or MAJORS


def missing(reason: object) -> NoReturn:
    """Skip the test, or fail it in CI, where nothing may be missing."""
    if os.environ.get("CI", "").lower() in {"1", "true"}:
        pytest.fail(str(reason), pytrace=False)
    pytest.skip(str(reason))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "major" in metafunc.fixturenames:
        majors: list[Any] = list(chosen_majors())
        ids = [f"pg{major}" for major in majors]
        ends = metafunc.definition.get_closest_marker("ends")
        if ends and len(majors) > 1:
            majors, ids = [majors[0], majors[-1]], [ids[0], ids[-1]]
            if ends.kwargs.get("oldest") == "long":
                majors[0] = pytest.param(majors[0], marks=pytest.mark.long)
        metafunc.parametrize("major", majors, ids=ids, scope="session")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByVersion | None:
    """With several workers, keep the tests of one version on one: it starts the server once."""
    if config.getvalue("dist") not in {"load", "loadgroup"}:
        return None
    config.option.loadscopereorder = False  # the order below: what takes long begins first
    return ByVersion(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    for item in items:
        if item.get_closest_marker("root") and os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason="needs root"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None, None, None]:
    try:
        return (yield)
    except LabMissing as error:
        reason = error
    missing(reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, None, None]:
    try:
        return (yield)
    except LabMissing as error:
        reason = error
    missing(reason)


class Lab:
    """The servers of one test process, kept running from test to test."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._servers: dict[int, Server] = {}
        self._pairs: dict[int, Pair] = {}

    def server(self, major: int) -> Server:
        """Return the shared server of this version, running."""
        if major not in self._servers:
            self._servers[major] = self._enter(Server(major))
        return _up(self._servers[major])

    def newest(self) -> Server:
        """Return the newest version's shared server, running."""
        return self.server(max(chosen_majors()))

    def pair(self, major: int) -> Pair:
        """Return the shared primary and standby of this version, running."""
        if major not in self._pairs:
            self._pairs[major] = self._enter(start_pair(major))
        pair = self._pairs[major]
        _up(pair.primary), _up(pair.standby)
        pair.streaming()
        return pair

    def close(self) -> None:
        self._stack.close()

    def _enter(self, context: AbstractContextManager[T]) -> T:
        return self._stack.enter_context(context)


def _up(server: Server) -> Server:
    """Start a server again that a test left down."""
    if not server.running:
        server.start()
    return server


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    lab = Lab()
    yield lab
    lab.close()


@pytest.fixture(scope="session")
def server(lab: Lab, major: int) -> Server:
    """A running server of each version (pg12 ... pg18), shared by the tests of this worker."""
    return lab.server(major)


@pytest.fixture
def newest_server(lab: Lab) -> Server:
    """The newest version's shared server, for tests that do not depend on the version.

    Who came before has left it, be it an agent that was killed.
    """
    return lab.newest().vacated()


@pytest.fixture(scope="session")
def pair(lab: Lab, major: int) -> Pair:
    """A primary and its standby of each version, shared: promote and break `fresh_pair`."""
    return lab.pair(major)


@pytest.fixture
def fresh_server(major: int) -> Iterator[Server]:
    """A server of each version for this test alone."""
    with Server(major) as server:
        yield server


@pytest.fixture
def fresh_pair(major: int) -> Iterator[Pair]:
    """A primary and its standby for this test alone."""
    with start_pair(major) as pair:
        yield pair


@pytest.fixture
def database(lab: Lab, server: Server) -> Iterator[Database]:
    """An empty database on `server`, with pg_stat_statements, removed after the test."""
    database = lab.server(server.major).database(f"test_{next(_names)}")
    server.query(f"create database {database.name}")
    database.query("create extension pg_stat_statements")
    yield database
    lab.server(server.major)
    database.drop()


@pytest.fixture
def fault_proxy() -> Iterator[Callable[[Server], FaultProxy]]:
    """Call it with a server to get a FaultProxy in front of it; all are closed after the test."""
    with ExitStack() as stack:
        yield lambda server: stack.enter_context(FaultProxy((server.host, server.port)))


@pytest.fixture(scope="session")
def pki() -> Pki:
    """A certificate authority for this run."""
    return Pki(new_directory("pki"))


@pytest.fixture
def pgbouncer(server: Server) -> Iterator[PgBouncer]:
    """A PgBouncer in transaction mode in front of `server`."""
    with start_pgbouncer(server) as bouncer:
        yield bouncer


@pytest.fixture
def netns() -> Iterator[Network]:
    """Two joined network namespaces; mark the test with `root`, which skips it for others."""
    if os.geteuid() != 0:
        pytest.skip("needs root: network namespaces")
    with two_namespaces() as network:
        yield network
