"""Personal data is found by kind, what looks like it stays, and time is linear."""

import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pg_collector.errors import ConfigurationError
from pg_collector.privacy.pii import Detector, Finding, Kind

FULL = Detector("full")


def kinds(text: str, level: str = "full") -> list[str]:
    return [str(found.kind) for found in Detector(level).find(text)]


@pytest.mark.parametrize(
    "address",
    [
        "bob@x.com",
        "a.b+news@mail.example.co.uk",
        "o'brien@example.org",
        "jörg@exämple.de",
        "用户@例子.公司",
        "bob%40x.com",
        "_x-1@a-b.io",
        "bob@xn--bcher-kva.ch",
    ],
)
def test_addresses(address):
    for text in (address, f"where email = {address} and", f"({address})", f"<{address}>."):
        assert kinds(text) == ["email"]
        assert FULL.scrub(text) == text.replace(address, "<email>")


def test_a_quoted_name_that_is_an_address():
    assert FULL.scrub('select "bob@x" from t') == 'select "<email>" from t'


@pytest.mark.parametrize(
    "text",
    [
        "a @> b and c <@ d or e @@ f",
        "select @x, @@version",
        "postgres@localhost",
        "postgres@10.0.0.1",
        "f@1.2",
        "t.a@u.b",
        "@example.com",
    ],
)
def test_what_is_no_address(text):
    assert FULL.scrub(text) == text


# The numbers that card networks publish for tests.
CARDS = {
    "visa": "4111111111111111",
    "visa of 13": "4222222222222",
    "mastercard": "5555555555554444",
    "mastercard of 2017": "2223003122003222",
    "american express": "378282246310005",
    "discover": "6011111111111117",
    "diners": "30569309025904",
    "jcb": "3530111333300000",
    "unionpay": "6200000000000005",
    "maestro": "6759649826438453",
}


@pytest.mark.parametrize("number", CARDS.values(), ids=CARDS)
def test_cards(number):
    for text in (number, f"card={number}", f"no. {number}, paid", f"'{number}'"):
        assert FULL.scrub(text) == text.replace(number, "<card>")


@pytest.mark.parametrize(
    "text",
    ["4111 1111 1111 1111", "4111-1111-1111-1111", "3782 822463 10005", "3782-822463-10005"],
)
def test_cards_in_groups(text):
    assert FULL.scrub(f"card {text}.") == "card <card>."


@pytest.mark.parametrize(
    "text",
    [
        "4111111111111112",  # its check digit is wrong
        "4444444444444444",
        "9111111111111111",  # nobody's
        "41111111111111111111",
        "x4111111111111111",
        "4111111111111111_2",
        "id-4111111111111111",
        "4111111111111111.5",
        "0.4111111111111111",
        "4111 1111-1111 1111",
        "7183145077791644123",  # a queryid
        "-4111111111111111",
        "1795786269200322",  # microseconds since 1970
    ],
)
def test_what_is_no_card(text):
    assert FULL.scrub(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "219-09-9999",
        "ssn 219099999",
        "ssn_219099999",
        "customer_ssn_no_219099999",
        "SSN: 219 09 9999",
        "social security number 219099999",
        "social_security_no=219-09-9999",
    ],
)
def test_social_security_numbers(text):
    assert kinds(text) == ["ssn"]
    assert "9999" not in FULL.scrub(text)


@pytest.mark.parametrize(
    "text",
    [
        "000-12-3456",
        "666-12-3456",
        "900-12-3456",
        "123-00-4567",
        "123-45-0000",
        "219099999",
        "2024-01-02",
        "1219-09-9999",
        "219-09-99990",
    ],
)
def test_what_is_no_social_security_number(text):
    assert FULL.scrub(text) == text


PHONES = [
    "+49 30 1234567",
    "+14155552671",
    "+44 (0)20 7946 0958",
    "+49/30/1234567",
    "(212) 555-1234",
    "212-555-1234",
    "212.555.1234",
    "1-212-555-1234",
    "phone: 2125551234",
    "fax 2125551234",
]


@pytest.mark.parametrize("text", PHONES)
def test_phone_numbers_at_level_full_only(text):
    assert kinds(f"call {text} now") == ["phone"]
    assert kinds(f"call {text} now", "basic") == []


@pytest.mark.parametrize(
    "text",
    [
        "2125551234",
        "1700000000",
        "10.0.0.1",
        "192.168.100.200",
        "0/16B3748",
        "17.2.1",
        "2024-01-02 03:04:05+00",
        "2024-01-02T03:04:05+02:00",
        "550e8400-e29b-41d4-a716-446655440000",
        "/var/lib/postgresql/16/main/base/16384/2613",
        "00000001000000000000000A",
        "1.5e+12345678",
        "shard-212-555-1234",
    ],
)
def test_what_servers_have_many_of_stays(text):
    assert FULL.scrub(text) == text


def test_what_was_found_is_counted_and_not_told():
    told: Counter[Kind] = Counter()
    detector = Detector("full", on_found=lambda kind, count: told.update({kind: count}))
    assert detector.scrub("a@b.io c@d.io 219-09-9999") == "<email> <email> <ssn>"
    assert told == {Kind.EMAIL: 2, Kind.SSN: 1}
    assert "b.io" not in repr(detector.find("a@b.io"))


def test_findings_stand_in_order_and_apart():
    text = "ssn 219-09-9999, bob@x.com"
    assert FULL.find(text) == [Finding(Kind.SSN, 4, 15), Finding(Kind.EMAIL, 17, 26)]


def test_a_level_that_does_not_exist():
    with pytest.raises(ConfigurationError, match="unknown level"):
        Detector("off")


@given(st.text(alphabet=st.sampled_from("a1 4.-@+()'\"%0ssn:\n")))
def test_any_text_is_scrubbed_and_a_second_time_changes_nothing(text):
    once = FULL.scrub(text)
    assert FULL.scrub(once) == once


STORMS = [
    "@",
    "a@",
    "a.b@",
    "x@a.bc.",
    "%40",
    '"@',
    '"',
    "a",
    "1-",
    "1 ",
    "4111 ",
    "+1",
    "(1",
    "ssn ",
]


@pytest.mark.parametrize("unit", STORMS)
def test_time_is_linear(unit):
    def spent(length: int) -> float:
        text = (unit * length)[:length] + "@"
        times = []
        for _ in range(3):
            started = time.thread_time()
            FULL.scrub(text)
            times.append(time.thread_time() - started)
        return min(times)

    assert spent(65_536) < max(0.002, spent(8_192)) * 8 * 3
