"""Gravity between bodies, all pairs, in Numba: each block stages the bodies through shared memory."""

import math
import sys

import numpy as np
from numba import config, cuda, float64

config.CUDA_LOW_OCCUPANCY_WARNINGS = 0  # so few bodies do not fill a GPU

BODIES = 1024
BLOCK = 128
STEPS = 10
TIME_STEP = 1e-3
SOFTENING = 1e-2


@cuda.jit
def accelerate(positions, masses, accelerations):
    """Set the acceleration of each body."""
    shared = cuda.shared.array((BLOCK, 4), float64)
    body = cuda.grid(1)
    x, y, z = positions[body, 0], positions[body, 1], positions[body, 2]
    ax = ay = az = 0.0
    for first in range(0, BODIES, BLOCK):
        other = first + cuda.threadIdx.x
        shared[cuda.threadIdx.x, 0] = positions[other, 0]
        shared[cuda.threadIdx.x, 1] = positions[other, 1]
        shared[cuda.threadIdx.x, 2] = positions[other, 2]
        shared[cuda.threadIdx.x, 3] = masses[other]
        cuda.syncthreads()
        for each in range(BLOCK):
            dx, dy, dz = shared[each, 0] - x, shared[each, 1] - y, shared[each, 2] - z
            squared = dx * dx + dy * dy + dz * dz + SOFTENING
            pull = shared[each, 3] / (squared * math.sqrt(squared))
            ax += pull * dx
            ay += pull * dy
            az += pull * dz
        cuda.syncthreads()
    accelerations[body, 0] = ax
    accelerations[body, 1] = ay
    accelerations[body, 2] = az


@cuda.jit
def move(positions, velocities, accelerations):
    """Advance each body by one step."""
    body = cuda.grid(1)
    for axis in range(3):
        velocities[body, axis] += accelerations[body, axis] * TIME_STEP
        positions[body, axis] += velocities[body, axis] * TIME_STEP


def numpy_step(positions, velocities, masses):
    """Do the same step in NumPy."""
    offsets = positions[None, :, :] - positions[:, None, :]
    squared = (offsets**2).sum(axis=2) + SOFTENING
    velocities += ((masses / (squared * np.sqrt(squared)))[:, :, None] * offsets).sum(axis=1) * TIME_STEP
    positions += velocities * TIME_STEP


def energy(positions, velocities, masses):
    """Return the kinetic and potential energy together."""
    offsets = positions[None, :, :] - positions[:, None, :]
    pairs = masses[:, None] * masses[None, :] / np.sqrt((offsets**2).sum(axis=2) + SOFTENING)
    return 0.5 * (masses * (velocities**2).sum(axis=1)).sum() - 0.5 * (pairs.sum() - np.trace(pairs))


def main():
    random = np.random.default_rng(1687)
    positions = random.normal(size=(BODIES, 3))
    velocities = random.normal(scale=0.1, size=(BODIES, 3))
    masses = random.uniform(0.5, 1.5, BODIES) / BODIES
    before = energy(positions, velocities, masses)

    on_device = [cuda.to_device(each) for each in (positions, velocities, np.zeros_like(positions))]
    masses_on_device = cuda.to_device(masses)
    for _ in range(STEPS):
        accelerate[BODIES // BLOCK, BLOCK](on_device[0], masses_on_device, on_device[2])
        move[BODIES // BLOCK, BLOCK](*on_device)
    moved, speeds = on_device[0].copy_to_host(), on_device[1].copy_to_host()
    after = energy(moved, speeds, masses)

    for _ in range(STEPS):
        numpy_step(positions, velocities, masses)
    print(f"{BODIES} bodies, {STEPS} steps")
    print(f"energy {before:.6f} before, {after:.6f} after")
    same = np.allclose(moved, positions) and np.allclose(speeds, velocities)
    print("same as NumPy" if same else "DIFFERS FROM NUMPY")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
