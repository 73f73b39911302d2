"""The metrics as a scraper sees them."""

import re
import shutil
import subprocess

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from pg_collector import __version__
from pg_collector.metrics import DEVICE_STATES, LOSS_REASONS, PREFIX, Metrics
from tests.conftest import missing
from tests.support.hand_clock import HandClock

BROWSER = "text/html,application/xhtml+xml,*/*;q=0.8"
PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;escaping=underscores;q=0.5,"
    "text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
)


DOCUMENTED = """
    up uptime_seconds health_status lines_produced_total lines_delivered_total lines_buffered
    lines_quarantined buffer_memory_bytes buffer_disk_bytes buffer_oldest_sample_age_seconds
    config_last_reload_successful config_last_reload_success_timestamp_seconds
    samples_total{sampler="activity",target="prod"}
    rows_sampled_total{sampler="activity",target="prod"}
    sampler_interval_seconds{sampler="activity",target="prod"}
    lines_refused_total delivery_lag_seconds_count grace_seconds_remaining grace_seconds
    policy_received_timestamp_seconds platform_last_contact_timestamp_seconds
    output_uncompressed_bytes_total{output="file"} output_duration_seconds_count{output="file"}
    sample_errors_total{reason="timeout",sampler="activity",target="prod"}
    sampler_skipped_total{reason="lane_busy",sampler="activity"}
    last_sample_timestamp_seconds{sampler="activity",target="prod"}
    pg_query_duration_seconds_bucket{le="0.005",sampler="activity"}
    pg_query_duration_seconds_bucket{le="5.0",sampler="activity"}
    pg_up{target="prod"} pg_connections{target="prod"}
    lines_lost_total{reason="memory_full"} buffer_capacity_bytes{tier="memory"}
    output_success_total{output="file"} output_errors_total{output="file",reason="deferred"}
    output_last_success_timestamp_seconds{output="file"} output_bytes_total{output="file"}
    panics_recovered_total{component="sender"} masking_failures_total{reason="exception"}
    device_state{state="LOCAL"} plan_info{plan="demo"}
    watchdog_component_age_seconds{component="sender"}
"""


@pytest.fixture
def metrics() -> Metrics:
    metrics = Metrics(HandClock())
    metrics.introduce("prod", {"activity": 10.0, "database": 30.0})
    metrics.introduce_output("file", "deferred")
    metrics.set_device_state("LOCAL")
    metrics.set_plan("demo")
    return metrics


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"{PREFIX}_{name}", labels)


def test_the_documented_names_exist_with_their_units_and_labels(metrics: Metrics):
    metrics.pg_query_duration_seconds.labels("activity").observe(0.004)
    metrics.last_sample_timestamp_seconds.labels("prod", "activity").set(1)
    metrics.output_last_success_timestamp_seconds.labels("file").set(1)
    metrics.watchdog_component_age_seconds.labels("sender").set(1)
    text = metrics.render("")[0].decode()
    for series in DOCUMENTED.split():
        assert re.search(rf"^{PREFIX}_{re.escape(series)} ", text, re.MULTILINE), series


def test_attributes_are_named_as_their_metrics(metrics: Metrics):
    for family in metrics.registry.collect():
        if family.name.startswith(f"{PREFIX}_"):
            name = family.name.removeprefix(f"{PREFIX}_")
            assert hasattr(metrics, f"{name}_total" if family.type == "counter" else name), name


def test_what_can_happen_is_counted_from_zero(metrics: Metrics):
    assert [value(metrics, "lines_lost_total", reason=reason) for reason in LOSS_REASONS] == [
        0 for _ in LOSS_REASONS
    ]
    assert value(metrics, "samples_total", target="prod", sampler="activity") == 0
    assert value(metrics, "pg_up", target="prod") == 0


def test_no_series_tells_when_it_was_created(metrics: Metrics):
    assert b"_created" not in metrics.render("")[0]
    assert b"_created" not in metrics.render(PROMETHEUS)[0]


def test_the_build_says_what_runs(metrics: Metrics):
    [labels] = [
        sample.labels
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == f"{PREFIX}_build_info"
    ]
    assert labels["version"] == __version__
    assert set(labels) == {"version", "commit", "python"}


def test_uptime_is_measured_on_the_monotonic_clock():
    clock = HandClock()
    metrics = Metrics(clock)
    clock.advance(60)
    clock.step(-3600)
    assert value(metrics, "uptime_seconds") == 60


def test_the_device_is_in_one_state_at_a_time(metrics: Metrics):
    for state in ("UNPROVISIONED", "ACTIVE"):
        metrics.set_device_state(state)
        assert {each: value(metrics, "device_state", state=each) for each in DEVICE_STATES} == {
            each: float(each == state) for each in DEVICE_STATES
        }
    with pytest.raises(ValueError, match="ASLEEP"):
        metrics.set_device_state("ASLEEP")


def test_one_plan_is_in_force(metrics: Metrics):
    metrics.set_plan("pro")
    assert value(metrics, "plan_info", plan="pro") == 1
    assert value(metrics, "plan_info", plan="demo") is None


def test_a_target_that_is_gone_leaves_no_series(metrics: Metrics):
    metrics.introduce("old", {"activity": 10.0})
    metrics.last_sample_timestamp_seconds.labels("old", "activity").set(1)
    metrics.forget("old")
    assert b'"old"' not in metrics.render("")[0]
    assert value(metrics, "pg_up", target="prod") == 0


def test_what_is_now_ends_with_a_sampler_that_rests_and_with_its_target(metrics: Metrics):
    labels = {"target": "prod", "sampler": "activity"}
    metrics.of_turns(**labels).sampled(5, 1000.0)
    assert value(metrics, "last_sample_timestamp_seconds", **labels) == 1000.0
    metrics.introduce("prod", {"database": 30.0})
    assert value(metrics, "last_sample_timestamp_seconds", **labels) is None
    assert value(metrics, "sampler_interval_seconds", **labels) is None
    assert value(metrics, "samples_total", **labels) == 1, "a counter goes on"
    assert value(metrics, "pg_up", target="prod") == 0
    metrics.introduce("prod", {})
    assert value(metrics, "pg_up", target="prod") is None
    metrics.introduce("prod", {"activity": 20.0})
    metrics.of_turns(**labels).sampled(3, 2000.0)
    assert value(metrics, "last_sample_timestamp_seconds", **labels) == 2000.0
    assert value(metrics, "sampler_interval_seconds", **labels) == 20.0
    assert value(metrics, "rows_sampled_total", **labels) == 8


def test_the_interval_is_what_holds_now(metrics: Metrics):
    turns = metrics.of_turns("prod", "activity")
    turns.paced(10.0, 40.0)
    assert value(metrics, "sampler_interval_seconds", target="prod", sampler="activity") == 40
    metrics.introduce("prod", {"activity": 10.0, "database": 30.0})
    assert value(metrics, "sampler_interval_seconds", target="prod", sampler="activity") == 40
    metrics.introduce("prod", {"activity": 60.0, "database": 30.0})
    assert value(metrics, "sampler_interval_seconds", target="prod", sampler="activity") == 60
    turns.paced(10.0, 10.0)  # a turn that began before
    assert value(metrics, "sampler_interval_seconds", target="prod", sampler="activity") == 60


def test_a_turn_that_ends_after_its_sampler_was_switched_off_brings_nothing_back(metrics: Metrics):
    turns = metrics.of_turns("prod", "activity")
    of = {"target": "prod", "sampler": "activity"}
    metrics.introduce("prod", {"database": 30.0})
    turns.paced(10.0, 10.0)
    turns.sampled(3, 1e9)
    assert value(metrics, "sampler_interval_seconds", **of) is None
    assert value(metrics, "last_sample_timestamp_seconds", **of) is None
    assert value(metrics, "samples_total", **of) == 1
    metrics.introduce("prod", {"activity": 10.0, "database": 30.0})
    turns.sampled(3, 1e9)
    assert value(metrics, "sampler_interval_seconds", **of) == 10
    assert value(metrics, "last_sample_timestamp_seconds", **of) == 1e9


def test_two_agents_in_one_process_do_not_share_numbers():
    one, two = Metrics(HandClock()), Metrics(HandClock())
    one.lines_produced_total.inc()
    assert value(two, "lines_produced_total") == 0


@pytest.mark.parametrize("accept", ["", BROWSER, "text/plain", "nonsense", "a;b;c,,;=", "*/*"])
def test_text_is_the_answer_for_everyone_else(metrics: Metrics, accept: str):
    body, content_type = metrics.render(accept)
    assert content_type == "text/plain; version=0.0.4; charset=utf-8"
    assert any(family.name == f"{PREFIX}_up" for family in parse_text(body.decode()))


def test_openmetrics_is_the_answer_for_who_asks(metrics: Metrics):
    body, content_type = metrics.render(PROMETHEUS)
    assert content_type.startswith("application/openmetrics-text; version=1.0.0; charset=utf-8")
    assert body.endswith(b"# EOF\n")
    assert any(family.name == f"{PREFIX}_up" for family in parse_openmetrics(body.decode()))


@pytest.mark.parametrize("version", ["x", "", "1.x", "99999", "-1", "1.0.0.0.0", "é"])
@pytest.mark.parametrize("kind", ["application/openmetrics-text", "text/plain"])
def test_no_accept_header_breaks_the_page(metrics: Metrics, kind: str, version: str):
    body, content_type = metrics.render(f"{kind};version={version};escaping=junk")
    assert body
    assert content_type


def test_the_process_tells_its_memory_and_python(metrics: Metrics):
    text = metrics.render("")[0].decode()
    assert "\nprocess_resident_memory_bytes " in text
    assert "\npython_info{" in text


def test_promtool_finds_nothing_to_say(metrics: Metrics):
    promtool = shutil.which("promtool")
    if promtool is None:
        missing("promtool is not there: apt-get install prometheus")
    body, _ = metrics.render("")
    done = subprocess.run(
        [promtool, "check", "metrics"], input=body, capture_output=True, check=False, timeout=30
    )
    assert (done.returncode, done.stderr.decode()) == (0, "")
