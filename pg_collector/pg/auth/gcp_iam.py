"""Cloud SQL: an access token of the agent's Google identity serves as password.

https://cloud.google.com/sql/docs/postgres/iam-logins. The identity is what Google calls application
default credentials: GOOGLE_APPLICATION_CREDENTIALS (a key, or workload identity federation), else
the metadata server of a VM, Cloud Run or GKE.
"""

import datetime as dt
import logging
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlsplit

from pg_collector.errors import ConfigurationError, LoginRefused, TargetDown
from pg_collector.pg.auth.tokens import Ticket, as_given, told

try:
    import google.auth
    import google.auth.exceptions
    import google.auth.transport.requests
except ImportError as error:
    raise ConfigurationError(
        f"auth_method gcp_iam needs the package google-auth: {error}",
        remedy="Install it beside the agent: pip install 'pg-collector[gcp]'",
    ) from error

SCOPE: Final = "https://www.googleapis.com/auth/sqlservice.login"
_LASTS: Final = 300.0  # seconds, of a token that does not say it
_TIMEOUT: Final = 3.0  # seconds for one request
_LONGEST: Final = 256 * 1024  # bytes of an answer, of which a token takes two thousand
_NO_CREDENTIALS: Final = (
    "Attach a service account to this VM or pod, or name a key file in "
    "GOOGLE_APPLICATION_CREDENTIALS"
)
_REFUSED: Final = (
    "Is the service account enabled, and its key not deleted? See who it is: "
    "gcloud auth application-default print-access-token"
)

logging.getLogger("google").setLevel(logging.WARNING)


class Source:
    """Asks Google for tokens that are good for logging in to Cloud SQL, and for nothing else."""

    remedy = _NO_CREDENTIALS

    def __init__(self, target: str) -> None:
        self._target = target
        self._credentials: Any = None

    def fetch(self, *, anew: bool) -> Ticket:
        """Return a token. Raises as `TokenSource` says."""
        try:
            ask = _Once(self._target)
            if self._credentials is None or anew:
                self._credentials, _project = google.auth.default(scopes=[SCOPE], request=ask)
            self._credentials.refresh(ask)
        except google.auth.exceptions.DefaultCredentialsError as error:
            raise TargetDown(
                f"{self._target}: no Google credentials ({_told(error)})", remedy=_NO_CREDENTIALS
            ) from None
        except google.auth.exceptions.GoogleAuthError as error:
            said = f"{self._target}: Google gives no token ({_told(error)})"
            if getattr(error, "retryable", False) or not _is_refusal(error):
                raise TargetDown(said, remedy=_NO_CREDENTIALS) from None
            raise LoginRefused(said, remedy=_REFUSED) from None
        token = as_given(self._target, self._credentials.token, _NO_CREDENTIALS)
        return Ticket(lambda _host, _port, _user: token, _left(self._credentials.expiry))


class _Once(google.auth.transport.Request):
    """Asks once: the SDK would try again for longer than anybody waits."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._request = google.auth.transport.requests.Request()
        self._request.session.hooks["response"] = [_bounded]

    def __call__(self, url: str, *arguments: Any, **options: Any) -> Any:
        """Be a request as the SDK makes them. Raises `TargetDown`."""
        # Whoever is asked gives the token, or nobody does: a key's signature goes nowhere else.
        options |= {"timeout": _TIMEOUT, "allow_redirects": False, "stream": True}
        place = urlsplit(url).netloc
        try:
            response = self._request(url, *arguments, **options)
        except google.auth.exceptions.TransportError:
            raise TargetDown(
                f"{self._target}: no answer from {place}, which gives Google's tokens",
                remedy=_NO_CREDENTIALS,
            ) from None
        if response.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise TargetDown(
                f"{self._target}: {place}, which gives Google's tokens, answers {response.status}",
                remedy=_NO_CREDENTIALS,
            )
        return response


def _bounded(response: Any, **_: Any) -> None:
    """Read an answer, as the SDK would without a bound."""
    body = b""
    for chunk in response.iter_content(8192):
        body += chunk
        if len(body) > _LONGEST:
            response.close()
            said = "an answer with a token is shorter"
            raise google.auth.exceptions.TransportError(said)  # type: ignore[no-untyped-call]
    response._content = body  # noqa: SLF001  # there is nothing public for it


def _left(expiry: dt.datetime | None) -> float:
    """Return the seconds until a moment that is in UTC without saying so."""
    if expiry is None:
        return _LASTS
    return (expiry.replace(tzinfo=dt.UTC) - dt.datetime.now(dt.UTC)).total_seconds()


def _is_refusal(error: Exception) -> bool:
    """Say whether Google's own OAuth endpoint answered, and said no.

    https://www.rfc-editor.org/rfc/rfc6749#section-5.2
    """
    text = str(error)
    return any(one in text for one in ("invalid_grant", "invalid_client", "unauthorized_client"))


def _told(error: Exception) -> str:
    """Return the first line of what the SDK says, which names no secrets."""
    said = error.args[0] if error.args else ""
    return told((str(said).splitlines() or [""])[0])
