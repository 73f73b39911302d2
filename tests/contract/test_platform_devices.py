"""The reference platform's calls about devices, as docs/specs/protocol.md has them."""

import time
import uuid

import pytest

from tests.support.platform_device import Device, checked, decoded, name
from tests.support.reference_platform import ReferencePlatform
from tests.support.until import until


def test_an_activation_brings_tokens_a_policy_and_the_keys_that_signed_it(device):
    told = device.activated
    assert told["device_id"] == device.id
    assert told["expires_in"] == 3600
    assert [key["kty"] for key in told["jwks"]["keys"]] == ["OKP"]
    policy = checked(told["policy"], told["jwks"], "policy+jwt")
    assert (policy["sub"], policy["plan"], policy["version"]) == (device.id, "fast", 1)
    assert policy["exp"] - policy["iat"] == 3 * policy["heartbeat_s"] + policy["grace_s"]
    assert policy["samplers"]["activity"] == {"min_interval_s": 0, "default_interval_s": None}
    checked(told["access_token"], told["jwks"], "at+jwt")
    signed = checked(told["jwks"]["signed"][0], told["jwks"], "jwks+jwt")
    assert signed == {"keys": told["jwks"]["keys"], "version": told["jwks"]["version"]}


def test_keys_and_tokens_are_kept_as_digests_only(platform, key, device):
    files = [path for path in platform.directory.iterdir() if path.name.startswith("identity")]
    content = b"".join(path.read_bytes() for path in files) + platform.log.read_bytes()
    for secret in (key, device.access, device.refresh_token, platform.admin_token):
        assert secret.encode() not in content


def test_an_unknown_key_is_refused_and_so_is_what_is_no_activation(platform):
    device = Device(platform.url)
    answer = device.activate("pgc_fast_" + "x" * 32)
    assert (answer.status_code, name(answer)) == (401, "api-key-unknown")
    bodies: tuple[object, ...] = ({}, {"api_key": "x"}, [], {**_body(), "device_id": "no uuid"})
    for body in bodies:
        answer = device.call("POST", "/v1/devices/activate", json=body)
        assert (answer.status_code, name(answer)) == (400, "bad-request")


def test_a_key_holds_for_its_number_of_devices_and_a_deactivated_one_frees_its_place(platform):
    key = platform.new_key("fast")
    first, second = Device(platform.url), Device(platform.url)
    assert first.activate(key).ok
    assert first.activate(key).ok  # again: the reply was lost
    answer = second.activate(key)
    assert (answer.status_code, name(answer)) == (403, "key-exhausted")
    assert first.call("POST", "/v1/devices/deactivate").status_code == 204
    assert name(first.call("GET", "/v1/devices/policy")) == "token-invalid"
    assert second.activate(key).ok


def test_to_activate_again_ends_the_earlier_tokens(key, device):
    access, refresh = device.access, device.refresh_token
    assert device.activate(key).ok
    assert name(device.call("GET", "/v1/commands", token=access)) == "token-invalid"
    assert name(device.refresh(refresh)) == "refresh-token-unknown"
    assert device.policy()["version"] == 1


def test_nobody_takes_a_device_over_with_another_key(platform, device):
    thief = Device(platform.url)
    thief.id = device.id
    answer = thief.activate(platform.new_key("fast"))
    assert (answer.status_code, name(answer)) == (400, "bad-request")
    assert device.policy()


def test_the_refresh_token_rotates(device):
    for _ in range(3):
        before = device.refresh_token
        assert device.refresh().ok
        assert device.refresh_token != before
        assert device.policy()


def test_a_lost_reply_strands_nobody(device):
    spent = device.refresh_token
    lost = device.refresh(keep=False).json()["refresh_token"]
    assert device.refresh(spent).ok  # its successor was never used
    assert device.refresh().ok
    assert device.policy()
    answer = device.refresh(lost)  # it was void from then on
    assert (answer.status_code, name(answer)) == (401, "refresh-token-reused")


def test_a_stolen_copy_ends_its_family(platform, device):
    stolen = device.refresh_token
    assert device.refresh().ok
    assert device.refresh().ok
    answer = device.refresh(stolen)
    assert (answer.status_code, name(answer)) == (401, "refresh-token-reused")
    assert name(device.call("GET", "/v1/devices/policy")) == "token-invalid"
    assert name(device.refresh()) == "refresh-token-reused"
    assert platform.metric("families_ended_total") >= 1


def test_a_refresh_token_holds_for_its_device_only(platform, key, device):
    other = Device(platform.url)
    assert other.activate(key).ok
    assert name(other.refresh(device.refresh_token)) == "refresh-token-unknown"
    assert device.refresh().ok


@pytest.mark.parametrize("forged", ["", "x", "a.b.c", "policy", "cut", "none", "changed"])
def test_what_is_no_access_token_is_refused(device, forged):
    head, payload, signature = device.access.split(".")
    none = "eyJhbGciOiJub25lIn0"
    token = {
        "policy": device.activated["policy"],
        "cut": device.access[:-2],
        "none": f"{none}.{payload}.",
        "changed": f"{head}.{payload[:-3]}AAA.{signature}",
    }.get(forged, forged)
    answer = device.call("GET", "/v1/devices/policy", token=token)
    assert (answer.status_code, name(answer)) == (401, "token-invalid")
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


def test_access_tokens_end_with_their_time(tmp_path):
    with ReferencePlatform(tmp_path, token_seconds=0.6) as platform:
        device = Device(platform.url)
        device.activate(platform.new_key("pro"))
        assert device.policy()
        until(
            lambda: device.call("GET", "/v1/devices/policy").status_code == 401, 5.0, "it expires"
        )
        assert device.refresh().ok
        assert device.policy()


def test_a_policy_is_signed_anew_and_its_tag_tells_a_real_change(platform):
    key = platform.new_key("fast")
    device = Device(platform.url)
    assert device.activate(key).ok
    tags, issued = set(), set()
    deadline = time.monotonic() + 1.2
    while time.monotonic() < deadline:
        answer = device.call("GET", "/v1/devices/policy")
        tags.add(answer.headers["ETag"])
        issued.add(decoded(answer.json()["policy"])[1]["iat"])
    assert len(tags) == 1
    assert len(issued) > 1
    versions = [device.policy()["version"]]
    for plan in ("other", "other", "fast"):
        platform.change_plan(key, plan)
        policy = device.policy()
        assert policy["plan"] == plan
        versions.append(policy["version"])
    assert versions == [1, 2, 2, 3]
    assert device.call("GET", "/v1/devices/policy").headers["ETag"] not in tags  # its version


def test_the_acknowledgement_tells_the_tag_of_the_policy_and_that_commands_wait(platform, key):
    device = Device(platform.url)
    device.activate(key)
    told = device.send(1, [b"{}"]).json()
    tag = device.call("GET", "/v1/devices/policy").headers["ETag"]
    assert f'"{told["policy_etag"]}"' == tag
    assert told["commands_pending"] is False
    platform.command(device.id, "flush")
    assert device.send(2, [b"{}"]).json()["commands_pending"] is True


def test_what_an_owner_ends_stops_the_device_and_comes_back_where_it_can(platform):
    key = platform.new_key("fast")
    device = Device(platform.url)
    device.activate(key)
    for end, problem, back in (
        (("keys", "cancel", key[:12]), "subscription-cancelled", ("keys", "renew", key)),
        (("devices", "revoke", device.id), "device-revoked", ("devices", "restore", device.id)),
        (("keys", "revoke", key), "key-revoked", None),
    ):
        platform.pgc(*end)
        for answer in (
            device.call("GET", "/v1/devices/policy"),
            device.send(1, [b"{}"]),
            device.refresh(),
            device.activate(key),
        ):
            assert (answer.status_code, name(answer)) == (403, problem)
        if back is not None:
            platform.pgc(*back)
            assert device.policy()
    (told,) = (one for one in platform.pgc("devices", "list") if one["device_id"] == device.id)
    assert told["state"] == "key-revoked"


def test_a_new_signing_key_is_vouched_for_by_the_old_one(platform, device):
    pinned = device.activated["jwks"]
    version = platform.pgc("keys", "rotate-signing")["version"]
    assert version == pinned["version"] + 1
    answer = device.call("GET", "/v1/devices/policy")
    fetched = device.call("GET", "/.well-known/jwks.json", token="").json()
    assert fetched["version"] == version
    assert decoded(answer.json()["policy"])[0]["kid"] not in {k["kid"] for k in pinned["keys"]}
    vouched = [
        checked(one, pinned, "jwks+jwt")
        for one in fetched["signed"]
        if decoded(one)[0]["kid"] in {k["kid"] for k in pinned["keys"]}
    ]
    assert vouched == [{"keys": fetched["keys"], "version": version}]
    assert checked(answer.json()["policy"], fetched, "policy+jwt")["sub"] == device.id


def test_commands_are_signed_wait_for_a_result_and_are_not_handed_out_again(platform, device):
    first = platform.command(device.id, "pause", {"sampler": "bloat"})
    second = platform.command(device.id, "resync")
    assert device.call("GET", "/v1/devices/policy").json()["commands_pending"] is True
    handed = device.call("GET", "/v1/commands").json()["commands"]
    fetched = device.call("GET", "/.well-known/jwks.json").json()
    payloads = [checked(one, fetched, "command+jwt") for one in handed]
    assert [(one["id"], one["command"], one["arguments"]) for one in payloads] == [
        (first, "pause", {"sampler": "bloat"}),
        (second, "resync", {}),
    ]
    assert all(one["sub"] == device.id and one["exp"] > one["iat"] for one in payloads)
    result = {"status": "done", "detail": "paused", "at": "2026-11-26T12:00:00Z"}
    for _ in range(2):  # the first reply may be lost
        answer = device.call("POST", f"/v1/commands/{first}/result", json=result)
        assert (answer.status_code, answer.content) == (204, b"")
    assert len(device.call("GET", "/v1/commands").json()["commands"]) == 1
    told = {one["id"]: one for one in platform.pgc("devices", "results", device.id)}
    assert (told[first]["status"], told[first]["detail"]) == ("done", "paused")
    answer = device.call("POST", f"/v1/commands/{uuid.uuid4()}/result", json=result)
    assert (answer.status_code, name(answer)) == (404, "not-found")
    answer = device.call("POST", f"/v1/commands/{second}/result", json={**result, "status": "x"})
    assert (answer.status_code, name(answer)) == (400, "bad-request")


def test_an_expired_command_is_not_handed_out(platform, device):
    platform.pgc("devices", "command", device.id, "flush", "--ttl", "1")
    until(lambda: not device.call("GET", "/v1/commands").json()["commands"], 5.0, "it expires")


def test_what_it_knows_of_devices_survives_a_restart(platform, key):
    device = Device(platform.url)
    device.activate(key)
    platform.restart()
    assert device.policy()["version"] == 1
    assert device.refresh().ok
    platform.kill()
    platform.start()
    assert device.policy()
    assert device.refresh().ok


def _body():
    return {"api_key": "x", "device_id": str(uuid.uuid4()), "hostname": "h", "agent_version": "1"}
