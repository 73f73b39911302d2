"""Durations, sizes and percentages, from text to number and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pg_collector.config import units


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("5s", 5.0), ("10m", 600.0), ("1h", 3600.0), ("1d", 86_400.0),
     ("1.5s", 1.5), ("0", 0.0), ("0s", 0.0), (" 5 s ", 5.0), ("100ms", 0.1)],
)  # fmt: skip
def test_a_duration_is_seconds(text: str, seconds: float) -> None:
    assert units.duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "count"),
    [("512B", 512), ("1kB", 1024), ("4MB", 4 * 1024**2), ("1GB", 1024**3), ("2TB", 2 * 1024**4),
     ("0", 0), ("1.5kB", 1536)],
)  # fmt: skip
def test_a_size_is_bytes_and_its_units_are_powers_of_1024(text: str, count: int) -> None:
    assert units.size(text) == count


@pytest.mark.parametrize(("text", "fraction"), [("10%", 0.1), ("0", 0.0), ("2.5 %", 0.025)])
def test_a_percentage_is_a_fraction(text: str, fraction: float) -> None:
    assert units.percent(text) == fraction


@pytest.mark.parametrize("text", ["5", "5x", "s", "", "-1s", "1e3s", "1h30m", "NaN", "inf", "5 5s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write a number and a unit"):
        units.duration(text)


@pytest.mark.parametrize("text", ["5", "5KB", "5mb", "5MiB", "kB", "", "-1kB", "0.3B", "٣MB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write a number and a unit"):
        units.size(text)


@pytest.mark.parametrize("text", ["0.1", "10", "10 percent", "%", ""])
def test_what_is_no_percentage_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write a number and a percent sign"):
        units.percent(text)


def test_a_unit_in_the_wrong_case_is_recognised() -> None:
    with pytest.raises(ValueError, match="did you mean 'kB'"):
        units.size("64KB")


@given(st.text(max_size=40))
def test_any_other_text_is_refused_in_words(text: str) -> None:
    for read in (units.duration, units.size, units.percent):
        try:
            assert read(text) >= 0
        except ValueError as error:
            assert "write" in str(error)  # noqa: PT017  # either outcome is right


@given(st.floats(min_value=0, max_value=1e12, allow_subnormal=False))
def test_a_duration_survives_its_text(seconds: float) -> None:
    assert units.duration(units.duration_text(seconds)) == pytest.approx(seconds, abs=1e-20)


@given(st.integers(min_value=0, max_value=10**10))
def test_whole_milliseconds_survive_their_text_exactly(milliseconds: int) -> None:
    seconds = milliseconds / 1000
    assert units.duration(units.duration_text(seconds)) == seconds


@given(st.integers(min_value=0, max_value=2**49))
def test_a_size_survives_its_text_exactly(count: int) -> None:
    assert units.size(units.size_text(count)) == count


@given(st.integers(min_value=0, max_value=10_000))
def test_hundredths_of_a_percent_survive_their_text_exactly(hundredths: int) -> None:
    fraction = units.percent(f"{hundredths / 100}%")
    assert units.percent(units.percent_text(fraction)) == fraction


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0s"), (0.1, "100ms"), (60.0, "1m"), (90.0, "90s"), (86_400.0, "1d")],
)
def test_a_duration_is_written_as_short_as_it_can_be(seconds: float, text: str) -> None:
    assert units.duration_text(seconds) == text
