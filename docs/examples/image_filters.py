"""Edges of scikit-image's sample images: grey, blur, gradient, threshold, by CuPy and cupyx.scipy.ndimage."""

import sys

import cupy as cp
import numpy as np
from cupyx.scipy import ndimage
from scipy import ndimage as numpy_ndimage
from skimage import data

GREY = (0.2125, 0.7154, 0.0721)


def edges(xp, filters, image):
    """Return the gradient's strength and where it is among the strongest 10%; `xp` is numpy or cupy."""
    grey = (image.astype(float) / 255) @ xp.asarray(GREY) if image.ndim == 3 else image.astype(float) / 255
    smooth = filters.gaussian_filter(grey, sigma=2)
    strength = xp.hypot(filters.sobel(smooth, axis=0), filters.sobel(smooth, axis=1))
    # Rounded, so that the order in which a device adds cannot move a pixel over the threshold.
    threshold = xp.sort(strength.round(9), axis=None)[int(0.9 * strength.size)]
    return strength, strength.round(9) > threshold


def main():
    wrong = 0
    for name in ("camera", "coins", "coffee"):
        image = getattr(data, name)()
        strength, mask = edges(cp, ndimage, cp.asarray(image))
        expected, expected_mask = edges(np, numpy_ndimage, image)
        same = np.allclose(cp.asnumpy(strength), expected) and np.mean(cp.asnumpy(mask) != expected_mask) < 1e-4
        wrong += not same
        shape = " x ".join(map(str, image.shape))
        print(f"{name}: {shape}, strongest edge {float(strength.max()):.4f}, {int(mask.sum())} edge pixels", end=", ")
        print("same as NumPy" if same else "DIFFERS FROM NUMPY")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
