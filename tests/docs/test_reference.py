"""The page and the example are what the model says."""

import re
from pathlib import Path
from typing import Any

import pytest

from pg_collector.config import reference
from pg_collector.config.guide import GUIDE, MINIMAL
from pg_collector.config.load import load
from pg_collector.config.rules import NOT_YET
from pg_collector.config.schema import Kind, config_shape, documented
from pg_collector.samplers import discover

ROOT = Path(__file__).parents[2]


def test_the_configurations_page_is_current() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    made = reference.as_markdown(discover())
    assert page == made, "make it anew: pgc config reference --markdown > docs/configuration.md"


def test_the_example_is_what_init_writes_and_loads() -> None:
    path = ROOT / "etc" / "config.yaml"
    assert path.read_text() == MINIMAL
    assert load(path, environ={}, samplers=discover()).config.databases[0].name == "local"


def test_the_guides_example_loads(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)
    (tmp_path / "pw").write_text("x")
    text = text.replace("/etc/pg-collector/password", str(tmp_path / "pw"))
    loaded = load(None, environ={"PGC_CONFIG": text}, samplers=discover())
    assert loaded.config.databases[0].name == "prod"


@pytest.mark.parametrize("one", list(documented(config_shape())), ids=lambda one: one.path)
def test_every_key_is_described(one: Any) -> None:
    assert one.section.title.endswith(".")
    if one.key is not None:
        assert one.key.description


def test_every_key_and_sampler_is_on_the_page() -> None:
    page = reference.as_markdown(discover())
    for one in documented(config_shape()):
        if one.key is not None and one.key is not one.section.beside:
            assert f"| `{one.key.name}` |" in page, one.path
    for name in discover():
        assert f"| `{name}` |" in page


def test_what_is_not_available_names_keys_that_exist() -> None:
    known = {one.path.replace("[]", ".*") for one in documented(config_shape())}
    assert {path for path, _ in NOT_YET} <= known


def test_the_schema_closes_every_section() -> None:
    def sections(schema: dict[str, Any]) -> list[dict[str, Any]]:
        below = [one for one in schema.get("properties", {}).values() if "properties" in one]
        items = [one["items"] for one in schema.get("properties", {}).values() if "items" in one]
        inner = [one for one in items if "properties" in one]
        return [schema, *(deep for one in (*below, *inner) for deep in sections(one))]

    found = sections(reference.as_json_schema(discover()))
    assert len(found) >= 20
    assert all(one["additionalProperties"] is False for one in found)


def test_the_schema_knows_every_key() -> None:
    schema = reference.as_json_schema(discover())
    for one in documented(config_shape()):
        here: Any = schema
        if one.key is None or one.key is one.section.beside:
            continue
        for part in one.path.split("."):
            name = part.removesuffix("[]")
            here = here["properties"][name]
            here = here["items"] if part.endswith("[]") else here
        if one.key.shape.kind is Kind.CHOICE:
            assert {"enum": list(one.key.shape.choices)} in here["anyOf"]
