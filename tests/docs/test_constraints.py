"""constraints.txt pins everything that an installation brings, and the environment agrees."""

import re
from importlib import metadata
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent.parent


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
