"""The words of the configuration's page that are not made from the model, and the templates."""

from typing import Final

GUIDE: Final = """\
# Configuration

This page is made by `pgc config reference --markdown`; a test keeps it current.

```yaml
databases:
  - name: prod
    postgres:
      conn_string: postgresql://pgcollector@db1:5432/postgres
      password_file: /etc/pg-collector/password
```

`pgc config init` writes a file with every key and its default, `pgc config check` says what is
wrong and where, all at once, and `pgc config show --origin` prints what is in force and where each
value came from. An invalid configuration ends the start with exit code 78. The files that it names
are looked at, too: each must be a regular file that the user who checks can read, and `log.file`
one that this user can write; so check as the user that the agent runs as.

## Where it comes from

The file is the one named by `--config`, else the first of `./pg-collector.yaml`,
`$XDG_CONFIG_HOME/pg-collector/config.yaml`, `/etc/pg-collector/config.yaml`. The files
`config.d/*.yaml` beside it are added in the order of their names: keys and values merge, lists are
replaced. Precedence, the highest first: `--set key=value` and other flags, variables, `config.d`,
the file, defaults. A variable that is set to nothing counts as not set.

Without a file, variables are enough: `PG_CONN_STRING`, `PG_HOST` or libpq's own `PGHOST`,
`PGHOSTADDR`, `PGSERVICE` or `PGDATABASE` make one database, named `PG_NAME` or after its host. The
variables of a database apply where there is only one. Several databases without a file:
`PGC_CONFIG` holds the whole YAML.

libpq's environment, service file and password file work as they do for `psql`: what `conn_string`
leaves out comes from there.

## Values

| kind | written as |
|---|---|
| duration | `500ms`, `10s`, `5m`, `1h`, `1d` |
| size | `512B`, `64kB`, `4MB`, `1GB`, `1TB`; 1 MB is 1024 kB, as in PostgreSQL |
| percentage | `10%` |
| true or false | `true`, `false`; also `yes`, `no`, `on`, `off` |
| path, text | with or without quotes; one that begins with `*`, `&`, `!`, `@` or `%` needs them |
| path | `~/x` and `~user/x` are in a home directory |

A key decides what its value means: `name: no` is the text "no". In any value, `${NAME}` is a
variable (an error when it is not set), `${NAME:-default}` has a default, `${file:/path}` is the
trimmed content of a file and `$${` is a plain `${`. This happens after the YAML is read, so that a
value can never bring in further keys. Unknown keys, and keys given twice, are errors.

## Secrets

Each secret `x` may be in a file of its own: `x_file: /path` instead of `x`, and `X_FILE` instead of
the variable `X`. Both at once is an error. systemd's `LoadCredential=api_key:…` and
`LoadCredential=postgres_password:…` are used where nothing else is set, unless they are blank; the
packages' unit has both ([packages](install/packages.md)). A password inside
`conn_string` is accepted from a variable, from a file of its own, from `--set` or with
`local.enabled`, and warned about. Secrets are in no message, and `pgc config show` prints
`(secret)`.
"""

MINIMAL: Final = """\
# PG Collector: the least that works. `pgc config reference` lists every key, `pgc config check`
# tells what is wrong. Values may be ${VARIABLE}, ${VARIABLE:-default} or ${file:/path}.

databases:
  - name: local                               # the label of its samples; unique
    postgres:
      # As psql takes it. What it leaves out comes from PGHOST and its like, ~/.pgpass, the service
      # file. `pgc setup sql` prints the role to make.
      conn_string: postgresql:///postgres
      # password_file: /etc/pg-collector/password

# Samples to a platform. With the packages the key lies in /etc/pg-collector/credentials/api_key,
# which only root reads and only the service is given; else name its file, or set API_KEY.
# api_key_file: /etc/pg-collector/api_key
# platform:
#   url: https://ingest.example.com

# Or, without a platform, to files of JSON lines:
# local:
#   enabled: true
#   path: /var/lib/pg-collector/output
"""

FULL_HEAD: Final = """\
## PG Collector: every key. A key that is commented out stands at its default.
##
## Durations: 500ms, 10s, 5m, 1h, 1d. Sizes: 64kB, 4MB, 1GB. Percentages: 10%.
## Any value may be ${VARIABLE}, ${VARIABLE:-default} or ${file:/path}; a secret `x` may be in a
## file: `x_file: /path`. Then: `pgc config check`, `pgc config show --origin`.
"""
