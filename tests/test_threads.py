"""The number of threads is that of the processors that other programs leave."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from shirg import threads
from shirg.threads import ProcessorTimes as Times
from shirg.threads import spare_threads, usable_processors


@pytest.fixture
def machine(monkeypatch):
    """A machine of four processors; the list is what other programs and this one did at each reading, in processor seconds."""
    readings: list[Times] = []
    monkeypatch.setattr(Times, "now", classmethod(lambda cls: readings.pop(0)))
    monkeypatch.setattr(threads, "usable_processors", lambda: [0, 1, 2, 3])
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield readings
    torch.set_num_threads(before)


def test_work_of_others_by_hand():
    """In 2 s four processors worked 5 s, of which 3 were ours: one processor was kept busy by others."""
    assert Times(12.0, 105.0, 53.0).others_since(Times(10.0, 100.0, 50.0)) == 1.0
    assert Times(12.0, 101.0, 53.0).others_since(Times(10.0, 100.0, 50.0)) == 0.0  # clocks of unequal grain


def test_threads_go_down_and_up(machine):
    """Nobody else; one processor held; all four held; nobody."""
    machine += [
        Times(0, 0, 0),
        Times(1, 4, 4),
        Times(2, 8, 7),
        Times(3, 12, 7),
        Times(4, 16, 11),
    ]
    with spare_threads() as keeper:
        assert [keeper.adjust() for _ in range(4)] == [4, 3, 1, 4]
        assert keeper.others == 0.0


def test_readings_are_no_more_frequent_than_clock_ticks(machine):
    machine += [Times(0, 0, 0), Times(0.1, 0.4, 0), Times(0.6, 2.4, 0)]
    with spare_threads() as keeper:
        assert [keeper.adjust(), keeper.adjust()] == [4, 1]


def test_afterwards_all_threads_are_back(machine):
    machine += [Times(0, 0, 0), Times(1, 4, 0)]
    with pytest.raises(KeyError), spare_threads() as keeper:
        assert keeper.adjust() == 1
        raise KeyError
    assert torch.get_num_threads() == 4


def test_one_thread_stays_one_and_others_are_counted(machine):
    torch.set_num_threads(1)
    machine += [Times(0, 0, 0), Times(1, 3, 1)]
    with spare_threads() as keeper:
        assert keeper.adjust() == 1 and keeper.others == 2.0


def test_times_of_this_machine():
    first = Times.now()
    sum(range(10**6))
    later = Times.now()
    assert later.clock > first.clock and later.own > first.own and later.busy >= first.busy
    assert usable_processors()


@pytest.mark.parametrize(
    ("setting", "spins"),
    [({}, "3000"), ({"OMP_WAIT_POLICY": "active"}, "None"), ({"GOMP_SPINCOUNT": "77"}, "77")],
)
def test_waiting_threads_spin_a_little_unless_the_user_has_decided(setting, spins, monkeypatch):
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in setting.items():
        monkeypatch.setenv(name, value)
    code = "import os, shirg; print(os.environ.get('GOMP_SPINCOUNT'))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == spins
