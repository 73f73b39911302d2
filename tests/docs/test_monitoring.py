"""What is ready-made for Prometheus and Grafana: rules, their tests, dashboard, pages."""

import itertools
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from tests.docs import kubernetes_rules, metrics_page
from tests.docs.markdown import commands, headings
from tests.support.prometheus import ETC, JOB, promtool

ROOT = Path(__file__).parents[2]
CASES = sorted((ETC / "tests").glob("*.yml"))
DASHBOARD = ROOT / "etc" / "grafana" / "pg-collector.json"
GUIDE = ROOT / "docs" / "monitoring.md"
SEVERITIES = {"critical", "warning", "info"}


def rules(name: str) -> list[dict[str, Any]]:
    groups = yaml.safe_load((ETC / name).read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


ALERTS = {rule["alert"]: rule for rule in rules("alerts.yml")}
RECORDED = {rule["record"]: rule for rule in rules("recording.yml")}


def panels() -> list[dict[str, Any]]:
    return list(json.loads(DASHBOARD.read_text())["panels"])


def expressions() -> list[str]:
    """Return every query of rules and dashboard."""
    found = [rule["expr"] for rule in (*ALERTS.values(), *RECORDED.values())]
    return found + [one["expr"] for panel in panels() for one in panel.get("targets", ())]


def test_the_page_of_the_metrics_is_current():
    made = metrics_page.page()
    assert metrics_page.PAGE.read_text() == made, "make it anew: python -m tests.docs.generated"


def test_every_metric_has_a_meaning_and_every_label_its_values():
    every = metrics_page.described()
    assert len({one.name for one in every}) == len(every) > 50
    for one in every:
        assert one.meaning, one.name
        assert one.name.startswith(("pg_collector_", "process_", "python_")), one.name
        if one.name.startswith("pg_collector_"):
            assert all(one.values(label) for label in one.labels), one.name
            assert one.meaning.endswith("."), one.name
    assert metrics_page.QUERIES.keys() <= {one.short for one in every}


def test_the_queries_of_the_page_are_queries(tmp_path: Path):
    file = tmp_path / "rules.yml"
    asked = [
        {"record": f"q{number}", "expr": text}
        for number, text in enumerate(metrics_page.QUERIES.values())
    ]
    file.write_text(yaml.safe_dump({"groups": [{"name": "page", "rules": asked}]}))
    promtool("check", "rules", file)


def test_promtool_finds_nothing_to_say_of_rules_and_example():
    promtool("check", "rules", ETC / "alerts.yml", ETC / "recording.yml")
    promtool("check", "config", ETC / "prometheus.yml")


@pytest.mark.parametrize("file", CASES, ids=lambda path: path.stem)
def test_the_rules_fire_and_are_silent_as_their_tests_say(file: Path):
    promtool("test", "rules", file)


def test_every_alert_is_tried_where_it_fires_and_where_it_is_silent():
    tried: dict[str, set[bool]] = {}
    for file in CASES:
        for case in yaml.safe_load(file.read_text())["tests"]:
            for one in case["alert_rule_test"]:
                tried.setdefault(one["alertname"], set()).add(bool(one["exp_alerts"]))
    assert tried == {name: {True, False} for name in ALERTS}


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_how_bad_it_is_and_where_help_is(name: str):
    rule = ALERTS[name]
    assert name.startswith("PgCollector")
    assert rule["labels"]["severity"] in SEVERITIES
    notes = rule["annotations"]
    assert notes["summary"].strip()
    assert notes["description"].strip().endswith(".")
    assert notes.keys() == {"summary", "description", "runbook"}
    page, _, anchor = notes["runbook"].partition("#")
    assert headings(ROOT / page).get(anchor) == name


def test_the_line_that_the_guide_shows_makes_urls_of_the_runbooks(tmp_path: Path):
    (shown,) = commands(GUIDE, "sed")
    for name in ("alerts.yml", "servicemonitor.yaml"):
        shutil.copy(ETC / name, tmp_path)
        words = [name if word == "alerts.yml" else word for word in shown[1]]
        subprocess.run(["sed", *words], cwd=tmp_path, check=True)
        made = re.findall(r"runbook_url: (.+)", (tmp_path / name).read_text())
        assert len(made) == len(ALERTS)
        for rule, link in zip(ALERTS.values(), made, strict=True):
            address = urlsplit(link)
            assert (address.scheme, address.hostname) == ("https", "wiki.example.com")
            assert link.endswith(f"/{rule['annotations']['runbook']}")
    promtool("check", "rules", tmp_path / "alerts.yml")


def test_a_configuration_of_ones_own_has_the_rules_after_what_the_guide_says(tmp_path: Path):
    own = {"scrape_configs": [{"job_name": JOB}]}
    (block,) = re.findall(r"(?ms)^```yaml\n(rule_files:\n.*?)^```$", GUIDE.read_text())
    for name in yaml.safe_load(block)["rule_files"]:
        shutil.copy(ETC / name, tmp_path)
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(own) + block)
    said = [
        promtool(*(word.replace("/etc/prometheus", str(tmp_path)) for word in words))
        for _, words in commands(GUIDE, "promtool")
        if words[0] == "check"
    ]
    (looked_for,) = re.findall(r"`(\d+ rule files found)`", GUIDE.read_text())
    assert looked_for in said[1]
    for one in said:
        assert f"{len(ALERTS)} rules found" in one
        assert f"{len(RECORDED)} rules found" in one


def test_the_guide_has_each_alert_once_with_what_it_means_and_what_to_do():
    sections = re.split(r"^#### ", GUIDE.read_text(), flags=re.MULTILINE)[1:]
    names = [section.partition("\n")[0] for section in sections]
    assert names == list(ALERTS)
    for name, section in zip(names, sections, strict=True):
        rule = ALERTS[name]
        lasting = f", after {rule['for']}" if "for" in rule else ""
        assert f"\n\n*{rule['labels']['severity']}*{lasting}\n\n" in section, name
        assert "- **Look at**: " in section, name
        assert "- **Do**: " in section, name


def test_every_metric_that_is_asked_for_exists():
    there: set[str] = {"up", "ALERTS"}
    for one in metrics_page.described():
        histogram = one.type == "histogram"
        there |= {f"{one.name}_{end}" for end in ("bucket", "sum", "count")} if histogram else set()
        there.add(one.name)
    for text in expressions():
        asked = set(re.findall(r"\b((?:pg_collector|process|python)_[a-z0-9_]+)\b", text))
        assert asked <= there, text


def test_the_jobs_name_is_the_same_everywhere():
    (job,) = yaml.safe_load((ETC / "prometheus.yml").read_text())["scrape_configs"]
    assert job["job_name"] == JOB
    for text in expressions():
        assert set(re.findall(r'\bjob="([^"]+)"', text)) <= {JOB}, text


def test_kubernetes_gets_the_same_rules():
    assert kubernetes_rules.whole() == kubernetes_rules.FILE.read_text(), (
        "make it anew: python -m tests.docs.generated"
    )
    service, monitor, rule = yaml.safe_load_all(kubernetes_rules.FILE.read_text())
    groups = [
        group
        for name in kubernetes_rules.RULES
        for group in yaml.safe_load((ETC / name).read_text())["groups"]
    ]
    assert rule["kind"] == "PrometheusRule"
    assert rule["spec"]["groups"] == groups
    labels = service["metadata"]["labels"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert labels[monitor["spec"]["jobLabel"]] == JOB
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}


def test_the_dashboard_is_whole():
    whole = json.loads(DASHBOARD.read_text())
    assert whole["uid"] == "pg-collector"
    variables = {one["name"] for one in whole["templating"]["list"]}
    assert variables == {"datasource", "job", "instance", "target"}
    ids = [panel["id"] for panel in whole["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in whole["panels"]:
        assert panel["title"]
        if panel["type"] == "row":
            continue
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}"
        references = [one["refId"] for one in panel["targets"]]
        assert references
        assert len(set(references)) == len(references)
        for one in panel["targets"]:
            used = set(re.findall(r"\$(\w+)", one["expr"])) - {"__rate_interval"}
            assert used <= variables, one["expr"]
            assert "instance" in used, one["expr"]


def test_no_panel_lies_on_another():
    places = [panel["gridPos"] for panel in panels()]
    assert all(place["x"] >= 0 and place["x"] + place["w"] <= 24 for place in places)
    for one, other in itertools.combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below, (one, other)
