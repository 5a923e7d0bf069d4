// SPDX-License-Identifier: Apache-2.0
// helmert_warp on the CPU.
//
// Slabs of output voxels (n, z) are independent. Of each output row only the intervals that a part
// can reach are looked at (part_rows.h); there, voxel by voxel, eight rows of channels are summed
// and the running maximum is kept in the cache. Every output byte is written once, past the cache;
// nothing of the size of the output, and nothing per part, exists besides it.

#include "../ops/helmert_warp.h"

#include <memory>
#include <type_traits>

#include "volume_rows.h"

namespace pose_kernels::cpu {
namespace {

// The running maxima of one output row. Row r of `best` belongs to voxel voxel[r].
template <class A>
struct RowMaxima {
  std::vector<int32_t> row;   // [W] of each voxel, -1: no part was there yet
  std::vector<int32_t> parts; // [W] of each row, how many parts were there
  int32_t count;
};

// One part's values in one output row, into the running maxima.
template <class A>
VECTOR_CLONES void add_part(const RowReads<A>& reads, Interval at, const Rows<const A>& source,
                            const CellSteps& steps, const A* zeros, int64_t width,
                            RowMaxima<A>& maxima, A* best, A* __restrict__ other) {
  for (int64_t x = at.first; x <= at.last; ++x) {
    if (reads.any[x] == A(0))
      continue;
    const A* corner[8];
    A weight[8];
    for (int k = 0; k < 8; ++k) {
      const int64_t q = reads.cell[x] + steps.to[k];
      weight[k] = reads.weight[k][x];
      const A* row = source.data + (source.slot ? source.slot[q] : q) * source.stride;
      corner[k] = weight[k] != A(0) ? row : zeros; // what is not read may hold anything
    }
    const bool first = maxima.row[x] < 0;
    if (first) {
      maxima.row[x] = maxima.count;
      maxima.parts[maxima.count++] = 0;
    }
    const int32_t r = maxima.row[x];
    ++maxima.parts[r];
    A* value = first ? best + r * width : other;
    for_lanes(width, [&](int64_t c, auto lanes) __attribute__((always_inline)) {
      constexpr int L = decltype(lanes)::value;
      auto sum = weight[0] * load<A, L>(corner[0] + c);
      for (int k = 1; k < 8; ++k)
        sum += weight[k] * load<A, L>(corner[k] + c);
      store(value + c, sum);
    });
    if (first)
      continue;
    A* __restrict__ maximum = best + r * width;
#pragma omp simd
    for (int64_t c = 0; c < width; ++c)
      maximum[c] = larger(maximum[c], other[c]);
  }
}

// Where not all parts were, the others give 0.
template <class A>
VECTOR_CLONES void include_zero(const RowMaxima<A>& maxima, int64_t P, int64_t width, A* best) {
  for (int32_t r = 0; r < maxima.count; ++r)
    if (maxima.parts[r] < P)
      for (int64_t c = 0; c < width; ++c) {
        best[r * width + c] = larger(best[r * width + c], A(0));
      }
}

// Channels [c, c + width) of slab (n, z).
template <class T>
void warp_slab(const HelmertWarp<T>& op, int64_t n, int64_t z, int64_t c, int64_t width,
               const std::vector<Part<acc_t<T>>>& parts, const Rows<const acc_t<T>>& source,
               const std::vector<acc_t<T>>& zeros, std::vector<acc_t<T>>& other,
               RowReads<acc_t<T>>& reads, RowMaxima<acc_t<T>>& maxima, std::vector<acc_t<T>>& best,
               RegionWriter<T>& writer) {
  using A = acc_t<T>;
  const VolumeSize size = size_of(op);
  const CellSteps steps(size);
  const int64_t plane = size.x * size.y, voxels = size.voxels();
  const bool interleaved = op.out.pixel > 1; // written row by row, else the slab at once
  const Planes<T> out{op.out.data + n * op.C * voxels + c * op.out.channel +
                          z * plane * op.out.pixel,
                      op.out.channel, op.out.pixel};
  std::vector<Interval> rows;
  for (const Part<A>& part : parts)
    rows.push_back(part.rows(size, z));
  std::vector<int32_t> at, which;
  const int64_t at_once = rows_at_once(size.x, width);
  int64_t first = 0; // row of what is put together now
  for (int64_t y = 0; y < size.y; ++y) {
    const int64_t before = int64_t(which.size());
    std::fill(maxima.row.begin(), maxima.row.end(), -1);
    maxima.count = 0;
    if (int64_t(best.size()) < (before + size.x) * width)
      best.resize((before + size.x) * width);
    A* row_best = best.data() + before * width;
    for (size_t i = 0; i < parts.size(); ++i) {
      if (y < rows[i].first || y > rows[i].last)
        continue;
      const Interval reach = parts[i].voxels(size, y, z);
      if (reach.empty())
        continue;
      read_row<A, false>(parts[i], size, steps, y, z, reach, reads);
      add_part(reads, reach, source, steps, zeros.data(), width, maxima, row_best, other.data());
    }
    if (maxima.count)
      include_zero(maxima, op.P, width, row_best);
    for (int64_t x = 0; maxima.count && x < size.x; ++x)
      if (maxima.row[x] >= 0) {
        at.push_back(int32_t((interleaved ? 0 : (y - first) * size.x) + x));
        which.push_back(int32_t(before) + maxima.row[x]);
      }
    if (interleaved || y + 1 == size.y || y + 1 - first == at_once) {
      if (interleaved)
        first = y;
      writer.write({out.data + first * size.x * out.pixel, out.channel, out.pixel}, width,
                   (y + 1 - first) * size.x, at, which, best.data(), width);
      at.clear(), which.clear();
      first = y + 1;
    }
  }
}

// Channels [c, c + width) of samples [first, last); sources[n - first] are their rows.
template <class T>
void warp_samples(const HelmertWarp<T>& op, int64_t first, int64_t last, int64_t c, int64_t width,
                  const std::vector<std::vector<Part<acc_t<T>>>>& parts,
                  const std::vector<Rows<const acc_t<T>>>& sources) {
  using A = acc_t<T>;
  const int64_t D = op.D, bytes = op.N * op.C * size_of(op).voxels() * int64_t(sizeof(T));
  parallel((last - first) * D, 1, [&](int64_t begin, int64_t end) {
    RowReads<A> reads(op.W);
    RowMaxima<A> maxima{std::vector<int32_t>(op.W), std::vector<int32_t>(op.W), 0};
    std::vector<A> best, zeros(width), other(width);
    RegionWriter<T> writer(bytes);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t n = i / D, z = spread(i % D, D);
      warp_slab(op, first + n, z, c, width, parts[first + n], sources[n], zeros, other, reads,
                maxima, best, writer);
    }
    stream_fence();
  });
}

} // namespace

template <class T>
void helmert_warp(const HelmertWarp<T>& op) {
  using A = acc_t<T>;
  const int64_t voxels = size_of(op).voxels();
  if (op.N * op.C == 0)
    return;
  std::vector<std::vector<Part<A>>> parts(op.N);
  parallel(op.N, 1, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n)
      parts[n] = active_parts(op, n);
  });
  if constexpr (std::is_same_v<T, A>) {
    if (op.volume.pixel > 1 || op.C == 1) { // rows of channels already
      std::vector<Rows<const A>> sources;
      for (int64_t n = 0; n < op.N; ++n)
        sources.push_back({op.volume.data + n * op.C * voxels, op.C, nullptr});
      return warp_samples(op, 0, op.N, 0, op.C, parts, sources);
    }
    for (int64_t c = 0; op.C < kFewChannels && c < op.C; ++c) {
      std::vector<Rows<const A>> sources;
      for (int64_t n = 0; n < op.N; ++n)
        sources.push_back({op.volume.data + (n * op.C + c) * voxels, 1, nullptr});
      warp_samples(op, 0, op.N, c, 1, parts, sources);
    }
    if (op.C < kFewChannels)
      return;
  }
  std::vector<Cover> covers(op.N);
  parallel(op.N, 1, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n)
      covers[n] = Cover::of(op, n, false);
  });
  const Plan plan = plan_packing<T>(op, covers, 1);
  for (int64_t first = 0; first < op.N; first += plan.samples)
    for (int64_t c = 0; c < op.C; c += plan.width) {
      const int64_t last = first + plan.samples, width = std::min(plan.width, op.C - c);
      int64_t rows = 0;
      for (int64_t n = first; n < last; ++n)
        rows += covers[n].rows;
      const std::unique_ptr<A[]> packed(new A[rows * width]); // not initialized: pack() does
      std::vector<Rows<const A>> sources;
      A* to = packed.get();
      for (int64_t n = first; n < last; ++n) {
        const Cover& cover = covers[n];
        pack<T>({op.volume.data + n * op.C * voxels, op.volume.channel, op.volume.pixel}, cover, c,
                width, to);
        sources.push_back({to, width, cover.slots()});
        to += cover.rows * width;
      }
      warp_samples(op, first, last, c, width, parts, sources);
    }
}

template void helmert_warp(const HelmertWarp<float>&);
template void helmert_warp(const HelmertWarp<double>&);
template void helmert_warp(const HelmertWarp<float16>&);
template void helmert_warp(const HelmertWarp<bfloat16>&);

} // namespace pose_kernels::cpu
