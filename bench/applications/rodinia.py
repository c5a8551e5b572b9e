"""Eight programs like Rodinia's (Che et al., IISWC 2009), written anew from the published algorithms.

Each invocation goes from data on the host to results on the host, as the originals do, so that its time splits into
active GPU, copies, allocation and CPU. Kernels are CuPy's raw kernels and Numba's; `srad` and `kmeans` use array calls.
Results are checked against NumPy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bench.applications.program import Program, Split

KERNELS = r"""
extern "C" __global__ void heat(const float* t, const float* power, float* out, int rows, int columns,
                                float cap, float rx, float ry, float rz, float ambient) {
  int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
  if (x >= columns || y >= rows) return;
  int i = y * columns + x;
  float here = t[i];
  float north = y ? t[i - columns] : here, south = y < rows - 1 ? t[i + columns] : here;
  float west = x ? t[i - 1] : here, east = x < columns - 1 ? t[i + 1] : here;
  out[i] = here + cap * (power[i] + (north + south - 2 * here) * ry + (west + east - 2 * here) * rx
                         + (ambient - here) * rz);
}
extern "C" __global__ void path_row(const int* wall, const int* from, int* to, int columns) {
  int x = blockIdx.x * blockDim.x + threadIdx.x;
  if (x >= columns) return;
  int best = from[x];
  if (x) best = min(best, from[x - 1]);
  if (x < columns - 1) best = min(best, from[x + 1]);
  to[x] = wall[x] + best;
}
extern "C" __global__ void multipliers(const float* a, float* m, int n, int k) {
  int i = k + 1 + blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) m[i] = a[i * n + k] / a[k * n + k];
}
extern "C" __global__ void eliminate(float* a, float* b, const float* m, int n, int k) {
  int j = k + blockIdx.x * blockDim.x + threadIdx.x, i = k + 1 + blockIdx.y * blockDim.y + threadIdx.y;
  if (i >= n || j >= n) return;
  a[i * n + j] -= m[i] * a[k * n + j];
  if (j == k) b[i] -= m[i] * b[k];
}
extern "C" __global__ void forces(const float4* place, const float* charge, float4* force, int side,
                                  int each, float a2) {
  extern __shared__ float4 near[];
  float* weight = (float*)(near + each);
  int bx = blockIdx.x % side, by = blockIdx.x / side % side, bz = blockIdx.x / side / side;
  float4 mine = place[blockIdx.x * each + threadIdx.x], sum = make_float4(0, 0, 0, 0);
  for (int dz = -1; dz <= 1; dz++) for (int dy = -1; dy <= 1; dy++) for (int dx = -1; dx <= 1; dx++) {
    int x = bx + dx, y = by + dy, z = bz + dz;
    if (x < 0 || y < 0 || z < 0 || x >= side || y >= side || z >= side) continue;
    int other = (z * side + y) * side + x;
    __syncthreads();
    near[threadIdx.x] = place[other * each + threadIdx.x];
    weight[threadIdx.x] = charge[other * each + threadIdx.x];
    __syncthreads();
    for (int j = 0; j < each; j++) {
      float rx = mine.x - near[j].x, ry = mine.y - near[j].y, rz = mine.z - near[j].z;
      float potential = weight[j] * expf(-a2 * (rx * rx + ry * ry + rz * rz)), pull = 2 * a2 * potential;
      sum.x += pull * rx; sum.y += pull * ry; sum.z += pull * rz; sum.w += potential;
    }
  }
  force[blockIdx.x * each + threadIdx.x] = sum;
}
"""
_kernels: dict[str, Any] = {}


def kernel(name: str) -> Any:
    """Return one of `KERNELS`."""
    import cupy

    if not _kernels:
        module = cupy.RawModule(code=KERNELS)
        for each in ("heat", "path_row", "multipliers", "eliminate", "forces"):
            _kernels[each] = module.get_function(each)
    return _kernels[name]


def _blocks(count: int, block: int) -> int:
    return max(1, -(-count // block))


def _close(got: np.ndarray, wanted: np.ndarray, relative: float = 1e-3) -> None:
    scale = float(np.abs(wanted).max()) or 1.0
    error = float(np.abs(np.asarray(got, np.float64) - wanted).max()) / scale
    if not error <= relative:
        raise ValueError(f"wrong by {error:.2e} of the largest value")


def _to(split: Split, *arrays: np.ndarray) -> list[Any]:
    """Allocate device arrays, and copy host arrays to them."""
    import cupy

    with split.host("allocation"):
        made = [cupy.empty(each.shape, each.dtype) for each in arrays]
    with split.host("copies"):
        for target, source in zip(made, arrays, strict=True):
            target.set(source)
    return made


def _back(split: Split, *arrays: Any) -> list[np.ndarray]:
    with split.host("copies"):
        return [each.get() for each in arrays]


# -- breadth-first search: level by level, one thread a node -----------------------------------------------------------
def bfs(size: int) -> Program:
    """Levels of a random graph's nodes from node 0."""
    from numba import cuda

    rng = np.random.default_rng(1)
    degree = rng.integers(2, 8, size)
    start = np.concatenate([[0], np.cumsum(degree)]).astype(np.int32)
    edges = rng.integers(0, size, int(start[-1])).astype(np.int32)
    split = Split()

    @cuda.jit  # type: ignore[untyped-decorator]
    def expand(start: Any, edges: Any, level: Any, now: int, grew: Any) -> None:
        node = cuda.grid(1)
        if node < level.size and level[node] == now:
            for edge in range(start[node], start[node + 1]):
                other = edges[edge]
                if level[other] < 0:
                    level[other] = now + 1
                    grew[0] = 1

    def run(_: Any) -> Sequence[Any]:
        first = np.full(size, -1, np.int32)
        first[0] = 0
        grew = np.zeros(1, np.int32)
        starts, links, level, flag = _to(split, start, edges, first, grew)
        configured = expand[_blocks(size, 256), 256]
        for now in range(size):
            with split.host("copies"):
                flag.set(np.zeros(1, np.int32))
            with split.gpu():
                configured(starts, links, level, now, flag)
            with split.host("copies"):
                if not int(flag.get()[0]):
                    break
        return _back(split, level)

    def check(results: Sequence[Any]) -> None:
        level = np.full(size, -1, np.int32)
        frontier, now = np.array([0]), 0
        level[0] = 0
        while frontier.size:
            spans = [edges[start[node] : start[node + 1]] for node in frontier]
            found = np.unique(np.concatenate(spans))
            frontier, now = found[level[found] < 0], now + 1
            level[frontier] = now
        if not (results[0] == level).all():
            raise ValueError("levels differ")

    return Program("bfs", lambda: None, run, check, split)


# -- hotspot: a processor's temperature, by finite differences ---------------------------------------------------------
def hotspot(side: int, steps: int) -> Program:
    """Temperature of a chip under power, explicit steps on a grid."""
    rng = np.random.default_rng(2)
    heat = rng.uniform(320, 340, (side, side)).astype(np.float32)
    power = rng.uniform(0, 1e-2, (side, side)).astype(np.float32)
    factors = (0.4, 0.1, 0.15, 0.01, 80.0)
    split = Split()

    def run(_: Any) -> Sequence[Any]:
        import cupy

        now, watts = _to(split, heat, power)
        with split.host("allocation"):
            after = cupy.empty_like(now)
        grid, block = (_blocks(side, 32), _blocks(side, 8)), (32, 8)
        numbers = [np.float32(value) for value in factors]
        with split.gpu():
            for _ in range(steps):
                kernel("heat")(grid, block, (now, watts, after, np.int32(side), np.int32(side), *numbers))
                now, after = after, now
        return _back(split, now)

    def check(results: Sequence[Any]) -> None:
        cap, rx, ry, rz, ambient = factors
        t = heat.astype(np.float64)
        for _ in range(steps):
            p = np.pad(t, 1, mode="edge")
            vertical, horizontal = p[:-2, 1:-1] + p[2:, 1:-1] - 2 * t, p[1:-1, :-2] + p[1:-1, 2:] - 2 * t
            t = t + cap * (power + vertical * ry + horizontal * rx + (ambient - t) * rz)
        _close(results[0], t)

    return Program("hotspot", lambda: None, run, check, split)


# -- pathfinder: cheapest way through a grid, row by row ---------------------------------------------------------------
def pathfinder(columns: int, rows: int) -> Program:
    """Cost of the cheapest way from the first row to each cell of the last."""
    wall = np.random.default_rng(3).integers(0, 10, (rows, columns)).astype(np.int32)
    split = Split()

    def run(_: Any) -> Sequence[Any]:
        import cupy

        (grid,) = _to(split, wall)
        with split.host("allocation"):
            costs = [cupy.empty(columns, np.int32) for _ in range(2)]
        blocks, step, width = (_blocks(columns, 256),), kernel("path_row"), np.int32(columns)
        with split.gpu():
            source = grid[0]
            for row in range(1, rows):
                step(blocks, (256,), (grid[row], source, costs[row % 2], width))
                source = costs[row % 2]
        return _back(split, source)

    def check(results: Sequence[Any]) -> None:
        cost = wall[0].astype(np.int64)
        for row in range(1, rows):
            p = np.pad(cost, 1, constant_values=1 << 40)
            cost = wall[row] + np.minimum(np.minimum(p[:-2], p[2:]), cost)
        if not (results[0] == cost).all():
            raise ValueError("costs differ")

    return Program("pathfinder", lambda: None, run, check, split)


# -- gaussian: elimination on the GPU, back substitution on the CPU ----------------------------------------------------
def gaussian(n: int) -> Program:
    """Solution of a diagonally dominant system."""
    rng = np.random.default_rng(4)
    matrix = (rng.random((n, n)) + n * np.eye(n)).astype(np.float32)
    right = rng.random(n).astype(np.float32)
    split = Split()

    def run(_: Any) -> Sequence[Any]:
        import cupy

        a, b = _to(split, matrix, right)
        with split.host("allocation"):
            m = cupy.empty(n, np.float32)
        size = np.int32(n)
        with split.gpu():
            for k in range(n - 1):
                left, step = n - k, np.int32(k)
                kernel("multipliers")((_blocks(left, 128),), (128,), (a, m, size, step))
                kernel("eliminate")((_blocks(left, 32), _blocks(left, 8)), (32, 8), (a, b, m, size, step))
        upper, rest = _back(split, a, b)
        x = np.zeros(n, np.float32)
        for i in range(n - 1, -1, -1):
            x[i] = (rest[i] - upper[i, i + 1 :] @ x[i + 1 :]) / upper[i, i]
        return [x]

    def check(results: Sequence[Any]) -> None:
        _close(results[0], np.linalg.solve(matrix.astype(np.float64), right.astype(np.float64)))

    return Program("gaussian", lambda: None, run, check, split)


# -- srad: speckle-reducing anisotropic diffusion (Yu & Acton 2002), in array calls ------------------------------------
def _diffuse(xp: Any, image: Any, steps: int, rate: float = 0.5) -> Any:
    north = xp.maximum(xp.arange(image.shape[0]) - 1, 0)
    south = xp.minimum(xp.arange(image.shape[0]) + 1, image.shape[0] - 1)
    west = xp.maximum(xp.arange(image.shape[1]) - 1, 0)
    east = xp.minimum(xp.arange(image.shape[1]) + 1, image.shape[1] - 1)
    for _ in range(steps):
        corner = image[: max(2, image.shape[0] // 4), : max(2, image.shape[1] // 4)]
        mean = corner.mean()
        q0 = (corner * corner).mean() / (mean * mean) - 1
        dn, ds, dw, de = (image[north] - image, image[south] - image, image[:, west] - image, image[:, east] - image)
        slope = (dn * dn + ds * ds + dw * dw + de * de) / (image * image)
        curve = (dn + ds + dw + de) / image
        below = 1 + 0.25 * curve
        q = (0.5 * slope - curve * curve / 16) / (below * below)
        c = xp.clip(1 / (1 + (q - q0) / (q0 * (1 + q0))), 0, 1)
        image = image + 0.25 * rate * (c[south] * ds + c * dn + c[:, east] * de + c * dw)
    return image


def srad(side: int, steps: int) -> Program:
    """An ultrasound-like image, smoothed along its edges."""
    rng = np.random.default_rng(5)
    image = np.exp(rng.random((side, side)) + np.linspace(0, 1, side)).astype(np.float32)
    split = Split()

    def run(_: Any) -> Sequence[Any]:
        import cupy

        (now,) = _to(split, image)
        with split.gpu():
            now = _diffuse(cupy, now, steps)
        return _back(split, now)

    return Program("srad", lambda: None, run, lambda results: _close(results[0], _diffuse(np, image, steps)), split)


# -- lavaMD: particles' forces within a box and its 26 neighbours ------------------------------------------------------
def lava_md(side: int, each: int = 64) -> Program:
    """Potential and force on charged particles in a cube of boxes."""
    rng = np.random.default_rng(6)
    boxes = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)[:, ::-1]
    place = np.zeros((side**3, each, 4), np.float32)
    place[..., :3] = boxes[:, None] + rng.random((side**3, each, 3))
    charge = rng.random((side**3, each)).astype(np.float32)
    a2 = 0.5
    split = Split()

    def run(_: Any) -> Sequence[Any]:
        import cupy

        where, weight = _to(split, place, charge)
        with split.host("allocation"):
            force = cupy.empty_like(where)
        arguments = (where, weight, force, np.int32(side), np.int32(each), np.float32(a2))
        with split.gpu():
            kernel("forces")((side**3,), (each,), arguments, shared_mem=each * 20)
        return _back(split, force)

    def check(results: Sequence[Any]) -> None:
        wanted = np.zeros_like(place)
        for box in range(side**3):
            close = np.flatnonzero((np.abs(boxes - boxes[box]) <= 1).all(axis=1))
            apart = place[box][:, None, :3] - place[close][..., :3].reshape(1, -1, 3)
            potential = charge[close].reshape(1, -1) * np.exp(-a2 * (apart**2).sum(axis=-1))
            wanted[box, :, :3] = (2 * a2 * potential[..., None] * apart).sum(axis=1)
            wanted[box, :, 3] = potential.sum(axis=1)
        _close(results[0], wanted)

    return Program("lavaMD", lambda: None, run, check, split)


# -- Needleman-Wunsch: alignment of two sequences, one antidiagonal at a time ------------------------------------------
def needleman_wunsch(n: int, penalty: int = 10) -> Program:
    """Scores of all prefixes on the GPU, the alignment traced back on the CPU."""
    from numba import cuda

    rng = np.random.default_rng(7)
    likeness = rng.integers(-4, 12, (n, n)).astype(np.int32)
    split = Split()

    @cuda.jit  # type: ignore[untyped-decorator]
    def diagonal(score: Any, likeness: Any, number: int, first: int, count: int, gap: int) -> None:
        place = cuda.grid(1)
        if place < count:
            i = first + place
            j = number - i
            best = score[i - 1, j - 1] + likeness[i - 1, j - 1]
            best = max(best, score[i - 1, j] - gap)
            score[i, j] = max(best, score[i, j - 1] - gap)

    def run(_: Any) -> Sequence[Any]:
        begin = np.zeros((n + 1, n + 1), np.int32)
        begin[0] = begin[:, 0] = -penalty * np.arange(n + 1)
        score, alike = _to(split, begin, likeness)
        with split.gpu():
            for number in range(2, 2 * n + 1):
                first, last = max(1, number - n), min(n, number - 1)
                count = last - first + 1
                diagonal[_blocks(count, 128), 128](score, alike, number, first, count, penalty)
        (scores,) = _back(split, score)
        i = j = n
        way = 0
        while i and j:
            if scores[i, j] == scores[i - 1, j - 1] + likeness[i - 1, j - 1]:
                i, j, way = i - 1, j - 1, way + 1
            elif scores[i, j] == scores[i - 1, j] - penalty:
                i -= 1
            else:
                j -= 1
        return [scores, np.array(way)]

    def check(results: Sequence[Any]) -> None:
        score = np.zeros((n + 1, n + 1), np.int32)
        score[0] = score[:, 0] = -penalty * np.arange(n + 1)
        for number in range(2, 2 * n + 1):
            i = np.arange(max(1, number - n), min(n, number - 1) + 1)
            j = number - i
            best = score[i - 1, j - 1] + likeness[i - 1, j - 1]
            score[i, j] = np.maximum(best, np.maximum(score[i - 1, j], score[i, j - 1]) - penalty)
        if not (results[0] == score).all():
            raise ValueError("scores differ")

    return Program("nw", lambda: None, run, check, split)


# -- k-means: membership on the GPU, centres on the CPU ----------------------------------------------------------------
def kmeans(points: int, steps: int, features: int = 16, clusters: int = 5) -> Program:
    """Lloyd's iterations."""
    rng = np.random.default_rng(8)
    hubs = rng.normal(0, 4, (clusters, features))
    data = (hubs[rng.integers(0, clusters, points)] + rng.normal(0, 1, (points, features))).astype(np.float32)
    split = Split()

    def iterate(nearest: Callable[[np.ndarray], np.ndarray]) -> Sequence[Any]:
        centres = data[:clusters].astype(np.float64)
        for _ in range(steps):
            mine = nearest(centres.astype(np.float32))
            for cluster in range(clusters):
                members = data[mine == cluster]
                if len(members):
                    centres[cluster] = members.mean(axis=0, dtype=np.float64)
        return [centres]

    def run(_: Any) -> Sequence[Any]:
        (where,) = _to(split, data)

        def nearest(centres: np.ndarray) -> np.ndarray:
            (hub,) = _to(split, centres)
            with split.gpu():
                mine = ((where[:, None, :] - hub[None]) ** 2).sum(axis=2).argmin(axis=1)
            return _back(split, mine)[0]

        return iterate(nearest)

    def check(results: Sequence[Any]) -> None:
        wanted = iterate(lambda hub: ((data[:, None, :] - hub[None]) ** 2).sum(axis=2).argmin(axis=1))
        _close(results[0], wanted[0])

    return Program("kmeans", lambda: None, run, check, split)


PROGRAMS: dict[str, dict[str, Callable[[], Program]]] = {
    "bfs": {"smoke": lambda: bfs(500), "full": lambda: bfs(1 << 20)},
    "hotspot": {"smoke": lambda: hotspot(48, 4), "full": lambda: hotspot(1024, 100)},
    "pathfinder": {"smoke": lambda: pathfinder(300, 6), "full": lambda: pathfinder(100_000, 400)},
    "gaussian": {"smoke": lambda: gaussian(24), "full": lambda: gaussian(768)},
    "srad": {"smoke": lambda: srad(32, 2), "full": lambda: srad(1024, 40)},
    "lavaMD": {"smoke": lambda: lava_md(2, 32), "full": lambda: lava_md(10)},
    "nw": {"smoke": lambda: needleman_wunsch(24), "full": lambda: needleman_wunsch(2048)},
    "kmeans": {"smoke": lambda: kmeans(400, 2), "full": lambda: kmeans(200_000, 8)},
}
