"""What these tests share: the packages, and systems to install them in."""

from collections.abc import Iterator

import pytest

from tests.support import roots
from tests.support.packaged import Host, Packages, system


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Packages:
    """Build packages of dist/pgc."""
    return Packages(tmp_path_factory.mktemp("packages"))


@pytest.fixture
def alone() -> Iterator[Host]:
    """Boot a system with a network of its own, without a way out."""
    with roots.layer(system()) as root, Host(root, own_network=True) as host:
        yield host


@pytest.fixture
def networked() -> Iterator[Host]:
    """Boot a system with the host's network."""
    with roots.layer(system()) as root, Host(root) as host:
        yield host


@pytest.fixture
def rpm_host() -> Iterator[Host]:
    """Boot a system with a network of its own, and with rpm."""
    with roots.layer(system("rpm")) as root, Host(root, own_network=True) as host:
        yield host
