"""Settings as numbers in base units, on every version, beside what pg_settings says."""

import pytest

from pg_collector.samplers import _settings

BYTES = {"B": 1, "kB": 1024, "8kB": 8192, "16kB": 16384, "MB": 1 << 20}
SECONDS = {"ms": 0.001, "s": 1.0, "min": 60.0}


@pytest.mark.parametrize(("units", "read"), [(BYTES, _settings.size), (SECONDS, _settings.seconds)])
def test_every_setting_with_a_unit_is_read(server, units, read):
    found = server.query(
        "select name, setting, unit from pg_settings where unit = any(%s)", [list(units)]
    )
    assert len(found) > 20
    values = server.query("select " + ", ".join(read(name) for name, _, _ in found))[0]
    for (name, setting, unit), value in zip(found, values, strict=True):
        wanted = float(setting) * (units[unit] if float(setting) >= 0 else 1)
        assert float(value) == pytest.approx(wanted), (name, setting, unit)


def test_odd_numbers_of_bytes_and_what_does_not_exist(server):
    with server.connect() as session:
        session.execute("set temp_file_limit = 1030; set work_mem = '65kB'")
        assert session.execute(f"select {_settings.size('work_mem')}").fetchone() == (65 * 1024,)
        assert session.execute(
            f"select {_settings.size('no.such')}, {_settings.seconds('no.such')}"
        ).fetchone() == (None, None)
