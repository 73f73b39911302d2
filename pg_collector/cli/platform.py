"""`pgc platform`: run the far side of the agent, and say who may use it."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pg_collector.cli.options import JsonOption
from pg_collector.cli.printable import printable, printable_json

if TYPE_CHECKING:
    from pg_collector.platform.identity import Identity
    from pg_collector.platform.place import Place

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Run a platform of your own, which agents send their samples to. It needs the extra\n"
    "`platform`: pip install 'pg-collector[platform]'.\n\n"
    "\b\n"
    "  pgc platform init /var/lib/pgc-platform\n"
    "  pgc platform start /var/lib/pgc-platform\n"
    "  pgc platform keys create --plan pro --dir /var/lib/pgc-platform",
)
keys = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="API keys and signing keys.")
devices = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The devices it knows.")
app.add_typer(keys, name="keys")
app.add_typer(devices, name="devices")

DirectoryArgument = Annotated[Path, typer.Argument(metavar="DIR", help="Its directory.")]
DirectoryOption = Annotated[
    Path,
    typer.Option("--dir", metavar="DIR", envvar="PGC_PLATFORM_DIR", help="Its directory."),
]
KeyArgument = Annotated[
    str, typer.Argument(metavar="KEY", help="A key's prefix, as `list` shows it, or the whole key.")
]
DeviceArgument = Annotated[str, typer.Argument(metavar="ID", help="As `list` shows it.")]
PlansOption = Annotated[
    Path | None,
    typer.Option("--plans", metavar="FILE", help="Plans in the place of the built-in ones."),
]


@app.command()
def init(
    directory: DirectoryArgument,
    url: Annotated[
        str, typer.Option(metavar="URL", help="Where agents will reach it.")
    ] = "https://127.0.0.1:8443",
    as_json: JsonOption = False,
) -> None:
    """Make the directory of a new platform, and print the administrator's token, once.

    Example:  pgc platform init ./platform --url https://platform.example:8443

    Exit codes: 0 made, 73 there is something already, or it cannot be written.
    """
    from pg_collector.platform.place import make

    token = make(directory, url)
    if as_json:
        _print_json({"directory": str(directory), "url": url, "admin_token": token})
        return
    print(f"made a platform in {printable(str(directory))}")
    print(f"administrator's token, shown this once: {token}")


@app.command()
def start(
    directory: DirectoryArgument,
    listen: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Address to listen on.")
    ] = "127.0.0.1:8443",
    certificate: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Certificate chain (PEM): serve TLS.")
    ] = None,
    key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The certificate's key (PEM).")
    ] = None,
    plans: PlansOption = None,
    chaos: Annotated[
        str,
        typer.Option(
            metavar="SPEC",
            help="Faults on purpose, for tests: 503=0.2,delay=3s,drop-after-commit=0.1.",
        ),
    ] = "",
    retention: Annotated[
        str, typer.Option(metavar="TIME", help="How long samples are kept; 0: for ever.")
    ] = "7d",
    token_seconds: Annotated[
        float, typer.Option(metavar="N", min=0.1, help="Life of access tokens.", hidden=True)
    ] = 3600.0,
    threads: Annotated[
        int, typer.Option(metavar="N", min=1, max=64, help="Requests worked on at once.")
    ] = 8,
) -> None:
    """Serve agents in the foreground, until SIGTERM or Ctrl-C.

    Example:  pgc platform start ./platform --listen :8443 --certificate c.pem --key k.pem

    Exit codes: 0 stopped in order, 73 the directory or the address cannot be used, or another
    process serves the directory, 78 an option or the plans are invalid.
    """
    from pg_collector import logs
    from pg_collector.config import listening, units
    from pg_collector.config.model import Log
    from pg_collector.errors import ConfigurationError
    from pg_collector.privacy.scrub import scrub

    try:
        from pg_collector.platform.serve import Options, serve
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("pg_collector."):
            raise  # told for all of its verbs
        raise ConfigurationError(
            f"{error.name} is not installed",
            remedy="pip install 'pg-collector[platform]' brings it.",
        ) from None

    try:
        host, port = listening.parse(listen)
    except ValueError:
        raise typer.BadParameter("write it as 127.0.0.1:8443, [::1]:8443 or :8443") from None
    try:
        kept = units.duration(retention)
    except ValueError as error:
        raise typer.BadParameter(f"--retention: {error}") from None
    logs.setup(Log(), scrub=scrub)
    logs.catch_uncaught()
    try:
        serve(
            Options(
                directory, host, port, certificate, key, plans,
                token_seconds=token_seconds, threads=threads, chaos=chaos, retention=kept or None,
            )
        )  # fmt: skip
    finally:
        logs.close()


@keys.command()
def create(
    directory: DirectoryOption,
    plan: Annotated[str, typer.Option(metavar="PLAN", help="One of the plans.")],
    count: Annotated[
        int, typer.Option("--devices", metavar="N", min=1, help="Devices it holds for.")
    ] = 1,
    plans: PlansOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make an API key, and print it, once.

    Example:  pgc platform keys create --plan pro --devices 5 --dir ./platform
    """
    _check_plan(plan, plans)
    with _identity(directory) as identity:
        key = identity.create_key(plan, count)
    if as_json:
        _print_json({"api_key": key, "plan": plan, "devices": count})
    else:
        print(key)


@keys.command("list")
def list_keys(directory: DirectoryOption, as_json: JsonOption = False) -> None:
    """List the API keys by their prefixes: plan, devices, state."""
    with _identity(directory) as identity:
        found = identity.keys()
    if as_json:
        _print_json([one._asdict() for one in found])
        return
    for one in found:
        state = "revoked" if one.revoked else "cancelled" if one.cancelled else "valid"
        print(f"{one.prefix}  {one.plan}  {one.active} of {one.devices} devices  {state}")


@keys.command("revoke")
def revoke_key(key: KeyArgument, directory: DirectoryOption, as_json: JsonOption = False) -> None:
    """End a key for good: its devices stop."""
    with _identity(directory) as identity:
        identity.revoke_key(key)
    _done("revoked", as_json)


@keys.command()
def cancel(key: KeyArgument, directory: DirectoryOption, as_json: JsonOption = False) -> None:
    """Note that a subscription was cancelled: its devices stop until it is renewed."""
    with _identity(directory) as identity:
        identity.cancel_key(key)
    _done("cancelled", as_json)


@keys.command()
def renew(key: KeyArgument, directory: DirectoryOption, as_json: JsonOption = False) -> None:
    """Take a cancellation back: the key's devices go on with their next heartbeat."""
    with _identity(directory) as identity:
        identity.cancel_key(key, cancelled=False)
    _done("renewed", as_json)


@keys.command("plan")
def change_plan(
    key: KeyArgument,
    plan: Annotated[str, typer.Argument(metavar="PLAN", help="One of the plans.")],
    directory: DirectoryOption,
    plans: PlansOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give a key another plan: its devices follow with their next heartbeat."""
    _check_plan(plan, plans)
    with _identity(directory) as identity:
        identity.change_plan(key, plan)
    _done("changed", as_json)


@keys.command()
def rotate_signing(
    directory: DirectoryOption,
    drop_old: Annotated[
        bool,
        typer.Option(
            "--drop-old",
            help="Forget the earlier keys: for one that leaked. Devices must be activated again.",
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Make a new signing key; agents follow by a set that the old one has signed."""
    from pg_collector.platform.keys import rotate

    version = rotate(_place(directory).signing, drop_old=drop_old)
    if as_json:
        _print_json({"version": version})
    else:
        print(f"the key set has version {version}")


@devices.command("list")
def list_devices(directory: DirectoryOption, as_json: JsonOption = False) -> None:
    """List the devices: plan, state, host, last contact."""
    from pg_collector.platform.identity import told

    with _identity(directory) as identity:
        found = [told(one) for one in identity.devices()]
    if as_json:
        import msgspec

        _print_json(msgspec.to_builtins(found))
        return
    for one in found:
        contact = one.last_contact or "never"
        words = (one.device_id, one.plan, one.state, one.hostname, f"last contact {contact}")
        print(printable("  ".join(words)))


@devices.command("revoke")
def revoke_device(
    device: DeviceArgument, directory: DirectoryOption, as_json: JsonOption = False
) -> None:
    """Shut a device out; it frees its place."""
    with _identity(directory) as identity:
        identity.revoke_device(device)
    _done("revoked", as_json)


@devices.command()
def restore(
    device: DeviceArgument, directory: DirectoryOption, as_json: JsonOption = False
) -> None:
    """Let a device in again."""
    with _identity(directory) as identity:
        identity.revoke_device(device, revoked=False)
    _done("restored", as_json)


@devices.command()
def command(
    device: DeviceArgument,
    name: Annotated[str, typer.Argument(metavar="NAME", help="docs/specs/protocol.md has them.")],
    directory: DirectoryOption,
    arguments: Annotated[
        str, typer.Argument(metavar="[ARGS]", help="Its arguments, as a JSON object.")
    ] = "{}",
    seconds: Annotated[
        float, typer.Option("--ttl", metavar="N", min=1, help="Seconds for which it holds.")
    ] = 3600.0,
    as_json: JsonOption = False,
) -> None:
    """Have a device do something.

    Example:  pgc platform devices command ID pause '{"sampler": "bloat"}' --dir ./platform
    """
    try:
        parsed = json.loads(arguments)
    except ValueError:
        parsed = None
    if not isinstance(parsed, dict):
        raise typer.BadParameter("the arguments are no JSON object")
    with _identity(directory) as identity:
        made = identity.command(device, name, parsed, seconds)
    if as_json:
        _print_json({"id": made})
    else:
        print(made)


@devices.command()
def results(
    device: DeviceArgument, directory: DirectoryOption, as_json: JsonOption = False
) -> None:
    """List a device's commands, and what became of them."""
    with _identity(directory) as identity:
        found = identity.results(device)
    if as_json:
        _print_json(found)
        return
    for one in found:
        outcome = f"{one['status']}: {one['detail']}" if one["status"] else "waits"
        print(printable(f"{one['id']}  {one['command']} {one['arguments']}  {outcome}"))


def _place(directory: Path) -> "Place":
    from pg_collector.platform.place import Place

    return Place(directory)


@contextlib.contextmanager
def _identity(directory: Path) -> Iterator["Identity"]:
    """Open the identity database of a directory for a block."""
    from pg_collector.platform.identity import Identity

    identity = Identity(_place(directory).identity)
    try:
        yield identity
    finally:
        identity.close()


def _check_plan(plan: str, file: Path | None) -> None:
    from pg_collector.platform.plans import load

    known = load(file)
    if plan not in known:
        raise typer.BadParameter(f"no plan {plan}; there are {', '.join(known)}")


def _done(what: str, as_json: bool) -> None:
    if as_json:
        _print_json({"done": what})
    else:
        print(what)


def _print_json(document: Any) -> None:
    print(printable_json(json.dumps(document)))
