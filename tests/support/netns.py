"""Two joined network namespaces where packets may be dropped: `agent` and `server`.

Nothing here touches the machine's own network or /etc: the namespaces belong to two sleeping
processes, and are gone with them, also when the test process is killed.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support import process
from tests.support.lab.server import LabMissing
from tests.support.scratch import new_directory
from tests.support.until import until

AGENT, SERVER = "10.99.0.1", "10.99.0.2"
_TOOLS = {"ip": "iproute2", "nft": "nftables", "nsenter": "util-linux", "unshare": "util-linux",
          "mount": "mount"}  # fmt: skip
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin:/usr/bin:/bin"

_TABLE = """\
table inet lab {{
  chain input {{
    type filter hook input priority 0; policy accept;
    {input}
  }}
}}
"""


@dataclass(frozen=True)
class Namespace:
    """A network (and mount) namespace with one address, held by the process `pid`."""

    address: str
    pid: int

    @property
    def prefix(self) -> list[str]:
        """Return the command prefix that runs a program in it, as the same account."""
        return ["/usr/bin/env", f"PATH={_PATH}", "nsenter", f"--target={self.pid}", "--net",
                "--mount", "--"]  # fmt: skip

    def run(
        self, command: Sequence[str | Path], *, seconds: float = 30.0, text: str | None = None
    ) -> str:
        """Run a command with `text` as its input and return its output.

        Raises CalledProcessError, TimeoutExpired.
        """
        return subprocess.run(
            [*self.prefix, *map(str, command)],
            input=text, capture_output=True, text=True, timeout=seconds, check=True,
        ).stdout  # fmt: skip

    def python(self, code: str, *arguments: str, seconds: float = 60.0) -> str:
        """Run Python `code` in it (with this interpreter and its packages); return its output."""
        return self.run([sys.executable, "-c", code, *arguments], seconds=seconds)

    def drop(self, *rules: str) -> None:
        """Drop arriving packets: all, or those that match nft `rules` such as `tcp dport 5432`."""
        lines = [f"{rule} drop" for rule in rules] or ['iifname "lab0" drop']
        self.accept()
        self.run(["nft", "-f", "-"], text=_TABLE.format(input="\n    ".join(lines)))

    def accept(self) -> None:
        """Let all packets pass again."""
        self.run(["nft", "flush", "ruleset"])


@dataclass(frozen=True)
class Network:
    """The agent's side and the server's side."""

    agent: Namespace
    server: Namespace

    def silence_dns(self) -> None:
        """Give the agent a resolver that never answers. Holds until the namespaces end."""
        self.server.drop("udp dport 53", "tcp dport 53")
        place = new_directory("etc")
        for name, line in (
            ("resolv.conf", f"nameserver {SERVER}\n"),
            ("nsswitch.conf", "hosts: files dns\n"),
        ):
            (place / name).write_text(line)
            if (seen := Path("/etc", name)).exists():  # without nsswitch.conf it is `files dns`
                self.agent.run(["mount", "--bind", place / name, seen])


@contextmanager
def two_namespaces() -> Iterator[Network]:
    """Make two namespaces joined by a cable. Needs root. Raises LabMissing without the tools."""
    for tool, package in _TOOLS.items():
        if shutil.which(tool, path=_PATH) is None:
            raise LabMissing(f"`{tool}` is missing: apt-get install {package}")
    with ExitStack() as stack:
        agent = stack.enter_context(_namespace(AGENT))
        server = stack.enter_context(_namespace(SERVER))
        agent.run(["ip", "link", "add", "lab0", "type", "veth", "peer", "name", "lab0", "netns",
                   str(server.pid)])  # fmt: skip
        for one in (agent, server):
            one.run(["ip", "address", "add", f"{one.address}/24", "dev", "lab0"])
            for link in ("lo", "lab0"):
                one.run(["ip", "link", "set", link, "up"])
        yield Network(agent, server)


@contextmanager
def _namespace(address: str) -> Iterator[Namespace]:
    """Start the process that holds a namespace; wait until it has its own."""
    command = ["setpriv", "--pdeathsig", "KILL", "--", "unshare", "--net", "--mount", "--",
               "sleep", "infinity"]  # fmt: skip
    holder = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, env={"PATH": _PATH}
    )
    ours = Path("/proc/self/ns/mnt").readlink()

    def separate() -> bool:
        if holder.poll() is not None:
            assert holder.stderr is not None
            raise LabMissing(f"no network namespaces here: {holder.stderr.read().decode()}")
        sleeping = Path(f"/proc/{holder.pid}/comm").read_text().strip() == "sleep"
        return sleeping and Path(f"/proc/{holder.pid}/ns/mnt").readlink() != ours

    try:
        until(separate, what="the namespace exists")
        yield Namespace(address, holder.pid)
    finally:
        process.end(holder, signal.SIGKILL)
        assert holder.stderr is not None
        holder.stderr.close()
