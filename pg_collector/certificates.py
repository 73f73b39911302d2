"""What PEM files of certificates say of themselves: from when until when they are valid.

The standard library shows that only of certificates that a peer sent, and a package that knows all
of X.509 takes 8 MB; of a certificate's fields (https://www.rfc-editor.org/rfc/rfc5280#section-4.1)
one is wanted here.
"""

import datetime as dt
import re
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from pg_collector.config.files import read_text

MAX_BYTES: Final = 4 * 1024 * 1024  # of a file
_PEM: Final = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_VERSION: Final = 0xA0
_UTC_TIME: Final = 0x17
_TWO_DIGITS_END: Final = 2050
_LONG: Final = 0x80  # the length does not fit into seven bits: so many bytes hold it


class Validity(NamedTuple):
    """From when until when a certificate is good, in UTC."""

    begin: dt.datetime
    end: dt.datetime


def validity(path: Path) -> Validity:
    """Return the validity of the certificate in a PEM file that ends first.

    Raises `Unreadable` where it is no file that can be read, ValueError where it holds no
    certificate.
    """
    text = read_text(path, MAX_BYTES)
    found = [_validity(ssl.PEM_cert_to_DER_cert(one)) for one in _PEM.findall(text)]
    if not found:
        raise ValueError("it holds no certificate")
    return min(found, key=lambda one: one.end)


def of(der: bytes) -> Validity:
    """Return the validity of a certificate as a peer sent it. Raises ValueError."""
    return _validity(der)


def _validity(der: bytes) -> Validity:
    """Return the fifth field of a certificate, or the fourth in version 1. Raises ValueError."""
    try:
        ((_, certificate),) = _parts(der)
        to_be_signed = list(_parts(next(_parts(certificate))[1]))
        fields = to_be_signed[1:] if to_be_signed[0][0] == _VERSION else to_be_signed
        begin, end = _parts(fields[3][1])
        return Validity(_moment(*begin), _moment(*end))
    except (IndexError, StopIteration, UnicodeDecodeError, ValueError) as error:
        raise ValueError("it holds what is no certificate") from error


def _moment(kind: int, text: bytes) -> dt.datetime:
    form = "%y%m%d%H%M%SZ" if kind == _UTC_TIME else "%Y%m%d%H%M%SZ"
    moment = dt.datetime.strptime(text.decode("ascii"), form).replace(tzinfo=dt.UTC)
    # Of two digits, the year is one from 1950 to 2049: so says section 4.1.2.5.1, and not strptime.
    past = kind == _UTC_TIME and moment.year >= _TWO_DIGITS_END
    return moment.replace(year=moment.year - 100) if past else moment


def _parts(der: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield tag and content of each element. Raises IndexError or ValueError for what is none."""
    at = 0
    while at < len(der):
        tag, size = der[at], der[at + 1]
        at += 2
        if size >= _LONG:
            width = size - _LONG
            size = int.from_bytes(der[at : at + width])
            at += width
        if at + size > len(der):
            raise ValueError("it is cut off")
        yield tag, der[at : at + size]
        at += size
