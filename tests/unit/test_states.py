"""What is remembered of states, and told when they change."""

import msgspec

from pg_collector.privacy.mask import NOT_SHOWN, Masker
from pg_collector.spot import Tray
from pg_collector.states import GONE_KEPT, OK, State, States
from tests.support.sampling import Line

DOWN = State(state="down", message="gone")


def test_of_the_databases_that_are_gone_and_were_not_well_the_newest_are_remembered():
    tray = Tray()
    states = States("prod", tray)
    names = [f"shop_{number}" for number in range(GONE_KEPT + 50)]

    def told(state):
        tray.lines.clear()
        for name in names:
            states.tell("vacuum", None, state, at="now", every=60.0, database=name)
        return [Line(raw).head["database"] for raw in tray.lines]

    assert told(DOWN) == names
    for _ in range(2):
        states.retain((), at="now", every=60.0)
    assert len(tray.lines) == 2 * len(names), "each is told once more, as not visited"
    assert told(OK) == names[50:]


SECRET = bytes(range(32))


def sent(state, masker):
    """Return what of a state leaves the host."""
    tray = Tray()
    states = States("prod", tray, lambda: masker)
    states.tell("activity", None, state, at="2026-01-01T00:00:00.000000Z", every=1.0)
    (line,) = tray.lines
    head = msgspec.json.decode(line)
    return dict(zip(head["c"], head["r"][0], strict=True))


def test_at_level_full_no_name_leaves_in_a_message_or_a_remedy():
    masker = Masker("full", secret=SECRET)
    down = State(
        state="down", message='database "shop" does not exist', remedy="GRANT x ON shop TO bob;"
    )
    told = sent(down, masker)
    assert (told["message"], told["remedy"]) == (NOT_SHOWN, None)
    ours = State(
        state="limited",
        message="what belongs to other roles is hidden from bob",
        remedy='GRANT pg_monitor TO bob; in the database "shop"',
        about=("bob", "shop"),
    )
    told = sent(ours, masker)
    bob, shop = masker.name("bob"), masker.name("shop")
    assert told["message"] == f"what belongs to other roles is hidden from {bob}"
    assert told["remedy"] == f'GRANT pg_monitor TO {bob}; in the database "{shop}"'


def test_at_level_custom_names_that_match_are_hidden_in_both():
    masker = Masker("custom", patterns=["shop"])
    down = State(
        state="down", message='database "shop" does not exist', remedy="GRANT x ON shop TO bob;"
    )
    told = sent(down, masker)
    assert "shop" not in told["message"] + told["remedy"]
    assert "bob" in told["remedy"]


def test_at_level_basic_both_are_as_they_were():
    remedy = "GRANT x ON shop TO bob;"
    told = sent(State(state="down", message="no", remedy=remedy), Masker())
    assert (told["message"], told["remedy"]) == ("no", remedy)
