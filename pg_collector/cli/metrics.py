"""`pgc metrics`: the numbers of the running agent."""

import sys

from pg_collector.cli.options import ConfigOption, SetOption, TimeoutOption, UrlOption
from pg_collector.cli.pages import fetch
from pg_collector.cli.printable import printable
from pg_collector.errors import CollectorError


def metrics(
    url: UrlOption = None,
    timeout: TimeoutOption = 5.0,
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    r"""Print the running agent's metrics, as Prometheus reads them.

    \b
      pgc metrics | grep -v '^#' | sort
      pgc metrics --url http://db1:8080 | promtool check metrics

    They are asked for over the control socket, or at http.address; what each one means is in
    docs/metrics.md.

    Exit codes: 0, 1 the agent refuses, 69 no agent runs or it does not answer, 77 an agent runs
    that this user may not ask, 78 the configuration is invalid.
    """
    page = fetch("/metrics", config, overrides, url=url, timeout=timeout)
    if page.status != 200:  # noqa: PLR2004  # HTTP
        raise CollectorError(
            f"the agent answers {page.status}: {printable(page.body.strip())}",
            remedy="Ask over the control socket, as the agent's user or a member of its group: "
            "without --url.",
        )
    sys.stdout.write(printable(page.body, keep="\n"))
