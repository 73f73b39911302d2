"""Cloud SQL: an access token of the agent's Google identity serves as password.

https://cloud.google.com/sql/docs/postgres/iam-logins. The identity is what Google calls application
default credentials: GOOGLE_APPLICATION_CREDENTIALS (a key, or workload identity federation), else
the metadata server of a VM, Cloud Run or GKE.
"""

import datetime as dt
import functools
import logging
from typing import Any, Final

from pg_collector.errors import ConfigurationError, TargetDown, TargetRefused
from pg_collector.pg.auth.tokens import Ticket

try:
    import google.auth
    import google.auth.exceptions
    import google.auth.transport.requests
except ImportError as error:
    raise ConfigurationError(
        "auth_method gcp_iam needs the package google-auth, which is not installed",
        remedy="Install it beside the agent: pip install 'pg-collector[gcp]'",
    ) from error

SCOPE: Final = "https://www.googleapis.com/auth/sqlservice.login"
_LASTS: Final = 300.0  # seconds, of a token that does not say it
_TIMEOUT: Final = 3.0  # seconds for one request
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

    def __init__(self, target: str) -> None:
        self._target = target
        self._credentials: Any = None

    def fetch(self, *, anew: bool) -> Ticket:
        """Return a token. Raises as `TokenSource` says."""
        try:
            if self._credentials is None or anew:
                self._credentials, _project = google.auth.default(scopes=[SCOPE])
            request = google.auth.transport.requests.Request()
            self._credentials.refresh(functools.partial(request, timeout=_TIMEOUT))
        except google.auth.exceptions.DefaultCredentialsError as error:
            raise TargetDown(
                f"{self._target}: no Google credentials: {_told(error)}", remedy=_NO_CREDENTIALS
            ) from None
        except google.auth.exceptions.GoogleAuthError as error:
            said = f"{self._target}: Google gives no token: {_told(error)}"
            if getattr(error, "retryable", False) or not _is_refusal(error):
                raise TargetDown(said, remedy=_NO_CREDENTIALS) from None
            raise TargetRefused(said, remedy=_REFUSED) from None
        token = self._credentials.token
        return Ticket(lambda _host, _port, _user: token, _left(self._credentials.expiry))


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
    return (str(said).splitlines() or [""])[0][:200]
