// SPDX-License-Identifier: Apache-2.0
// The pixels of every image that land anywhere, sorted by where on the atlas they do; for
// flow_warp, by which rows of the image they read.
//
// A band is kBandRows texel rows of one part's tile, or rows of the image. A block takes a chunk of
// 2,048 consecutive pixels, finds the band of each (of its upper corners) and sorts them by band
// with a stable radix sort in shared memory. Ranks come from ballots, so the order is band first,
// then pixel, on every run. The sorted chunk is written where the chunk itself lies, beside a table
// of where each band begins in it: no pass over a whole image is needed, and any number of parts
// works. A pixel touches two rows, so the reader of band b visits bands b-1 and b of its part: one
// contiguous piece per chunk, chunk by chunk, always in the same order. That is what makes the
// splat deterministic.
//
// Traffic: the part map, uv of the foreground, 16 bytes out per foreground pixel (24 for double),
// and 2 bytes per band and chunk.
#pragma once

#include "../math/bilinear.h"
#include "../math/layout.h"
#include "warp.h"

namespace pose_kernels::cuda {

constexpr int kBandRows = 8;
constexpr int kChunk =
    2048; // pixels sorted by a block: 256^2 are 32 chunks, one a lane of a reader

template <class A>
struct alignas(sizeof(A) == 4 ? 16 : 8) BandPixel {
  int64_t pixel; // y W + x
  A u, v;
};

template <class A>
struct PixelBands {
  int64_t chunks, bands, bins; // chunks per image, bands per tile, bins = P bands
  BandPixel<A>* pixels;        // [N, chunks, kChunk]     each chunk's foreground, sorted
  uint16_t* first;             // [N, bins + 1, chunks]   where a bin begins in each chunk

  PixelBands(int64_t N, int64_t image_pixels, int64_t P, int64_t S, void* workspace)
      : chunks(blocks_for(image_pixels, kChunk)), bands(blocks_for(S, kBandRows)), bins(P * bands),
        pixels(static_cast<BandPixel<A>*>(workspace)),
        first(reinterpret_cast<uint16_t*>(pixels + N * chunks * kChunk)) {}

  int64_t workspace_bytes(int64_t N) const {
    return N * chunks * (kChunk * int64_t(sizeof(BandPixel<A>)) + (bins + 1) * 2);
  }
};

constexpr int kSortThreads = 256;
constexpr int kSortWarps = kSortThreads / kWarp;
constexpr int kRounds = kChunk / kSortThreads; // pixels a thread carries, 32 apart
constexpr int kDigitBits = 6;
constexpr int kDigits = 1 << kDigitBits;
constexpr int64_t kSortShared = kChunk * (4 + 2) + (kDigits * kSortWarps + kSortWarps) * 4;

// Exclusive prefix sum in place over the 2 * kSortThreads entries of `counts`; all threads call it.
__device__ __forceinline__ void block_prefix(int* counts, int* warp_totals) {
  const int i = 2 * int(threadIdx.x), low = counts[i], pair = low + counts[i + 1];
  const int through = prefix_sum(pair);
  if (lane_index() == kWarp - 1)
    warp_totals[warp_index()] = through;
  __syncthreads();
  int before = through - pair;
  for (int w = 0; w < warp_index(); ++w)
    before += warp_totals[w];
  counts[i] = before;
  counts[i + 1] = before + low;
}

// First place among the sorted keys with a key of at least `key`.
__device__ __forceinline__ int lower_bound(const uint32_t* keys, uint32_t key) {
  int first = 0;
  for (int step = kChunk; step > 0; step /= 2)
    if (first + step <= kChunk && keys[first + step - 1] < key)
      first += step;
  return first;
}

// Where uv_splat sorts a pixel to. `part`: 0 where it is nothing, before more is read; `bin`: -1
// where it is nothing after all.
template <class A>
struct SplatKey {
  PartMap map;
  const A* uv;
  int64_t image_pixels, bands;
  int P, S;

  __device__ __forceinline__ int part(int64_t n, int64_t pixel) const {
    return part_at(map, n * image_pixels + pixel, P);
  }
  __device__ __forceinline__ int64_t bin(int64_t n, int64_t pixel, int part) const {
    const A* at = uv + n * 2 * image_pixels + pixel;
    TilePoint<A> point;
    if (!tile_point(at[0], at[image_pixels], S, point))
      return -1;
    return (part - 1) * bands + point.y0 / kBandRows;
  }
};

template <class A, class Key>
__global__ void __launch_bounds__(kSortThreads)
    sort_pixels_kernel(Key where, const A* __restrict__ uv, int64_t image_pixels,
                       PixelBands<A> out) {
  static_assert(2 * kSortThreads == kDigits * kSortWarps, "block_prefix takes two counts a thread");
  auto* keys = reinterpret_cast<uint32_t*>(dynamic_shared());          // [kChunk]
  auto* counts = reinterpret_cast<int*>(keys + kChunk);                // [kDigits, kSortWarps]
  auto* warp_totals = counts + kDigits * kSortWarps;                   // [kSortWarps]
  auto* order = reinterpret_cast<uint16_t*>(warp_totals + kSortWarps); // [kChunk] pixel in chunk
  const int64_t n = blockIdx.x / out.chunks, chunk = blockIdx.x % out.chunks;
  const int warp = warp_index();
  const int mine = warp * kRounds * kWarp + lane_index(); // this thread: mine, mine + 32, ..
  const uint32_t background = uint32_t(out.bins);         // sorts behind every bin
  uv += n * 2 * image_pixels;

  uint32_t key[kRounds];
  uint16_t index[kRounds];
  int rank[kRounds];
  bool any = false;
#pragma unroll
  for (int r = 0; r < kRounds; ++r) {
    const int64_t pixel = chunk * kChunk + mine + r * kWarp;
    rank[r] = pixel < image_pixels ? where.part(n, pixel) : 0;
  }
#pragma unroll
  for (int r = 0; r < kRounds; ++r) {
    index[r] = uint16_t(mine + r * kWarp);
    key[r] = background;
    const int64_t bin = rank[r] > 0 ? where.bin(n, chunk * kChunk + index[r], rank[r]) : -1;
    if (bin >= 0) {
      key[r] = uint32_t(bin);
      any = true;
    }
  }

  if (block_any(any)) {
    for (int shift = 0; shift < 32 && background >> shift; shift += kDigitBits) {
      for (int i = int(threadIdx.x); i < kDigits * kSortWarps; i += kSortThreads)
        counts[i] = 0;
      __syncthreads();
#pragma unroll
      for (int r = 0; r < kRounds; ++r) { // rank among this warp's pixels of the same digit
        const unsigned digit = (key[r] >> shift) % kDigits;
        const unsigned alike = lanes_alike<kDigitBits>(digit);
        int& count = counts[digit * kSortWarps + warp];
        rank[r] = count + __popc(alike & lanes_below());
        sync_warp();
        if ((alike & lanes_below()) == 0)
          count += __popc(alike);
        sync_warp();
      }
      __syncthreads();
      block_prefix(counts, warp_totals); // digit first, then warp: where each group begins
      __syncthreads();
#pragma unroll
      for (int r = 0; r < kRounds; ++r) {
        const int place = rank[r] + counts[(key[r] >> shift) % kDigits * kSortWarps + warp];
        keys[place] = key[r];
        order[place] = index[r];
      }
      __syncthreads();
#pragma unroll
      for (int r = 0; r < kRounds; ++r) {
        key[r] = keys[mine + r * kWarp];
        index[r] = order[mine + r * kWarp];
      }
    }
  } else {
    for (int i = int(threadIdx.x); i < kChunk; i += kSortThreads)
      keys[i] = background;
    __syncthreads();
  }

  uint16_t* first = out.first + n * (out.bins + 1) * out.chunks + chunk;
  for (int64_t bin = threadIdx.x; bin <= out.bins; bin += kSortThreads)
    first[bin * out.chunks] = uint16_t(lower_bound(keys, uint32_t(bin)));
  BandPixel<A>* pixels = out.pixels + (n * out.chunks + chunk) * kChunk;
  for (int i = int(threadIdx.x); i < kChunk && keys[i] < background; i += kSortThreads) {
    const int64_t pixel = chunk * kChunk + order[i];
    pixels[i] = {pixel, uv[pixel], uv[image_pixels + pixel]};
  }
}

template <class A, class Key>
void sort_pixels(const Key& key, const A* uv, int64_t N, int64_t image_pixels,
                 const PixelBands<A>& out, void* stream) {
  launch("sort_pixels", sort_pixels_kernel<A, Key>, N * out.chunks, kSortThreads, kSortShared,
         stream, key, uv, image_pixels, out);
}

// One warp's reading of a band: 32 pixels at a time, lane by lane, always in the same order.
template <class A>
struct BandReader {
  const BandPixel<A>* pixels; // of the chunk of lane 0
  int through;                // pixels in the pieces of all lanes up to this one
  int place;                  // add to a number in this lane's piece: its place in the chunk
  int total;                  // pixels in the pieces of all lanes

  // Opens the bins [low, high) of image n in chunks chunk .. chunk + 31.
  __device__ __forceinline__ void open(const PixelBands<A>& bands, int64_t n, int64_t low,
                                       int64_t high, int64_t chunk) {
    pixels = bands.pixels + (n * bands.chunks + chunk) * kChunk;
    const uint16_t* first =
        bands.first + n * (bands.bins + 1) * bands.chunks + chunk + lane_index();
    const bool exists = chunk + lane_index() < bands.chunks;
    const int begin = exists ? first[low * bands.chunks] : 0;
    const int end = exists ? first[high * bands.chunks] : 0;
    through = prefix_sum(end - begin);
    place = end - through;
    total = shuffle(through, kWarp - 1);
  }

  // Pixel number base + lane; false where there is none.
  __device__ __forceinline__ bool read(int base, BandPixel<A>& pixel) const {
    const int i = base + lane_index();
    int piece = 0; // the lane whose piece holds number i
    for (int step = kWarp / 2; step > 0; step /= 2)
      if (shuffle(through, piece + step - 1) <= i)
        piece += step;
    const int at = piece * kChunk + i + shuffle(place, piece);
    if (i < total)
      pixel = pixels[at];
    return i < total;
  }
};

} // namespace pose_kernels::cuda
