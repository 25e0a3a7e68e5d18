"""What is logged beside the loss: means that are means, rates over the time that was trained."""

import pytest
import torch
from accelerate import Accelerator

from trainers import callbacks
from trainers.callbacks import Meter


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set by `clock.append(seconds)`."""
    times = [0.0]
    monkeypatch.setattr(callbacks.time, "perf_counter", lambda: times[-1])
    return times


def test_the_meter_divides_sums_by_counts_and_rates_by_time(clock):
    meter = Meter(Accelerator(cpu=True))
    meter.add("accuracy", torch.tensor(3), 4)
    meter.add("accuracy", 1, torch.tensor(4))
    meter.add_rate("tokens_per_second", 300)
    with meter.paused():
        clock.append(8.0)
    clock.append(10.0)
    assert meter.flush() == {"accuracy": 0.5, "tokens_per_second": 150.0}
    assert meter.flush() == {}
    meter.add_rate("tokens_per_second", 300)
    clock.append(13.0)
    assert meter.flush() == {"tokens_per_second": 100.0}


def test_there_is_no_mean_of_nothing(clock):
    """An accuracy of no answers is not 0."""
    meter = Meter(Accelerator(cpu=True))
    meter.add("accuracy", torch.tensor(0), torch.tensor(0))
    meter.add_rate("tokens_per_second", 0)
    clock.append(1.0)
    assert meter.flush() == {"tokens_per_second": 0}
