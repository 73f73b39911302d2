"""What stops a device, by what the platform answered. Pure."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

from pg_collector.activation.standing import Stop
from pg_collector.errors import DeliveryError, Held

CANCELLED: Final = "subscription-cancelled"
STOPS: Final[Mapping[str, Stop]] = {
    "key-revoked": Stop(
        "key revoked: the platform has withdrawn this device's API key",
        "Get another key; then pgc deactivate, and start with the new api_key.",
    ),
    "device-revoked": Stop(
        "device revoked: the platform has withdrawn this device",
        "If that is a mistake, have it restored on the platform: collection resumes by itself.",
    ),
    CANCELLED: Stop("subscription cancelled", "Renew it: collection resumes by itself."),
}
ENDED: Final = Stop(
    "the platform has ended this device's tokens: one of them was used twice, or is unknown there",
    "Has somebody copied the state directory? pgc deactivate, then activate the device again.",
)
_FOR_GOOD: Final = frozenset(("key-revoked", "device-revoked"))
_ENDS: Final = frozenset(("refresh-token-unknown", "refresh-token-reused"))


def stop_for(error: Held) -> Stop | None:
    """Return why the device has to stop after an answer; None where it need not."""
    if error.problem in STOPS:
        return STOPS[error.problem]
    if error.status == HTTPStatus.PAYMENT_REQUIRED:
        return STOPS[CANCELLED]
    return ENDED if error.problem in _ENDS else None


def shut_out(error: DeliveryError) -> bool:
    """Whether an answer says that the platform knows this device no more: none need take leave."""
    if not isinstance(error, Held):
        return False
    return error.problem in _FOR_GOOD or stop_for(error) is ENDED
