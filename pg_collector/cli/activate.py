"""`pgc activate`: give the device a plan."""

import msgspec

from pg_collector.cli.device import show
from pg_collector.cli.device_access import Place
from pg_collector.cli.options import ConfigOption, JsonOption, SetOption
from pg_collector.device_verbs import DeviceRequest
from pg_collector.errors import AgentUnreachable, ConfigurationError


def activate(
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    r"""Exchange the api_key of the configuration for a plan, and show it.

    \b
      API_KEY=pgc_pro_... pgc activate
      pgc activate --json | jq .policy.plan

    The key is sent this once; its SHA-256 is kept, so it may be taken out of the configuration
    afterwards. An agent with an api_key activates by itself when it starts: where one runs, this
    shows how far it is.

    Exit codes: 0 the device is activated, 69 the platform does not answer, or refuses the key, 73
    the state directory cannot be used, 77 an agent runs that this user may not ask, 78 the
    configuration is invalid or has no api_key.
    """
    place = Place(config, overrides)
    told = place.asked(DeviceRequest(directory=str(place.directory.resolve())))
    if told is None:
        with place.opened() as identity:
            if identity.device.kept is None and place.config.api_key is None:
                raise ConfigurationError(
                    "device not activated", remedy="Add api_key to the configuration, or API_KEY."
                )
            identity.step()
            told, trouble = identity.told(), identity.trouble
        if trouble is not None:
            raise AgentUnreachable(str(trouble), remedy=trouble.remedy)
    elif told.policy is None:
        raise AgentUnreachable(
            f"the agent is not activated: {told.trouble or told.reason}",
            remedy=told.remedy or "Has its configuration an api_key? See pgc device.",
        )
    if as_json:
        print(msgspec.json.encode(told).decode())
    else:
        show(told)
