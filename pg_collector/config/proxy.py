"""The address of a proxy, as people write it: with or without a scheme."""

from typing import Final
from urllib.parse import urlsplit

PORTS: Final = {"http": 80, "https": 443}


def parse(text: str) -> str:
    """Return the URL of a proxy, `http` where no scheme is given.

    Raises ValueError, without the text, where it is none that can be used.
    """
    url = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(url)
        sound = parts.scheme in PORTS and parts.hostname and parts.port != 0
    except ValueError:
        sound = False
    if not sound:
        raise ValueError("not an address")
    return url


def shown(url: str) -> str:
    """Return host and port of a proxy's URL: what may be shown of it."""
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port or PORTS[parts.scheme]}"
