// SPDX-License-Identifier: Apache-2.0
// helmert_warp forward: two kernels, no atomics, one write per output element.
//
// `mark_bricks` (part_maps.h) notes where each part has a mask. Then a block owns a tile of output
// voxels: it lists the parts that may reach it, and its warps sample these (part_samples.h) and
// keep a running maximum in registers. Geometry and masks are worked out once per (voxel, part), by
// one lane, and handed to the lanes that read channels through shared memory. Most tiles list no
// part and only store zeros.
//
// Traffic for 2 x 64 x 33 x 65^2 with bits, parts in 5 % of the voxels: 1.1 MB of bits read twice,
// 3.5 MB of volume, 71 MB written: 17 us at 4.3 TB/s. Dense masks are bound by L1 instead: eight
// corners of every (voxel, part), 2.7 GB for 2 x 64 x 16 x 64^2 and ten parts, ~95 us at 128 bytes
// per cycle and SM. That is why kVoxels voxels of a thread are neighbors: they share corners.
#include "../ops/helmert_warp.h"
#include "part_samples.h"

namespace pose_kernels::cuda {
namespace {

constexpr int kWarps = 4, kThreads = kWarps * kWarp;
constexpr int kRounds = 2; // patches of a warp in its tile, channels last

template <class T>
constexpr int kPlanes = 64 / int(sizeof(acc_t<T>)); // channels of a thread, planar
constexpr int kBlocksAtOnce = 4;                    // of channels, per list of parts

template <class T, Walk WALK>
__global__ void __launch_bounds__(kThreads, sizeof(T) == 4 ? 4 : 3)
    helmert_warp_kernel(HelmertWarp<T> a, PartMaps<acc_t<T>> parts, PartBricks bricks, Tiles tiles,
                        Lanes lanes) {
  using A = acc_t<T>;
  constexpr int K = kChannels<T, WALK, kPlanes<T>>, V = kVoxels<T, WALK, kPlanes<T>>;
  PartSample<A>* staged = reinterpret_cast<PartSample<A>*>(dynamic_shared()) + warp_index() * kWarp;
  unsigned char* list = dynamic_shared() + kThreads * sizeof(PartSample<A>);

  const int64_t spans = (lanes.blocks + kBlocksAtOnce - 1) / kBlocksAtOnce;
  const int64_t span = blockIdx.x % spans, tile = blockIdx.x / spans % tiles.tiles();
  const int64_t n = blockIdx.x / spans / tiles.tiles();
  int low[3];
  tiles.open(tile, low);
  const int count = list_parts(parts, bricks, n, tiles, low, list, list + kMostParts);

  for (int patch = warp_index(); patch < tiles.patches_of_tile(); patch += kWarps)
    for (int64_t block = span * kBlocksAtOnce;
         block < lanes.blocks && block < (span + 1) * kBlocksAtOnce; ++block) {
      PartSampler<T, WALK, K, V, false> sampler(parts, tiles, n, low, patch, lanes, block, a.C);
      sampler.run(a.volume, a.C, list, count, staged);
      T* out = a.out.data + n * a.C * parts.voxels() + sampler.own.first * a.out.channel;
#pragma unroll
      for (int i = 0; i < V; ++i) {
        int at[3];
        if (sampler.at(i, at))
          sampler.own.store_sums(out + tiles.flat(at) * a.out.pixel, a.out.channel,
                                 sampler.best[i].value);
      }
    }
}

template <class T, Walk WALK>
void run(const HelmertWarp<T>& a, const PartMaps<acc_t<T>>& parts, const PartBricks& bricks,
         void* stream) {
  constexpr int K = kChannels<T, WALK, kPlanes<T>>, V = kVoxels<T, WALK, kPlanes<T>>;
  const bool planes = WALK == Walk::planes;
  const Lanes lanes = Lanes::plan(a.C, K, V, planes ? 1 : kWarp);
  const Tiles tiles =
      Tiles::plan(a.D, a.H, a.W, V * kWarp / lanes.group, planes, kWarps, planes ? 1 : kRounds);
  launch("helmert_warp", helmert_warp_kernel<T, WALK>,
         a.N * tiles.tiles() * blocks_for(lanes.blocks, kBlocksAtOnce), kThreads,
         kThreads * int64_t(sizeof(PartSample<acc_t<T>>)) + 2 * kMostParts, stream, a, parts,
         bricks, tiles, lanes);
}

} // namespace

template <class T>
int64_t helmert_warp_workspace(const HelmertWarp<T>& a) {
  return PartBricks::plan(PartMaps<acc_t<T>>::of(a), nullptr).bytes(a.N, a.P);
}

template <class T>
void helmert_warp(const HelmertWarp<T>& a, void* workspace, void* stream) {
  const auto parts = PartMaps<acc_t<T>>::of(a);
  const auto bricks = PartBricks::plan(parts, workspace);
  if (a.N * a.C == 0)
    return;
  mark_bricks(parts, bricks, a.N, stream);
  const Walk walk = choose_walk<T>(a.C, channels_last(a.volume) && channels_last(a.out),
                                   aligned(a.volume.data) && aligned(a.out.data));
  if (walk == Walk::planes)
    run<T, Walk::planes>(a, parts, bricks, stream);
  else if (walk == Walk::rows)
    run<T, Walk::rows>(a, parts, bricks, stream);
  else
    run<T, Walk::vectors>(a, parts, bricks, stream);
}

#define INSTANTIATE(T)                                                                             \
  template int64_t helmert_warp_workspace(const HelmertWarp<T>&);                                  \
  template void helmert_warp(const HelmertWarp<T>&, void*, void*);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(float16)
INSTANTIATE(bfloat16)
#undef INSTANTIATE

} // namespace pose_kernels::cuda
