"""A platform for the tests of a module, and a device of its own for each."""

import pytest

from tests.support.platform_device import Device
from tests.support.reference_platform import COMPRESSED, ReferencePlatform


@pytest.fixture(scope="module")
def platform(tmp_path_factory):
    with ReferencePlatform(tmp_path_factory.mktemp("platform"), plans=COMPRESSED) as platform:
        yield platform


@pytest.fixture(scope="module")
def key(platform):
    return platform.new_key("fast", devices=100)


@pytest.fixture
def device(platform, key):
    device = Device(platform.url)
    assert device.activate(key).ok
    return device
