"""RDS and Aurora: a request that is signed with AWS credentials serves as password.

https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/UsingWithRDS.IAMDBAuth.html. The credentials
come from botocore's chain: environment, profile, web identity (EKS), container (ECS, EKS), instance
profile. Signing itself needs no network.
"""

import logging
import os
import re
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import urlencode

from pg_collector.config.model import AwsIam
from pg_collector.errors import ConfigurationError, LoginRefused, TargetDown
from pg_collector.pg.auth.tokens import Ticket, told

try:
    import botocore.config
    import botocore.credentials
    import botocore.exceptions
    import botocore.model
    import botocore.session
    import botocore.signers
except ImportError as error:
    raise ConfigurationError(
        f"auth_method aws_iam needs the package botocore: {error}",
        remedy="Install it beside the agent: pip install 'pg-collector[aws]'",
    ) from error

EXPIRES: Final = 900  # seconds for which RDS accepts a signature
_CREDENTIALS_LAST: Final = 60.0  # seconds until the chain is asked again, which keeps its own
_HOST: Final = re.compile(r"\.(?:rds\.([a-z0-9-]+)|([a-z0-9-]+)\.rds)\.amazonaws\.com(?:\.cn)?\.?$")
_DENIED: Final = frozenset(("AccessDenied", "AccessDeniedException", "ValidationError"))
_NO_CREDENTIALS: Final = (
    "Give the agent an AWS identity: an instance profile, a task or pod role, or AWS_PROFILE or "
    "AWS_ACCESS_KEY_ID in its environment"
)
_STS: Final = {"connect_timeout": 2, "read_timeout": 3, "retries": {"max_attempts": 1}}

# At level debug it writes down what it signs.
logging.getLogger("botocore").setLevel(logging.WARNING)


class Source:
    """Signs with the agent's own credentials, or with those of a role that it assumes."""

    remedy = _NO_CREDENTIALS

    def __init__(self, target: str, settings: AwsIam, hosts: Sequence[str] = ()) -> None:
        """`hosts` are those that are logged in to; the first one's region is where STS is asked."""
        self._target = target
        self._settings = settings
        self._hosts = hosts
        self._session: Any = None
        self._credentials: Any = None

    def fetch(self, *, anew: bool) -> Ticket:
        """Have valid credentials, and return what signs with them. Raises as `TokenSource` says."""
        try:
            if self._credentials is None or anew:
                self._session = botocore.session.Session()
                self._credentials = self._found()
            frozen = self._credentials.get_frozen_credentials()
        except botocore.exceptions.ClientError as error:
            raise self._denied(error) from None
        except botocore.exceptions.BotoCoreError as error:
            raise TargetDown(
                f"{self._target}: no AWS credentials ({_told(error)})", remedy=_NO_CREDENTIALS
            ) from None
        credentials = botocore.credentials.Credentials(*frozen)

        def sign(host: str, port: str, user: str) -> str:
            return self._signed(credentials, host, port, user)

        return Ticket(sign, _CREDENTIALS_LAST)

    def _found(self) -> Any:
        found = self._session.get_credentials()
        if found is None:
            raise TargetDown(
                f"{self._target}: no AWS credentials were found", remedy=_NO_CREDENTIALS
            )
        role = self._settings.role_arn
        if role is None:
            return found
        fetcher = botocore.credentials.AssumeRoleCredentialFetcher(
            client_creator=self._client,
            source_credentials=found,
            role_arn=role,
            extra_args={"RoleSessionName": "pg-collector"},
        )
        return botocore.credentials.DeferredRefreshableCredentials(
            method="assume-role", refresh_using=fetcher.fetch_credentials
        )

    def _client(self, service: str, **options: Any) -> Any:
        options["config"] = botocore.config.Config(**_STS)
        region = self._known_region(*self._hosts[:1]) or "us-east-1"
        return self._session.create_client(service, region_name=region, **options)

    def _signed(self, credentials: Any, host: str, port: str, user: str) -> str:
        if not host or host[0] in "/@" or ":" in host:
            raise ConfigurationError(
                f"{self._target}: auth_method aws_iam works with a host name only",
                remedy="Use the server's own endpoint as host; hostaddr may give its address",
            )
        region = self._region(host)
        signer = botocore.signers.RequestSigner(
            botocore.model.ServiceId("rds-db"), region, "rds-db", "v4", credentials,
            self._session.get_component("event_emitter"),
        )  # fmt: skip
        query = urlencode({"Action": "connect", "DBUser": user})
        request = {
            "method": "GET",
            "url": f"https://{host}:{port}/?{query}",
            "body": {},
            "headers": {},
            "context": {},
        }
        url: str = signer.generate_presigned_url(
            request, operation_name="connect", region_name=region, expires_in=EXPIRES
        )
        return url.removeprefix("https://")

    def _region(self, host: str) -> str:
        region = self._known_region(host)
        if not region:
            raise ConfigurationError(
                f"{self._target}: {host} names no AWS region",
                remedy="Use the server's own endpoint as host, or set postgres.aws_iam.region",
            )
        return region

    def _known_region(self, host: str = "") -> str:
        """Return the configuration's region, else the host's, else the environment's."""
        named = _HOST.search(host.lower())
        return str(
            self._settings.region
            or (named and (named[1] or named[2]))
            or os.environ.get("AWS_REGION")
            or self._session.get_config_variable("region")
            or ""
        )

    def _denied(self, error: Any) -> TargetDown | LoginRefused:
        code = str(error.response.get("Error", {}).get("Code", ""))
        role = self._settings.role_arn or "the role of the environment"
        said = f"{self._target}: AWS gives no credentials for {role}: {_told(error)}"
        if code in _DENIED:
            return LoginRefused(
                said,
                remedy=f"Let the agent's identity do sts:AssumeRole on {role}, and name that "
                "identity in the role's trust policy",
            )
        if code.startswith(("Expired", "Invalid")):
            return TargetDown(said, remedy="Renew the agent's AWS credentials; is the clock right?")
        return TargetDown(said)


def _told(error: Exception) -> str:
    """Return the first line of what the SDK says, which names no secrets."""
    return told((str(error).splitlines() or [""])[0])
