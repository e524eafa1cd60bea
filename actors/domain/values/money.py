"""Money: integer nano-USD inside, ``Decimal | str | int | float`` USD at the edge.

1 USD = 10^9 nano. A float is rounded to the nearest nano, since that is the best it can mean; a
string or Decimal that says more than nano precision is refused rather than silently changed.
"""

from __future__ import annotations

import functools
from decimal import ROUND_HALF_EVEN, Context, Decimal, InvalidOperation
from typing import TypeAlias

from retinue.actors.domain.errors import InvalidValue

NANO = 10**9
MAX_USD = 9_000_000
MAX_NANO = MAX_USD * NANO

_LONGEST = 64  # digits; what is longer is no amount of money that anybody means
_EXACT = Context(prec=2 * _LONGEST)
_ONE_NANO = Decimal((0, (1,), -9))

Usd: TypeAlias = Decimal | str | int | float


def to_nano(value: Usd, field: str = "amount") -> int:
    """USD as integer nano-USD.

    Raises InvalidValue, naming ``field``, for anything negative, NaN, infinite, above
    9,000,000 USD, or (str and Decimal) finer than a nano.
    """
    if type(value) is str:
        return _known(value, field)  # prices come again and again
    return _nano(value, field)


def _nano(value: Usd, field: str) -> int:
    usd = _decimal(value, field)
    if isinstance(value, str | Decimal) and len(str(value)) > _LONGEST:
        raise InvalidValue(f"{field}: an amount of more than {_LONGEST} characters", field=field)
    if not usd.is_finite():
        raise InvalidValue(f"{field}: {value!r} is not a finite amount of USD", field=field)
    if usd < 0:
        raise InvalidValue(
            f"{field}: {_shown(value)} is negative; an amount is 0 or more", field=field
        )
    if usd > MAX_USD:
        raise InvalidValue(f"{field}: {_shown(value)} is over {MAX_USD:,} USD", field=field)
    rounded = usd.quantize(_ONE_NANO, rounding=ROUND_HALF_EVEN, context=_EXACT)
    if rounded != usd and not isinstance(value, float):
        raise InvalidValue(
            f"{field}: {value!r} has more than 9 decimals; money is counted in nano-USD",
            field=field,
        )
    return int(rounded.scaleb(9, _EXACT))


_known = functools.lru_cache(maxsize=4096)(_nano)


def _decimal(value: Usd, field: str) -> Decimal:
    """``value`` as a Decimal, exactly."""
    if isinstance(value, bool) or not isinstance(value, Decimal | str | int | float):
        raise InvalidValue(
            f"{field}: {type(value).__name__} is not an amount; give a str, Decimal, int or float",
            field=field,
        )
    try:
        return Decimal(value)
    except (InvalidOperation, ValueError):
        raise InvalidValue(
            f"{field}: {str(value)[:80]!r} is not a decimal number", field=field
        ) from None


def _shown(value: Usd) -> str:
    """The value for a message; Python refuses to write out an int of thousands of digits."""
    if isinstance(value, int) and value.bit_length() > 4 * _LONGEST:
        return f"a number of {value.bit_length()} bits"
    return repr(value)


def to_usd(nano: int) -> Decimal:
    """Nano-USD as an exact Decimal of USD, without trailing zeros."""
    usd = Decimal(nano).scaleb(-9).normalize()
    return usd if usd.as_tuple().exponent <= 0 else usd.quantize(Decimal(1))  # type: ignore[operator]


def usd_text(nano: int) -> str:
    """Nano-USD as the decimal string that our JSON uses, such as ``"0.0015"``."""
    return format(to_usd(nano), "f")
