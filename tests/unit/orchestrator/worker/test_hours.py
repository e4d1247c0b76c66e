"""When the worker may train, by a clock, a battery and a user that the test moves."""

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest

from orchestrator.errors import UsageError
from orchestrator.system.power import read_idle_s
from orchestrator.worker.hours import Gate, Hours, Senses, Window

BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    ("window", "inside", "outside"),
    [
        ("22:00-08:00", ["22:00", "23:59", "00:00", "07:59"], ["08:00", "12:00", "21:59"]),
        ("9:00-17:30", ["09:00", "17:29"], ["08:59", "17:30", "23:00", "00:00"]),
        ("00:00-06:00", ["00:00", "05:59"], ["06:00", "23:59"]),
    ],
)
def test_window(window, inside, outside):
    """From the first time on, up to the second, across midnight too."""
    found = Window.parse(window)
    assert all(found.holds(time.fromisoformat(at)) for at in inside)
    assert not any(found.holds(time.fromisoformat(at)) for at in outside)


@pytest.mark.parametrize("text", ["22-8", "22:00", "24:00-08:00", "22:00-08:60", "8:00-8:00", ""])
def test_what_is_no_window_is_refused(text):
    """With the text and an example, or why."""
    with pytest.raises(UsageError, match=f"--between {text}: (must be two|both times)"):
        Window.parse(text)


def hours_open(start, hours, window):
    """The hours, counted from `start` in UTC, at which a worker in Berlin may train."""
    now = [start]
    senses = Senses(now=lambda: now[0].astimezone(BERLIN).replace(tzinfo=None))
    gate = Gate(Hours(between=Window.parse(window)), senses)
    found = []
    for hour in range(hours):
        now[0] = start + timedelta(hours=hour)
        if gate.closed() is None:
            found.append(hour)
    return found


def test_window_goes_by_the_local_clock():
    """A winter's night from 22:00 to 08:00 in Berlin is 21:00 to 07:00 in UTC."""
    noon = datetime(2026, 1, 10, 12, tzinfo=UTC)
    assert hours_open(noon, 24, "22:00-08:00") == list(range(9, 19))


@pytest.mark.parametrize(
    ("day", "hours"),
    [
        # Summer time begins on 29 March 2026 at 02:00: the night has an hour less.
        (datetime(2026, 3, 28, 12, tzinfo=UTC), range(9, 18)),
        # It ends on 25 October 2026 at 03:00: the night has an hour more.
        (datetime(2026, 10, 24, 12, tzinfo=UTC), range(8, 19)),
    ],
)
def test_summer_time_moves_no_hour(day, hours):
    """The worker stops at 08:00 on the clock, whatever happened in the night."""
    assert hours_open(day, 24, "22:00-08:00") == list(hours)


def test_closed_window_says_until_when():
    """And by which option."""
    gate = Gate(Hours(between=Window.parse("22:00-8:00")), Senses(now=lambda: NOON))
    assert gate.closed() == "until 22:00 (--between 22:00-08:00)"


NOON = datetime(2026, 1, 10, 12, 0)


class Desk:
    """A laptop with somebody at it, looked at once a minute."""

    def __init__(self):
        self.minute = 0.0
        self.battery = False
        self.idle_min = 0.0

    def gate(self, hours):
        """What a worker with these hours asks."""
        senses = Senses(
            now=lambda: NOON,
            on_battery=lambda: self.battery,
            idle_s=lambda: self.idle_min * 60,
            clock=lambda: self.minute * 60,
        )
        return Gate(hours, senses)

    def later(self, gate):
        """What it is told a minute later."""
        self.minute += 1
        return gate.closed()


def test_battery_holds_the_worker():
    """Until it is plugged in again; only where that was asked for."""
    desk = Desk()
    gate, always = desk.gate(Hours(on_power=True)), desk.gate(Hours())
    assert desk.later(gate) is None
    desk.battery = True
    assert "battery" in desk.later(gate)
    assert always.closed() is None
    desk.battery = False
    assert desk.later(gate) is None


def test_a_slot_that_asks_while_another_looks_is_held_as_well():
    """A look at the battery takes a moment, in which nothing is known yet."""
    heard = []

    def on_battery():
        if not heard:
            heard.append("looks")
            heard.append(gate.closed())
        return True

    gate = Gate(Hours(on_power=True), Senses(on_battery=on_battery))
    assert gate.closed() == heard[1]
    assert heard[1] is not None


def test_user_holds_the_worker():
    """For as many minutes after the last key as the user has said."""
    desk = Desk()
    gate = desk.gate(Hours(idle_min=10))
    assert desk.later(gate) == "until nobody has used the machine for 10m 00s (--when-idle)"
    desk.idle_min = 9.9
    assert desk.later(gate) is not None
    desk.idle_min = 10
    assert desk.later(gate) is None


def test_unknown_idle_time_is_no_permission():
    """Whoever is there is not disturbed."""

    def broken():
        raise ValueError("ioreg prints no HIDIdleTime")

    gate = Gate(Hours(idle_min=10), Senses(idle_s=broken))
    assert "no HIDIdleTime" in gate.closed()


def test_options_come_back_as_words():
    """As a worker in the background, or a service, is started with them."""
    hours = Hours(Window.parse("22:00-8:00"), on_power=True, idle_min=2.5)
    words = ["--between", "22:00-08:00", "--on-power", "--when-idle", "2.5"]
    assert (hours.words(), Hours().words()) == (words, [])


def test_idle_time_is_read_from_what_ioreg_prints():
    """Nanoseconds, among much else."""
    text = '| |   "HIDParameters" = {"x"=1}\n    | |   "HIDIdleTime" = 90500000000\n'
    assert read_idle_s(text) == 90.5
    with pytest.raises(ValueError, match="no HIDIdleTime"):
        read_idle_s("")
