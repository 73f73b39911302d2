"""The endpoints from which services in a cloud get their tokens, on loopback, in one server.

They speak the providers' protocols as far as the SDKs do, and keep books, so that a database's
front can judge what it is shown. Nothing is checked that the real ones do not check.

AWS: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html,
https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task-iam-roles.html,
https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html. Google:
https://cloud.google.com/compute/docs/metadata/overview, https://www.rfc-editor.org/rfc/rfc7523.
Azure: https://learn.microsoft.com/entra/identity/managed-identities-azure-resources/how-to-use-vm-token,
https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow.
"""

import datetime as dt
import json
import secrets
import ssl
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, NamedTuple, Self
from urllib.parse import parse_qs, urlsplit

from tests.support import sigv4
from tests.support.pki import Leaf

ROLE: Final = "arn:aws:iam::123456789012:role/monitor"
_STS: Final = "https://sts.amazonaws.com/doc/2011-06-15/"
_XML: Final = "text/xml"


class Answer(NamedTuple):
    """What is sent back."""

    status: int
    body: str
    kind: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


class Asked(NamedTuple):
    """A request."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    form: dict[str, str]


@dataclass
class Books:
    """What was given out, and until when it holds."""

    lasts: float = 3600.0  # seconds, of what is given out from now on
    keys: dict[str, sigv4.Key] = field(default_factory=dict)  # AWS, by access key
    tokens: dict[str, dt.datetime] = field(default_factory=dict)  # of Google and Azure
    refused_roles: set[str] = field(default_factory=set)

    def key(self) -> tuple[sigv4.Key, dt.datetime]:
        """Give out an AWS key."""
        until = self._until()
        key = sigv4.Key(
            "ASIA" + secrets.token_hex(8).upper(), secrets.token_hex(20), secrets.token_hex(30)
        )
        self.keys[key.access] = key
        return key, until

    def token(self) -> str:
        """Give out a token."""
        token = "ey" + secrets.token_urlsafe(600)
        self.tokens[token] = self._until()
        return token

    def judge(self, _user: str, password: str) -> str | None:
        """Judge a token of Google or Azure."""
        until = self.tokens.get(password)
        if until is None:
            return "nobody's"
        return "expired" if until < dt.datetime.now(dt.UTC) else None

    def _until(self) -> dt.datetime:
        return dt.datetime.now(dt.UTC) + dt.timedelta(seconds=self.lasts)


class Clouds:
    """The server. `trouble` answers everything instead; while `silent`, nothing is said."""

    def __init__(self, tls: Leaf | None = None) -> None:
        self.books = Books()
        self.asked: list[str] = []
        self.trouble: Answer | None = None
        self.silent = threading.Event()
        self.secret = "s3cr3t of the service principal"  # noqa: S105
        clouds = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def _answer(self) -> None:
                size = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(size).decode()
                url = urlsplit(self.path)
                clouds.asked.append(f"{self.command} {url.path}")
                while clouds.silent.is_set():
                    if clouds._ended.wait(0.02):
                        return
                asked = Asked(
                    self.command, url.path, _single(url.query),
                    {name.lower(): value for name, value in self.headers.items()}, _single(body),
                )  # fmt: skip
                answer = clouds.trouble or clouds._respond(asked)
                self.send_response(answer.status)
                self.send_header("Content-Type", answer.kind)
                self.send_header("Content-Length", str(len(answer.body.encode())))
                for name, value in answer.headers:
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer.body.encode())

            do_GET = do_POST = do_PUT = _answer  # noqa: N815

        self._ended = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tls.certificate, tls.key)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"{'https' if tls else 'http'}://localhost:{self.port}"
        threading.Thread(target=self._server.serve_forever, name="clouds", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()

    def _respond(self, asked: Asked) -> Answer:
        for start, respond in (
            ("/latest/", self._imds),
            ("/ecs", self._container),
            ("/computeMetadata/", self._gce),
            ("/google/token", self._google),
            ("/metadata/identity/", self._azure_imds),
            ("/tenant-1/", self._entra),
        ):
            if asked.path.startswith(start):
                return respond(asked)
        if "Action" in asked.form:
            return self._sts(asked)
        if asked.headers.get("metadata-flavor"):  # is this a machine of Google's?
            return Answer(200, "", "text/plain", (("Metadata-Flavor", "Google"),))
        return Answer(404, "{}")

    # --- AWS

    def _imds(self, asked: Asked) -> Answer:
        if asked.method == "PUT":
            return Answer(200, "imds-token", "text/plain")
        if asked.headers.get("x-aws-ec2-metadata-token") != "imds-token":
            return Answer(401, "")
        if asked.path.endswith("/security-credentials/"):
            return Answer(200, "monitor", "text/plain")
        return self._credentials()

    def _container(self, asked: Asked) -> Answer:
        if asked.headers.get("authorization") != "let me in":
            return Answer(401, "{}")
        return self._credentials()

    def _credentials(self) -> Answer:
        key, until = self.books.key()
        moment = until.strftime("%Y-%m-%dT%H:%M:%SZ")
        return _json(
            Code="Success", Type="AWS-HMAC", AccessKeyId=key.access, SecretAccessKey=key.secret,
            Token=key.session, Expiration=moment, LastUpdated="2026-01-01T00:00:00Z",
        )  # fmt: skip

    def _sts(self, asked: Asked) -> Answer:
        action, role = asked.form["Action"], asked.form["RoleArn"]
        who = asked.headers.get("authorization", "")
        known = any(f"Credential={access}/" in who for access in self.books.keys)
        if action == "AssumeRoleWithWebIdentity":
            known = asked.form["WebIdentityToken"] == "a pod's token"
        if not known or role in self.books.refused_roles:
            text = f"User is not authorized to perform: sts:AssumeRole on resource: {role}"
            error = f"<Error><Type>Sender</Type><Code>AccessDenied</Code><Message>{text}</Message>"
            return Answer(
                403, f'<ErrorResponse xmlns="{_STS}">{error}</Error></ErrorResponse>', _XML
            )
        key, until = self.books.key()
        body = (
            f'<{action}Response xmlns="{_STS}"><{action}Result><Credentials>'
            f"<AccessKeyId>{key.access}</AccessKeyId>"
            f"<SecretAccessKey>{key.secret}</SecretAccessKey>"
            f"<SessionToken>{key.session}</SessionToken>"
            f"<Expiration>{until.isoformat()}</Expiration></Credentials>"
            f"<AssumedRoleUser><AssumedRoleId>A:b</AssumedRoleId><Arn>{role}</Arn>"
            f"</AssumedRoleUser></{action}Result></{action}Response>"
        )
        return Answer(200, body, _XML)

    # --- Google

    def _gce(self, asked: Asked) -> Answer:
        flavor = (("Metadata-Flavor", "Google"),)
        if asked.headers.get("metadata-flavor") != "Google":
            return Answer(403, "", "text/plain")
        if asked.path.endswith("/token"):
            return _token(self.books)._replace(headers=flavor)
        if asked.path.endswith("/universe-domain"):
            return Answer(200, "googleapis.com", "text/plain", flavor)
        if "/service-accounts/" in asked.path:
            body = {"email": "monitor@project.iam.gserviceaccount.com", "scopes": [],
                    "aliases": ["default"]}  # fmt: skip
            return Answer(200, json.dumps(body), "application/json", flavor)
        return Answer(404, "", "text/plain", flavor)

    def _google(self, asked: Asked) -> Answer:
        if not asked.form.get("assertion"):
            return Answer(400, json.dumps({"error": "invalid_request"}))
        return _token(self.books)

    # --- Azure

    def _azure_imds(self, asked: Asked) -> Answer:
        if asked.headers.get("metadata") != "true":
            return Answer(400, "{}")
        if asked.query.get("client_id") == "no-such-identity":
            return Answer(400, json.dumps({"error": "invalid_request",
                                           "error_description": "Identity not found"}))  # fmt: skip
        until = dt.datetime.now(dt.UTC).timestamp() + self.books.lasts
        return _json(
            access_token=self.books.token(), expires_in=str(int(self.books.lasts)),
            expires_on=str(int(until)), resource=asked.query["resource"],
        )  # fmt: skip

    def _entra(self, asked: Asked) -> Answer:
        here = f"{self.url}/tenant-1"
        if asked.method == "GET":
            return _json(
                token_endpoint=f"{here}/oauth2/v2.0/token", issuer=f"{here}/v2.0",
                authorization_endpoint=f"{here}/oauth2/v2.0/authorize",
            )  # fmt: skip
        shown = asked.form.get("client_secret") or asked.form.get("client_assertion")
        if shown not in {self.secret, "a pod's token"}:
            return Answer(
                401,
                json.dumps({
                    "error": "invalid_client", "error_codes": [7000215],
                    "error_description": "AADSTS7000215: Invalid client secret provided.",
                }),
            )  # fmt: skip
        return _token(self.books)


def _token(books: Books) -> Answer:
    body = {"access_token": books.token(), "token_type": "Bearer", "expires_in": int(books.lasts)}
    return Answer(200, json.dumps(body))


def _json(**fields: Any) -> Answer:
    return Answer(200, json.dumps({"token_type": "Bearer", **fields}))


def _single(query: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(query, keep_blank_values=True).items()}
