"""Tags of sqlcommenter comments on the lines of a real server, and no comment left in the SQL."""

import contextlib
import re
from typing import Any

import pytest

from pg_collector.privacy.mask import Masker
from pg_collector.privacy.pii import Detector
from tests.support.conditions.statements import reset_statements
from tests.support.sampling import Line, sampling
from tests.support.until import until

pytestmark = pytest.mark.ends

KEYS = ("route", "action", "traceparent")
TRACE = "00-5bd66ef5095369c7b0d1f8f4bd33716a-c532cb4098ac3dd2-01"
ROUTE, ACTION = "/users/42/edit", "mail zoe@qjx.example"
COMMENT = (
    "/*action='mail%20zoe%40qjx.example',other='qzx',route='%2Fusers%2F42%2Fedit',"
    f"traceparent='{TRACE}'*/"
)
SECRET = bytes(range(32))


def masker(level: str = "basic", *keys: str) -> Masker:
    detector = Detector("full")
    patterns = ["mail"] if level == "custom" else []
    return Masker(level, secret=SECRET, patterns=patterns, detector=detector, keep_tags=keys)


def expected(masks: Masker) -> dict[str, str]:
    """Return what is to be seen of COMMENT."""
    if masks.level == "full":
        return {"route": masks.name(ROUTE), "action": masks.name(ACTION), "traceparent": TRACE}
    action = "?" if masks.level == "custom" else "mail <email>"
    return {"route": ROUTE, "action": action, "traceparent": TRACE}


@pytest.fixture
def busy(database):
    """Sessions that stand in transactions: with a comment last, first, cut off; and a waiter."""
    database.query("create table t (id int primary key); insert into t values (1)")
    reset_statements(database)
    last, first = f"update t set id = 1 where id = 1 {COMMENT}", f"{COMMENT} select id from t"
    cut = f"select '{'x' * 900}' {COMMENT}"
    with contextlib.ExitStack() as stack:
        for text in (last, first, cut):
            session = stack.enter_context(contextlib.closing(database.connect()))
            session.autocommit = False
            session.execute(text.encode())
        waiter = stack.enter_context(contextlib.closing(database.connect()))
        waiter.pgconn.send_query(last.encode())
        waits = "select count(*) from pg_locks where not granted"
        until(lambda: database.query(waits)[0][0], what="somebody waits")
        yield database


def rows(lines: dict[str, list[Line]], name: str) -> list[dict[str, Any]]:
    return [row for line in lines[name] for row in line.rows]


@pytest.mark.parametrize("level", ["none", "basic", "custom", "full"])
def test_tags_stand_beside_texts_that_hold_no_comment(busy, level):
    masks = masker(level, *KEYS)
    with sampling(busy.dsn(), masker=masks) as there:
        taken = {**there.take("activity"), **there.take("locks"), **there.take("vacuum")}
        taken |= there.take("statements")
    wanted = expected(masks)
    sessions = rows(taken, "activity.sessions")
    assert [row["tags"] for row in sessions].count(wanted) == 3
    assert [row["tags"] for row in sessions].count(None) >= 1, "of the text that is cut off"
    assert [row["tags"] for row in rows(taken, "locks.blocking")] == [wanted, wanted]
    assert "tags" in taken["vacuum.horizon"][0].head["c"]
    texts = [row for row in rows(taken, "query_text") if row["tags"]]
    assert texts
    assert {tuple(row["tags"].items()) for row in texts} == {tuple(wanted.items())}
    for line in [line for lines in taken.values() for line in lines]:
        assert b"/*" not in re.sub(rb"\$2 /\*, \.\.\. \*/", b"", line.raw) or level == "none"
        for hidden in (b"qzx", b"zoe", b"%2F", b"qjx"):
            assert hidden not in line.raw or level == "none"
        if "tags" in line.head["c"]:
            kept = [str(row["query"]) for row in line.rows if row["tags"]]
            assert not [text for text in kept if "/*" in text or "qzx" in text]


def test_without_keys_there_is_no_column_and_the_comment_is_gone(busy):
    with sampling(busy.dsn(), masker=masker()) as there:
        taken = {**there.take("activity"), **there.take("locks"), **there.take("statements")}
    for lines in taken.values():
        for line in lines:
            assert "tags" not in line.head["c"]
            assert b"qzx" not in line.raw
            assert TRACE.encode() not in line.raw
