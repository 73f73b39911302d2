"""What a package puts where, as the contents of nfpm's description."""

import gzip
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import changelog

ROOT: Final = Path(__file__).resolve().parents[2]
DIST: Final = ROOT / "dist"
HERE: Final = ROOT / "packaging" / "linux"
PROGRAM: Final = "/usr/lib/pg-collector"
DOC: Final = "/usr/share/doc/pg-collector"
UNIT: Final = {"deb": "/lib/systemd/system", "rpm": "/usr/lib/systemd/system"}
VARIABLES: Final = {"deb": "/etc/default", "rpm": "/etc/sysconfig"}
# Where each shell looks, so that TAB works in a new one at once.
COMPLETIONS: Final = {
    "deb": {
        "bash": "/usr/share/bash-completion/completions/pgc",
        "zsh": "/usr/share/zsh/vendor-completions/_pgc",
        "fish": "/usr/share/fish/vendor_completions.d/pgc.fish",
    },
    "rpm": {
        "bash": "/usr/share/bash-completion/completions/pgc",
        "zsh": "/usr/share/zsh/site-functions/_pgc",
        "fish": "/usr/share/fish/vendor_completions.d/pgc.fish",
    },
}
# Directories of the configuration: mode, and whether the service may look into it.
FOLDERS: Final = {"": (0o750, True), "/config.d": (0o750, True), "/certs": (0o750, True),
                  "/credentials": (0o700, False)}  # fmt: skip
DOCUMENTS: Final = {
    "docs/configuration.md": "configuration.md",
    "docs/troubleshooting.md": "troubleshooting.md",
    "docs/monitoring.md": "monitoring.md",
    "docs/install/packages.md": "packages.md",
    "etc/grafana/pg-collector.json": "grafana/pg-collector.json",
    "etc/prometheus/alerts.yml": "prometheus/alerts.yml",
    "etc/prometheus/prometheus.yml": "prometheus/prometheus.yml",
    "etc/prometheus/recording.yml": "prometheus/recording.yml",
    "etc/prometheus/servicemonitor.yaml": "prometheus/servicemonitor.yaml",
}


class MissingPart(Exception):  # it reads as what it is
    """Something that a package is made of is not there; the text says how to make it."""


def contents(form: str, place: Path, *, version: str, who: str, epoch: int) -> list[dict[str, Any]]:
    """Return every file of a package; what has to be made for it is put into `place`.

    Raises MissingPart.
    """
    entries = [*_program(), *_settings(form), *_system(form), *_documents(form, place)]
    if form == "deb":
        text = (ROOT / "CHANGELOG.md").read_text()
        found = changelog.debian(text, version=version, who=who, epoch=epoch)
        entries.append(_packed(place / "changelog.Debian", found, f"{DOC}/changelog.Debian.gz"))
        entries.append(
            _file(HERE / "lintian-overrides", "/usr/share/lintian/overrides/pg-collector")
        )
    moment = datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    for one in entries:
        one.setdefault("file_info", {})["mtime"] = moment
        if form == "rpm" and one["dst"].startswith(DOC) and one["type"] == "file":
            one["type"] = "doc"
    return sorted(entries, key=lambda one: one["dst"])


def _program() -> Iterator[dict[str, Any]]:
    """Yield the program, with the commands that start it."""
    tree = DIST / "pgc"
    if not (tree / "pgc").is_file():
        raise MissingPart("dist/pgc is missing, the program itself: make binary")
    yield _folder(PROGRAM)
    for path in sorted(tree.rglob("*")):
        target = f"{PROGRAM}/{path.relative_to(tree)}"
        if path.is_symlink():
            yield _link(str(path.readlink()), target)
        elif path.is_file():
            yield _file(path, target, 0o755 if path == tree / "pgc" else 0o644)
        else:
            yield _folder(target)
    yield _link("../lib/pg-collector/pgc", "/usr/bin/pgc")
    yield _link("../lib/pg-collector/pgc", "/usr/bin/pg-collector")


def _settings(form: str) -> Iterator[dict[str, Any]]:
    """Yield what its owner changes; an upgrade keeps it."""
    group = "pg-collector" if form == "rpm" else "root"  # a .deb makes the group, then gives it
    for name, (mode, shared) in FOLDERS.items():
        info = {"mode": mode, "group": group if shared else "root"}
        yield {**_folder(f"/etc/pg-collector{name}"), "file_info": info}
    one = _file(ROOT / "etc" / "config.yaml", "/etc/pg-collector/config.yaml", 0o640, keep=True)
    one["file_info"]["group"] = group
    yield one
    yield _file(HERE / "environment", f"{VARIABLES[form]}/pg-collector", 0o640, keep=True)
    yield _file(HERE / "logrotate", "/etc/logrotate.d/pg-collector", keep=True)


def _system(form: str) -> Iterator[dict[str, Any]]:
    yield _file(HERE / "pg-collector.service", f"{UNIT[form]}/pg-collector.service")
    yield _file(HERE / "sysusers.conf", "/usr/lib/sysusers.d/pg-collector.conf")
    yield _file(HERE / "tmpfiles.conf", "/usr/lib/tmpfiles.d/pg-collector.conf")


def _documents(form: str, place: Path) -> Iterator[dict[str, Any]]:
    """Yield manual pages, completions and what there is to read."""
    pages = sorted((DIST / "man").glob("man*/*"))
    if not pages:
        raise MissingPart("dist/man is missing, the manual pages: make man")
    for page in pages:
        target = f"/usr/share/man/{page.parent.name}/{page.name}.gz"
        yield _packed(place / page.name, page.read_text(), target)
    yield _link("pgc.1.gz", "/usr/share/man/man1/pg-collector.1.gz")
    for shell, target in COMPLETIONS[form].items():
        made = place / f"pgc.{shell}"
        made.write_text(_said("completion", shell))
        yield _file(made, target)
    reference = place / "config.reference.yaml"
    reference.write_text(_said("config", "init", "-"))
    yield _file(reference, f"{DOC}/config.reference.yaml")
    for folder in sorted({Path(f"{DOC}/{name}").parent for name in DOCUMENTS.values()}):
        yield _folder(str(folder))
    for source, name in DOCUMENTS.items():
        yield _file(ROOT / source, f"{DOC}/{name}")
    yield _file(HERE / "copyright", f"{DOC}/copyright")
    if form == "rpm":
        yield _file(ROOT / "LICENSE", f"{DOC}/LICENSE")
        yield _file(ROOT / "CHANGELOG.md", f"{DOC}/CHANGELOG.md")
    if (DIST / "sbom.cdx.json").exists():
        yield _file(DIST / "sbom.cdx.json", f"{DOC}/sbom.cdx.json")


def _said(*words: str) -> str:
    """Return what the program prints."""
    return subprocess.run(
        [DIST / "pgc" / "pgc", *words], check=True, capture_output=True, text=True
    ).stdout


def _file(source: Path, target: str, mode: int = 0o644, *, keep: bool = False) -> dict[str, Any]:
    if not source.is_file():
        raise MissingPart(f"{source} is missing")
    kind = "config|noreplace" if keep else "file"
    return {"src": str(source), "dst": target, "type": kind, "file_info": {"mode": mode}}


def _folder(target: str) -> dict[str, Any]:
    """Return a directory, which goes with the package."""
    return {"dst": target, "type": "dir", "file_info": {"mode": 0o755}}


def _packed(made: Path, text: str, target: str) -> dict[str, Any]:
    made.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    return _file(made, target)


def _link(source: str, target: str) -> dict[str, Any]:
    return {"src": source, "dst": target, "type": "symlink"}
