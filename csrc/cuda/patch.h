// SPDX-License-Identifier: Apache-2.0
// The patch of the atlas that one warp of uv_splat owns: sums in shared memory, and their way out.
#pragma once

#include "channels.h"
#include "pixel_bands.h"

namespace pose_kernels::cuda {

// WIDE: lanes are 32 channels; else they are 4 corners x 8 slots, slot 0 the weight, then channels.
template <class A, bool WIDE>
struct Patch {
  static constexpr bool kWide = WIDE;
  static constexpr int kRows = kBandRows;
  static constexpr int kColumns = WIDE ? 32 / int(sizeof(A)) : 32;
  static constexpr int kTexels = kRows * kColumns;
  static constexpr int kChannels = WIDE ? 32 : 32 / int(sizeof(A)); // most in one pass
  static constexpr int kChannelStride = WIDE ? 1 : kTexels, kTexelStride = WIDE ? 32 : 1;

  A* weight; // [kTexels]            D; `sum` follows it
  A* sum;    // [kChannels][kTexels], or [kTexels][kChannels] when WIDE
  A* color;  // [channels][32]       of the 32 pixels at hand, narrow only
  bool touched;

  static HD constexpr int elements(int channels) {
    return kTexels + (WIDE ? kTexels * kChannels : channels * (kTexels + 32));
  }

  __device__ __forceinline__ Patch(A* memory, int channels)
      : weight(memory), sum(memory + kTexels), color(sum + channels * kTexels), touched(false) {}

  __device__ __forceinline__ void clear(int channels) {
    const int size = WIDE ? kTexels * (1 + kChannels) : kTexels * (1 + channels);
    for (int i = lane_index(); i < size; i += kWarp)
      weight[i] = 0;
    sync_warp();
    touched = true;
  }

  // Adds the pixels of the lanes in `hits`, in their order. A lane passes its own pixel: where
  // corner 0 lies on the patch (x and y from -1 on), the fractions, and its color's place in the
  // image.
  template <class T>
  __device__ __forceinline__ void add(unsigned hits, int x, int y, A ax, A ay, const T* image,
                                      int64_t pixel, int64_t channel, int channels) {
    const int place = (y + 1) * 64 + x + 1;
    if constexpr (WIDE) {
      while (hits) {
        int source[4]; // the next four pixels: their colors are loaded together
        A loaded[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          source[j] = __ffs(int(hits)) - 1; // -1: none left
          hits &= hits - 1;
          const int64_t at = shuffle(pixel, source[j] < 0 ? 0 : source[j]);
          loaded[j] = source[j] >= 0 && lane_index() < channels
                          ? widen(image[at + lane_index() * channel])
                          : A(0);
        }
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          if (source[j] < 0)
            break;
          A w[4];
          corner_weights(shuffle(ax, source[j]), shuffle(ay, source[j]), w);
          const int at = shuffle(place, source[j]);
#pragma unroll
          for (int k = 0; k < 4; ++k) {
            const int texel = corner(at, k);
            if (texel >= 0 && w[k] != A(0)) // 0 times infinity would be NaN
              sum[texel * kTexelStride + lane_index()] += w[k] * loaded[j];
            if (texel >= 0 && lane_index() == k)
              weight[texel] += w[k];
          }
          sync_warp(); // a lane has its own channel, but weights are added to by four of them
        }
      }
    } else {
      if (hits >> lane_index() & 1u)
#pragma unroll 2 // more loads in flight would cost the registers of a warp or two
        for (int c = 0; c < channels; ++c)
          color[c * kWarp + lane_index()] = widen(image[pixel + c * channel]);
      sync_warp();
      const int k = lane_index() % 4;
      for (; hits; hits &= hits - 1) {
        const int source = __ffs(int(hits)) - 1;
        A w[4];
        corner_weights(shuffle(ax, source), shuffle(ay, source), w);
        const A own = k == 0 ? w[0] : k == 1 ? w[1] : k == 2 ? w[2] : w[3];
        const int texel = corner(shuffle(place, source), k);
        if (texel >= 0 && own != A(0))
          for (int slot = lane_index() / 4; slot <= channels; slot += 8)
            weight[slot * kTexels + texel] +=
                slot == 0 ? own : own * color[(slot - 1) * kWarp + source];
        sync_warp(); // the next pixel may touch the same texels, through other lanes
      }
    }
  }

  // Corner k of a pixel at `place`, as a texel of the patch; -1 outside of it. Texels beyond the
  // tile are summed but never stored: on a tile of one texel that is where corners 1 to 3 go.
  __device__ __forceinline__ static int corner(int place, int k) {
    const int x = place % 64 - 1 + k % 2, y = place / 64 - 1 + k / 2;
    return x >= 0 && x < kColumns && y >= 0 && y < kRows ? y * kColumns + x : -1;
  }

  // sum = A / D where D > min_weight, else 0.
  __device__ __forceinline__ void normalize(int channels, A min_weight) {
    const int step = WIDE ? 1 : kWarp; // lanes are texels, or channels of one texel
    for (int texel = WIDE ? 0 : lane_index(); texel < kTexels; texel += step) {
      const A D = weight[texel];
      for (int c = WIDE ? lane_index() : 0; c < channels; c += WIDE ? kWarp : 1) {
        A& total = sum[c * kChannelStride + texel * kTexelStride];
        total = D > min_weight ? total / D : A(0);
      }
    }
    sync_warp();
  }

  __device__ __forceinline__ A value(int channel, int texel) const {
    return touched ? sum[channel * kChannelStride + texel * kTexelStride] : A(0);
  }
};

// How the patches cover the tiles of an atlas, or images.
struct PatchGrid {
  int64_t count;              // of patches, all in all
  int H, W;                   // of a tile
  int columns, bands, passes; // of patches along x and y of a tile, and over its channels
  int per_pass;               // channels of a pass, the last one may have fewer
  bool last;                  // channels last
  bool vector, weight_vector; // 16-byte stores are allowed

  struct Place {
    int64_t tile;
    int pass, row, column;
  };

  // Patch number i: neighbors in memory go to neighboring warps.
  __device__ __forceinline__ Place place(int64_t i) const {
    Place at{};
    if (last)
      at.pass = int(i % passes), i /= passes;
    at.column = int(i % columns);
    i /= columns;
    at.row = int(i % bands);
    i /= bands;
    if (!last)
      at.pass = int(i % passes), i /= passes;
    at.tile = i;
    return at;
  }

  template <class P, class T, class A>
  static PatchGrid plan(int64_t tiles, int64_t H, int64_t W, int64_t C, const Planes<T>& out,
                        const A* weight) {
    PatchGrid grid;
    grid.H = int(H), grid.W = int(W);
    grid.columns = int(blocks_for(W, P::kColumns));
    grid.bands = int(blocks_for(H, P::kRows));
    grid.passes = C > 0 ? int(blocks_for(C, P::kChannels)) : 1;
    grid.per_pass = P::kWide ? P::kChannels : int(blocks_for(C, grid.passes));
    grid.count = tiles * grid.bands * grid.columns * grid.passes;
    grid.last = out.pixel != 1;
    if (grid.last)
      grid.vector = W * C % kVector<T> == 0 && (grid.passes == 1 || C % kVector<T> == 0);
    else
      grid.vector = W % kVector<T> == 0;
    grid.vector = grid.vector && aligned(out.data);
    grid.weight_vector = W % kVector<A> == 0 && aligned(weight);
    return grid;
  }
};

// Stores a patch of one plane: `value(texel)` at rows x columns of it. Lanes run along x.
template <class T, int COLUMNS, class Value>
__device__ __forceinline__ void store_plane(T* plane, int64_t S, int rows, int columns, bool vector,
                                            Value value) {
  const int lane = lane_index();
  if (vector) {
    constexpr int K = kVector<T>, kPerRow = COLUMNS / K, kAtOnce = kWarp / kPerRow;
    const int x = lane % kPerRow * K;
    for (int y = lane / kPerRow; y < rows; y += kAtOnce)
      if (x < columns) {
        Pack<T, K> pack;
#pragma unroll
        for (int j = 0; j < K; ++j)
          pack.value[j] = narrow<T>(value(y * COLUMNS + x + j));
        *reinterpret_cast<Pack<T, K>*>(plane + y * S + x) = pack;
      }
  } else {
    for (int y = lane / COLUMNS; y < rows; y += kWarp / COLUMNS)
      if (lane % COLUMNS < columns)
        plane[y * S + lane % COLUMNS] = narrow<T>(value(y * COLUMNS + lane % COLUMNS));
  }
}

// Stores a channels-last patch, `value(channel, texel)`: lanes run along (x, channel), K elements
// each.
template <class T, int COLUMNS, int K, class Value>
__device__ __forceinline__ void store_texels(T* patch, int64_t S, int64_t C, int channels, int rows,
                                             int columns, Value value) {
  const int first = lane_index() * K, step = kWarp * K;
  for (int y = 0; y < rows; ++y) {
    int x = first / channels, c = first % channels;
    while (x < columns) {
      T* at = patch + (y * S + x) * C + c;
      Pack<T, K> pack;
      int xj = x, cj = c;
#pragma unroll
      for (int j = 0; j < K; ++j) {
        pack.value[j] = narrow<T>(value(cj, y * COLUMNS + xj));
        if (++cj == channels)
          cj = 0, ++xj;
      }
      *reinterpret_cast<Pack<T, K>*>(at) = pack;
      x += step / channels;
      c += step % channels;
      if (c >= channels)
        c -= channels, ++x;
    }
  }
}

// Stores what a warp's patch at (x0, y0) of a tile holds, its weights (unless null) in pass 0.
template <class P, class T, class A>
__device__ __forceinline__ void store_patch(const P& patch, const PatchGrid& grid, int64_t tile,
                                            int pass, int x0, int y0, int64_t C, int channels,
                                            const Planes<T>& out, A* weight) {
  const int rows = grid.H - y0 < P::kRows ? grid.H - y0 : P::kRows;
  const int columns = grid.W - x0 < P::kColumns ? grid.W - x0 : P::kColumns;
  const int64_t W = grid.W, texels = grid.H * W, corner = y0 * W + x0;
  T* to = out.data + tile * C * texels + pass * int64_t(grid.per_pass) * out.channel +
          corner * out.pixel;
  if (P::kWide || grid.last) {
    const auto value = [&](int c, int texel) { return patch.value(c, texel); };
    if (channels > 0 && grid.vector)
      store_texels<T, P::kColumns, kVector<T>>(to, W, C, channels, rows, columns, value);
    else if (channels > 0)
      store_texels<T, P::kColumns, 1>(to, W, C, channels, rows, columns, value);
  } else {
    for (int c = 0; c < channels; ++c)
      store_plane<T, P::kColumns>(to + c * out.channel, W, rows, columns, grid.vector,
                                  [&](int texel) { return patch.value(c, texel); });
  }
  if (weight && pass == 0)
    store_plane<A, P::kColumns>(
        weight + tile * texels + corner, W, rows, columns, grid.weight_vector,
        [&](int texel) { return patch.touched ? patch.weight[texel] : A(0); });
}

} // namespace pose_kernels::cuda
