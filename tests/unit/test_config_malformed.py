"""Malformed configurations: each is told with its place, its path and a remedy, and no secret.

A case is the text of a file, the place `line:column` of the problem, the path of the key and
words of the message. `hunter2` stands for a secret: it must never be repeated.
"""

from pathlib import Path

import pytest

from pg_collector.config.document import MAX_DEPTH
from pg_collector.config.load import load
from pg_collector.config.problems import InvalidConfiguration
from pg_collector.errors import ConfigurationError
from pg_collector.samplers import discover

DB = "databases:\n  - name: prod\n"
PG = f"{DB}    postgres:\n"

CASES: list[tuple[str, str, str, str]] = [
    # YAML itself
    ("databases:\n\t- name: a\n", "2:1", "", "a tab where YAML takes spaces"),
    (f"{DB}log: {{level: info\n", "4:1", "", "never closed"),
    (f"{DB}local: [a, b\nlog: x\n", "4:4", "", "a bracket is never closed"),
    (f"{DB}api_key: 'hunter2\n", "4:1", "", "a quote or bracket is never closed"),
    (f'{DB}api_key: "hunter2\\q"\n', "3:18", "", "an unknown escape"),
    (f"{DB}api_key: @hunter2\n", "3:10", "", "a character that YAML reserves"),
    (f"{DB}api_key: `hunter2`\n", "3:10", "", "a character that YAML reserves"),
    (f"{DB}api_key: %hunter2\n", "3:10", "", "a character that YAML reserves"),
    (f"{DB}api_key: *hunter2\n", "3:10", "api_key", "an alias without its anchor"),
    (f"{DB}api_key: !hunter2 x\n", "3:10", "api_key", "YAML tags are not supported"),
    (f"{DB}api_key: !!python/object:os.system x\n", "3:10", "api_key", "tags are not supported"),
    (f"{DB}log: !!map {{level: info}}\n", "3:6", "log", "tags are not supported"),
    (f"{DB}api_key: a: hunter2\n", "3:11", "", "a second `: ` in one value"),
    (f"{DB}log:\n  level: info\n format: json\n", "5:2", "", "a wrong indentation"),
    (f"{DB}  name: x\n", "3:3", "", "a wrong indentation"),
    ("- a\nb: c\n", "2:1", "", "a wrong indentation"),
    ("%FOO hunter2\n---\na: b\n", "1:5", "", "a line that begins with `%`"),
    (f"{DB}---\nlog: {{}}\n", "3:1", "", "a second document"),
    (f"{DB}log: {{level: info}}}}\n", "3:19", "", "a bracket too many"),
    (f"{DB}api_key: hun\x01ter2\n", "3:13", "", "a control character"),
    (f"{DB}api_key: &a b\nlog: &a c\nstate_dir: *\n", "5:13", "", "without a name"),
    (f"{DB}log: &a [*a]\n", "3:10", "log[0]", "inside of what it stands for"),
    (f"{DB}log: {'[' * 40}{']' * 40}\n", f"3:{5 + MAX_DEPTH}", "log" + "[0]" * 31, "deeply"),
    (f"{DB}? [a]\n: b\n", "3:3", "", "a key must be a text"),
    (f"{DB}{{a: b}}: c\n", "3:1", "", "a key must be a text"),
    (f"{DB}log: &a b\n? *c\n: b\n", "4:3", "", "an alias without its anchor"),
    (f"{DB}log: {{<<: text}}\n", "3:7", "log", "merges keys and values only"),
    ("just some text\n", "1:1", "", "not a configuration"),
    ("- a\n- b\n", "1:1", "", "not a configuration"),
    ("42\n", "1:1", "", "not a configuration"),
    ("log: level: info\n", "1:11", "", "a second `: ` in one value"),
    ("log:\n- a\n  - b: c: d\n", "3:6", "", "a second `: ` in one value"),
    # keys
    (f"{DB}databases: []\n", "3:1", "databases", "for the second time, first in line 1"),
    (f"{PG}      query_timeout: 5s\n      query_timeout: 6s\n", "5:7",
     "databases[0].postgres.query_timeout", "for the second time, first in line 4"),
    (f"{DB}log: {{level: info, level: error}}\n", "3:20", "log.level", "for the second time"),
    (f"{PG}      query_timout: 5s\n", "4:7", "databases[0].postgres.query_timout",
     "unknown key 'query_timout' - did you mean 'query_timeout'?"),
    (f"{DB}    samplrs: []\n", "3:5", "databases[0].samplrs", "did you mean 'samplers'?"),
    (f"{DB}query_timeout: 5s\n", "3:1", "query_timeout",
     "did you mean 'databases[].postgres.query_timeout'?"),
    (f"{DB}    conn_string: postgresql://u:hunter2@h/db\n", "3:5", "databases[0].conn_string",
     "did you mean 'databases[].postgres.conn_string'?"),
    (f"{DB}Log: {{level: info}}\n", "3:1", "Log", "did you mean 'log'?"),
    (f"{DB}log-level: info\n", "3:1", "log-level", "unknown key"),
    (f"{DB}buffer: {{memory_max: 1MB}}\n", "3:1", "buffer", "did you mean 'buffers'?"),
    (f"{DB}zzz: 1\n", "3:1", "zzz", "the keys here are: api_key"),
    (f'{DB}"postgresql://u:hunter2@h/db": 1\n', "3:1", "?", "(not a plain name)"),
    (f"{DB}'': 1\n", "3:1", "?", "unknown key"),
    (f"{DB}null: 1\n", "3:1", "null", "unknown key 'null'"),
    (f"{DB}1: 1\n", "3:1", "?", "unknown key"),
    (f"{DB}sampling: {{activty: 5s}}\n", "3:12", "sampling.activty", "did you mean 'activity'?"),
    (f"{DB}sampling: {{every: {{activity: 5s}}}}\n", "3:12", "sampling.every", "unknown key"),
    (f"{DB}sampling: {{enabled: {{statments: false}}}}\n", "3:22", "sampling.enabled.statments",
     "no sampler of this name - did you mean 'statements'?"),
    (f"{DB}    samplers: [activity, statment]\n", "3:26", "databases[0].samplers[1]",
     "no sampler of this name - did you mean 'statements'?"),
    (f"{PG}      gcp_iam: {{project: x}}\n", "4:17", "databases[0].postgres.gcp_iam.project",
     "the keys here are: none"),
    # kinds of values
    (f"{DB}log: info\n", "3:6", "log", "must hold keys and values"),
    (f"{DB}log: [info]\n", "3:6", "log", "must hold keys and values"),
    (f"{DB}local: yes\n", "3:8", "local", "must hold keys and values"),
    ("databases: prod\n", "1:12", "databases", "must be a list"),
    ("databases: {name: prod}\n", "1:12", "databases", "must be a list"),
    ("databases: [prod]\n", "1:13", "databases[0]", "must hold keys and values"),
    ("databases:\n  - postgresql://u:hunter2@h/db\n", "2:5", "databases[0]", "keys and values"),
    (f"{DB}    samplers: activity\n", "3:15", "databases[0].samplers", "must be a list"),
    (f"{DB}    samplers: [[activity]]\n", "3:16", "databases[0].samplers[0]", "must be one text"),
    (f"{DB}    tags: [a]\n", "3:11", "databases[0].tags", "must hold keys and values"),
    (f"{DB}    tags: {{env: [a]}}\n", "3:17", "databases[0].tags.env", "must be one text"),
    (f"{DB}    tags: {{env: null}}\n", "3:17", "databases[0].tags.env", "has no value"),
    (f"{DB}    enabled: maybe\n", "3:14", "databases[0].enabled", "neither true nor false"),
    (f"{DB}    enabled: 1\n", "3:14", "databases[0].enabled", "neither true nor false"),
    (f"{PG}      password: {{hunter2: x}}\n", "4:17", "databases[0].postgres.password",
     "must be one secret text"),
    (f"{PG}      max_connections: two\n", "4:24", "databases[0].postgres.max_connections",
     "not a whole number"),
    (f"{PG}      max_connections: 1.5\n", "4:24", "databases[0].postgres.max_connections",
     "not a whole number"),
    (f"{PG}      max_connections: 3\n", "4:24", "databases[0].postgres.max_connections",
     "too large; write at most 2"),
    (f"{PG}      max_connections: 0\n", "4:24", "databases[0].postgres.max_connections",
     "too small; write at least 1"),
    (f"{PG}      max_connections: {'9' * 5000}\n", "4:24",
     "databases[0].postgres.max_connections", "not a whole number"),
    (f"{PG}      query_timeout:\n", "4:21", "databases[0].postgres.query_timeout", "has no value"),
    (f"{PG}      query_timeout: 5\n", "4:22", "databases[0].postgres.query_timeout",
     "a duration needs a unit; write a number and a unit: 500ms"),
    (f"{PG}      query_timeout: 5 sec\n", "4:22", "databases[0].postgres.query_timeout",
     "not a unit of duration"),
    (f"{PG}      query_timeout: 5S\n", "4:22", "databases[0].postgres.query_timeout",
     "'S' is not a unit - did you mean 's'?"),
    (f"{PG}      query_timeout: -5s\n", "4:22", "databases[0].postgres.query_timeout",
     "not a duration"),
    (f"{PG}      query_timeout: 1m30s\n", "4:22", "databases[0].postgres.query_timeout",
     "not a duration"),
    (f"{PG}      query_timeout: 1e3s\n", "4:22", "databases[0].postgres.query_timeout",
     "not a duration"),
    (f"{PG}      query_timeout: 0\n", "4:22", "databases[0].postgres.query_timeout",
     "too small; write at least 1s"),
    (f"{PG}      query_timeout: 999ms\n", "4:22", "databases[0].postgres.query_timeout",
     "too small; write at least 1s"),
    (f"{PG}      query_timeout: 1h\n", "4:22", "databases[0].postgres.query_timeout",
     "too large; write at most 10m"),
    (f"{PG}      lock_timeout: 0s\n", "4:21", "databases[0].postgres.lock_timeout", "too small"),
    (f"{PG}      connect_timeout: nan\n", "4:24", "databases[0].postgres.connect_timeout",
     "not a duration"),
    (f"{PG}      connect_timeout: .inf\n", "4:24", "databases[0].postgres.connect_timeout",
     "not a duration"),
    (f"{PG}      application_name: {'x' * 64}\n", "4:25",
     "databases[0].postgres.application_name", "longer than 63 bytes"),
    (f'{PG}      application_name: "a\\nb"\n', "4:25", "databases[0].postgres.application_name",
     "a control character or a line break"),
    (f"{DB}sampling: {{activity: 0}}\n", "3:22", "sampling.activity", "write at least 1ms"),
    (f"{DB}sampling: {{activity: 25h}}\n", "3:22", "sampling.activity", "write at most 1d"),
    (f"{DB}sampling: {{activity: often}}\n", "3:22", "sampling.activity", "not a duration"),
    (f"{DB}sampling: {{activity: off}}\n", "3:22", "sampling.activity", "not a duration"),
    (f"{DB}sampling: {{activity: }}\n", "3:22", "sampling.activity", "has no value"),
    (f"{DB}sampling: {{jitter: 0.1}}\n", "3:20", "sampling.jitter", "a percentage needs its sign"),
    (f"{DB}sampling: {{jitter: 101%}}\n", "3:20", "sampling.jitter", "write at most 100%"),
    (f"{DB}buffers: {{memory_max: 4}}\n", "3:23", "buffers.memory_max", "a size needs a unit"),
    (f"{DB}buffers: {{memory_max: 4mb}}\n", "3:23", "buffers.memory_max", "did you mean 'MB'?"),
    (f"{DB}buffers: {{memory_max: 4MiB}}\n", "3:23", "buffers.memory_max", "not a unit of size"),
    (f"{DB}buffers: {{memory_max: 1kB}}\n", "3:23", "buffers.memory_max", "at least 512kB"),
    (f"{DB}buffers: {{memory_max: 1025MB}}\n", "3:23", "buffers.memory_max", "at most 1GB"),
    (f"{DB}buffers: {{memory_max: 600000.5B}}\n", "3:23", "buffers.memory_max", "whole number"),
    (f"{DB}buffers: {{durability: sturdy}}\n", "3:23", "buffers.durability",
     "choose wal or overflow or memory"),
    (f"{DB}log: {{level: warn}}\n", "3:14", "log.level", "did you mean 'warning'?"),
    (f"{DB}log: {{format: xml}}\n", "3:15", "log.format", "choose json or console"),
    (f"{DB}log: {{file: ''}}\n{DB}", "4:1", "databases", "for the second time"),
    (f"{PG}      auth_method: md5\n", "4:20", "databases[0].postgres.auth_method", "choose auto"),
    (f"{PG}      tls: {{mode: verify_full}}\n", "4:19", "databases[0].postgres.tls.mode",
     "did you mean 'verify-full'?"),
    (f"{DB}security: {{pii_detection: off}}\n", "3:27", "security.pii_detection", "choose auto"),
    (f"{DB}local: {{enabled: yes, format: csv}}\n", "3:31", "local.format", "choose jsonl"),
    (f"{DB}local: {{path: ''}}\n", "3:15", "local.path", "an empty path"),
    (f"{DB}local: {{path: ~no-such-user/hunter2}}\n", "3:15", "local.path",
     "this user or the home directory is not known; write the whole path"),
    (f"{DB}platform: {{ca_file: ~no-such-user/x}}\n", "3:21", "platform.ca_file", "not known"),
    (f'{DB}api_key: "${{file:~\\0hunter2}}"\n', "3:10", "api_key", "not known"),
    # expansion
    (f"{DB}api_key: ${{NO_SUCH_VARIABLE}}\n", "3:10", "api_key",
     "the variable NO_SUCH_VARIABLE is not set"),
    (f"{DB}api_key: ${{PGC_TEST_TOKN}}\n", "3:10", "api_key", "did you mean 'PGC_TEST_TOKEN'?"),
    (f"{DB}api_key: ${{}}\n", "3:10", "api_key", "not a reference"),
    (f"{DB}api_key: ${{1A}}\n", "3:10", "api_key", "not a reference"),
    (f"{DB}api_key: ${{A-hunter2}}\n", "3:10", "api_key", "not a reference"),
    (f"{DB}api_key: ${{hunter2\n", "3:10", "api_key", "never closed"),
    (f"{DB}api_key: ${{A:-${{B}}}}\n", "3:10", "api_key", "never closed, or one in another"),
    (f"{DB}api_key: ${{file:/no/such/file}}\n", "3:10", "api_key", "/no/such/file does not exist"),
    (f"{DB}api_key: ${{file:/etc}}\n", "3:10", "api_key", "/etc is a directory"),
    (f"{DB}api_key: ${{file:/dev/zero}}\n", "3:10", "api_key", "not a regular file"),
    (f"{DB}log: {{level: '${{PGC_TEST_TOKEN}}'}}\n", "3:14", "log.level", "not one of the choices"),
    (f"{DB}buffers: {{memory_max: '${{PGC_TEST_TOKEN}}'}}\n", "3:23", "buffers.memory_max",
     "not a size"),
    (f"{DB}api_key_file: /etc/no-such-file\n", "3:15", "api_key_file",
     "/etc/no-such-file does not exist"),
    (f"{DB}api_key_file: hunter2\n", "3:15", "api_key_file", "the file does not exist; write its"),
    (f"{DB}api_key_file: [a]\n", "3:15", "api_key_file", "must be one path"),
    (f"{DB}api_key: hunter2\napi_key_file: /etc/hostname\n", "4:15", "api_key_file",
     "'api_key' is set, too; keep one of the two"),
    (f"{PG}      password: hunter2\n      password_file: /etc/hostname\n", "5:22",
     "databases[0].postgres.password_file", "'password' is set, too"),
    (f"{PG}      password_file: /no/such/file\n", "4:22", "databases[0].postgres.password_file",
     "does not exist"),
    # what belongs together
    ("", "1:1", "databases", "no database to connect to"),
    ("log: {level: info}\n", "1:1", "databases", "no database to connect to"),
    ("databases: []\n", "1:12", "databases", "no database to connect to"),
    ("databases:\n  - enabled: true\n", "2:5", "databases[0].name", "missing"),
    ("databases:\n  -\n", "2:3", "databases[0].name", "missing"),
    ("databases:\n  - name:\n", "2:10", "databases[0].name", "has no value"),
    ("databases:\n  - name: ''\n", "2:11", "databases[0].name", "not usable as a name"),
    ("databases:\n  - name: ../etc\n", "2:11", "databases[0].name", "not usable as a name"),
    ("databases:\n  - name: a/b\n", "2:11", "databases[0].name", "not usable as a name"),
    ("databases:\n  - name: .hidden\n", "2:11", "databases[0].name", "not usable as a name"),
    (f"databases:\n  - name: {'x' * 64}\n", "2:11", "databases[0].name", "not usable as a name"),
    ("databases:\n  - name: größe\n", "2:11", "databases[0].name", "not usable as a name"),
    (f"{DB}  - name: prod\n", "3:11", "databases[1].name", "used before, at"),
    (f"{DB}  - name: PROD\n", "3:11", "databases[1].name", "used before, at"),
    (f"{PG}      conn_string: postgresql://u:hunter2@h/db\n", "4:20",
     "databases[0].postgres.conn_string", "holds a password; move it to password_file"),
    (f"{PG}      conn_string: host=h password=hunter2\n", "4:20",
     "databases[0].postgres.conn_string", "holds a password"),
    (f"{PG}      conn_string: postgresql://h/db?password=hunter2\n", "4:20",
     "databases[0].postgres.conn_string", "holds a password"),
    (f"{PG}      conn_string: postgresql://u:hunter2@${{PGC_TEST_HOST}}/db\n", "4:20",
     "databases[0].postgres.conn_string", "holds a password"),
    (f"{PG}      conn_string: dbname=postgresql://bob:hunter2@host/db\n", "4:20",
     "databases[0].postgres.conn_string", "holds a connection string in one of its values"),
    (f"{PG}      conn_string: dbname='host=h Password = hunter2'\n", "4:20",
     "databases[0].postgres.conn_string", "holds a connection string in one of its values"),
    (f"{PG}      conn_string: postgresql://h/postgres%3A%2F%2Fbob%3Ahunter2%40h%2Fd\n", "4:20",
     "databases[0].postgres.conn_string", "holds a connection string in one of its values"),
    (f"{PG}      conn_string: hunter2\n", "4:20", "databases[0].postgres.conn_string",
     "neither a URI nor `key=value` pairs"),
    (f"{PG}      conn_string: host='h password=hunter2\n", "4:20",
     "databases[0].postgres.conn_string", "a quote is never closed"),
    (f"{PG}      tls: {{cert_file: /a}}\n", "4:24", "databases[0].postgres.tls.cert_file",
     "without key_file"),
    (f"{PG}      tls: {{key_file: /a}}\n", "4:23", "databases[0].postgres.tls.key_file",
     "without cert_file"),
    (f"{DB}http: {{tls: {{cert_file: /a}}}}\n", "3:25", "http.tls.cert_file", "without key_file"),
    (f"{DB}http: {{address: localhost}}\n", "3:17", "http.address", "write host:port"),
    (f"{DB}http: {{address: '127.0.0.1:65536'}}\n", "3:17", "http.address", "write host:port"),
    (f"{DB}http: {{address: '::1:8080'}}\n", "3:17", "http.address", "write host:port"),
    (f"{DB}http: {{address: 'a..b:8080'}}\n", "3:17", "http.address", "write host:port"),
    (f"{DB}http: {{address: '.:1'}}\n", "3:17", "http.address", "write host:port"),
    (f"{DB}http: {{address: '{'x' * 64}.example:1'}}\n", "3:17", "http.address", "host:port"),
    (f"{DB}http: {{address: '[:::]:80'}}\n", "3:17", "http.address", "write host:port"),
    (f"{DB}http: {{trusted_proxies: [10.0.0.0/33]}}\n", "3:26", "http.trusted_proxies[0]",
     "not a network"),
    (f"{DB}api_key: hunter2\n", "3:10", "platform.url", "missing"),
    (f"{DB}api_key: hunter 2\n", "3:10", "api_key", "holds blanks"),
    (f"{DB}api_key: hunter2\nplatform: {{url: 'https://p.example'}}\nlocal: {{enabled: true}}\n",
     "5:18", "local.enabled", "not together with an api_key"),
    (f"{DB}platform: {{url: p.example}}\n", "3:17", "platform.url", "write https://host/path"),
    (f"{DB}platform: {{url: 'ftp://p.example'}}\n", "3:17", "platform.url", "write https://"),
    (f"{DB}platform: {{url: 'https://u:hunter2@p.example'}}\n", "3:17", "platform.url",
     "holds a user or password"),
    (f"{DB}platform: {{url: 'http://p.example'}}\n", "3:17", "platform.url", "not encrypted"),
    (f"{DB}platform: {{url: 'https://p.example:99999'}}\n", "3:17", "platform.url", "write https"),
    (f"{DB}platform: {{proxy: 'socks5://u:hunter2@p:3128'}}\n", "3:19", "platform.proxy",
     "not an address; write http://host:3128"),
    (f"{DB}platform: {{proxy: 'u:hunter2@p:312800'}}\n", "3:19", "platform.proxy",
     "not an address"),
    (f"{DB}platform: {{timeout: {{connect: 40s}}}}\n", "3:31", "platform.timeout.connect",
     "longer than the whole request"),
    # masking
    (f"{DB}security: {{query_masking_level: paranoid}}\n", "3:33", "security.query_masking_level",
     "not one of the choices"),
    (f"{DB}security: {{query_masking_level: custom}}\n", "3:33", "security.query_masking_level",
     "without patterns; say what to hide"),
    (f"{DB}security: {{masking_patterns: [ssn]}}\n", "3:30", "security.masking_patterns",
     "they are of the level custom only"),
    (f"{DB}security: {{query_masking_level: custom, masking_patterns: ['re:(a+)+$']}}\n", "3:59",
     "security.masking_patterns", "takes too long for some texts"),
    (f"{DB}security: {{query_masking_level: custom, masking_patterns: ['re:[']}}\n", "3:59",
     "security.masking_patterns", "no regular expression"),
    # which tags are kept
    (f"{DB}security: {{keep_query_tags: [route, '']}}\n", "3:37", "security.keep_query_tags[1]",
     "no key of a tag"),
    (f"{DB}security: {{keep_query_tags: [{', '.join(f'k{n}' for n in range(33))}]}}\n", "3:29",
     "security.keep_query_tags", "33 keys; keep 32 at most"),
    # who is let in
    (f"{DB}security: {{ip_allowlist: {{enabled: true}}}}\n", "3:36",
     "security.ip_allowlist.enabled", "without a list nobody is let in"),
    (f"{DB}security: {{ip_allowlist: {{enabled: true, allowlist: [10.0.0.0/33]}}}}\n", "3:54",
     "security.ip_allowlist.allowlist[0]", "not a network"),
    (f"{DB}http: {{trusted_proxies: [proxy.example]}}\n", "3:26", "http.trusted_proxies[0]",
     "not a network"),
    # not in this version
    (f"{PG}      password: hunter2\n", "4:17", "databases[0].postgres.password",
     "holds a password"),
    (f"{PG}      tls: {{crl_file: /nowhere/at/all}}\n", "4:23",
     "databases[0].postgres.tls.crl_file", "does not exist"),
]  # fmt: skip

SECRETS = ("hunter2", "hunter 2", "tok-3f9a")


def problems_of(path: Path, **environ: str) -> InvalidConfiguration:
    with pytest.raises(InvalidConfiguration) as caught:
        load(path, environ=environ, samplers=discover())
    return caught.value


@pytest.mark.parametrize(("text", "place", "path", "words"), CASES)
def test_a_malformed_file_is_told_with_place_path_and_remedy(
    tmp_path: Path, text: str, place: str, path: str, words: str
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    error = problems_of(file, PGC_TEST_TOKEN="tok-3f9a", PGC_TEST_HOST="db1")  # noqa: S106
    lines = str(error).splitlines()
    start = f"{file}:{place}: {path}: " if path else f"{file}:{place}: "
    told = [line for line in lines if line.startswith(start) and words in line]
    assert told, str(error)
    assert not any(secret in str(error) for secret in SECRETS)
    assert len(lines) == len(error.problems)
    for problem in error.problems:
        assert problem.remedy or "; " in problem.message or "?" in problem.message
        assert problem.origin.line > 0


def test_there_are_at_least_a_hundred_cases() -> None:
    assert len({text for text, *_ in CASES}) >= 100


def test_one_fault_gives_one_line(tmp_path: Path) -> None:
    several = 0
    for number, (text, *_) in enumerate(CASES):
        file = tmp_path / f"{number}.yaml"
        file.write_text(text)
        error = problems_of(file, PGC_TEST_TOKEN="tok-3f9a", PGC_TEST_HOST="db1")  # noqa: S106
        several += len(error.problems) > 1
    assert several <= len(CASES) // 10


def test_every_fault_of_a_file_is_told_at_once(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(
        "databases:\n"
        "  - name: a/b\n"
        "    postgres: {query_timeout: 5, tls: {mode: verify-al}}\n"
        "  - {}\n"
        "sampling: {activity: often, statments: 5s}\n"
        "log: {level: loud}\n"
        "log: {}\n"
        "http: {address: nowhere}\n"
    )
    told = [f"{problem.origin.line}" for problem in problems_of(file).problems]
    assert told == ["2", "3", "3", "4", "5", "5", "6", "7", "8"]


def test_a_stand_in_for_a_faulty_value_is_not_judged(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    for text in (
        f"{PG}      conn_string: host=h password=hunter2\nlocal: {{enabled: maybe}}\n",
        f"{DB}api_key: k\nplatform: {{url: [x]}}\n",
        f"{DB}api_key: ${{MISSING}}\nlocal: {{enabled: true}}\n",
        "databases: [{}, {enabled: false}]\n",
    ):
        file.write_text(text)
        wrong = 2 if "{}" in text else 1
        assert len(problems_of(file).problems) == wrong, text


def test_an_alias_bomb_is_refused_quickly(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    levels = [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 10)]
    file.write_text("\n".join(["l0: &l0 [a, a, a, a, a, a, a, a, a, a]", *levels]))
    assert "too many values" in str(problems_of(file))


def test_a_long_list_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("a:\n" + "- x\n" * 30_000)
    assert "too many values" in str(problems_of(file))


def test_deep_nesting_is_refused_whatever_its_depth(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    for opening in ("[", "{a: ", "- "):
        file.write_text("a: " + opening * 100_000 if opening != "- " else opening * 100_000)
        assert "nested too deeply" in str(problems_of(file)), opening


def test_depth_through_aliases_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    nested = "[" * 20 + "]" * 20
    file.write_text(f"a: &a {nested}\nb: {'[' * 20}*a{']' * 20}\n")
    assert "nested too deeply" in str(problems_of(file))


def test_a_file_that_is_not_utf8_is_told_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_bytes(b"log:\n  level: \xff\n")
    assert f"{file}:2:10: is not UTF-8; save it as UTF-8" in str(problems_of(file))


def test_utf16_is_told_as_not_utf8(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_bytes("log: {level: info}".encode("utf-16"))
    assert "is not UTF-8" in str(problems_of(file))


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("# " + "x" * (1024 * 1024))
    assert f"{file}: is larger than 1024 kB" in str(problems_of(file))


@pytest.mark.parametrize("name", ["", "missing.yaml", "missing/config.yaml"])
def test_a_path_that_is_no_file_is_told(tmp_path: Path, name: str) -> None:
    fault = "does not exist" if name else "is a directory"
    assert f"{tmp_path / name}: {fault}; " in str(problems_of(tmp_path / name))


def test_a_path_that_cannot_be_one_is_told(tmp_path: Path) -> None:
    assert "cannot be opened" in str(problems_of(tmp_path / ("x" * 300)))
    assert "cannot be opened" in str(problems_of(Path("a\0b")))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("sampling.activity", "--set: not `key=value`"),
        ("=5s", "--set: not `key=value`"),
        ("sampling..activity=5s", "--set: not `key=value`"),
        ("sampling.activty=5s", "--set: sampling.activty: unknown key 'activty'"),
        ("sampling.activity=often", "--set: sampling.activity: not a duration"),
        ("databases[3].name=x", "--set: databases[3].name: the list has no such place"),
        ("databases.99999999999.name=x", "the list has no such place"),
        ("databases[0].samplers=[a", "--set:2:1: a bracket is never closed"),
        ("databases[0].samplers=activity", "--set:1:1: databases[0].samplers: must be a list"),
        ("databases.².name=x", "--set: databases: must be a list"),
        ("databases.٣.name=x", "--set: databases: must be a list"),
        ("log=info", "--set:1:1: log: must hold keys and values"),
        ("log.level=hunter2", "--set: log.level: not one of the choices"),
    ],
)
def test_a_malformed_flag_is_told(tmp_path: Path, override: str, words: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(DB)
    with pytest.raises(ConfigurationError) as caught:
        load(file, environ={}, overrides=[override], samplers=discover())
    assert words in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"PGC__": "x"}, "env PGC__: names no key"),
        ({"PGC__SAMPLING____ACTIVITY": "5s"}, "names no key"),
        ({"PGC__SAMPLING__ACTIVTY": "5s"}, "env PGC__SAMPLING__ACTIVTY: sampling.activty: unknown"),
        ({"PGC__HTTP__TRUSTED_PROXIES": "[1"}, "env PGC__HTTP__TRUSTED_PROXIES:2:1: a bracket"),
        ({"PGC__DATABASES__²__NAME": "x"}, "env PGC__DATABASES__²__NAME: databases: must be"),
        ({"LOG_LEVEL": "loud"}, "env LOG_LEVEL: log.level: not one of the choices"),
        ({"LOG_FORMAT": "hunter2"}, "env LOG_FORMAT: log.format: not one of the choices"),
        ({"HTTP_ADDRESS": "nowhere"}, "env HTTP_ADDRESS: http.address: not an address"),
        ({"PG_TLS_MODE": "on"}, "env PG_TLS_MODE: databases[0].postgres.tls.mode: not one"),
        ({"PG_CERT_FILE": "/a"}, "env PG_CERT_FILE: databases[0].postgres.tls.cert_file: without"),
        ({"API_KEY": "hunter2", "API_KEY_FILE": "/a"}, "env API_KEY_FILE: API_KEY is set, too"),
        ({"API_KEY_FILE": "/no/such"}, "env API_KEY_FILE: api_key_file: the file does not exist"),
        ({"PG_PASSWORD_FILE": "/no/such"}, "the file does not exist"),
        ({"PG_CONN_STRING_FILE": "/no/such"}, "the file does not exist"),
        ({"PG_CONN_STRING": "hunter2"}, "env PG_CONN_STRING: databases[0].postgres.conn_string"),
        ({"PG_PASSWORD": "hunter2\n"}, "holds a control character or a line break"),
        ({"PG_NAME": "a/b"}, "env PG_NAME: databases[0].name: not usable as a name"),
        ({"PGC_CONFIG": "log: {level: loud}"}, "env PGC_CONFIG:1:14: log.level: not one of"),
        ({"PGC_CONFIG": "api_key: @hunter2"}, "env PGC_CONFIG:1:10: a character that YAML"),
        ({"PGC_CONFIG": "x" * 1_100_000}, "env PGC_CONFIG: larger than 1024 kB"),
        ({"PGC_CONFIG": "a: \udcff"}, "env PGC_CONFIG"),
        ({"PG_USER": "a\udcff"}, "env PG_USER"),
    ],
)
def test_a_malformed_variable_is_told(environ: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(None, environ={"PGHOST": "db1", **environ}, samplers=discover())
    assert words in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_without_anything_the_remedy_names_the_ways_to_begin() -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(None, environ={}, samplers=discover())
    assert str(caught.value) == (
        "databases: no database to connect to; name a file with --config, make one with "
        "`pgc config init`, or set PG_CONN_STRING or PGHOST"
    )
