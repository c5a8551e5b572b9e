"""CUDA C++ kernels that the tests compile with nvrtc."""

BASICS = r"""
#include <cuda_fp16.h>
#include <cuda_bf16.h>
typedef unsigned int u32; typedef unsigned long long u64;
extern "C" __global__ void add(const float* a, const float* b, float* c, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) c[i] = a[i] + b[i];
}
extern "C" __global__ void grid3(int* o) {
  int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y,
      z = blockIdx.z * blockDim.z + threadIdx.z;
  int w = gridDim.x * blockDim.x, h = gridDim.y * blockDim.y;
  o[(z * h + y) * w + x] = x + 100 * y + 10000 * z;
}
// a barrier inside a function that is not inlined, called twice
__device__ __noinline__ float block_sum(float v, float* s) {
  s[threadIdx.x] = v; __syncthreads();
  for (int k = blockDim.x / 2; k; k /= 2) {
    if (threadIdx.x < k) s[threadIdx.x] += s[threadIdx.x + k];
    __syncthreads();
  }
  float r = s[0]; __syncthreads(); return r;
}
extern "C" __global__ void reduce(const float* a, float* o, int n) {
  extern __shared__ float sm[]; float v = 0;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) v += a[i];
  float r = block_sum(v, sm); r += block_sum(1.f, sm);
  if (threadIdx.x == 0) o[blockIdx.x] = r;
}
extern "C" __global__ void atomics(int* h, u32* m, float* f, double* d, u64* x, const int* a, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x; if (i >= n) return;
  atomicAdd(&h[a[i] & 15], 1); atomicMax(m, (u32)a[i]); atomicMin((int*)m + 1, a[i]); atomicAdd(f, 1.f);
  atomicAdd(d, (double)a[i]); atomicXor(x, (u64)a[i] * 0x9E3779B97F4A7C15ull); atomicInc(m + 2, 6); atomicDec(m + 3, 6);
  atomicExch(m + 4, 5u); u32 old = m[5], as; do { as = old; old = atomicCAS(m + 5, as, as + 3); } while (as != old);
  atomicAnd(m + 6, ~(1u << (a[i] & 31))); atomicAdd((__half*)(m + 7), __float2half(i < 100 ? 1.f : 0.f));
}
struct P { float x; int y[5]; double z; };
__constant__ float table[8] = {1, 2, 3, 4, 5, 6, 7, 8};
__device__ int counter; __device__ int numbers[4] = {7, 8, 9, 10}; __device__ int* pointer = numbers + 2;
extern "C" __global__ void structs(P p, double* o) {
  int t = threadIdx.x; o[t] = p.x + p.y[t % 5] * p.z + table[t & 7] + *pointer; atomicAdd(&counter, 1);
}
__device__ int fib(int n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }
__device__ int plus1(int x) { return x + 1; } __device__ int twice(int x) { return x * 2; }
struct B { __device__ virtual int g(int x) { return x; } int q; };
struct C : B { __device__ virtual int g(int x) { return x * q; } };
extern "C" __global__ void calls(int* o, int s) {
  int t = threadIdx.x; int (*f)(int) = (t + s) & 1 ? plus1 : twice; o[t] = f(t) + fib(t % 12);
  B b; C c; c.q = 3; b.q = 1; B* z = (t & 1) ? &b : (B*)&c; o[t] += z->g(t);
}
extern "C" __global__ void matmul(const float* A, const float* B, float* C, int n) {
  __shared__ float As[16][16], Bs[16][16]; int tx = threadIdx.x, ty = threadIdx.y;
  int r = blockIdx.y * 16 + ty, c = blockIdx.x * 16 + tx; float acc = 0;
  for (int k = 0; k < n; k += 16) {
    As[ty][tx] = A[r * n + k + tx]; Bs[ty][tx] = B[(k + ty) * n + c]; __syncthreads();
    for (int j = 0; j < 16; j++) acc += As[ty][j] * Bs[j][tx];
    __syncthreads();
  }
  C[r * n + c] = acc;
}
extern "C" __global__ void cases(const int* a, int* o) {
  int i = threadIdx.x; int v = a[i];
  switch (v % 9) {
    case 0: o[i] = v * 3; break; case 1: o[i] = v ^ 77; break; case 2: o[i] = v / 7; break; case 3: o[i] = -v; break;
    case 4: o[i] = v % 13; break; case 5: o[i] = __clz(v); break; case 6: o[i] = __popc(v); break;
    case 7: o[i] = __brev(v); break; default: o[i] = __ffs(v);
  }
}
extern "C" __global__ void locals(const int* a, int* o) {
  int b[64]; int t = threadIdx.x;
  for (int i = 0; i < 64; i++) b[i] = a[(i + t) & 63];
  for (int i = 0; i < 64; i++) for (int j = 0; j + 1 < 64 - i; j++)
    if (b[j] > b[j + 1]) { int x = b[j]; b[j] = b[j + 1]; b[j + 1] = x; }
  __syncthreads(); o[t] = b[a[t] & 63];
}
extern "C" __global__ void vectors(const float4* a, float4* o, const uchar4* b, short2* c) {
  int t = threadIdx.x; float4 v = a[t]; o[t] = make_float4(v.w, v.z, v.y, v.x);
  uchar4 u = b[t]; c[t] = make_short2(u.x - u.y, u.z * u.w);
}
extern "C" __global__ void halves(const __half* a, const __half* b, __half* o, __nv_bfloat16* p, int n) {
  int i = threadIdx.x + blockIdx.x * blockDim.x;
  if (i < n) { o[i] = __hfma(a[i], b[i], a[i]); p[i] = __float2bfloat16(__half2float(a[i]) * 3.f); }
}
extern "C" __global__ void asserts(int* a) { assert(a[threadIdx.x] < 5 && "small"); }
extern "C" __global__ void traps(int* a) { if (a[0] == 3) __trap(); }
extern "C" __global__ void writes(int* a, long long at) { a[at + threadIdx.x] = 1; }
extern "C" __global__ void misaligned(char* a) { *(int4*)(a + 4) = make_int4(1, 2, 3, 4); }
extern "C" __global__ void stuck(int* a) {
  if (threadIdx.x < 7) __syncthreads(); else asm volatile("bar.sync 1;");
  a[0] = 1;
}
extern "C" __global__ void prints(int n) {
  if (threadIdx.x == 1) printf("%d %s %5.2f|%-4u|%c %lld %%\n", n, "text", 2.5, 7u, 'x', 1ll << 40);
}
"""

WARPS = r"""
#include <cooperative_groups.h>
namespace cg = cooperative_groups;
extern "C" __global__ void warps(const int* a, int* o) {
  int t = threadIdx.x; int v = a[t]; int r = 0; int p;
  o[t] = __shfl_xor_sync(~0u, v, 5); o[t + 64] = __shfl_up_sync(~0u, v, 3, 16);
  o[t + 128] = __shfl_sync(~0u, v, t * 7, 8);
  o[t + 192] = __ballot_sync(~0u, v & 1); o[t + 256] = __any_sync(~0u, v > 90); o[t + 320] = __all_sync(~0u, v >= 0);
  o[t + 384] = __match_any_sync(~0u, v % 5); o[t + 448] = __match_all_sync(~0u, t / 32, &p) + p;
  o[t + 512] = __reduce_add_sync(~0u, v); o[t + 576] = __reduce_max_sync(~0u, v);
  o[t + 640] = __shfl_down_sync(~0u, v, 4);
  if (t & 1) { r = __activemask(); r += __popc(__ballot_sync(0xaaaaaaaa, v > 50)); } __syncwarp();
  o[t + 704] = r; o[t + 768] = __syncthreads_count(v > 50);
  o[t + 832] = __syncthreads_and(v >= 0) + 2 * __syncthreads_or(v > 1000);
}
extern "C" __global__ void groups(const int* a, int* o) {
  auto b = cg::this_thread_block(); auto w = cg::tiled_partition<8>(b); int v = a[threadIdx.x];
  for (int i = w.size() / 2; i > 0; i /= 2) v += w.shfl_down(v, i);
  o[threadIdx.x] = w.shfl(v, 0) + w.meta_group_rank() * 1000; b.sync();
  if (threadIdx.x % 3 == 0) {
    auto c = cg::coalesced_threads(); o[64 + threadIdx.x] = c.size() * 100 + c.thread_rank();
  }
}
// lanes that loop different numbers of times, a barrier that some warps pass late, threads that leave early
extern "C" __global__ void divergent(int* o) {
  __shared__ int s; int t = threadIdx.x; if (t == 0) s = 0; __syncthreads();
  if (t < 32) { atomicAdd(&s, 1); __syncwarp();
    if (t < 7) {
      #pragma unroll 1
      for (int i = 0; i < t + 1; i++) atomicAdd(&s, __popc(__activemask()));
    } }
  __syncthreads(); if (t >= 60) return; __syncthreads(); o[t] = s;
}
extern "C" __global__ void named(int* o) {  // producers and consumers on named barriers
  __shared__ int s[32]; int t = threadIdx.x;
  if (t < 32) { s[t] = t * t; asm volatile("bar.arrive 1, 64;"); }
  else { asm volatile("bar.sync 1, 64;"); o[t - 32] = s[t - 32]; }
}
extern "C" __global__ void lookback(volatile int* flags, int* o) {  // each block waits for the one before
  if (threadIdx.x == 0) { if (blockIdx.x) while (flags[blockIdx.x - 1] == 0); __threadfence();
    o[blockIdx.x] = blockIdx.x ? o[blockIdx.x - 1] + 1 : 1; __threadfence(); flags[blockIdx.x] = 1; }
}
"""

CUB = r"""
#include <cub/block/block_reduce.cuh>
#include <cub/block/block_scan.cuh>
extern "C" __global__ void b_reduce(const float* a, float* o) {
  typedef cub::BlockReduce<float, 256> R; __shared__ typename R::TempStorage t;
  float s = R(t).Sum(a[blockIdx.x * 256 + threadIdx.x]); if (threadIdx.x == 0) o[blockIdx.x] = s;
}
extern "C" __global__ void b_scan(const int* a, int* o) {
  typedef cub::BlockScan<int, 128> R; __shared__ typename R::TempStorage t; int v[4]; int total;
  for (int i = 0; i < 4; i++) v[i] = a[threadIdx.x * 4 + i];
  R(t).ExclusiveSum(v, v, total);
  for (int i = 0; i < 4; i++) o[threadIdx.x * 4 + i] = v[i];
  if (threadIdx.x == 0) o[512] = total;
}
"""
