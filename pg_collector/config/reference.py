"""Every key of the configuration, made from the model: for people, for a page, for an editor."""

import textwrap
from collections.abc import Mapping
from typing import Any, Final

from msgspec import NODEFAULT

from pg_collector.config import environment
from pg_collector.config.guide import GUIDE
from pg_collector.config.render import scalar_text
from pg_collector.config.rules import NOT_YET
from pg_collector.config.scalars import bound_text
from pg_collector.config.schema import (
    Documented,
    Key,
    Kind,
    SectionShape,
    Shape,
    config_shape,
    documented,
)
from pg_collector.samplers._sampler import Sampler

Samplers = Mapping[str, Sampler]

_NUMBERS: Final = (Kind.INTEGER, Kind.DURATION, Kind.SIZE, Kind.PERCENT)
_PATTERNS: Final = {
    Kind.DURATION: r"^(0|[0-9]+(\.[0-9]+)? ?(ms|s|m|h|d))$",
    Kind.SIZE: r"^(0|[0-9]+(\.[0-9]+)? ?(B|kB|MB|GB|TB))$",
    Kind.PERCENT: r"^(0|[0-9]+(\.[0-9]+)? ?%)$",
}
_REFERENCE_PATTERN: Final = r"\$\{"


def as_text(samplers: Samplers) -> str:
    """Return the keys for a terminal: path, type, default, then what it is for."""
    blocks: list[str] = []
    for one in documented(config_shape()):
        if one.key is None:
            head = one.path or "(top level)"
            blocks.append(f"\n{head}: {one.section.title}\n")
            continue
        for path, key, default in expanded(one, one.key, samplers):
            told = textwrap.indent(textwrap.fill(key.description, 88), "      ")
            blocks.append(f"  {path}\n      {type_text(key.shape)}; default {default}\n{told}\n")
    return "".join(blocks).lstrip("\n")


def as_markdown(samplers: Samplers) -> str:
    """Return the page docs/configuration.md."""
    lines = [GUIDE.rstrip(), "", "## Keys", ""]
    for one in documented(config_shape()):
        if one.key is None:
            if one.section.keys:
                lines += _table_head(one)
            continue
        for path, key, default in expanded(one, one.key, samplers):
            name = path.rpartition(".")[2]
            shown = f"`{default}`" if default != "required" else "**required**"
            description = key.description.replace("|", "\\|")
            lines.append(f"| `{name}` | {type_text(key.shape)} | {shown} | {description} |")
    lines += ["", *_variables(), "", *_not_yet(), ""]
    return "\n".join(lines)


def as_json_schema(samplers: Samplers) -> dict[str, Any]:
    """Return a JSON Schema of the file, for editors that complete and check YAML."""
    schema = _schema_of(config_shape(), samplers)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Configuration of PG Collector",
        **schema,
    }


def type_text(shape: Shape) -> str:
    """Return the type with its bounds in words."""
    if shape.choices:
        text = ", ".join(f"`{choice}`" for choice in shape.choices)
    elif shape.kind is Kind.LIST and shape.of is not None:
        text = "list of samplers' names" if shape.of_samplers else f"list of {shape.of.kind}s"
    elif shape.kind is Kind.MAP and shape.of is not None:
        text = f"{shape.kind}: {shape.of.kind}"
    else:
        text = str(shape.kind)
    if shape.kind in _NUMBERS:
        text += _bounds(shape)
    if shape.longest is not None:
        text += f", at most {shape.longest} bytes"
    if shape.off:
        return f"{text}, or `off`"
    return f"{text}, or `null`" if shape.optional else text


def _bounds(shape: Shape) -> str:
    least = bound_text(shape.kind, shape.least) if shape.least is not None else ""
    most = bound_text(shape.kind, shape.most) if shape.most is not None else ""
    if least and most:
        return f", {least} to {most}"
    if least:
        return f", at least {least}"
    return f", at most {most}" if most else ""


def expanded(one: Documented, key: Key, samplers: Samplers) -> list[tuple[str, Key, str]]:
    """Return path, key and default; of a field beside the others, one row per sampler."""
    if one.section.beside is key and key.shape.of is not None:
        every = key.shape.of
        rows = []
        for name, sampler in samplers.items():
            learns = f"how often `{name}` runs: {sampler.learns}"
            made = Key(name=name, shape=every, description=learns, default=sampler.every)
            path = one.path.replace("<sampler>", name)
            rows.append((path, made, scalar_text(every, sampler.every)))
        return rows
    return [(one.path, key, default_text(key))]


def default_text(key: Key) -> str:
    """Return the default as YAML writes it, or `required`."""
    return "required" if key.default is NODEFAULT else scalar_text(key.shape, key.default)


def _table_head(one: Documented) -> list[str]:
    name = f"### `{one.path}`" if one.path else "### Top level"
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    simple = any(key.shape.section is None for key in one.section.keys.values())
    return ["", name, "", one.section.title, "", *(rows if simple else [])]


def _variables() -> list[str]:
    lines = ["## Variables", "", "| variable | key |", "|---|---|"]
    for name, key in environment.KEYS.items():
        lines.append(f"| `{name}` | `{key}` |")
    for name, key in environment.DATABASE_KEYS.items():
        lines.append(f"| `{name}` | `{key}` of the only database |")
    for name, keyword in environment.PARAMETERS.items():
        lines.append(f"| `{name}` | `{keyword}` in the connection string of the only database |")
    lines += [f"| `{name}_FILE` | a file that holds `{name}` |" for name in environment.SECRETS]
    lines.append("| `PGC__SECTION__KEY` | any key: `PGC__SAMPLING__ACTIVITY=5s` |")
    lines.append("| `PGC_CONFIG` | the whole configuration as YAML, instead of a file |")
    return lines


def _not_yet() -> list[str]:
    lines = [
        "## Not available in this version",
        "",
        "These keys are known and take their default; another value is refused, never ignored.",
        "",
    ]
    for path, refused in NOT_YET:
        which = ", ".join(f"`{value}`" for value in sorted(refused or ()))
        key = path.replace(".*", "[]")
        lines.append(f"- `{key}`: {which}" if which else f"- `{key}`")
    return lines


def _schema_of(section: SectionShape, samplers: Samplers) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    for key in section.keys.values():
        properties[key.name] = _property(key.shape, samplers)
        if key.description:
            properties[key.name]["description"] = key.description
    for twin, name in section.twins.items():
        properties.setdefault(twin, {"type": "string", "description": f"file that holds `{name}`"})
    if section.beside is not None and section.beside.shape.of is not None:
        for name, sampler in samplers.items():
            properties[name] = _property(section.beside.shape.of, samplers)
            properties[name]["description"] = sampler.learns
    # Variables may name the only database; its own name has no other source.
    required = [
        key.name
        for key in section.keys.values()
        if key.default is NODEFAULT and key.shape.kind is not Kind.LIST
    ]
    return {
        "type": ["object", "null"],
        "description": section.title,
        "required": required,
        "additionalProperties": False,
        "properties": properties,
    }


def _property(shape: Shape, samplers: Samplers) -> dict[str, Any]:
    if shape.section is not None:
        return _schema_of(shape.section, samplers)
    if shape.kind is Kind.LIST and shape.of is not None:
        items = {"enum": list(samplers)} if shape.of_samplers else _property(shape.of, samplers)
        return {"type": ["array", "null"], "items": items}
    if shape.kind is Kind.MAP and shape.of is not None:
        held = _property(shape.of, samplers)
        if shape.of_samplers:
            known = {"properties": dict.fromkeys(samplers, held), "additionalProperties": False}
            return {"type": ["object", "null"], **known}
        return {"type": ["object", "null"], "additionalProperties": held}
    choices: list[dict[str, Any]] = [_scalar_schema(shape)]
    if shape.optional:
        choices.append({"type": "null"})
    if shape.off:
        choices.append({"const": False})  # YAML 1.1 reads `off` as false
        choices.append({"const": "off"})
    choices.append({"type": "string", "pattern": _REFERENCE_PATTERN})
    return {"anyOf": choices}


def _scalar_schema(shape: Shape) -> dict[str, Any]:
    if shape.choices:
        return {"enum": list(shape.choices)}
    if shape.kind is Kind.SWITCH:
        return {"type": "boolean"}
    if shape.kind is Kind.INTEGER:
        bounds = {"minimum": shape.least, "maximum": shape.most}
        return {
            "type": "integer",
            **{name: bound for name, bound in bounds.items() if bound is not None},
        }
    if shape.kind in _PATTERNS:
        return {"type": ["string", "integer"], "pattern": _PATTERNS[shape.kind]}
    return {"type": ["string", "boolean", "number"]}
