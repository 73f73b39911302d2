"""Damage that is done as said, and the same with the same seed."""

import shutil
from pathlib import Path

import pytest

from tests.support.corruption import KINDS, Damage, damage


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    (tree / "deep").mkdir(parents=True)
    (tree / "a").write_bytes(bytes(range(1, 255)) * 100)
    (tree / "deep" / "b").write_bytes(b"b" * 10_000)
    (tree / "deep" / "empty").touch()
    return tree


def content(tree: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(tree)): path.read_bytes() for path in tree.rglob("*") if path.is_file()
    }


def differs(before: dict[str, bytes], after: dict[str, bytes]) -> set[str]:
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def test_every_kind_happens_and_changes_the_file_that_it_names(tree: Path, tmp_path: Path):
    older = tmp_path / "older"
    shutil.copytree(tree, older)
    (older / "a").write_bytes(b"as it was")
    (older / "deep" / "b").write_bytes(b"as it was")
    (older / "deep" / "empty").write_bytes(b"as it was")
    kinds = set()
    for seed in range(200):
        image = tmp_path / f"image-{seed}"
        shutil.copytree(tree, image)
        (done,) = damage(image, seed, older=older)
        assert differs(content(tree), content(image)) == {str(done.path)}, str(done)
        kinds.add(done.kind)
    assert kinds == set(KINDS)


def test_the_same_seed_damages_alike(tree: Path, tmp_path: Path):
    images = [tmp_path / "one", tmp_path / "other"]
    done = []
    for image in images:
        shutil.copytree(tree, image)
        done.append(damage(image, 17, times=5))
    assert done[0] == done[1]
    assert len(done[0]) == 5
    assert content(images[0]) == content(images[1]) != content(tree)


def test_it_says_what_it_did():
    assert str(Damage("flip", Path("a/b"), "byte 3 from 0x00 to 0x01")) == (
        "flip a/b: byte 3 from 0x00 to 0x01"
    )


def test_an_empty_directory_cannot_be_damaged(tmp_path: Path):
    with pytest.raises(ValueError, match="no file below"):
        damage(tmp_path, 1)
