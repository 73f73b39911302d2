"""SQL for settings as numbers in base units, each found once a statement.

`current_setting` writes a value with its unit (`64MB`, `5min`). `pg_settings` has number and unit
apart, but makes a row of each of some 400 settings to find one: half a millisecond each time.
https://www.postgresql.org/docs/current/config-setting.html
"""


def size(name: str) -> str:
    """Return SQL for bytes; null where the server has no such setting, -1 as it is."""
    # A number of bytes is written with a B, which pg_size_bytes knows since 16.
    text = f"regexp_replace(current_setting('{name}', true), '^(-?[0-9]+)B$', '\\1')"
    return f"(SELECT pg_size_bytes({text}))"


def seconds(name: str) -> str:
    """Return SQL for seconds as float8; null where the server has no such setting, -1 as it is."""
    return f"(SELECT date_part('epoch', current_setting('{name}', true)::interval))"
