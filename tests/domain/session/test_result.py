"""What a run came to, as whoever started it reads it."""

from __future__ import annotations

from decimal import Decimal

import msgspec
import pytest

from retinue.actors.domain.session.result import Result, Status


@pytest.mark.parametrize(
    ("status", "success"),
    [("completed", True), ("failed", False), ("cancelled", False), ("timed_out", False)],
)
def test_only_a_completed_run_is_a_success(status: Status, success: bool) -> None:
    assert Result("id", status).success is success


@pytest.mark.parametrize("status", ["initialising", "running"])
def test_what_is_under_way_is_no_success(status: Status) -> None:
    assert not Result("id", status).success


def test_cost_and_duration_are_given_in_usd_and_seconds() -> None:
    result = Result("id", "completed", cost=1_500_000, duration=2_500_000)
    assert result.cost_usd == Decimal("0.0015")
    assert result.duration_s == 2.5


def test_the_value_is_the_text_or_what_the_json_stands_for() -> None:
    assert Result("id", "completed", output='{"a": [1]}').value == '{"a": [1]}'
    assert Result("id", "completed", output='{"a": [1]}', structured=True).value == {"a": [1]}


def test_it_survives_storage() -> None:
    result = Result("id", "failed", "text", "why", 1, 2, 3, "run", True)
    data = msgspec.msgpack.encode(result)
    assert msgspec.msgpack.decode(data, type=Result) == result
