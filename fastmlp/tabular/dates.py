"""Dates, times of day and durations as numbers:
equal from every library, and from ISO texts.

Inside, dates are arrays of numpy.datetime64 in UTC; times since midnight and durations
are numpy.timedelta64; NaT where a value is missing.
"""

import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Literal, NamedTuple, Self, TypeGuard

import numpy as np
from numpy.typing import NDArray

from fastmlp.typing import Array

Kind = Literal["dates", "times", "durations"]
DATE_PARTS: dict[Kind, tuple[str, ...]] = {
    "dates": ("year", "month", "day", "weekday", "hour", "days"),
    "times": ("time",),
    "durations": ("duration",),
}
OF_PART: dict[str, Kind] = {
    part: kind for kind, parts in DATE_PARTS.items() for part in parts
}
EPOCH = "1970-01-01"
HOUR, DAY = 3_600_000_000, 86_400_000_000  # microseconds
DATES = (date, np.datetime64)
TIMES = time
DURATIONS = (timedelta, np.timedelta64)
# pyarrow takes also hours alone, and zones without a colon, for dates in CSV.
_CLOCK = r"\d\d:\d\d(?::\d\d(?:\.\d+)?)?"
_HOURS = r"(?:[01]\d|2[0-3])"
_ZONE = rf"Z|[+-]{_HOURS}:[0-5]\d|(?<!\d{{4}}-\d\d-\d\d)[+-]{_HOURS}(?:[0-5]\d)?"
_ISO_DATE = re.compile(
    rf"(\d{{4}}-\d\d-\d\d(?:[T ](?:{_CLOCK}|\d\d))?)({_ZONE})?", re.ASCII
)
_ISO_TIME = re.compile(_CLOCK, re.ASCII)
EXPECTED: dict[Kind, str] = {
    "dates": "dates, as datetime64 or texts such as 2024-01-31 or 2024-01-31T10:30",
    "times": "times of day, as datetime.time or texts such as 10:30",
    "durations": "durations, as timedelta64",
}


class Parts(NamedTuple):
    """The numbers that a column of dates, times or durations becomes.

    Attributes
    ----------
    names : "year", "month", "day", "weekday" (0 = Monday) and "hour", each where it varies in
        training, and "days", since `origin` with the day's fraction;
        or "time", the seconds since midnight; or "duration", in seconds
    origin : ISO date, the first in training; None: times or durations
    zone : whether dates had a zone in training; None: unknown

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp.tabular import Parts
    >>> days = np.array(["2024-03-01T12", "NaT"], "datetime64[h]")
    >>> Parts(("month", "days"), "2024-02-28").numbers(days)
    array([[3. , 2.5],
           [nan, nan]])
    """

    names: tuple[str, ...]
    origin: str | None = None
    zone: bool | None = None

    @property
    def kind(self) -> Kind:
        """The column's kind."""
        return OF_PART[self.names[-1]]

    def numbers(self, moments: Array) -> NDArray[np.float64]:
        """Return the parts of each row,
        shape (n_rows, n_parts), NaN where a value is missing.
        """
        there = ~np.isnat(moments)
        values = np.full((len(moments), len(self.names)), np.nan)
        if self.kind != "dates":
            values[there, 0] = _seconds(moments[there])
            return values
        day = moments[there].astype("M8[D]")
        # Libraries differ in digits below a microsecond.
        past = (moments[there] - day).astype("m8[us]").astype(np.int64)
        for j, name in enumerate(self.names):
            values[there, j] = _part(name, day, past, self.origin)
        return values

    def of_value(self, value: Any) -> list[float] | None:
        """The parts of one value, as of `numbers`;
        None: its form or kind is another.
        """
        is_missing = isinstance(value, float | date) and value != value
        if value is None or is_missing:
            return [math.nan] * len(self.names)
        try:
            moment = _of_value(value, self.kind)
            zone = getattr(moment, "tzinfo", None) is not None
            if moment is None or (self.zone is not None and zone != self.zone):
                return None
            if isinstance(moment, timedelta):
                whole = moment.days * 86400 + moment.seconds
                return [whole + moment.microseconds / 1_000_000]
            moment = _without_zone(moment)
            return [self._part(name, moment) for name in self.names]
        except (ValueError, OverflowError):
            return None

    def _part(self, name: str, moment: datetime) -> float:
        if name == "weekday":
            return moment.weekday()
        if name != "days":
            number: int = getattr(moment, name)
            return number
        origin = date.fromisoformat(self.origin or EPOCH)
        past = moment - datetime.combine(moment, time())
        share = (past.seconds * 1_000_000 + past.microseconds) / DAY
        return moment.toordinal() - origin.toordinal() + share

    def to_json(self) -> dict[str, Any]:
        """Return values of JSON, for `from_json`."""
        return {"parts": list(self.names), "origin": self.origin, "zone": self.zone}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Return the parts of values of JSON, checked, which may come from a file."""
        names = tuple(content["parts"])
        origin = content["origin"]
        zone = content["zone"]
        known = DATE_PARTS[OF_PART[names[-1]]]
        if names != tuple(name for name in known if name in names):
            raise ValueError(f"parts must be some of {', '.join(known)}, in this order")
        if (origin is None) != (names[-1] != "days") or (
            origin and not _is_day(origin)
        ):
            raise ValueError(
                f"origin must be an ISO date where there are dates, got {origin!r}"
            )
        if zone not in (None, False, True):
            raise ValueError(f"zone must be true, false or null, got {zone!r}")
        return cls(names, origin, zone)


def _of_value(value: Any, kind: Kind) -> datetime | timedelta | None:
    """A date, or a time since midnight or a duration, of an object or an ISO text."""
    is_text = isinstance(value, str)
    if kind == "durations":
        return value if isinstance(value, timedelta) else None
    if kind == "times":
        if is_text and _ISO_TIME.fullmatch(value):
            value = time.fromisoformat(value)
        if not isinstance(value, time):
            return None
        return datetime.combine(date.min, value.replace(tzinfo=None)) - datetime.min
    if is_text and _ISO_DATE.fullmatch(value):
        value = datetime.fromisoformat(value)
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime.combine(value, time())
    return value if isinstance(value, datetime) else None


def is_kind(kind: str) -> TypeGuard[Kind]:
    return kind in DATE_PARTS


def kind_of_moments(moments: Array) -> Kind:
    """The kind of an array of texts that are read: dates, or times of day."""
    return "dates" if moments.dtype.kind == "M" else "times"


def all_of(kind: Kind) -> Parts:
    """All parts of a kind, days since 1970."""
    return Parts(DATE_PARTS[kind], EPOCH)


def learned(kind: Kind, lows: Array, highs: Array) -> Parts:
    """The parts that vary, from lows and highs of all parts, days since 1970."""
    *some, last = DATE_PARTS[kind]
    varying = [
        name for name, low, high in zip(some, lows, highs, strict=False) if low < high
    ]
    if last == "days":
        origin = str(np.datetime64(int(np.floor(lows[-1])), "D"))
    else:
        origin = None
    return Parts((*varying, last), origin)


def _part(name: str, day: Array, past: Array, origin: str | None) -> Array:
    """A part of dates, from days and microseconds past midnight."""
    if name == "year":
        return day.astype("M8[Y]").astype(np.int64) + 1970
    month = day.astype("M8[M]")
    if name == "month":
        return month.astype(np.int64) % 12 + 1
    if name == "day":
        return (day - month).astype(np.int64) + 1
    if name == "hour":
        return past // HOUR
    number = day.astype(np.int64)
    # 1970 began on a Thursday.
    if name == "weekday":
        return (number + 3) % 7
    return number - np.datetime64(origin or EPOCH, "D").astype(np.int64) + past / DAY


def _seconds(spans: Array) -> Array:
    """Spans in seconds: one number for one span, in any unit."""
    whole = spans // np.timedelta64(1, "s")
    rest: Array = whole + (spans - whole.astype("m8[s]")) / np.timedelta64(1, "s")
    return rest


def of_texts(texts: Sequence[Any]) -> Array | None:
    """ISO texts as dates or times, None for other texts; "" and None are missing.

    Dates are in UTC: a date's zone is subtracted.
    """
    stripped = [text.strip() if isinstance(text, str) else text for text in texts]
    stripped = ["" if text is None else text for text in stripped]
    given = [text for text in stripped if text]
    # The first text tells most columns of words.
    if not (given and isinstance(given[0], str) and given[0][0].isdigit()):
        return None
    try:
        if all(_ISO_TIME.fullmatch(text) for text in given):
            moments = [f"{EPOCH}T{text}" if text else "NaT" for text in stripped]
            return np.array(moments, "M8[us]") - np.datetime64(EPOCH, "us")
        matches = [_ISO_DATE.fullmatch(text) if text else None for text in stripped]
        n_dates = sum(match is not None for match in matches)
        if n_dates < len(given):
            return None
        parts = [match.groups() if match else ("NaT", None) for match in matches]
        local = np.array([text for text, _ in parts], "M8[us]")
        offsets = np.array([_minutes(zone) for _, zone in parts], "m8[m]")
        return local - offsets
    except (TypeError, ValueError):
        return None


def zone_of(text: str) -> str | None:
    """The zone of an ISO date, or None."""
    match = _ISO_DATE.fullmatch(text.strip())
    return match[2] if match else None


def read(codes: Array, texts: Sequence[Any], kind: Kind, name: str, who: str) -> Array:
    """Dates or times of rows,
    from texts and each row's index among them, -1 where missing.
    """
    none = missing(1, kind)
    of_values = of_texts(texts)
    if of_values is None or of_values.dtype != none.dtype or kind == "durations":
        each = ((text, of_texts([text])) for text in texts if text)
        wrong = [text for text, one in each if one is None or one.dtype != none.dtype]
        if wrong or kind == "durations":
            raise TypeError(f"{who}: {refused(name, kind, repr([*wrong, *texts][0]))}")
        of_values = missing(len(texts), kind)
    rows: Array = np.append(of_values, none)[codes]
    return rows


def missing(n: int, kind: Kind) -> Array:
    return np.full(n, "NaT", "M8[us]" if kind == "dates" else "m8[us]")


def refused(name: str, kind: Kind, got: str) -> str:
    """The message for a column that held dates, times or durations in training."""
    return f"the column {name!r} must hold {EXPECTED[kind]}, got {got}"


def _minutes(zone: str | None) -> int:
    if zone is None or zone == "Z":
        return 0
    digits = zone[1:].replace(":", "").ljust(4, "0")
    return int(f"{zone[0]}1") * (60 * int(digits[:2]) + int(digits[2:]))


def of_objects(values: Sequence[Any]) -> Array:
    """Array of `datetime` or NumPy objects of one kind; None is missing."""
    times = any(isinstance(value, TIMES) for value in values)
    spans = any(isinstance(value, DURATIONS) for value in values)
    moments: Array = np.array(
        [*map(_without_zone, values)], "m8[us]" if spans else "M8[us]"
    )
    return moments - np.datetime64(EPOCH, "us") if times else moments


def _without_zone(value: Any) -> Any:
    """A date or time in UTC as one without a zone, which NumPy takes."""
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(UTC).replace(tzinfo=None)
    if isinstance(value, time):
        return datetime.combine(date(1970, 1, 1), value.replace(tzinfo=None))
    unit = {np.datetime64: "M8[us]", np.timedelta64: "m8[us]"}.get(type(value))
    return value if unit is None else value.astype(unit)


def of_arrow(column: Any) -> Array:
    import pyarrow.types as kinds

    if kinds.is_time(column.type):
        column = (
            column.cast("time64[us]", safe=False).cast("int64").cast("duration[us]")
        )
    moments: Array = column.to_numpy(zero_copy_only=False)
    return moments


def text_of(value: Any) -> str:
    """A date or time as ISO text, and a duration in seconds, for a level.

    Examples
    --------
    >>> import numpy as np
    >>> text_of(np.datetime64("2024-01-31T00:00", "ns")), text_of(np.datetime64("2024-01-31T10"))
    ('2024-01-31', '2024-01-31T10:00:00')
    """
    if value != value:
        return "NaT"
    if isinstance(value, np.generic):
        value = _without_zone(value).item()
    if isinstance(value, timedelta):
        return f"{value.total_seconds()}".removesuffix(".0")
    if isinstance(value, datetime):
        value = _without_zone(value)
        if value.time() == time():
            return str(value.date())
        return datetime.isoformat(value)
    return str(value.isoformat())


def as_level(text: str) -> str:
    """An ISO text in the form of `text_of`; another text is unchanged."""
    moments = of_texts([text])
    if moments is None or np.isnat(moments[0]):
        return text
    is_date = moments.dtype.kind == "M"
    return text_of(
        moments[0] if is_date else (datetime(1970, 1, 1) + moments[0].item()).time()
    )


def are_levels(levels: Sequence[Any]) -> bool:
    return all(isinstance(one, str) and one[:1].isdigit() for one in levels) and all(
        of_texts([one]) is not None and as_level(one) == one for one in levels
    )


def _is_day(text: Any) -> bool:
    return isinstance(text, str) and len(text) == 10 and of_texts([text]) is not None
