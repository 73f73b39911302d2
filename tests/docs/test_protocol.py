"""docs/specs/protocol.md and the OpenAPI document of the reference platform say the same."""

import re
from pathlib import Path
from typing import Any

import pytest

from pg_collector.platform import openapi

PAGE = (Path(__file__).parents[2] / "docs/specs/protocol.md").read_text()
DOCUMENT: dict[str, Any] = openapi.document("https://platform.example")
CALL = re.compile(r"^\| `(GET|POST) (/[^`]*)` \|([^|]*)\|([^|]*)\|([^|]*)\|$", re.MULTILINE)
CALLS = {(found[1].lower(), found[2]): found for found in CALL.finditer(PAGE)}


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    """Follow a reference."""
    name = schema.get("$ref", "").rpartition("/")[2]
    return DOCUMENT["components"]["schemas"][name] if name else schema


def members(cell: str) -> set[str]:
    """Return the names between the braces of a cell."""
    found = re.search(r"`\{(.*?)\}`", re.sub(r"\[.*?\]", "", cell))
    return {one.partition(":")[0].strip() for one in found[1].split(",")} if found else set()


def content(part: dict[str, Any]) -> set[str]:
    """Return the members of a JSON body or reply."""
    schema = part.get("content", {}).get("application/json", {}).get("schema", {})
    return set(resolved(schema).get("properties", {}))


def test_every_call_of_a_device_is_in_both():
    served = {(method, path) for path, item in DOCUMENT["paths"].items() for method in item}
    of_devices = {(m, p) for m, p in served if p.startswith(("/v1/", "/.well-known"))}
    assert set(CALLS) == of_devices - {("get", "/v1/devices"), ("get", "/v1/series")}
    assert len(CALLS) == 8


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call[1])
def test_a_call_has_the_same_members_and_the_same_door(call):
    method, path = call
    told, served = CALLS[call], DOCUMENT["paths"][path][method]
    assert bool(told[3].strip()) is (served.get("security") != [])
    if path == "/v1/samples":
        return  # docs/specs/delivery.md
    assert members(told[4]) == content(served.get("requestBody", {}))
    status, _, reply = told[5].strip().partition(" ")
    assert status in served["responses"]
    assert members(reply) <= content(served["responses"][status])


def test_every_problem_that_is_served_is_on_the_page_with_its_status():
    served = {
        (int(status), problem)
        for item in DOCUMENT["paths"].values()
        for operation in item.values()
        for status, answer in operation["responses"].items()
        if status.isdigit() and int(status) >= 400
        for problem in answer["description"].split(", ")
    }
    rows = re.findall(r"^\| ([0-9, ]+) \| ([^|]+) \|", PAGE, re.MULTILINE)
    listed = {
        (int(status), problem)
        for statuses, names in rows
        for status in statuses.split(",")
        for problem in re.findall(r"`([a-z-]+)`", names)
    }
    assert served
    assert served <= listed
