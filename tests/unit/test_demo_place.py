"""The demo's temporary directory, and who removes it."""

import os
import stat
import tempfile
from pathlib import Path

import pytest

from pg_collector.demo import account
from pg_collector.demo.place import Place
from tests.support.scratch import new_directory


@pytest.fixture
def parent(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go: a directory that every account may enter."""
    path = new_directory("t")
    monkeypatch.setattr(tempfile, "tempdir", str(path))
    return path


def test_leaving_removes_everything_whoever_owns_it(parent: Path) -> None:
    with Place(account.find()) as place:
        assert place.path.parent == parent
        (place.folder("data") / "file").write_text("x")
        place.write("secret", "s", for_server=True)
    assert list(parent.iterdir()) == []


def test_keep_leaves_everything(parent: Path) -> None:
    with Place(account.find()) as place:
        place.write("file", "x")
        place.keep()
    assert (place.path / "file").read_text() == "x"
    assert list(parent.iterdir()) == [place.path]


def test_secrets_are_readable_by_their_owner_alone(parent: Path) -> None:
    del parent
    with Place(account.find()) as place:
        ours, theirs = place.write("a", "s"), place.write("b", "s", for_server=True)
        for path in (ours, theirs, place.folder("data")):
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
        assert ours.stat().st_uid == os.geteuid()
        assert theirs.stat().st_uid == place.account.uid != 0


def test_a_name_too_long_for_a_socket_is_passed_over(
    parent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = parent / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with Place(account.find()) as place:
        assert long not in place.path.parents


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as somebody else")
def test_as_root_a_directory_that_others_cannot_enter_is_passed_over(parent: Path) -> None:
    parent.chmod(0o700)
    with Place(account.find()) as place:
        assert parent not in place.path.parents
