// SPDX-License-Identifier: Apache-2.0
// uv_splat on the CPU.
//
// A photo touches about 4 % of its atlas, so nearly all of the work is writing zeros: every byte of
// the output is written exactly once, past the cache, and everything else happens in a few KB.
//   1. Sort the foreground pixels by (image, part), in pixel order (counting sort, in parallel).
//   2. One task per tile. The tile is cut into blocks of up to 16 texels; a block that a pixel
//      touches gets a slot of its own in a compact accumulator (all of it fits L1 or L2), all
//      others share slot 0, which stays zero.
//   3. Accumulate D, turn it into normalized weights, accumulate the channels, and copy the tile
//   out
//      block by block, in order and without a branch.
// One task owns a tile and adds in pixel order: the same bits for any number of threads.
//
// The backward is a gather, in uv_gather.cpp.

#include "../ops/uv_splat.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "../math/bilinear.h"
#include "memory.h"
#include "parallel.h"

namespace pose_kernels::cpu {
namespace {

constexpr int kBlockShift = 4;   // a block is 16 texels of one channel
constexpr int64_t kChunk = 8192; // pixels sorted by one task

template <class A>
struct Record {
  int32_t pixel;
  int32_t texel; // of corner 0
  A ax, ay;
};

// Foreground pixels grouped by tile, in pixel order; tile t owns records[begin[t] .. begin[t+1]).
template <class A>
struct Partition {
  std::unique_ptr<Record<A>[]> records;
  std::vector<int64_t> begin;
};

template <class T>
Partition<acc_t<T>> partition(const UvSplat<T>& op) {
  using A = acc_t<T>;
  const int64_t pixels = op.H * op.W, chunks = (pixels + kChunk - 1) / kChunk;
  const int64_t tiles = op.N * op.P;
  std::vector<int64_t> next(op.N * chunks * op.P, 0); // [N, chunks, P]: counts, then positions

  auto for_each_pixel = [&](int64_t job, auto&& visit) {
    const int64_t n = job / chunks, first = job % chunks * kChunk;
    const int64_t last = std::min(first + kChunk, pixels);
    const A* u = op.uv + n * 2 * pixels;
    const A* v = u + pixels;
    for (int64_t p = first; p < last; ++p) {
      const int part = part_at(op.part, n * pixels + p, int(op.P));
      TilePoint<A> point;
      if (part > 0 && tile_point(u[p], v[p], int(op.S), point))
        visit(part - 1,
              Record<A>{int32_t(p), int32_t(point.y0 * op.S + point.x0), point.ax, point.ay});
    }
  };
  parallel(op.N * chunks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t job = begin; job < end; ++job) {
      int64_t* count = &next[job * op.P];
      for_each_pixel(job, [&](int tile, const Record<A>&) { ++count[tile]; });
    }
  });

  Partition<A> sorted;
  sorted.begin.resize(tiles + 1);
  int64_t total = 0;
  for (int64_t n = 0; n < op.N; ++n)
    for (int64_t i = 0; i < op.P; ++i) {
      sorted.begin[n * op.P + i] = total;
      for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        int64_t& position = next[(n * chunks + chunk) * op.P + i];
        const int64_t count = position;
        position = total;
        total += count;
      }
    }
  sorted.begin[tiles] = total;
  sorted.records.reset(new Record<A>[total]);
  parallel(op.N * chunks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t job = begin; job < end; ++job) {
      int64_t* position = &next[job * op.P];
      for_each_pixel(job, [&](int tile, const Record<A>& record) {
        sorted.records[position[tile]++] = record;
      });
    }
  });
  return sorted;
}

// The blocks of a tile that its pixels touch, and where each has its place in an accumulator.
struct BlockMap {
  int shift;                   // a block is 2^shift texels
  int64_t slots;               // places, slot 0 included
  std::vector<int32_t> slot;   // [blocks of the tile]; 0: untouched
  std::vector<int32_t> offset; // [records, 4]: texel of a corner, in its slot
};

template <class A>
void map_blocks(const Record<A>* records, int64_t count, int S, int shift, BlockMap& map) {
  map.shift = shift;
  map.slots = 1;
  map.slot.assign(((int64_t(S) * S - 1) >> shift) + 1, 0);
  map.offset.resize(count * 4);
  const int step = S > 1, corner[4] = {0, step, S * step, (S + 1) * step};
  const int32_t within = (1 << shift) - 1;
  for (int64_t r = 0; r < count; ++r)
    for (int k = 0; k < 4; ++k) { // in first-touch order
      const int32_t q = records[r].texel + corner[k];
      int32_t& slot = map.slot[q >> shift];
      if (slot == 0)
        slot = int32_t(map.slots++);
      map.offset[r * 4 + k] = slot << shift | (q & within);
    }
}

// Blocks as small as whole cache lines allow, and at most 16 texels: what is not touched then takes
// no room beside what is.
inline int block_shift(int64_t bytes_per_texel) {
  int shift = kBlockShift;
  while (shift > 0 && (bytes_per_texel << (shift - 1)) % 64 == 0)
    --shift;
  return shift;
}

// One thread's workspace, reused from tile to tile.
template <class T>
struct Workspace {
  BlockMap map;
  std::vector<acc_t<T>> weight;       // [records, 4]
  std::vector<acc_t<T>> total_weight; // [slots, block]
  std::vector<acc_t<T>> total; // one channel [slots, block], or channels last [slots, block, C]
  std::vector<T> narrowed;     // the same in the output's type
  // Corners on invisible texels: 0 in the end, also where 0 times their color is NaN.
  std::vector<int64_t> hidden;
};

template <class T>
VECTOR_CLONES void narrow_all(const acc_t<T>* from, int64_t count, T* to) {
  for (int64_t i = 0; i < count; ++i)
    to[i] = narrow<T>(from[i]);
}

// Writes the tile in texel order, `width` values a texel, from accumulators [slots, block, width].
template <class T>
void copy_out(T* out, const T* total, const BlockMap& map, int64_t texels, int64_t width,
              bool streamed) {
  const int64_t block = width << map.shift, whole = texels >> map.shift;
  const int32_t* slot = map.slot.data();
  if (streamed && block == 1 << kBlockShift) { // a constant size unrolls
    constexpr int64_t constant = 1 << kBlockShift;
    for (int64_t b = 0; b < whole; ++b)
      stream(out + b * constant, total + slot[b] * constant, constant * sizeof(T));
  } else if (streamed) {
    for (int64_t b = 0; b < whole; ++b)
      stream(out + b * block, total + slot[b] * block, block * int64_t(sizeof(T)));
  } else {
    for (int64_t b = 0; b < whole; ++b)
      memcpy(out + b * block, total + slot[b] * block, block * sizeof(T));
  }
  if (const int64_t rest = texels - (whole << map.shift))
    memcpy(out + whole * block, total + slot[whole] * block, rest * width * sizeof(T));
}

// The same from accumulators of the wider type.
template <class T>
void copy_out(T* out, Workspace<T>& space, int64_t texels, int64_t width, bool streamed) {
  if constexpr (std::is_same_v<T, acc_t<T>>) {
    copy_out(out, space.total.data(), space.map, texels, width, streamed);
  } else {
    space.narrowed.resize(space.total.size());
    narrow_all(space.total.data(), int64_t(space.total.size()), space.narrowed.data());
    copy_out(out, space.narrowed.data(), space.map, texels, width, streamed);
  }
}

template <class T>
VECTOR_CLONES void add_channels_last(const T* color, int64_t C, const int32_t* offset,
                                     const acc_t<T>* w, acc_t<T>* total) {
  acc_t<T>* t0 = total + offset[0] * C;
  acc_t<T>* t1 = total + offset[1] * C;
  acc_t<T>* t2 = total + offset[2] * C;
  acc_t<T>* t3 = total + offset[3] * C;
#pragma omp simd
  for (int64_t c = 0; c < C; ++c) {
    const acc_t<T> x = widen(color[c]);
    t0[c] += w[0] * x;
    t1[c] += w[1] * x;
    t2[c] += w[2] * x;
    t3[c] += w[3] * x;
  }
}

template <class T>
void splat_tile(const UvSplat<T>& op, int64_t tile, const Record<acc_t<T>>* records, int64_t count,
                Workspace<T>& space, bool streamed) {
  using A = acc_t<T>;
  const int64_t texels = op.S * op.S;

  map_blocks(records, count, int(op.S), kBlockShift, space.map);
  const int32_t* offset = space.map.offset.data();
  space.weight.resize(count * 4);
  A* weight = space.weight.data();
  space.hidden.clear();
  for (int64_t r = 0; r < count; ++r)
    corner_weights(records[r].ax, records[r].ay, weight + r * 4);

  if (op.normalize || op.weight) {
    space.total_weight.assign(space.map.slots << kBlockShift, A(0));
    A* D = space.total_weight.data();
    for (int64_t i = 0; i < count * 4; ++i)
      D[offset[i]] += weight[i];
    if (op.weight)
      copy_out(op.weight + tile * texels, D, space.map, texels, 1, streamed);
    if (op.normalize) {
      for (int64_t i = 0; i < count * 4; ++i) {
        const bool visible = D[offset[i]] > op.min_weight;
        weight[i] = visible ? weight[i] / D[offset[i]] : A(0);
        if (!visible)
          space.hidden.push_back(i);
      }
    }
  }

  const T* image = op.image.data + tile / op.P * op.C * op.H * op.W;
  T* atlas = op.atlas.data + tile * op.C * texels;
  if (op.atlas.pixel > 1) { // channels last
    const int shift = block_shift(op.C * int64_t(sizeof(T)));
    if (shift != kBlockShift) {
      map_blocks(records, count, int(op.S), shift, space.map);
      offset = space.map.offset.data();
    }
    space.total.assign((space.map.slots << shift) * op.C, A(0));
    for (int64_t r = 0; r < count; ++r)
      add_channels_last(image + records[r].pixel * op.image.pixel, op.C, offset + r * 4,
                        weight + r * 4, space.total.data());
    for (const int64_t i : space.hidden)
      std::fill_n(&space.total[offset[i] * op.C], op.C, A(0));
    copy_out(atlas, space, texels, op.C, streamed);
  } else {
    for (int64_t c = 0; c < op.C; ++c) {
      const T* color = image + c * op.image.channel;
      space.total.assign(space.map.slots << kBlockShift, A(0));
      A* total = space.total.data();
      for (int64_t r = 0; r < count; ++r) {
        const A x = widen(color[records[r].pixel * op.image.pixel]);
        for (int k = 0; k < 4; ++k)
          total[offset[r * 4 + k]] += weight[r * 4 + k] * x;
      }
      for (const int64_t i : space.hidden)
        total[offset[i]] = A(0);
      copy_out(atlas + c * texels, space, texels, 1, streamed);
    }
  }
}

} // namespace

template <class T>
void uv_splat(const UvSplat<T>& op) {
  const int64_t texels = op.S * op.S, tiles = op.N * op.P;
  const auto sorted = partition(op);
  const int64_t bytes = texels * int64_t(sizeof(T));
  const bool streamed = can_stream(bytes, tiles * bytes * op.C);
  parallel(tiles, 1, [&](int64_t begin, int64_t end) {
    Workspace<T> space;
    for (int64_t tile = begin; tile < end; ++tile) {
      const int64_t first = sorted.begin[tile];
      splat_tile(op, tile, &sorted.records[first], sorted.begin[tile + 1] - first, space, streamed);
    }
    stream_fence();
  });
}

template void uv_splat(const UvSplat<float>&);
template void uv_splat(const UvSplat<double>&);
template void uv_splat(const UvSplat<float16>&);
template void uv_splat(const UvSplat<bfloat16>&);

} // namespace pose_kernels::cpu
