"""Azure Database for PostgreSQL: a token of Microsoft Entra serves as password.

https://learn.microsoft.com/azure/postgresql/flexible-server/security-entra-configure. The identity
is a service principal (AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET or
AZURE_CLIENT_CERTIFICATE_PATH), a workload identity (AKS), or the managed identity of the VM, App
Service or container, in this order.
"""

import logging
import time
from typing import Any, Final

from pg_collector.config.model import AzureAd
from pg_collector.errors import ConfigurationError, LoginRefused, TargetDown
from pg_collector.pg.auth.tokens import Ticket, as_given, told

try:
    import azure.core.exceptions
    import azure.identity
except ImportError as error:
    raise ConfigurationError(
        f"auth_method azure_ad needs the package azure-identity: {error}",
        remedy="Install it beside the agent: pip install 'pg-collector[azure]'",
    ) from error

SCOPE: Final = "https://ossrdbms-aad.database.windows.net/.default"
_NO_IDENTITY: Final = (
    "Assign a managed identity to this VM or pod (postgres.azure_ad.client_id names one of "
    "several), or set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET"
)
_REFUSED: Final = (
    "Look the AADSTS number up in Microsoft's list; tenant, client id and secret or certificate "
    "must be those of an identity that exists"
)
# Those of a developer's desk: none of them is there for a service.
_NOT_FOR_SERVICES: Final = {
    f"exclude_{name}_credential": True
    for name in (
        "cli", "developer_cli", "powershell", "visual_studio_code", "shared_token_cache",
        "interactive_browser", "broker",
    )
}  # fmt: skip

# Of itself it tries for up to a minute; a breaker does that here.
_BRIEF: Final = {
    "connection_timeout": 2,
    "read_timeout": 3,
    "retry_total": 1,
    "retry_status": 1,
    "retry_backoff_factor": 0.2,
}

for _name in ("azure", "msal"):
    logging.getLogger(_name).setLevel(logging.ERROR)


class Source:
    """Asks Microsoft Entra for tokens that are good for Azure's open-source databases."""

    remedy = _NO_IDENTITY

    def __init__(self, target: str, settings: AzureAd) -> None:
        self._target = target
        self._settings = settings
        self._credential: Any = None

    def fetch(self, *, anew: bool) -> Ticket:
        """Return a token. Raises as `TokenSource` says."""
        if self._credential is None or anew:
            client = self._settings.client_id
            self._credential = azure.identity.DefaultAzureCredential(
                managed_identity_client_id=client,
                workload_identity_client_id=client,
                # The authority is the environment's, as the secret is.
                disable_instance_discovery=True,
                **_NOT_FOR_SERVICES,
                **_BRIEF,
            )
        try:
            token = self._credential.get_token(SCOPE)
        except azure.core.exceptions.ClientAuthenticationError as error:
            self._credential = None  # it would remember the failure, and not ask again for a while
            if "AADSTS" in error.message:
                raise LoginRefused(
                    f"{self._target}: Entra gives no token ({_told(error.message)})",
                    remedy=_REFUSED,
                ) from None
            raise TargetDown(
                f"{self._target}: no Azure identity: {_told(error.message)}", remedy=_NO_IDENTITY
            ) from None
        except azure.core.exceptions.AzureError as error:
            self._credential = None
            raise TargetDown(
                f"{self._target}: Entra cannot be reached: {_told(error.message)}",
                remedy=_NO_IDENTITY,
            ) from None
        text = as_given(self._target, token.token, _NO_IDENTITY)
        return Ticket(lambda _host, _port, _user: text, token.expires_on - time.time())


def _told(message: str) -> str:
    """Return the line of what the SDK says that says most."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    tried = [line for line in lines if "Credential:" in line]
    telling = [line for line in tried if "unavailable" not in line]
    said = [line for line in lines if "AADSTS" in line] or telling or tried[-1:] or lines or [""]
    return told(said[0])
