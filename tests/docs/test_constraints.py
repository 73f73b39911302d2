"""constraints.txt pins everything that an installation brings, and the environment agrees."""

import ast
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGE = ROOT / "pg_collector"
# Files that are used with an extra alone, or know what is missing without it.
WITH_EXTRAS = ("demo/", "platform/", "pg/auth/")
# requests shows both in what it raises and takes.
BY_REQUESTS = {"certifi", "urllib3"}


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = (line.split("==") for line in lines if not line.startswith("#"))
    return {normal(name): version for name, version in pairs}


def installed():
    """Follow the requirements of pg-collector[dev], as far as their markers hold here."""
    found: dict[str, str] = {}
    waiting = [("pg-collector", frozenset({"dev", "demo"}))]
    while waiting:
        name, extras = waiting.pop()
        distribution = metadata.distribution(name)
        for text in distribution.requires or ():
            requirement = Requirement(text)
            here = {name: str(value) for name, value in default_environment().items()}
            environments = [here | {"extra": one} for one in (extras or {""})]
            wanted = requirement.marker is None or any(
                requirement.marker.evaluate({**one}) for one in environments
            )
            if wanted and normal(requirement.name) not in found:
                found[normal(requirement.name)] = metadata.version(requirement.name)
                waiting.append((requirement.name, frozenset(requirement.extras)))
    found.pop("pg-collector", None)
    return found


def test_everything_that_is_installed_is_pinned_to_its_version():
    pins = pinned()
    assert {name: pins.get(name) for name in installed()} == installed()


def test_nothing_is_pinned_that_nobody_needs():
    assert pinned().keys() <= installed().keys()


def imported():
    """Return the modules of others that the agent and its verbs import without an extra."""
    found: set[str] = set()
    for file in PACKAGE.rglob("*.py"):
        if file.relative_to(PACKAGE).as_posix().startswith(WITH_EXTRAS):
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                found |= {one.name.partition(".")[0] for one in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.partition(".")[0])
    return found - sys.stdlib_module_names - {"pg_collector", "compression"}


def test_what_is_imported_without_an_extra_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {normal(Requirement(text).name) for text in project["dependencies"]}
    brought_by = metadata.packages_distributions()
    missing = {
        module: brought_by.get(module)
        for module in imported() - BY_REQUESTS
        if not declared & {normal(name) for name in brought_by.get(module, [])}
    }
    assert not missing
