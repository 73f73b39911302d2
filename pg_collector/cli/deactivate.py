"""`pgc deactivate`: give the device's place back."""

from typing import Annotated

import typer

from pg_collector.cli.device_access import Place
from pg_collector.cli.options import ConfigOption, SetOption
from pg_collector.device_verbs import DeactivateRequest


def deactivate(
    local_only: Annotated[
        bool,
        typer.Option("--local-only", help="Do not tell the platform: its place stays taken."),
    ] = False,
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    r"""Forget the activation of this device, and free its place on the platform.

    \b
      pgc deactivate && API_KEY=... pgc activate     another key
      pgc deactivate --local-only                    the platform is gone

    A running agent collects nothing from now on; what waits in its buffer stays there. The device
    keeps its id. With an api_key in the configuration, the next start activates it again.

    Exit codes: 0 done, 69 the platform cannot be told, 73 the state directory cannot be used, 77 an
    agent runs that this user may not ask, 78 the configuration is invalid.
    """
    place = Place(config, overrides)
    directory = str(place.directory.resolve())
    told = place.asked(DeactivateRequest(directory=directory, tell=not local_only))
    if told is None:
        with place.opened() as identity:
            if identity.device.kept is None:
                print("the device is not activated: there is nothing to forget")
                return
            identity.deactivate(tell=not local_only)
    print("the device is deactivated")
