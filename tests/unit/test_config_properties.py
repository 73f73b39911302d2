"""Whatever is given, the answer is a configuration or a list of problems, and no secret is told."""

import string
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pg_collector.config import conninfo, render
from pg_collector.config.expand import escape
from pg_collector.config.load import Loaded, load
from pg_collector.config.problems import InvalidConfiguration
from pg_collector.config.schema import Key, Kind, SectionShape, Shape, config_shape
from pg_collector.samplers import discover

SAMPLERS = discover()
SECRET = "hunter2-Ov3r"  # noqa: S105
ONE_FILE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def answer(path: Path | None, environ: dict[str, str], *overrides: str) -> Loaded | str:
    """Load, and return the configuration or the problems as text; anything else fails the test."""
    try:
        return load(path, environ=environ, overrides=overrides, samplers=SAMPLERS)
    except InvalidConfiguration as error:
        found = error
    lines = str(found).splitlines()
    assert len(lines) == len(found.problems) > 0
    assert all(line.isprintable() for line in lines)
    return str(found)


@ONE_FILE
@given(content=st.binary(max_size=300))
def test_any_bytes_are_answered(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "config.yaml"
    file.write_bytes(content)
    answer(file, {})


yaml_like = st.lists(
    st.sampled_from(
        ["databases", "- ", "name", ": ", ":", "\n", "\n  ", "\n    ", "postgres", "{", "}", "[",
         "]", ", ", "&a ", "*a", "!x ", "!!str ", "<<", "'", '"', "|\n", ">", "#", "%", "@", "`",
         "\t", "---\n", "...\n", "? ", "~", "null", "log", "level", "5s", "${A}", "${", "\\x", "é",
         "\u2028", "\ufeff", "\U0001f600", "1_000", "0x10", "2001-01-01", ".inf", SECRET]
    ),
    max_size=40,
).map("".join)  # fmt: skip


@ONE_FILE
@given(text=yaml_like)
def test_any_text_that_looks_like_yaml_is_answered(tmp_path: Path, text: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text, encoding="utf-8")
    answer(file, {"A": "1"})


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


def wild(section: SectionShape) -> st.SearchStrategy[dict[str, Any]]:
    """Return mappings whose keys are known, and whose values are of any kind at all."""
    optional: dict[str, st.SearchStrategy[Any]] = {}
    for key in section.keys.values():
        shape = key.shape.of if key.shape.kind is Kind.LIST and key.shape.of else key.shape
        known = wild(shape.section) if shape.section is not None else st.sampled_from(
            ["5s", "1MB", "10%", "off", "true", "info", "${A}", "${", "/x", "", "host=x", None]
        )  # fmt: skip
        listed = st.lists(known, max_size=2) if key.shape.kind is Kind.LIST else known
        optional[key.name] = listed | values
    return st.fixed_dictionaries({}, optional=optional)


@ONE_FILE
@given(tree=wild(config_shape()))
def test_any_values_under_known_keys_are_answered(tmp_path: Path, tree: dict[str, Any]) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(tree, allow_unicode=True), encoding="utf-8")
    found = answer(file, {"A": "1"})
    if isinstance(found, Loaded):
        render.as_yaml(found, origins=True)


@given(
    name=st.sampled_from(
        ["PG_CONN_STRING", "PG_HOST", "PG_PORT", "PG_NAME", "PGHOST", "PGSERVICE", "LOG_LEVEL",
         "HTTP_ADDRESS", "API_KEY", "API_KEY_FILE", "PGC_CONFIG", "PGC__DATABASES",
         "PGC__DATABASES__0", "PGC__DATABASES__1__NAME", "PGC__LOG", "PGC__SAMPLING__ACTIVITY",
         "PGC__DATABASES__0__POSTGRES__CONN_STRING", "CREDENTIALS_DIRECTORY"]
    ),
    value=st.text(max_size=40) | yaml_like,
    override=st.text(max_size=20) | yaml_like.map(lambda text: f"databases[0].tags={text}"),
)  # fmt: skip
@settings(deadline=None)
def test_any_variables_and_flags_are_answered(name: str, value: str, override: str) -> None:
    answer(None, {"PGDATABASE": "x", name: value}, override)


def secret_keys(section: SectionShape, path: str = "") -> list[tuple[str, Key]]:
    found: list[tuple[str, Key]] = []
    for key in section.keys.values():
        below = f"{path}.{key.name}" if path else key.name
        shape: Shape = key.shape
        if shape.kind is Kind.LIST and shape.of is not None and shape.of.section is not None:
            found += secret_keys(shape.of.section, f"{below}[0]")
        elif shape.section is not None:
            found += secret_keys(shape.section, below)
        else:
            found.append((below, key))
    return found


@pytest.mark.parametrize("path", [path for path, _ in secret_keys(config_shape())])
@pytest.mark.parametrize(
    "form",
    [SECRET, f"@{SECRET}", f"postgresql://u:{SECRET}@h:x/db", f"password={SECRET} x", f"'{SECRET}",
     f"{SECRET}\n", f"${{{SECRET}", f"[{SECRET}", f"{{{SECRET}: 1}}", f"*{SECRET}", f"5{SECRET}"],
)  # fmt: skip
def test_a_secret_under_any_key_is_never_told(tmp_path: Path, path: str, form: str) -> None:
    if form.startswith("{") and path in ("sampling.enabled", "databases[0].tags"):
        return  # the key of a map is no secret
    file = tmp_path / "config.yaml"
    file.write_text("databases: [{name: a}]\n")
    for source in ("flag", "variable", "file", "reference"):
        environ, overrides = {"S": form}, []
        if source == "flag":
            overrides = [f"{path}={form}"]
        elif source == "variable":
            name = "PGC__" + path.replace("[0]", "__0").replace(".", "__").upper()
            environ = {name: form}
        else:
            written = form if source == "file" else "${S}"
            file.write_text("databases: [{name: a}]\n" if "[" not in path else "")
            parts = path.replace("[0]", ".-").split(".")
            lines = [f"{'  ' * i}{part}:" for i, part in enumerate(parts) if part != "-"]
            text = "\n".join(lines).replace("databases:\n    ", "databases:\n  - ")
            with file.open("a") as opened:
                opened.write(f"{text} {written}\n")
        found = answer(file, environ, *overrides)
        if isinstance(found, str):
            assert SECRET not in found
        else:
            assert SECRET not in str(found.warnings)
            if secret_path(path):
                assert SECRET not in render.as_yaml(found, origins=True)
                assert SECRET not in str(render.as_json(found))
                assert SECRET not in repr(found.config)


def secret_path(path: str) -> bool:
    return path.endswith(("api_key", "password", "conn_string", ".proxy"))


texts = st.text(
    st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from("${}:#'\"\\, []"), max_size=20
)


@ONE_FILE
@given(
    name=st.text(string.ascii_letters + string.digits, min_size=1, max_size=20),
    tags=st.dictionaries(texts, texts, max_size=3),
    every=st.dictionaries(st.sampled_from(sorted(SAMPLERS)), st.integers(1, 86_400_000)),
    application_name=texts,
    path=texts.filter(bool),
    query_timeout=st.integers(1000, 600_000),
    memory=st.integers(512 * 1024, 1024**3),
    address=st.sampled_from(["off", ":1", "[::1]:2", "127.0.0.1:3"]),
)
def test_what_show_prints_loads_as_the_same_configuration(
    *,
    tmp_path: Path,
    name: str,
    tags: dict[str, str],
    every: dict[str, int],
    application_name: str,
    path: str,
    query_timeout: int,
    memory: int,
    address: str,
) -> None:
    tree = {
        "databases": [
            {
                "name": name,
                "tags": {key: escape(value) for key, value in tags.items()},
                "postgres": {
                    "conn_string": "postgresql://u@h/d",
                    "application_name": escape(application_name),
                    "query_timeout": f"{query_timeout}ms",
                },
            }
        ],
        "sampling": {sampler: f"{interval}ms" for sampler, interval in every.items()},
        "buffers": {"memory_max": f"{memory}B"},
        "http": {"address": address},
        "local": {"enabled": True, "path": f"./{escape(path)}"},
    }
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(tree, allow_unicode=True), encoding="utf-8")
    found = answer(file, {})
    if isinstance(found, str):
        assert "application_name" in found  # too long in bytes
        return
    file.write_text(render.as_yaml(found, origins=True), encoding="utf-8")
    again = answer(file, {})
    assert isinstance(again, Loaded), again
    assert again.config == found.config


@given(
    parameters=st.dictionaries(
        st.sampled_from(["host", "user", "dbname", "application_name"]),
        st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=10),
    ),
    text=st.sampled_from(["", "host=x", "postgresql://u@h/d", "postgres://h?port=5"]),
)
def test_a_parameter_added_to_a_connection_string_is_read_back(
    parameters: dict[str, str], text: str
) -> None:
    added = conninfo.parse(conninfo.add(text, parameters))
    assert {key: added.get(key) for key in parameters} == {
        key: value for key, value in parameters.items() if value.strip(",")
    } or any(not value.strip(",") for value in parameters.values())


@given(st.text(max_size=60))
def test_any_connection_string_is_parsed_or_refused(text: str) -> None:
    conninfo.may_be_shown(text)
    conninfo.has_password(text)
    conninfo.has_password(f"postgresql://{text}")
