"""Parts of the reference platform by themselves: plans, keys, faults on purpose, batches."""

import contextlib
import sqlite3
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pg_collector.config.kinds import MaskingLevel
from pg_collector.errors import CollectorError, ConfigurationError
from pg_collector.platform import chaos, ingest, keys, plans, series
from pg_collector.platform.identity import Identity
from pg_collector.platform.problems import Problem
from pg_collector.sample import Batch, Gap
from pg_collector.samplers import discover
from tests.support.lines import make

PAID = ("starter", "pro", "business", "enterprise", "bench")


def test_each_plan_allows_all_that_the_one_below_does_and_never_less_often():
    offers = plans.load()
    assert tuple(offers) == PAID
    for low, high in pairwise(offers[name].plan for name in PAID):
        assert low.min_interval.keys() <= high.min_interval.keys()
        assert all(high.min_interval[name] <= least for name, least in low.min_interval.items())
        assert {*low.masking_levels} <= {*high.masking_levels}
        assert high.max_databases is None or high.max_databases >= (low.max_databases or 0)
        assert low.grace_s <= high.grace_s


def test_plans_name_what_the_agent_knows():
    offers = plans.load()
    assert {*offers["enterprise"].plan.min_interval} == {*discover()}
    assert {*offers["bench"].plan.min_interval} == {*discover()}
    for offer in offers.values():
        assert {*offer.plan.masking_levels} <= {*MaskingLevel}


@pytest.mark.parametrize(
    "text",
    ["", "[]", "pro: 1", "pro: {}", "pro: {inherits: gold}", "pro: {inherits: pro}", "pro: {x: 1",
     "a: {inherits: b}\nb: {inherits: a}"],
)  # fmt: skip
def test_a_file_that_holds_no_plans_is_refused_with_its_name(tmp_path, text):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=r"mine\.yaml"):
        plans.load(file)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pro: {inherits: gold}", "plan pro inherits gold, which does not exist"),
        ("a: {inherits: b}\nb: {inherits: a}", "plan b inherits a, which comes back to itself"),
    ],
)
def test_an_inheritance_without_an_end_is_told_from_one_that_leads_nowhere(tmp_path, text, said):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=said):
        plans.load(file)


def test_the_directory_of_a_newer_platform_says_which_one_to_start(tmp_path):
    file = tmp_path / "identity.sqlite"
    with contextlib.closing(sqlite3.connect(file)) as newer:
        newer.execute("PRAGMA user_version = 2")
    with pytest.raises(CollectorError, match="has format 2") as caught:
        Identity(file)
    assert "A newer platform" in caught.value.remedy


def test_the_sets_that_have_deltas_are_known_with_their_keys():
    keyed = {
        query.set: query.key
        for sampler in discover().values()
        for query in sampler.queries
        if query.key
    }
    assert dict(series.KEYS) == keyed


@pytest.mark.parametrize(
    "text",
    ["503", "503=2", "503=-1", "503=x", "200=0.5", "777=1", "delay=soon", "delay=1000s", "drop=1",
     "drop-after-commit=nan"],
)  # fmt: skip
def test_faults_that_nobody_knows_are_refused(text):
    with pytest.raises(ConfigurationError, match="--chaos"):
        chaos.parse(text)


def test_faults_are_read():
    found = chaos.parse("503=0.2, delay=3s,drop-after-commit=0.1,429=1")
    assert found.statuses == ((503, 0.2), (429, 1.0))
    assert (found.delay, found.drop_after_commit) == (3.0, 0.1)
    assert chaos.parse("").statuses == ()


def test_a_key_ring_follows_its_file_and_refuses_what_it_did_not_sign(tmp_path):
    file = tmp_path / "signing.keys"
    keys.make(file)
    assert file.stat().st_mode & 0o777 == 0o600
    ring = keys.KeyRing(file)
    token = ring.sign(keys.ACCESS, {"sub": "x"})
    assert ring.verify(keys.ACCESS, token) == {"sub": "x"}
    for typ, text in ((keys.POLICY, token), (keys.ACCESS, token[:-4]), (keys.ACCESS, "x" * 5000)):
        with pytest.raises(keys.BadToken):
            ring.verify(typ, text)
    assert keys.rotate(file) == 2
    assert ring.verify(keys.ACCESS, token) == {"sub": "x"}
    assert ring.sign(keys.ACCESS, {}).split(".")[0] != token.split(".")[0]
    keys.rotate(file, drop_old=True)
    with pytest.raises(keys.BadToken):
        ring.verify(keys.ACCESS, token)
    assert ring.public().version == 3
    assert len(ring.public().signed) == 1


@pytest.mark.parametrize("member", ["crit", "jwk", "x5u"])
def test_a_header_with_any_other_member_is_refused(tmp_path, member):
    keys.make(tmp_path / "k")
    ring = keys.KeyRing(tmp_path / "k")
    head, payload, signature = ring.sign(keys.ACCESS, {}).split(".")
    header = {**msgspec.json.decode(keys.decode64(head)), member: []}
    forged = keys.encode64(msgspec.json.encode(header))
    with pytest.raises(keys.BadToken):
        ring.verify(keys.ACCESS, f"{forged}.{payload}.{signature}")


@given(st.text(max_size=60))
def test_no_text_is_taken_for_a_token(tmp_path_factory, text):
    file = tmp_path_factory.getbasetemp() / "ring.keys"
    if not file.exists():
        keys.make(file)
    with pytest.raises(keys.BadToken):
        keys.KeyRing(file).verify(keys.ACCESS, text)


LIMITS = plans.load()["pro"].plan.ingest


@given(
    st.lists(st.one_of(st.integers(1, 50), st.none()), min_size=1, max_size=12), st.integers(1, 9)
)
def test_what_the_agent_writes_is_read_as_it_was_meant(entries, first):
    """A number is a gap of that width, None is a line."""
    lines, gaps, number = [], [], first
    for width in entries:
        if width is None:
            lines.append((number, make(number, 5)))
            number += 1
        else:
            gaps.append(Gap(number, number + width - 1, "thinned"))
            number += width
    batch = Batch(first, number - 1, tuple(line for _, line in lines), tuple(gaps), "s", "1/x")
    told = ingest.envelope(f"s/{first}-{number - 1}", "1/x")
    read = ingest.read(told, "device", batch.body, LIMITS)
    assert [(line.number, line.text.encode()) for line in read.lines] == lines
    assert [tuple(gap) for gap in read.gaps] == [(g.first, g.last, g.reason) for g in gaps]
    assert not read.rejected


@given(st.binary(max_size=300), st.integers(1, 5))
def test_any_bytes_are_a_batch_or_a_problem(content, count):
    told = ingest.envelope(f"s/1-{count}", "1/x")
    status = 0
    try:
        read = ingest.read(told, "device", content, LIMITS)
    except Problem as problem:
        status = problem.status
        read = None
    if read is None:
        assert status == 400
    else:
        covered = [line.number for line in read.lines] + [one.number for one in read.rejected]
        covered += [n for gap in read.gaps for n in range(gap.first, gap.last + 1)]
        assert sorted(covered) == list(range(1, count + 1))


@given(st.binary(max_size=300), st.sampled_from(["zstd", "gzip"]))
def test_any_bytes_inflate_or_are_a_problem(body, encoding):
    status = 200
    try:
        ingest.inflated(body, encoding, LIMITS)
    except Problem as problem:
        status = problem.status
    assert status in {200, 400}


def test_moments_are_read_as_utc():
    found = ingest.moment("2026-11-26T12:00:00.5+02:00")
    assert found.tzinfo is None
    assert found.isoformat() == "2026-11-26T10:00:00.500000"
    for text in ("2026-11-26T12:00:00", "", "12"):
        with pytest.raises(ValueError, match="RFC 3339"):
            ingest.moment(text)
