"""CUDA's cooperative groups within a block: tiles, labelled and coalesced groups, tiles of several warps."""

from __future__ import annotations

import numpy as np

from . import kit

SOURCE = r"""
#include <cooperative_groups.h>
#include <cooperative_groups/reduce.h>
#include <cooperative_groups/scan.h>
namespace cg = cooperative_groups;
extern "C" __global__ void groups(const int* in, int* out) {
  auto block = cg::this_thread_block();
  auto warp = cg::tiled_partition<32>(block);
  auto eight = cg::tiled_partition<8>(block);
  int t = block.thread_rank(), v = in[t], n = block.size();
  out[t] = cg::reduce(warp, v, cg::plus<int>());
  out[n + t] = cg::reduce(eight, v, cg::greater<int>());
  out[2 * n + t] = cg::inclusive_scan(warp, v);
  out[3 * n + t] = cg::exclusive_scan(eight, v, cg::plus<int>());
  auto label = cg::labeled_partition(warp, v % 3);
  out[4 * n + t] = cg::reduce(label, v, cg::plus<int>());
  auto half = cg::binary_partition(warp, v & 1);
  out[5 * n + t] = cg::reduce(half, v, cg::less<int>());
  out[6 * n + t] = (int)cg::reduce(warp, (double)v, cg::plus<double>());
  out[7 * n + t] = 0;
  if (v % 5 == 0) {
    auto some = cg::coalesced_threads();
    out[7 * n + t] = cg::reduce(some, v, cg::bit_xor<int>());
  }
  out[8 * n + t] = warp.shfl_down(v, 1) + warp.any(v == in[0]);
}
extern "C" __global__ void large(const int* in, int* out) {
  __shared__ cg::block_tile_memory<256> scratch;
  auto block = cg::this_thread_block(scratch);
  auto tile = cg::tiled_partition<64>(block);
  int t = block.thread_rank(), n = block.size();
  out[t] = cg::reduce(tile, in[t], cg::plus<int>());
  out[n + t] = tile.shfl(in[t], 5);
  out[2 * n + t] = tile.any(in[t] == in[70]);
  out[3 * n + t] = cg::inclusive_scan(tile, in[t]);
}
"""


def test_groups_reduce_scan_and_shuffle() -> None:
    module = kit.load(kit.cuda(SOURCE))
    n = 128
    values = np.random.default_rng(0).integers(0, 1000, n).astype(np.int32)
    out = np.full((9, n), -1, np.int32)
    kit.launch(module.kernels["groups"], 1, n, values, out)
    warps, eights = values.reshape(-1, 32), values.reshape(-1, 8)
    assert np.array_equal(out[0], np.repeat(warps.sum(1), 32))
    assert np.array_equal(out[1], np.repeat(eights.max(1), 8))
    assert np.array_equal(out[2], warps.cumsum(1).ravel())
    assert np.array_equal(out[3], (eights.cumsum(1) - eights).ravel())
    for t, v in enumerate(values):
        row = warps[t // 32]
        assert out[4, t] == row[row % 3 == v % 3].sum()
        assert out[5, t] == row[(row & 1) == (v & 1)].min()
        assert out[6, t] == row.sum()
        assert out[7, t] == (np.bitwise_xor.reduce(row[row % 5 == 0]) if v % 5 == 0 else 0)
        assert out[8, t] == row[min(t % 32 + 1, 31)] + (values[0] in row)
    out = np.full((4, n), -1, np.int32)
    kit.launch(module.kernels["large"], 1, n, values, out)
    tiles = values.reshape(-1, 64)
    assert np.array_equal(out[0], np.repeat(tiles.sum(1), 64))
    assert np.array_equal(out[1], np.repeat(tiles[:, 5], 64))
    assert np.array_equal(out[2], np.repeat((tiles == values[70]).any(1), 64))
    assert np.array_equal(out[3], tiles.cumsum(1).ravel())
