"""Black-Scholes prices of European options, as one fused CuPy kernel."""

import sys

import cupy as cp
import numpy as np
from cupyx.scipy.special import erf
from scipy.special import erf as numpy_erf

OPTIONS = 200_000
RATE = 0.02
VOLATILITY = 0.30


@cp.fuse()
def price(spot, strike, years):
    """Return the prices of a call and of a put."""
    deviation = VOLATILITY * cp.sqrt(years)
    d1 = (cp.log(spot / strike) + (RATE + 0.5 * VOLATILITY**2) * years) / deviation
    d2 = d1 - deviation
    discounted = strike * cp.exp(-RATE * years)
    call = spot * 0.5 * (1 + erf(d1 / 2**0.5)) - discounted * 0.5 * (1 + erf(d2 / 2**0.5))
    return call, call + discounted - spot


def numpy_price(spot, strike, years):
    """Return the same in NumPy."""
    deviation = VOLATILITY * np.sqrt(years)
    d1 = (np.log(spot / strike) + (RATE + 0.5 * VOLATILITY**2) * years) / deviation
    d2 = d1 - deviation
    discounted = strike * np.exp(-RATE * years)
    call = spot * 0.5 * (1 + numpy_erf(d1 / 2**0.5)) - discounted * 0.5 * (1 + numpy_erf(d2 / 2**0.5))
    return call, call + discounted - spot


def main():
    random = np.random.default_rng(1973)
    spot = random.uniform(5, 30, OPTIONS)
    strike = random.uniform(1, 100, OPTIONS)
    years = random.uniform(0.25, 10, OPTIONS)

    call, put = price(cp.asarray(spot), cp.asarray(strike), cp.asarray(years))
    print(f"{OPTIONS} options")
    print(f"mean call {float(call.mean()):.6f}, mean put {float(put.mean()):.6f}, dearest put {float(put.max()):.6f}")
    expected = numpy_price(spot, strike, years)
    same = all(np.allclose(cp.asnumpy(each), other) for each, other in zip((call, put), expected, strict=True))
    print("same as NumPy" if same else "DIFFERS FROM NUMPY")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
