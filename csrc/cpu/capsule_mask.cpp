// SPDX-License-Identifier: Apache-2.0
// Capsule masks on the CPU: hard (bits or bytes), soft, and the backward of the soft one.
//
// A task is a plane (sample, part, z), for bits (sample, z). Hard: clear the plane, then per
// capsule the rows that it reaches, and in a row only the voxels that the piece of its segment near
// that row reaches, 16 at a time; the rest of the volume costs one memset. Soft: sigma is nowhere
// exactly 0 in a volume of useful size, so every voxel is evaluated, a band of rows in L1 at a
// time: distances to the part's capsules, then one pass of sigma. The backward finds distances and
// winners again instead of keeping them, and adds per z-slab of a sample in a fixed order: the same
// bits for any number of threads. Sums of a slab are carried in double.

#include "../ops/capsule_mask.h"

#include <algorithm>
#include <vector>

#include "memory.h"
#include "parallel.h"

namespace pose_kernels::cpu {
namespace {

constexpr int kLanes = 16;

template <class A>
struct Reached {
  Capsule<A> shape;
  A reach[3];        // half-axes and the margin
  A low[3], high[3]; // box of what it can reach
  int64_t k;
};

// The capsules that count, ordered by sample and part, within a part by k.
template <class A>
struct Scene {
  Scene(const CapsuleSet<A>& set) : P(set.P), first(set.N * set.P + 1) {
    std::vector<Reached<A>> all;
    std::vector<int64_t> place; // n P + part of each
    for (int64_t n = 0; n < set.N; ++n)
      for (int64_t k = 0; k < set.K; ++k) {
        Reached<A> capsule;
        A radius[3];
        int part = 0;
        if (!read_capsule(set, n, k, capsule.shape, part, radius))
          continue;
        for (int i = 0; i < 3; ++i) {
          const A a = capsule.shape.a[i], b = capsule.shape.b[i];
          capsule.reach[i] = capsule_reach(a, b, radius[i]);
          capsule.low[i] = std::min(a, b) - capsule.reach[i];
          capsule.high[i] = std::max(a, b) + capsule.reach[i];
        }
        capsule.k = k;
        all.push_back(capsule);
        place.push_back(n * P + part);
        ++first[place.back() + 1];
      }
    for (size_t i = 1; i < first.size(); ++i)
      first[i] += first[i - 1];
    capsules.resize(all.size());
    std::vector<int64_t> next(first.begin(), first.end() - 1);
    for (size_t i = 0; i < all.size(); ++i)
      capsules[next[place[i]]++] = all[i];
  }

  int64_t P;
  std::vector<Reached<A>> capsules;
  std::vector<int64_t> first; // [N P + 1]: those of part p of sample n start at first[n P + p]
};

// body(plane, its values, scratch) for each plane of `out`: computed in the cache, and where the
// output as a whole will not stay there, sent past it. Each run of planes has a scratch of its own.
template <class T, class Scratch, class Body>
void for_planes(int64_t planes, int64_t voxels, T* out, const Scratch& empty, const Body& body) {
  const int64_t bytes = voxels * int64_t(sizeof(T));
  const bool streamed = can_stream(bytes, planes * bytes) && bytes <= 1 << 18;
  const int64_t grain = std::max<int64_t>(1, (1 << 15) / std::max<int64_t>(1, bytes));
  parallel(planes, grain, [&](int64_t begin, int64_t end) {
    Scratch scratch = empty;
    std::vector<T> copy(streamed ? voxels : 0);
    for (int64_t plane = begin; plane < end; ++plane) {
      T* target = out + plane * voxels;
      T* values = streamed ? copy.data() : target;
      body(plane, values, scratch);
      if (streamed)
        stream(target, values, bytes);
    }
    if (streamed)
      stream_fence();
  });
}

// ---- hard

// plane[y, x] |= value inside the capsule.
template <class A, class Out>
VECTOR_CLONES void mark(const Reached<A>& capsule, int z, int H, int W, Out value, Out* plane) {
  const Capsule<A> c = capsule.shape;
  A z0 = 0, z1 = 1;
  if (!narrow_along(c.a[2], c.b[2], A(z), capsule.reach[2], z0, z1))
    return;
  int y_first, y_end;
  voxel_range(capsule.low[1], capsule.high[1], H, y_first, y_end);
  for (int y = y_first; y < y_end; ++y) {
    A t0 = z0, t1 = z1;
    if (!narrow_along(c.a[1], c.b[1], A(y), capsule.reach[1], t0, t1))
      continue;
    const A x0 = c.a[0] + t0 * (c.b[0] - c.a[0]), x1 = c.a[0] + t1 * (c.b[0] - c.a[0]);
    int x_first, x_end;
    voxel_range(std::min(x0, x1) - capsule.reach[0], std::max(x0, x1) + capsule.reach[0], W,
                x_first, x_end);
    const CapsuleRow<A> row = capsule_row(c, A(y), A(z));
    Out* voxels = plane + int64_t(y) * W;
    if (W < kLanes) {
      for (int x = x_first; x < x_end; ++x)
        voxels[x] |= capsule_point(c, row, A(x)).d2 <= A(1) ? value : Out(0);
      continue;
    }
    for (int x = x_first; x < x_end; x += kLanes) {
      const int from = std::min(x, W - kLanes); // a voxel tested twice stays as it is
      Out* sixteen = voxels + from;
      int32_t inside[kLanes]; // narrowed to bytes in a loop of its own: one with both does not
                              // stay in full vectors
#pragma omp simd
      for (int i = 0; i < kLanes; ++i)
        inside[i] = capsule_point(c, row, A(from + i)).d2 <= A(1) ? int32_t(value) : 0;
#pragma omp simd
      for (int i = 0; i < kLanes; ++i)
        sixteen[i] = Out(sixteen[i] | inside[i]);
    }
  }
}

// ---- soft

template <class A>
struct IndexOf {
  using type = int32_t;
};
template <>
struct IndexOf<double> {
  using type = int64_t;
};
template <class A>
using index_t = typename IndexOf<A>::type;

// Rows y .. y + rows - 1 of plane z, in L1. Rows are padded to whole vectors of voxels.
template <class A>
struct Band {
  Band(int64_t H, int64_t W)
      : W(W), width((W + kLanes - 1) / kLanes * kLanes),
        most(std::min(H, std::max<int64_t>(1, 2048 / width))), xa(width), xb(width),
        d2(most * width), winner(most * width) {}
  int64_t W, width, most;
  int64_t y = 0, rows = 0, z = 0;
  std::vector<A> xa, xb;          // w_a and w_b in x of one capsule
  std::vector<A> d2;              // [rows, width] of the nearest capsule; later h
  std::vector<index_t<A>> winner; // [rows, width] which one that is
};

template <class A>
VECTOR_CLONES void offsets(const Capsule<A>& c, int64_t width, A* __restrict xa, A* __restrict xb) {
  for (int x = 0; x < width; ++x) {
    xa[x] = (A(x) - c.a[0]) * c.inv[0];
    xb[x] = (A(x) - c.b[0]) * c.inv[0];
  }
}

// Lowers d2 to the distance to this capsule where that is less; with WINNER also notes its index.
template <class A, bool WINNER>
VECTOR_CLONES void approach(const Capsule<A>& shape, index_t<A> index, const A* __restrict xa,
                            const A* __restrict xb, int64_t z, int64_t y, int64_t rows,
                            int64_t width, A* __restrict d2, index_t<A>* __restrict winner) {
  const Capsule<A> c = shape;
  for (int64_t j = 0; j < rows; ++j) {
    const CapsuleRow<A> row = capsule_row(c, A(y + j), A(z));
    A* nearest = d2 + j * width;
    index_t<A>* who = winner + j * width;
#pragma omp simd
    for (int64_t x = 0; x < width; ++x) {
      const A own = capsule_point(c, row, xa[x], xb[x]).d2, before = nearest[x];
      const bool less = own < before; // false for NaN
      nearest[x] = less ? own : before;
      if (WINNER) {
        const index_t<A> former = who[x];
        who[x] = less ? index : former;
      }
    }
  }
}

template <class A, bool WINNER>
void find_nearest(const Reached<A>* begin, const Reached<A>* end, Band<A>& band) {
  std::fill_n(band.d2.begin(), band.rows * band.width, kFarthest2<A>);
  if (WINNER)
    std::fill_n(band.winner.begin(), band.rows * band.width, index_t<A>(-1));
  for (const Reached<A>* capsule = begin; capsule != end; ++capsule) {
    offsets(capsule->shape, band.width, band.xa.data(), band.xb.data());
    approach<A, WINNER>(capsule->shape, index_t<A>(capsule - begin), band.xa.data(), band.xb.data(),
                        band.z, band.y, band.rows, band.width, band.d2.data(), band.winner.data());
  }
}

template <class A>
VECTOR_CLONES void soften(int64_t count, const Softness<A>& softness, A* d2) {
  const Softness<A> s = softness;
#pragma omp simd
  for (int64_t i = 0; i < count; ++i)
    d2[i] = soft_step(d2[i], s).value;
}

// d2 becomes h = g sigma (1 - sigma) / d, 0 in the padding.
template <class A>
VECTOR_CLONES void slopes(const A* __restrict grad, int64_t W, int64_t rows, int64_t width,
                          const Softness<A>& softness, A* __restrict d2) {
  const Softness<A> s = softness;
  for (int64_t j = 0; j < rows; ++j) {
    const A* g = grad + j * W;
    A* h = d2 + j * width;
#pragma omp simd
    for (int64_t x = 0; x < W; ++x)
      h[x] = g[x] * soft_step(h[x], s).slope_by_distance;
    for (int64_t x = W; x < width; ++x)
      h[x] = 0;
  }
}

// Adds this capsule's sums of h (1 - t) q_i, h t q_i and h q_i^2 over the voxels it has won.
template <class A>
VECTOR_CLONES void collect(const Capsule<A>& shape, index_t<A> index, const A* __restrict xa,
                           const A* __restrict xb, int64_t z, int64_t y, int64_t rows,
                           int64_t width, const A* __restrict h,
                           const index_t<A>* __restrict winner, double* __restrict sums) {
  const Capsule<A> c = shape;
  A lane[9][kLanes] = {};
  for (int64_t j = 0; j < rows; ++j) {
    const CapsuleRow<A> row = capsule_row(c, A(y + j), A(z));
    for (int64_t x = 0; x < width; x += kLanes) {
      const int64_t at = j * width + x;
#pragma omp simd
      for (int i = 0; i < kLanes; ++i) {
        const A slope = h[at + i];
        const A own = winner[at + i] == index ? slope : A(0);
        const CapsulePoint<A> q = capsule_point(c, row, xa[x + i], xb[x + i]);
        const A hx = own * q.x, hy = own * q.y, hz = own * q.z, u = A(1) - q.t;
        lane[0][i] += u * hx, lane[1][i] += u * hy, lane[2][i] += u * hz;
        lane[3][i] += q.t * hx, lane[4][i] += q.t * hy, lane[5][i] += q.t * hz;
        lane[6][i] += hx * q.x, lane[7][i] += hy * q.y, lane[8][i] += hz * q.z;
      }
    }
  }
  for (int s = 0; s < 9; ++s)
    for (int i = 0; i < kLanes; ++i)
      sums[s] += double(lane[s][i]);
}

} // namespace

template <class T>
void capsule_mask(const CapsuleMask<T>& op) {
  const Scene<T> scene(op.set);
  const int64_t P = op.set.P, voxels = op.H * op.W;
  const auto draw = [&](int64_t n, int64_t p, int64_t z, auto value, auto* plane) {
    const int64_t begin = scene.first[n * P + p], end = scene.first[n * P + p + 1];
    for (int64_t i = begin; i < end; ++i)
      if (T(z) >= scene.capsules[i].low[2] && T(z) <= scene.capsules[i].high[2])
        mark(scene.capsules[i], int(z), int(op.H), int(op.W), value, plane);
  };
  if (op.packed) {
    for_planes(op.set.N * op.D, voxels, op.packed, 0, [&](int64_t plane, int32_t* values, int) {
      memset(values, 0, voxels * sizeof(int32_t));
      for (int64_t p = 0; p < P; ++p)
        draw(plane / op.D, p, plane % op.D, int32_t(1) << p, values);
    });
  } else {
    for_planes(op.set.N * P * op.D, voxels, op.dense, 0, [&](int64_t plane, uint8_t* values, int) {
      memset(values, 0, voxels);
      draw(plane / op.D / P, plane / op.D % P, plane % op.D, uint8_t(1), values);
    });
  }
}

template <class T>
void capsule_soft_mask(const CapsuleSoftMask<T>& op) {
  const Scene<T> scene(op.set);
  const auto softness = make_softness<T>(op.softness);
  const int64_t planes = op.set.N * op.set.P * op.D;
  const Band<T> empty(op.H, op.W);
  for_planes(planes, op.H * op.W, op.mask, empty, [&](int64_t plane, T* values, Band<T>& band) {
    const int64_t part = plane / op.D;
    const Reached<T>* begin = scene.capsules.data() + scene.first[part];
    const Reached<T>* end = scene.capsules.data() + scene.first[part + 1];
    if (begin == end) {
      memset(values, 0, op.H * op.W * sizeof(T));
      return;
    }
    band.z = plane % op.D;
    for (band.y = 0; band.y < op.H; band.y += band.most) {
      band.rows = std::min(band.most, op.H - band.y);
      find_nearest<T, false>(begin, end, band);
      soften(band.rows * band.width, softness, band.d2.data());
      for (int64_t j = 0; j < band.rows; ++j)
        memcpy(values + (band.y + j) * op.W, &band.d2[j * band.width], op.W * sizeof(T));
    }
  });
}

template <class T>
void capsule_soft_mask_backward(const CapsuleSoftMaskBackward<T>& op) {
  const Scene<T> scene(op.set);
  const auto softness = make_softness<T>(op.softness);
  const int64_t N = op.set.N, K = op.set.K, P = op.set.P;
  const int64_t slabs = std::min<int64_t>(op.D, 64);
  const int64_t count = int64_t(scene.capsules.size());
  std::vector<double> sums(slabs * count * 9);              // [slabs, capsules of all samples, 9]
  const int64_t of_slab = P * (op.D / slabs) * op.H * op.W; // voxels of all parts
  const int64_t grain = std::max<int64_t>(1, (1 << 15) / std::max<int64_t>(1, of_slab));
  parallel(N * slabs, grain, [&](int64_t first, int64_t last) {
    Band<T> band(op.H, op.W);
    for (int64_t task = first; task < last; ++task) {
      const int64_t n = task / slabs, slab = task % slabs;
      for (int64_t p = 0; p < P; ++p) {
        const int64_t begin = scene.first[n * P + p], end = scene.first[n * P + p + 1];
        if (begin == end)
          continue;
        const Reached<T>* capsules = scene.capsules.data() + begin;
        for (band.z = slab * op.D / slabs; band.z < (slab + 1) * op.D / slabs; ++band.z)
          for (band.y = 0; band.y < op.H; band.y += band.most) {
            band.rows = std::min(band.most, op.H - band.y);
            find_nearest<T, true>(capsules, capsules + (end - begin), band);
            const int64_t row = ((n * P + p) * op.D + band.z) * op.H + band.y;
            slopes(op.grad + row * op.W, op.W, band.rows, band.width, softness, band.d2.data());
            for (int64_t i = begin; i < end; ++i) {
              const Capsule<T>& shape = scene.capsules[i].shape;
              if (end - begin > 1)
                offsets(shape, band.width, band.xa.data(), band.xb.data());
              collect(shape, index_t<T>(i - begin), band.xa.data(), band.xb.data(), band.z, band.y,
                      band.rows, band.width, band.d2.data(), band.winner.data(),
                      &sums[(slab * count + i) * 9]);
            }
          }
      }
    }
  });
  for (T* grad : {op.grad_start, op.grad_end, op.grad_radius})
    std::fill_n(grad, N * K * 3, T(0));
  for (int64_t part = 0; part < N * P; ++part)
    for (int64_t i = scene.first[part]; i < scene.first[part + 1]; ++i)
      for (int s = 0; s < 9; ++s) {
        double sum = 0;
        for (int64_t slab = 0; slab < slabs; ++slab)
          sum += sums[(slab * count + i) * 9 + s];
        const Reached<T>& capsule = scene.capsules[i];
        T* grad = s < 3 ? op.grad_start : s < 6 ? op.grad_end : op.grad_radius;
        grad[(part / P * K + capsule.k) * 3 + s % 3] =
            T(sum * double(capsule.shape.inv[s % 3]) / double(op.softness));
      }
}

#define INSTANTIATE(T)                                                                             \
  template void capsule_mask(const CapsuleMask<T>&);                                               \
  template void capsule_soft_mask(const CapsuleSoftMask<T>&);                                      \
  template void capsule_soft_mask_backward(const CapsuleSoftMaskBackward<T>&);
INSTANTIATE(float)
INSTANTIATE(double)

} // namespace pose_kernels::cpu
