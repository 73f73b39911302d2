"""`pgc samplers`: what can be sampled."""

import json

from pg_collector.cli.options import JsonOption
from pg_collector.samplers import discover


def samplers(as_json: JsonOption = False) -> None:
    r"""List the samplers: what each one learns, how often, in which sets.

    \b
      pgc samplers --json | jq -r '.[].name'
    """
    found = discover().values()
    if as_json:
        listing = [
            {
                "name": one.name,
                "learns": one.learns,
                "group": one.group,
                "scope": one.scope,
                "lane": one.lane,
                "every_s": one.every,
                "views": sorted(one.relations),
                "sets": list(dict.fromkeys(query.set for query in one.all_queries)),
            }
            for one in found
        ]
        print(json.dumps(listing, indent=2))
        return
    for one in found:
        print(f"{one.name:<12} every {one.every:g} s, {one.group}, per {one.scope}: {one.learns}")
        print(f"{'':<12} from {', '.join(sorted(one.relations))}")
