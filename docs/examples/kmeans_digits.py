"""k-means on scikit-learn's handwritten digits, by Lloyd's algorithm in CuPy.

The same algorithm in NumPy must find the same clusters.
"""

import sys

import cupy as cp
import numpy as np
from sklearn.datasets import load_digits

CLUSTERS = 10
MAX_ITERATIONS = 100


def kmeans(xp, points, centres):
    """Return the label of each point, the centres and the iterations it took; `xp` is numpy or cupy."""
    labels = xp.full(len(points), -1)
    iterations = 0
    while iterations < MAX_ITERATIONS:
        iterations += 1
        # |p - c|² without |p|², which is the same for every centre.
        distances = (centres**2).sum(axis=1) - 2 * points @ centres.T
        previous, labels = labels, distances.argmin(axis=1)
        if bool((labels == previous).all()):
            break
        members = (labels[:, None] == xp.arange(CLUSTERS)).astype(points.dtype)
        centres = (members.T @ points) / members.sum(axis=0)[:, None]
    return labels, centres, iterations


def main():
    digits = load_digits()
    points = digits.data
    start = points[:: len(points) // CLUSTERS][:CLUSTERS]

    labels, centres, iterations = kmeans(cp, cp.asarray(points), cp.asarray(start))
    labels, centres = cp.asnumpy(labels), cp.asnumpy(centres)
    expected, expected_centres, _ = kmeans(np, points, start)

    inertia = ((points - centres[labels]) ** 2).sum()
    majority = sum(np.bincount(digits.target[labels == each]).max() for each in range(CLUSTERS))
    print(f"{len(points)} digits, {CLUSTERS} clusters, {iterations} iterations")
    print(f"inertia {inertia:.3f}, purity {majority / len(points):.4f}")
    print("cluster sizes", *np.sort(np.bincount(labels)))
    same = np.array_equal(labels, expected) and np.allclose(centres, expected_centres)
    print("same as NumPy" if same else "DIFFERS FROM NUMPY")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
