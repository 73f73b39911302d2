"""What is remembered of states, and told when they change."""

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
