"""Tokens: kept, renewed in time, forgotten when refused; nobody waits for ever."""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from pg_collector.breaker import Breaker, State
from pg_collector.errors import ConfigurationError, TargetDown, TargetRefused
from pg_collector.metrics import Metrics
from pg_collector.pg.auth.tokens import ABANDONED, MOST_LOST, Ticket, Tokens, as_given, told
from pg_collector.wire import Wire
from tests.support.hand_clock import HandClock
from tests.support.until import until


class Source:
    """Gives `token 1`, `token 2` …; `answer` may raise, or wait."""

    remedy = "ask somebody"

    def __init__(self) -> None:
        self.asked: list[bool] = []  # each time: whether anew
        self.lasts = 3600.0
        self.answer: Callable[[], object] = lambda: None

    def fetch(self, *, anew: bool) -> Ticket:
        self.asked.append(anew)
        text = f"token {len(self.asked)}"
        self.answer()
        return Ticket(lambda _host, _port, _user: text, self.lasts)


class Bench:
    def __init__(self) -> None:
        self.clock = HandClock()
        self.source = Source()
        self.made = 0
        self.breaker = Breaker(
            "token:lab", failures=3, reset=30.0, counts=(TargetDown,),
            metrics=Metrics(self.clock), clock=self.clock,
        )  # fmt: skip
        self.tokens = Tokens("lab", self._make, breaker=self.breaker, clock=self.clock, within=5.0)

    def _make(self) -> Source:
        self.made += 1
        return self.source

    def token(self) -> str | None:
        return self.tokens.prepare(Wire())("h", "1", "u")

    def settled(self) -> None:
        """Wait for a fetch in the background."""
        until(lambda: self.tokens._began is None, what="the fetch has ended")


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    until(
        lambda: not [one for one in threading.enumerate() if one.name == "token lab"],
        what="no thread is left",
    )


def raising(error: Exception) -> Callable[[], None]:
    def answer() -> None:
        raise error

    return answer


def test_a_token_is_kept_until_shortly_before_its_end_and_renewed_while_it_is_good(bench: Bench):
    assert bench.token() == "token 1"
    bench.clock.advance(3299)
    assert bench.token() == "token 1"
    assert len(bench.source.asked) == 1
    bench.clock.advance(2)
    assert bench.token() == "token 1", "nobody waits while the old one is good"
    bench.settled()
    assert bench.token() == "token 2"
    assert bench.source.asked == [False, False]


def test_a_token_that_has_ended_is_waited_for(bench: Bench):
    assert bench.token() == "token 1"
    bench.clock.advance(3596)
    assert bench.token() == "token 2"


def test_without_a_new_token_the_old_one_is_used_to_its_end(
    bench: Bench, caplog: pytest.LogCaptureFixture
):
    assert bench.token() == "token 1"
    bench.source.answer = raising(TargetDown("nobody there"))
    bench.clock.advance(3301)
    assert bench.token() == "token 1"
    bench.settled()
    assert "no new token; the old one is still good: nobody there" in caplog.text
    bench.clock.advance(290)
    assert bench.token() == "token 1"
    bench.settled()
    bench.clock.advance(10)
    with pytest.raises(TargetDown, match="nobody there"):
        bench.token()


def test_each_fetch_counts_once_for_the_breaker_however_many_wait(bench: Bench):
    gate = threading.Event()

    def answer() -> None:
        gate.wait(10)
        raise TargetDown("nobody there")

    bench.source.answer = answer
    failures: list[BaseException] = []

    def ask() -> None:
        try:
            bench.token()
        except TargetDown as error:
            failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for one in threads:
        one.start()
    until(lambda: len(bench.tokens._waiting) == 3, what="all wait")
    gate.set()
    for one in threads:
        one.join(10)
    assert len(failures) == 3
    assert len(bench.source.asked) == 1
    assert bench.breaker.trouble is None, "one failure, not three"
    for _ in range(2):
        with pytest.raises(TargetDown):
            bench.token()
    assert bench.breaker.state is State.OPEN
    with pytest.raises(TargetDown) as told:
        bench.token()
    assert told.value.retry_in == pytest.approx(30.0)
    assert len(bench.source.asked) == 3
    bench.source.answer = lambda: None
    bench.clock.advance(31)
    assert bench.token() == "token 4"


# --- refused


def test_of_two_sessions_with_an_old_token_each_may_try_again(bench: Bench):
    one, two = bench.tokens.prepare(Wire()), bench.tokens.prepare(Wire())
    bench.clock.advance(600)
    assert bench.tokens.refused(one)
    assert bench.tokens.refused(two)
    assert bench.token() == "token 2"
    assert bench.source.asked == [False, True], "and it is asked for anew"
    assert bench.tokens.refused(two), "of the old one; the new one stays"
    assert bench.token() == "token 2"


def test_a_new_token_that_is_refused_is_not_used_again_and_not_replaced_at_once(bench: Bench):
    sign = bench.tokens.prepare(Wire())
    assert not bench.tokens.refused(sign)
    assert bench.token() == "token 2"


# --- what goes wrong


def test_who_is_interrupted_stops_waiting_and_that_is_no_failure_of_the_endpoint(bench: Bench):
    gate = threading.Event()
    bench.source.answer = lambda: gate.wait(10)
    wire = Wire()
    cut = threading.Timer(0.05, wire.cut)
    cut.start()
    with pytest.raises(TargetDown, match="interrupted"):
        bench.tokens.prepare(wire)
    with pytest.raises(TargetDown, match="interrupted"):
        bench.tokens.prepare(wire)  # cut before it begins
    cut.join()
    assert bench.breaker.trouble is None
    gate.set()
    bench.settled()
    assert bench.token() == "token 1"
    assert len(bench.source.asked) == 1


def test_a_fetch_that_never_ends_is_given_up_and_begun_anew_with_another_source(bench: Bench):
    gate = threading.Event()
    bench.source.answer = lambda: gate.wait(20)
    bench.tokens._within = 0.01
    for lost in range(MOST_LOST + 3):
        with pytest.raises(TargetDown, match=r"did not come within 0\.01 s"):
            bench.token()
        assert len(bench.source.asked) == min(lost, MOST_LOST) + 1
        bench.clock.advance(ABANDONED + 1)
    assert bench.made == MOST_LOST + 1
    gate.set()
    until(lambda: bench.tokens._lost == 0, what="the lost ones have ended")
    bench.settled()
    assert bench.token()


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (TargetRefused("no such role", remedy="r"), TargetRefused, "no such role"),
        (ConfigurationError("no SDK", remedy="r"), ConfigurationError, "no SDK"),
        (PermissionError(13, "Permission denied", "/k.json"), TargetDown, "/k.json: Permission"),
        (ValueError("holds hunter2"), TargetDown, "ValueError"),
    ],
)
def test_what_a_source_raises_arrives_with_a_remedy_and_without_what_it_holds(
    bench: Bench, error: Exception, kind: type[Any], words: str
):
    bench.source.answer = raising(error)
    with pytest.raises(kind, match=words) as told:
        bench.token()
    assert told.value.remedy
    assert "hunter2" not in told.value.sentence()
    assert type(told.value) is kind


@pytest.mark.parametrize(
    "token", [None, "", 12345, ["a"], "hunter2\n", "hunter2\0x", "\ud800hunter2", "hunter2é"]
)
def test_what_can_be_no_token_is_not_shown_to_a_server(token: object):
    with pytest.raises(TargetDown) as refused:
        as_given("lab", token, "ask somebody")
    assert "hunter2" not in refused.value.sentence()
    assert as_given("lab", "eyJ.a-b_c", "") == "eyJ.a-b_c"


def test_what_an_sdk_says_is_told_without_what_the_endpoint_sent_or_heard(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("IDENTITY_HEADER", "hunter2")
    assert told('Unexpected answer: {"access_token": "eyJ"}') == "Unexpected answer:"
    assert told("Received 400 from container metadata: hunter3") == (
        "Received 400 from container metadata"
    )
    assert told("who is hunter2?") == "who is ??"


class Elsewhere(BaseHTTPRequestHandler):
    """Sends who asks for `/moved` to `/here`, and whoever asks for `/long` a megabyte."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        self.send_response(307 if self.path == "/moved" else 200)
        self.send_header("Location", "/here")
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(b"a" * (1 << 20 if self.path == "/long" else 10))

    def log_message(self, *_: object) -> None:
        pass


def test_googles_endpoint_sends_nobody_elsewhere_and_answers_briefly():
    from pg_collector.pg.auth.gcp_iam import _Once  # noqa: PLC0415

    ask = _Once("lab")
    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as far:
        far.asked = []  # type: ignore[attr-defined]
        threading.Thread(target=far.serve_forever, name="far").start()
        try:
            where = f"http://127.0.0.1:{far.server_port}"
            assert ask(f"{where}/here").data == b"a" * 10
            assert ask(f"{where}/moved").status == 307
            with pytest.raises(TargetDown):
                ask(f"{where}/long")
        finally:
            far.shutdown()
        assert far.asked == ["/here", "/moved", "/long"]  # type: ignore[attr-defined]


def test_the_sdks_loggers_are_quiet_whatever_level_the_agent_has():
    from pg_collector.pg.auth import aws_iam, azure_ad, gcp_iam  # noqa: F401, PLC0415

    for name in ("botocore.auth", "google.auth", "azure.core", "msal.application"):
        assert logging.getLogger(name).getEffectiveLevel() >= logging.WARNING, name
