"""How many get in, and how long the others are told to wait."""

from __future__ import annotations

import pytest

from trimodal.serving.admission import Admission, predict_cost
from trimodal.serving.refusals import RefusedError
from trimodal.serving.requests import Item


def test_the_wait_is_what_waits_over_what_is_done() -> None:
    now = [0.0]
    admission = Admission(100, clock=lambda: now[0])
    with admission.admit(20):
        now[0] = 2.0  # 20 in 2 s: 10 a second
    assert admission.rate == pytest.approx(10)
    with admission.admit(90), pytest.raises(RefusedError) as refused, admission.admit(11):
        pass
    assert refused.value.retry_after == 9.0  # 90 wait, 10 a second
    assert admission.waiting == 0


def test_what_never_fits_is_refused_for_good() -> None:
    with pytest.raises(RefusedError) as refused, Admission(10).admit(11):
        pass
    assert int(refused.value.status) == 413 and refused.value.retry_after is None


def test_a_burst_may_wait_and_a_queue_that_stands_may_not() -> None:
    now = [0.0]
    admission = Admission(100, wait_seconds=0.1, burst_seconds=0.5, clock=lambda: now[0])
    with admission.admit(100):
        now[0] = 1.0  # 100 a second: a tenth of a second is 10 of them
    with admission.admit(60), admission.admit(20):  # a burst
        now[0] = 1.4
        with admission.admit(1):
            now[0] = 2.0
        with pytest.raises(RefusedError), admission.admit(1):  # it has stood for longer than half a second
            pass
    now[0] = 3.1
    with admission.admit(60), admission.admit(20):  # it was empty in between, and nobody was turned away for a second
        pass


def test_a_queue_that_empties_now_and_then_gets_no_new_burst_while_too_much_comes() -> None:
    now = [0.0]
    admission = Admission(100, wait_seconds=0.2, burst_seconds=0.5, clock=lambda: now[0])
    with admission.admit(100):
        now[0] = 1.0  # 100 a second: a fifth of a second is 20 of them
    with admission.admit(25), admission.admit(1):
        now[0] = 2.0
        with pytest.raises(RefusedError), admission.admit(1):  # it has stood
            pass
    for _ in range(3):  # it is empty, and more comes at once
        now[0] += 0.9
        with admission.admit(5), pytest.raises(RefusedError), admission.admit(30):
            pass
    now[0] += 1.1
    with admission.admit(5), admission.admit(30):  # for a second nobody was turned away
        pass


def test_larger_work_costs_more() -> None:
    assert predict_cost(Item(text="a")) == pytest.approx(1.001)
    assert predict_cost(Item(image=b"x" * 1_000_000)) == 3.0
    assert predict_cost(Item(text="a" * 2000), new_tokens=160) == 13.0
