"""The HTTP server of a whole agent under attack: its process is looked at from outside.

127.0.0.2 is listed, 127.0.0.3 is a trusted proxy, all others are strangers.
"""

import contextlib
import http.client
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from pg_collector.health.listener import MAX_THREADS
from pg_collector.health.lobby import MOST
from tests.fault.test_http import rest
from tests.support.daemon import Daemon
from tests.support.siege import Client, Figures, Siege, Way, figures
from tests.support.until import until

LISTED, PROXY, STRANGER = "127.0.0.2", "127.0.0.3", "127.0.0.4"
GROWTH_KB = 4 * 1024  # the heads that may wait are 2 MB; measured: up to 1.5 MB
SECONDS = 2.5
USUAL_FILES = "1024"  # what systemd and most shells allow a process

OPEN_HEAD = b"GET /metrics HTTP/1.1\r\nX: " + b"a" * 8_100  # nearly all that a head may hold
FORGED = b"".join(
    b"%s: %s\r\n" % (name, value)
    for name in (b"X-Forwarded-For", b"X-Real-IP", b"X-Client-IP", b"True-Client-IP", b"Via")
    for value in (b"127.0.0.2", b"127.0.0.2, 127.0.0.3")
)
ASK = b"GET /metrics HTTP/1.1\r\n%sForwarded: for=127.0.0.2\r\n\r\n"
OF_A_STRANGER = b"X-Forwarded-For: 127.0.0.4\r\n"


def besiegers(*strangers: str) -> dict[Client, int]:
    """Return 1,000 clients; those that do not come from the listed address come from these."""
    return {
        Client(LISTED): 150,
        Client(LISTED, Way.DRIP, OPEN_HEAD): 150,
        Client(LISTED, Way.SEND, OPEN_HEAD): 150,
        Client(LISTED, Way.DEAF, ASK % b"" * 50): 50,
        Client(PROXY, Way.SEND, ASK % OF_A_STRANGER): 50,
        Client(PROXY, Way.DRIP, ASK % OF_A_STRANGER): 50,
        **{Client(one, Way.SEND, ASK % FORGED): 400 // len(strangers) for one in strangers},
    }


class Agent:
    """A running agent, and what a client at an address sees of it."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.where = ("127.0.0.1", daemon.port)

    def get(self, path: str, source: str = LISTED) -> tuple[int, float]:
        """Return the status, and the seconds it took; raises OSError after two."""
        began = time.monotonic()
        link = http.client.HTTPConnection(*self.where, timeout=2, source_address=(source, 0))
        with contextlib.closing(link):
            link.request("GET", path, headers={"Connection": "close"})
            return link.getresponse().status, time.monotonic() - began

    def raw(self, words: bytes, source: str = LISTED) -> bytes:
        """Return everything that is answered."""
        with socket.create_connection(self.where, 5, source_address=(source, 0)) as client:
            with contextlib.suppress(OSError):  # it may hang up before it has all
                client.sendall(words)
                client.shutdown(socket.SHUT_WR)
            return rest(client)

    def status(self, words: bytes, source: str = LISTED) -> int:
        """Return the status that is answered, 0 for none."""
        answer = self.raw(words, source)
        assert not answer or answer.startswith(b"HTTP/1.1 ")
        return int(answer[9:12] or 0)

    def reloaded(self, **keys: object) -> None:
        """Let the agent read other sections."""
        self.daemon.keys |= keys
        self.daemon.write()
        self.daemon.signal(signal.SIGHUP)

    @property
    def figures(self) -> Figures:
        return figures(self.daemon.process.pid)


@pytest.fixture(scope="module")
def walled(lab, tmp_path_factory) -> Iterator[Agent]:
    """An agent that lets nobody in but who is listed."""
    daemon = Daemon(
        tmp_path_factory.mktemp("agent"),
        {"prod": lab.newest().vacated().dsn("pgcollector")},
        security={"ip_allowlist": {"enabled": True, "allowlist": [LISTED]}},
    )
    daemon.keys["http"] |= {"trusted_proxies": [PROXY], "read_timeout": "2s"}
    daemon.write()
    daemon.prefix = ["prlimit", f"--nofile={USUAL_FILES}"]
    with daemon:
        agent = Agent(daemon)
        until(lambda: agent.get("/healthz")[0] == 200, 20, not_yet=(OSError,))
        daemon.sampled(count=2)
        for path in ("/metrics", "/healthz") * 20:
            agent.get(path)
        yield agent


@contextlib.contextmanager
def bounded(agent: Agent) -> Iterator[Callable[[], Figures]]:
    """Call it to look at the process; in the end it has never taken too much, and gave it back."""
    before = agent.figures
    most = before

    def look() -> Figures:
        nonlocal most
        now = agent.figures
        most = Figures(*map(max, most, now))
        return now

    yield look
    look()
    assert most.resident_kb - before.resident_kb < GROWTH_KB
    assert most.files <= before.files + MOST + MAX_THREADS + 8
    assert most.threads <= before.threads + MAX_THREADS

    def over() -> bool:
        now = agent.figures
        return now.files <= before.files and now.threads <= before.threads

    until(over, 10, "files and threads are given back")


def besieged(
    agent: Agent, clients: dict[Client, int], refused: int = 0
) -> Counter[tuple[str, str]]:
    """Hold 1,000 connections, and ask for /healthz meanwhile; return what was answered to whom.

    It lasts until the agent has sampled, and has refused so many.
    """
    assert sum(clients.values()) == 1_000
    turns = agent.daemon.turns()
    began = time.monotonic()
    slowest = 0.0
    with bounded(agent) as look, Siege(agent.where, clients) as siege:

        def enough() -> bool:
            nonlocal slowest
            status, seconds = agent.get("/healthz")
            assert status == 200
            slowest = max(slowest, seconds)
            look()
            if time.monotonic() < began + SECONDS:
                return False
            sources = {client.source for client in clients}
            told = sum(siege.answers[one, "HTTP/1.1 403"] for one in sources)
            return told >= refused and agent.daemon.turns() >= turns + 2

        until(enough, 20, "samples went on, and strangers were refused")
        assert slowest < 2.0
        assert siege.fewest >= 999, "one is closed, its follower not opened yet"
    return siege.answers


def test_a_thousand_connections_keep_no_listed_client_out_and_let_nobody_in(walled: Agent):
    strangers = (STRANGER, "127.0.0.5", "127.1.2.3", "127.0.0.22")
    answers = besieged(walled, besiegers(*strangers), refused=500)
    in_vain = {"HTTP/1.1 403", "HTTP/1.1 503", "HTTP/1.1 408", "nothing"}
    of_others = {what for who, what in answers if who != LISTED}
    assert of_others <= in_vain, answers
    assert {who for who, what in answers if what == "HTTP/1.1 403"} >= {*strangers}


def test_a_thousand_connections_keep_nobody_out_where_everybody_is_let_in(walled: Agent):
    daemon = walled.daemon
    listed = daemon.keys["security"]
    try:
        walled.reloaded(security={})
        until(lambda: walled.get("/healthz", STRANGER)[0] == 200, 10)
        answers = besieged(walled, besiegers(STRANGER, "127.0.0.5"))
        assert not [what for _, what in answers if what == "HTTP/1.1 403"]
    finally:
        walled.reloaded(security=listed)
        until(lambda: walled.get("/healthz", STRANGER)[0] == 403, 10)


def test_heads_and_bodies_beyond_the_limits_cost_a_short_answer(walled: Agent):
    mega = b"a" * (1 << 20)
    post = b"POST /metrics HTTP/1.1\r\n"
    with bounded(walled) as look:
        for words, status in (
            (b"GET /" + mega + b" HTTP/1.1\r\n\r\n", 414),
            (mega, 414),
            (b"GET /healthz HTTP/1.1\r\nX: " + mega, 431),
            (b"GET /healthz HTTP/1.1\r\n" + b"X: a\r\n" * 1_000 + b"\r\n", 431),
            (b"GET /healthz HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n", 431),
            (b"GET /healthz?" + b"verbose&" * 500 + b" HTTP/1.1\r\nConnection: close\r\n\r\n", 400),
            (post + b"Content-Length: 1000000000000\r\n\r\n" + mega, 405),
            (post + b"Content-Length: -1\r\n\r\n" + mega, 405),
            (post + b"Transfer-Encoding: chunked\r\n\r\n100000\r\n" + mega, 405),
            (post + b"Expect: 100-continue\r\nContent-Length: 9\r\n\r\n" + mega, 405),
            (
                b"GET /healthz HTTP/1.1\r\nContent-Length: 9\r\n\r\nGET /metrics HTTP/1.1\r\n\r\n",
                200,
            ),
        ):
            for _ in range(10):
                assert walled.status(words) in {status, 0}, words[:40]  # 0: reset amid the bytes
                look()
            assert walled.get("/healthz")[0] == 200


PATHS = [
    *("//metrics", "///metrics", "/../metrics", "/./metrics", "/%2e%2e/metrics", "/%2fmetrics"),
    *("/..%2fmetrics", "/metrics/", "/metrics/.", "/metrics/../../etc/passwd", "/metrics%00"),
    *("/metrics;x", "/metrics?x=", "/metrics?x=%0d%0aX:%20y", "/metrics#x", "/METRICS", "metrics"),
    *("\\metrics", "/\\metrics", "..\\metrics", "*", "?", "/?/metrics", "/metrics\x00", "/\xff"),
    *("http://127.0.0.2/metrics", "http://x/../metrics", "HTTP://127.0.0.2:80/metrics?x"),
    *("http://127.0.0.2@x/metrics", "http://[::ffff:127.0.0.2]/metrics", "http://[x/metrics"),
    *("file:///etc/passwd", "javascript:metrics", "https:/metrics", "127.0.0.2:80"),
    *("/healthz/../metrics", "/healthz%0d%0a", "/healthz\rX: y", "/ metrics", "/metrics\tx"),
]
GET = b"GET /metrics HTTP/1.1\r\n"
REQUESTS = [
    *(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.2\r\n".encode("latin-1") for path in PATHS),
    *(f"{verb} /metrics HTTP/1.1\r\n".encode() for verb in ("POST", "PUT", "TRACE", "get", "GeT")),
    *(b"CONNECT 127.0.0.2:80 HTTP/1.1\r\n", b"OPTIONS * HTTP/1.1\r\n"),
    *(b"GET\t/metrics\tHTTP/1.1\r\n", b"GET /metrics\r\n", b"/metrics\r\n", b"GET\r\n"),
    *(b"GET /metrics HTTP/0.9\r\n", b"GET /metrics HTTP/2.0\r\n", b"GET /metrics HTTP/1.1 x\r\n"),
    *(GET + b" Host: x\r\n", GET + b"Host : x\r\n", GET + b"\0\r\n", GET + b"Host: \0\r\n"),
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
    GET + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n",
]


def test_no_trick_with_the_request_lets_a_stranger_in_or_shows_what_is_no_page(walled: Agent):
    statuses: Counter[int] = Counter()
    for words in REQUESTS:
        answer = walled.raw(words + b"Connection: close\r\n\r\n")
        statuses[int(answer[9:12] or 0)] += 1
        assert b"root:" not in answer
        for source, forged in ((STRANGER, FORGED), (PROXY, OF_A_STRANGER), (PROXY, b"")):
            status = walled.status(words + forged + b"Connection: close\r\n\r\n", source)
            assert status in {400, 403, 505, 0}, (words, source)
    assert statuses.keys() <= {200, 400, 404, 405, 505}
    assert statuses[200] >= 5, "absolute forms and queries are in order"
    assert walled.get("/healthz")[0] == 200


BELIEVED = {
    "127.0.0.2": 200, "127.0.0.2:4711": 200, "::ffff:127.0.0.2": 200, "[::ffff:7f00:2]:80": 200,
    "[::ffff:127.0.0.2]": 200, " 127.0.0.2\t": 200, "127.0.0.4, 127.0.0.2": 200,
    "nonsense, 127.0.0.2": 200, "127.0.0.2, 127.0.0.3": 200, "127.0.0.2,127.0.0.3,127.0.0.3:1": 200,
    "127.0.0.2, 127.0.0.4": 403, "127.0.0.2, nonsense": 403, "127.0.0.2,": 403, "": 403, ",": 403,
    "127.0.0.2 127.0.0.4": 403, "127.0.0.2;127.0.0.4": 403, "for=127.0.0.2": 403, "unknown": 403,
    '"127.0.0.2"': 403, "127.0.0.02": 403, "0x7f.0.0.2": 403, "2130706434": 403, "127.2": 403,
    "127.0.0.2/32": 403, "127.0.0.2\x00": 403, "localhost": 403, "::1": 403, "::127.0.0.2": 403,
    "[::ffff:127.0.0.4]:80": 403, "127.0.0.3": 403, "64:ff9b::127.0.0.2": 403,
    "127.0.0.2, " + "127.0.0.3, " * 40 + "127.0.0.3": 403,
}  # fmt: skip


@pytest.mark.parametrize("name", ["X-Forwarded-For", "x-forwarded-for"])
def test_what_is_forged_is_believed_of_the_proxy_alone_and_read_from_its_end(
    walled: Agent, name: str
):
    for value, status in BELIEVED.items():
        head = f"GET /healthz HTTP/1.1\r\n{name}: {value}\r\nConnection: close\r\n\r\n".encode()
        assert walled.status(head, PROXY) == status, value
        assert walled.status(head, STRANGER) == 403, value
        assert walled.status(head, LISTED) == 200, value


@pytest.mark.parametrize(
    "headers",
    [
        "Forwarded: for=127.0.0.2",
        'Forwarded: for="[::ffff:127.0.0.2]:4711";by=127.0.0.3',
        "X-Real-IP: 127.0.0.2",
        "X-Forwarded-For : 127.0.0.2",
        "X-Forwarded-For: 127.0.0.2\r\nX-Forwarded-For: 127.0.0.4",
        "X_Forwarded_For: 127.0.0.2",
        "X-Forwarded-For: 127.0.0.4\r\nForwarded: for=127.0.0.2",
        "X-Forwarded-For: 127.0.0.4,\r\n 127.0.0.2\r\nX-Forwarded-For: 127.0.0.4",
    ],
)
def test_no_other_header_speaks_for_the_client_of_a_proxy(walled: Agent, headers: str):
    head = f"GET /healthz HTTP/1.1\r\n{headers}\r\nConnection: close\r\n\r\n".encode()
    assert walled.status(head, PROXY) in {400, 403}
    assert walled.status(head, STRANGER) == 403
