// SPDX-License-Identifier: Apache-2.0
// helmert_warp on the CPU.
//
// Output voxels are independent, a task is some rows of them. Of each row only the intervals that a
// part can reach are looked at (part_rows.h); there, voxel by voxel, eight rows of channels are
// summed and the running maximum is kept in the cache. Every output byte is written once, past the
// cache; nothing of the size of the output, and nothing per part, exists besides it.

#include "../ops/helmert_warp.h"

#include <type_traits>

#include "volume_rows.h"

namespace pose_kernels::cpu {
namespace {

// The running maxima of some rows of output voxels.
template <class A>
struct Maxima {
  std::vector<int32_t> parts; // of each voxel, how many were there
  std::vector<A> best;        // of each voxel, `width` channels; nothing where no part was
};

// One part's values in `count` voxels, into their running maxima.
template <class A>
VECTOR_CLONES void add_part(const RunReads<A>& reads, int64_t count, const Rows<const A>& source,
                            const CellSteps& steps, const A* zeros, int64_t width,
                            int32_t* __restrict__ parts, A* __restrict__ best) {
  const int64_t stride = source.stride;
  const int32_t* slot = source.slot;
  int64_t step[8];
  for (int k = 0; k < 8; ++k)
    step[k] = steps.to[k] * stride;
  for (int64_t i = 0; i < count; ++i) {
    if (reads.corners[i] == 0)
      continue;
    const A* corner[8];
    A weight[8];
    const A* cell = slot ? source.data : source.data + reads.cell[i] * stride;
    for (int k = 0; k < 8; ++k) {
      weight[k] = reads.weight[k][i];
      corner[k] = slot ? source.data + slot[reads.cell[i] + steps.to[k]] * stride : cell + step[k];
    }
    if (reads.corners[i] < 8)
      for (int k = 0; k < 8; ++k) // what is not read may hold anything
        corner[k] = weight[k] != A(0) ? corner[k] : zeros;
    const bool alone = parts[i]++ == 0;
    A* row = best + i * width;
    for_lanes(width, [&](int64_t c, auto lanes) __attribute__((always_inline)) {
      constexpr int L = decltype(lanes)::value;
      auto sum = weight[0] * load<A, L>(corner[0] + c);
      for (int k = 1; k < 8; ++k)
        sum += weight[k] * load<A, L>(corner[k] + c);
      if (alone)
        return store(row + c, sum);
      A own[L];
      store(own, sum);
#pragma omp simd
      for (int j = 0; j < L; ++j)
        row[c + j] = larger(row[c + j], own[j]);
    });
  }
}

// Where not all parts were, the others give 0.
template <class A>
VECTOR_CLONES void include_zero(const std::vector<int32_t>& voxels, const int32_t* parts, int64_t P,
                                int64_t width, A* best) {
  for (const int32_t i : voxels)
    if (parts[i] < P)
      for (int64_t c = 0; c < width; ++c)
        best[i * width + c] = larger(best[i * width + c], A(0));
}

// How output voxels are worked through: a task is `slabs` x `rows` rows, `at_once` of each slab at
// a time. Where parts are nearly everywhere, a task is a bundle of rows: what a part reads for one
// of them is still in the cache for those beside it. Else most of a slab is only to be cleared.
struct Tiles {
  int64_t slabs, rows, at_once;

  template <class T, class A>
  static Tiles of(const HelmertWarp<T>& op, const std::vector<Part<A>>& parts, int64_t width) {
    int64_t covered = 0;
    for (const Part<A>& part : parts)
      covered += part.box.voxels();
    if (covered < op.D * op.H * op.W || op.W * width > 1 << 16) // at most 2 MB of maxima
      return {1, op.H, op.out.pixel > 1 ? 1 : rows_at_once(op.W, width)};
    return {4, 2, 2};
  }
};

// Channels [c, c + width) of rows [y, y_end) of slabs [z, z_end) of sample n.
template <class T>
void warp_tile(const HelmertWarp<T>& op, const Tiles& tiles, int64_t n, int64_t z_begin,
               int64_t z_end, int64_t y_begin, int64_t y_end, int64_t c, int64_t width,
               const std::vector<Part<acc_t<T>>>& parts, const Rows<const acc_t<T>>& source,
               const std::vector<acc_t<T>>& zeros, RunReads<acc_t<T>>& reads,
               Maxima<acc_t<T>>& maxima, RegionWriter<T>& writer) {
  using A = acc_t<T>;
  const VolumeSize size = size_of(op);
  const CellSteps steps(size);
  const int64_t plane = size.x * size.y, voxels = size.voxels();
  T* out = op.out.data + n * op.C * voxels + c * op.out.channel;
  std::vector<Interval> rows;
  for (const Part<A>& part : parts)
    for (int64_t z = z_begin; z < z_end; ++z)
      rows.push_back(part.rows(size, z));
  std::vector<int32_t> at, which;
  for (int64_t y0 = y_begin; y0 < y_end; y0 += tiles.at_once) {
    const int64_t y1 = std::min(y0 + tiles.at_once, y_end), stretch = (y1 - y0) * size.x;
    maxima.parts.assign((z_end - z_begin) * stretch, 0);
    if (int64_t(maxima.best.size()) < (z_end - z_begin) * stretch * width)
      maxima.best.resize((z_end - z_begin) * stretch * width);
    const Interval* reach_y = rows.data();
    for (const Part<A>& part : parts)
      for (int64_t z = z_begin; z < z_end; ++z, ++reach_y)
        for (int64_t y = std::max(y0, reach_y->first); y < std::min(y1, reach_y->last + 1); ++y) {
          const int64_t row = (z - z_begin) * stretch + (y - y0) * size.x;
          for_runs(part.voxels(size, y, z), [&](int64_t x, int64_t count) {
            read_run<A, false>(part, size, steps, y, z, x, count, reads);
            add_part(reads, count, source, steps, zeros.data(), width,
                     maxima.parts.data() + row + x, maxima.best.data() + (row + x) * width);
          });
        }
    for (int64_t z = z_begin; z < z_end; ++z) {
      const int32_t* here = maxima.parts.data() + (z - z_begin) * stretch;
      A* best = maxima.best.data() + (z - z_begin) * stretch * width;
      at.clear();
      for (int64_t i = 0; i < stretch; ++i)
        if (here[i])
          at.push_back(int32_t(i));
      include_zero(at, here, op.P, width, best);
      writer.write({out + (z * plane + y0 * size.x) * op.out.pixel, op.out.channel, op.out.pixel},
                   width, stretch, at, at, best, width);
    }
  }
}

// Channels [c, c + width) of samples [first, last); sources[n - first] are their rows.
template <class T>
void warp_samples(const HelmertWarp<T>& op, int64_t first, int64_t last, int64_t c, int64_t width,
                  const std::vector<std::vector<Part<acc_t<T>>>>& parts,
                  const std::vector<Rows<const acc_t<T>>>& sources) {
  using A = acc_t<T>;
  const int64_t bytes = op.N * op.C * size_of(op).voxels() * int64_t(sizeof(T));
  const Tiles tiles = Tiles::of(op, parts[first], width);
  const int64_t deep = (op.D + tiles.slabs - 1) / tiles.slabs,
                high = (op.H + tiles.rows - 1) / tiles.rows;
  const int64_t tasks = deep * high;
  parallel((last - first) * tasks, 1, [&](int64_t begin, int64_t end) {
    RunReads<A> reads;
    Maxima<A> maxima;
    std::vector<A> zeros(width);
    RegionWriter<T> writer(bytes);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t n = i / tasks, task = i % tasks;
      const int64_t z = spread(task / high, deep) * tiles.slabs, y = task % high * tiles.rows;
      warp_tile(op, tiles, first + n, z, std::min(z + tiles.slabs, op.D), y,
                std::min(y + tiles.rows, op.H), c, width, parts[first + n], sources[n], zeros,
                reads, maxima, writer);
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
      const Pages<A> packed(rows * width);
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
