"""What the Dockerfile says of the image's last stage, read as Docker reads it."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONTAINER = ROOT / "packaging" / "container"
KUBERNETES = ROOT / "packaging" / "kubernetes"


@dataclass
class Stage:
    """A stage: its base, its name, and its instructions by their word."""

    base: str
    name: str
    said: dict[str, list[str]] = field(default_factory=dict)

    def one(self, word: str) -> str:
        """Return what follows an instruction that is there once."""
        (only,) = self.said[word]
        return only

    def environment(self) -> dict[str, str]:
        """Return its variables."""
        return dict(pair.split("=", 1) for line in self.said["ENV"] for pair in line.split())

    def health(self) -> list[str]:
        """Return the command of the health check."""
        return list(json.loads(self.one("HEALTHCHECK").partition("CMD ")[2]))


def stages() -> list[Stage]:
    """Return the Dockerfile's stages, in their order."""
    lines = (CONTAINER / "Dockerfile").read_text().splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#"))
    found: list[Stage] = []
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        word, _, rest = line.partition(" ")
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            found.append(Stage(base, name))
        elif word:
            found[-1].said.setdefault(word, []).append(rest.strip())
    return found
