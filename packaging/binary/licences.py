"""The licences of all that is in the binary, put beside it as dist/pgc/licenses/.

Each package brings its own; a library from elsewhere has that of Debian's package, where the system
that it is built on has one.
"""

import re
import shutil
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

# What builds the binary, and is not in it; PyInstaller's loader is.
_TOOLS = {"altgraph", "packaging", "pip", "pyinstaller-hooks-contrib", "setuptools"}
_TEXT = re.compile(r"(LICEN[CS]E|COPYING|NOTICE|AUTHORS)", re.IGNORECASE)
_LIBRARY = re.compile(r"lib([A-Za-z0-9_+]+?)(?:[.-][0-9][0-9a-z.]*)?(?:-[0-9a-f]{8})?\.so")


class Source(NamedTuple):
    """Where a library comes from, under which licence, and Debian's packages that have its text."""

    name: str
    licence: str
    packages: tuple[str, ...]


_OPENSSL = Source("openssl", "Apache-2.0", ("libssl3", "libssl3t64", "libssl1.1"))
_KRB5 = Source("krb5", "MIT", ("libkrb5-3",))
_LDAP = Source("openldap", "OLDAP-2.8", ("libldap-2.5-0", "libldap-2.4-2", "libldap2"))
LIBRARIES = {
    "bz2": Source("bzip2", "bzip2-1.0.6", ("libbz2-1.0",)),
    "com_err": Source("e2fsprogs", "MIT", ("libcom-err2",)),
    "crypt": Source("libxcrypt", "LGPL-2.1-or-later", ("libcrypt1",)),
    "crypto": _OPENSSL,
    "expat": Source("expat", "MIT", ("libexpat1",)),
    "ffi": Source("libffi", "MIT", ("libffi8", "libffi7", "libffi6")),
    "gcc_s": Source("gcc", "GPL-3.0 WITH GCC-exception-3.1", ("libgcc-s1",)),
    "gssapi_krb5": _KRB5,
    "k5crypto": _KRB5,
    "keyutils": Source("keyutils", "LGPL-2.1-or-later", ("libkeyutils1",)),
    "krb5": _KRB5,
    "krb5support": _KRB5,
    "lber": _LDAP,
    "ldap": _LDAP,
    "lzma": Source("xz-utils", "0BSD", ("liblzma5",)),
    "mpdec": Source("mpdecimal", "BSD-2-Clause", ("libmpdec3",)),
    "pq": Source("postgresql", "PostgreSQL", ("libpq5",)),
    "python3": Source("python", "PSF-2.0", ("libpython3.11", "libpython3.11-stdlib", "python3.11")),
    "sasl2": Source("cyrus-sasl2", "BSD-4-Clause-UC", ("libsasl2-2",)),
    "sqlite3": Source("sqlite", "blessing", ("libsqlite3-0",)),
    "ssl": _OPENSSL,
    "uuid": Source("util-linux", "BSD-3-Clause", ("libuuid1",)),
    "z": Source("zlib", "Zlib", ("zlib1g",)),
}
_HEAD = """\
What is in PG Collector's binary besides PG Collector itself, which is under the Apache License 2.0.
psycopg is under the GNU Lesser General Public License: its Python code is in the program, its
library and libpq lie beside it as files that can be replaced. The sources of every package are to
be had under its name and version, where Python packages are; those of the libraries from their
projects.

"""


def gather(binary: Path, site: Path, texts: Iterable[Path]) -> list[str]:
    """Write `licenses` of a built directory; return the libraries whose text was not found.

    site: where the packages are installed. texts: directories with a folder for each library whose
    licence they hold, looked through before Debian's. Raises LookupError for what is not known.
    """
    target = binary / "licenses"
    shutil.rmtree(target, ignore_errors=True)
    lines = [_package(found, target) for found in _packages(site)]
    lacking = []
    for source in sorted(_sources(binary)):
        files = _texts(source, list(texts))
        if not files:
            lacking.append(source.name)
        for file in files:
            _put(file, target / source.name / file.name)
        where = f"{source.name}/" if files else "(its text was not at hand where this was built)"
        lines.append(f"{source.name}, a library: {source.licence}  {where}")
    (target / "README").write_text(_HEAD + "\n".join(lines) + "\n")
    return lacking


def _packages(site: Path) -> list[metadata.Distribution]:
    found = {_normal(one.name): one for one in metadata.distributions(path=[str(site)])}
    return [found[name] for name in sorted(found) if name not in _TOOLS]


def _package(found: metadata.Distribution, target: Path) -> str:
    """Copy the texts of a package; return its line."""
    name = _normal(found.name)
    files = [
        Path(str(found.locate_file(one))) for one in found.files or [] if _TEXT.match(one.name)
    ]
    if not files:
        raise LookupError(f"{name} {found.version} has no licence in its wheel")
    for file in sorted(files):
        _put(file, target / name / file.name)
    told = found.metadata
    licence = told["License-Expression"] or (told["License"] or "").splitlines()[:1] or ["see"]
    text = licence if isinstance(licence, str) else licence[0]
    return f"{name} {found.version}: {text}  {name}/"


def _sources(binary: Path) -> set[Source]:
    found = {LIBRARIES["python3"]}
    for path in binary.rglob("lib*.so*"):
        match = _LIBRARY.match(path.name)
        name = match[1] if match else path.name
        if name not in LIBRARIES:
            raise LookupError(f"whose is {path.name}? Add it to LIBRARIES of {Path(__file__).name}")
        found.add(LIBRARIES[name])
    return found


def _texts(source: Source, texts: list[Path]) -> list[Path]:
    """Return the files with the licence of a library, or none."""
    for folder in texts:
        if files := sorted((folder / source.name).glob("*")):
            return files
    for package in source.packages:
        file = Path("/usr/share/doc", package, "copyright")
        if file.is_file():
            return [file]
    return []


def _put(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    while target.exists():  # two parts of a package have one each
        target = target.with_name(f"{target.name}.2")
    shutil.copyfile(source, target)
    target.chmod(0o644)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
