"""Who gives way when sampling takes too much of a server, and who comes back."""

import random

import pytest

from pg_collector.budget import LONGEST, MOST, RECOVERS_BELOW, Budget


class Rig:
    """Samplers with an interval and a cost each, in seconds, that take their turns in time."""

    def __init__(self, budget, **samplers):
        self.budget = budget
        self.samplers = samplers
        self.changes = []

    def run(self, seconds):
        taken = dict.fromkeys(self.samplers, 0)
        due = {name: random.Random(name).uniform(0, every)  # noqa: S311
               for name, (every, _) in self.samplers.items()}  # fmt: skip
        while (name := min(due, key=due.__getitem__)) and due[name] < seconds:
            every, cost = self.samplers[name]
            due[name] += every
            if self.budget.due(name):
                taken[name] += 1
                slowed = self.budget.spent(name, every, cost)
                if slowed:
                    self.changes.append(slowed)
        return taken

    @property
    def share(self):
        return sum(
            cost / (every * self.budget.factor(name))
            for name, (every, cost) in self.samplers.items()
        )


def test_who_is_slowed_says_which_of_the_turns_that_are_due_is_the_next():
    budget = Budget(0.01)
    assert budget.pace("dear") == (1, 0)
    while budget.factor("dear") < 4:
        budget.spent("dear", 1.0, 0.5)
    assert budget.pace("dear") == (4, 3)
    said = [(budget.pace("dear").left_out, budget.due("dear")) for _ in range(8)]
    assert said == [(3, False), (2, False), (1, False), (0, True)] * 2


def test_who_keeps_to_the_budget_is_left_alone():
    rig = Rig(Budget(0.05), activity=(1, 0.01), statements=(10, 0.3))
    taken = rig.run(600)
    assert rig.changes == []
    assert 595 <= taken["activity"] <= 600


def test_the_dearest_gives_way_until_all_fits_and_the_cheap_one_stays():
    rig = Rig(Budget(0.05), activity=(1, 0.01), vacuum=(10, 2.0))
    taken = rig.run(3600)
    assert rig.share <= 0.05
    assert rig.budget.factor("activity") == 1
    assert {one.sampler for one in rig.changes} == {"vacuum"}
    assert [one.factor for one in rig.changes] == [2, 4, 8], "no to and fro"
    assert rig.changes[-1].every == 80
    assert taken["vacuum"] == pytest.approx(3600 / 80, rel=0.3)


def test_it_recovers_when_the_server_is_faster_again():
    rig = Rig(Budget(0.05), activity=(1, 0.01), vacuum=(10, 2.0))
    rig.run(3600)
    rig.samplers["vacuum"] = (10, 0.1)
    rig.run(3600)
    assert rig.budget.factor("vacuum") == 1
    assert rig.changes[-1].factor == 1
    assert rig.share <= RECOVERS_BELOW * 0.05


def test_a_first_turn_that_does_what_is_done_once_tells_nothing():
    budget = Budget(0.05)
    assert budget.spent("statements", 10, 60.0) is None
    for _ in range(20):
        assert budget.spent("statements", 10, 0.2) is None
    assert budget.factor("statements") == 1


def test_without_a_budget_nobody_gives_way_and_to_lift_it_brings_all_back():
    rig = Rig(Budget(0.01), vacuum=(10, 2.0))
    rig.run(1000)
    assert rig.budget.factor("vacuum") > 1
    rig.budget.adjust(None)
    assert rig.budget.factor("vacuum") == 1
    rig.changes.clear()
    rig.run(1000)
    assert rig.changes == []


def test_however_dear_there_is_a_turn_at_least_each_hour():
    rig = Rig(Budget(0.0), activity=(1, 0.5), vacuum=(60, 5.0), bloat=(3600, 5.0))
    rig.run(50_000)
    assert rig.budget.factor("activity") == MOST
    assert 60 * rig.budget.factor("vacuum") <= LONGEST
    assert rig.budget.factor("bloat") == 1


def test_who_is_not_at_work_any_more_takes_nothing():
    rig = Rig(Budget(0.05), statements=(10, 0.3), vacuum=(10, 0.45))
    rig.run(200)
    assert rig.changes
    del rig.samplers["vacuum"]
    rig.budget.forget(frozenset(("statements",)))
    rig.run(2000)
    assert rig.budget.factor("statements") == 1
