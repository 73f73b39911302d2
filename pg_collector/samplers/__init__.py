"""The samplers, one module each. A module whose name does not start with `_` is a sampler."""

import importlib
import pkgutil
from collections.abc import Mapping
from types import MappingProxyType

from pg_collector.samplers._sampler import Sampler


def discover() -> Mapping[str, Sampler]:
    """Import every sampler module; a broken one fails the start, not the night."""
    found: dict[str, Sampler] = {}
    for module in pkgutil.iter_modules(__path__):
        if module.name.startswith("_"):
            continue
        sampler = importlib.import_module(f"{__name__}.{module.name}").SAMPLER
        if not isinstance(sampler, Sampler) or sampler.name != module.name:
            raise TypeError(f"{module.name}.py must hold SAMPLER, a Sampler named {module.name!r}")
        found[sampler.name] = sampler
    return MappingProxyType(found)
