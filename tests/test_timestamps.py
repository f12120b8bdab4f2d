"""Times as text."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as some

from layerscope.report.shapes import TIME
from layerscope.timestamps import from_nanoseconds, from_rfc3339, from_unix


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("2024-05-06T07:08:09Z", "2024-05-06T07:08:09Z"),
        ("2024-05-06T07:08:09.123456789Z", "2024-05-06T07:08:09.123456789Z"),
        ("2024-05-06T07:08:09.120000000Z", "2024-05-06T07:08:09.12Z"),
        ("2024-05-06T07:08:09.000Z", "2024-05-06T07:08:09Z"),
        ("2024-05-06T07:08:09.5+02:00", "2024-05-06T05:08:09.5Z"),
        ("2024-01-01T00:30:00+01:00", "2023-12-31T23:30:00Z"),
        ("2024-05-06t07:08:09z", "2024-05-06T07:08:09Z"),
        ("0001-01-01T00:00:00Z", None),
        ("0001-01-01T01:00:00+01:00", None),
        ("0001-01-01T00:00:00+01:00", None),
        ("9999-12-31T23:59:59-01:00", None),
        ("0900-05-06T07:08:09Z", "0900-05-06T07:08:09Z"),
        ("2024-02-30T00:00:00Z", None),
        ("2024-05-06 07:08:09Z", None),
        ("2024-05-06T07:08:09", None),
        ("２０２４-05-06T07:08:09Z", None),
        ("2024-05-06T07:08:09Z\n", None),
        ("", None),
        (None, None),
        (1700000000, None),
        (["2024-05-06T07:08:09Z"], None),
    ],
)
def test_go_times(text: object, shown: str | None) -> None:
    assert from_rfc3339(text) == shown


zones = some.integers(min_value=-1439, max_value=1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
moments = some.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1), timezones=zones)


@given(moments)
def test_every_zone_is_turned_into_utc(moment: datetime) -> None:
    shown = from_rfc3339(moment.isoformat())
    assert shown is not None and re.fullmatch(TIME["pattern"], shown)
    assert datetime.fromisoformat(shown) == moment


@given(some.text() | some.none() | some.integers() | some.dictionaries(some.text(), some.text()))
def test_nonsense_is_no_time_and_no_error(value: object) -> None:
    shown = from_rfc3339(value)
    assert shown is None or re.fullmatch(TIME["pattern"], shown)


@pytest.mark.parametrize(
    ("nanoseconds", "shown"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1, "1970-01-01T00:00:00.000000001Z"),
        (1_600_000_000_123_456_789, "2020-09-13T12:26:40.123456789Z"),
        (-1, "1969-12-31T23:59:59.999999999Z"),
        (2**63 - 1, "2262-04-11T23:47:16.854775807Z"),
        (10**30, None),
        (-(10**30), None),
    ],
)
def test_file_times(nanoseconds: int, shown: str | None) -> None:
    assert from_nanoseconds(nanoseconds) == shown


@given(some.integers(min_value=-(10**20), max_value=10**20))
def test_every_file_time_fits_the_schema(nanoseconds: int) -> None:
    shown = from_nanoseconds(nanoseconds)
    assert shown is None or re.fullmatch(TIME["pattern"], shown)


@given(some.integers(min_value=-(10**9), max_value=2**33))
def test_seconds_are_whole_nanoseconds(seconds: int) -> None:
    shown = from_unix(seconds)
    assert shown == from_nanoseconds(seconds * 10**9)
    assert shown is not None and datetime.fromisoformat(shown) == datetime.fromtimestamp(seconds, UTC)
