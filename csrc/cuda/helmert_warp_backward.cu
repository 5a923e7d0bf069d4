// SPDX-License-Identifier: Apache-2.0
// helmert_warp backward: up to four kernels. No atomics: same inputs, same bits, always.
//
// 1. `mark_bricks`, as in the forward.
// 2. `winners` walks over the output as the forward does. It notes which part won each element, a
//    byte each, and adds up the gradient of the maps (part_slopes.h): warps in shared memory, in
//    double; blocks, at most kMostBlocks of them, in the workspace.
// 3. `sum_slopes` adds up the blocks, in order.
// 4. `sources` gathers the gradients of volume and mask: a warp per source voxel and part finds the
//    output voxels that read it (output_rows.h) and adds, in their order, what the winners pass on
//    (source_sums.h). About 30 candidates for a rigid map, 8 of which read it. Maps that shrink or
//    lose a dimension only have more candidates, up to all voxels for a single source voxel.
//
// Traffic for 2 x 64 x 33 x 65^2, parts in 5 % of the voxels: tiles that see no part are skipped
// in 2, which touches ~15 MB; 4 writes 71 MB, most of it zeros: 20 us at 4.3 TB/s in all. Dense
// masks: ~700 instructions of a warp for each (source voxel, part) dominate, by estimate 1 ms for
// 2 x 64 x 16 x 64^2 and ten parts.
#include "../ops/helmert_warp.h"
#include "part_slopes.h"
#include "source_sums.h"

namespace pose_kernels::cuda {
namespace {

constexpr int kWarps = 4;         // of a block of `winners`
constexpr int kRounds = 2;        // patches of a warp in its tile, channels last
constexpr int kSourceWarps = 8;   // of a block of `sources`
constexpr int kMostBlocks = 1024; // of `winners`, where they add up

template <class T>
constexpr int kPlanes = 32 / int(sizeof(acc_t<T>)); // channels of a thread, planar

template <class A>
constexpr int64_t kStagedBytes = sizeof(PartSlope<A>) > sizeof(PartSample<A>)
                                     ? sizeof(PartSlope<A>)
                                     : sizeof(PartSample<A>);

// What is in the workspace.
template <class T>
struct Plan {
  PartMaps<acc_t<T>> parts;
  PartBricks bricks;
  Planes<unsigned char> winner; // [N, C, D H W] in the format of grad, or null
  int warps;                    // of a block of `winners`
  int64_t per_sample;           // blocks of `winners` that add up the maps of a batch element
  double* partial;              // [N, P, 12, per_sample], or null
  int64_t bytes;

  Plan(const HelmertWarpBackward<T>& a, void* workspace)
      : parts(PartMaps<acc_t<T>>::of(a)), bricks(PartBricks::plan(parts, workspace)),
        winner{nullptr, a.grad.channel, a.grad.pixel}, warps(a.P <= 32 ? kWarps : 1), per_sample(1),
        partial(nullptr), bytes(bricks.bytes(a.N, a.P)) {
    auto take = [&](int64_t size) {
      void* at = static_cast<unsigned char*>(workspace) + bytes;
      bytes += (size + 15) / 16 * 16;
      return at;
    };
    if (a.grad_transform && a.N > 0) {
      const int64_t blocks = a.P <= 32 ? kMostBlocks : kMostBlocks / 8;
      per_sample = (blocks + a.N - 1) / a.N;
      partial = static_cast<double*>(take(a.N * a.P * 12 * per_sample * int64_t(sizeof(double))));
    }
    if (a.grad_volume.data || a.grad_mask)
      winner.data = static_cast<unsigned char*>(take(a.N * a.C * parts.voxels()));
  }
};

template <class T, Walk WALK>
__global__ void __launch_bounds__(kWarps* kWarp, 2)
    winners_kernel(HelmertWarpBackward<T> a, PartMaps<acc_t<T>> parts, PartBricks bricks,
                   Tiles tiles, Lanes lanes, Planes<unsigned char> winner, double* partial,
                   int64_t per_sample) {
  using A = acc_t<T>;
  constexpr int K = kChannels<T, WALK, kPlanes<T>>, V = kVoxels<T, WALK, kPlanes<T>>;
  const int threads = int(blockDim.x), warps = threads / kWarp;
  unsigned char* memory = dynamic_shared() + warp_index() * kWarp * kStagedBytes<A>;
  auto* samples = reinterpret_cast<PartSample<A>*>(memory);
  auto* slopes = reinterpret_cast<PartSlope<A>*>(memory);
  unsigned char* list = dynamic_shared() + threads * kStagedBytes<A>;
  double* sums = reinterpret_cast<double*>(list + 2 * kMostParts); // [warps, P, 12]
  double* own_sums = sums + warp_index() * parts.P * 12;
  if (partial) {
    for (int i = lane_index(); i < parts.P * 12; i += kWarp)
      own_sums[i] = 0;
    sync_warp();
  }

  const int64_t n = blockIdx.x / per_sample, which = blockIdx.x % per_sample;
  for (int64_t item = which; item < tiles.tiles() * lanes.blocks; item += per_sample) {
    const int64_t block = item % lanes.blocks;
    int low[3];
    tiles.open(item / lanes.blocks, low);
    const int count = list_parts(parts, bricks, n, tiles, low, list, list + kMostParts);
    // Only the gradient of a mask looks at winners where no part is.
    if (count == 0 && !a.grad_mask)
      continue;
    for (int patch = warp_index(); patch < tiles.patches_of_tile(); patch += warps) {
      PartSampler<T, WALK, K, V, true> sampler(parts, tiles, n, low, patch, lanes, block, a.C);
      sampler.run(a.volume, a.C, list, count, samples);
      if (winner.data) {
        unsigned char* out =
            winner.data + n * a.C * parts.voxels() + sampler.own.first * winner.channel;
#pragma unroll
        for (int i = 0; i < V; ++i) {
          int at[3];
          unsigned char by[K];
#pragma unroll
          for (int j = 0; j < K; ++j)
            by[j] = (unsigned char)(sampler.best[i].winner_of(j));
          if (sampler.at(i, at))
            sampler.own.store(out + tiles.flat(at) * winner.pixel, winner.channel, by);
        }
      }
      if (partial && count > 0) {
        sync_warp(); // slopes lie where samples were
        add_slopes(sampler, a.grad, a.volume, a.C, list, count, slopes, own_sums);
        sync_warp();
      }
    }
  }

  if (partial) {
    __syncthreads();
    for (int i = int(threadIdx.x); i < parts.P * 12; i += threads) {
      double total = 0;
      for (int w = 0; w < warps; ++w)
        total += sums[w * parts.P * 12 + i];
      partial[(n * parts.P * 12 + i) * per_sample + which] = total;
    }
  }
}

// A warp per number of grad_transform.
template <class A>
__global__ void __launch_bounds__(128)
    sum_slopes_kernel(const double* partial, A* grad_transform, int64_t count, int64_t per_sample) {
  const int64_t i = int64_t(blockIdx.x) * 4 + warp_index();
  if (i >= count)
    return;
  double total = 0;
  for (int64_t block = lane_index(); block < per_sample; block += kWarp)
    total += partial[i * per_sample + block];
  total = group_sum(total, kWarp);
  if (lane_index() == 0)
    grad_transform[i] = A(total);
}

// Zeros for one patch of grad_volume and grad_mask, from one warp. Returns (bit i: voxel i) which
// of them need more than that. Lanes are voxels, then channels.
template <class T, Walk WALK, int K>
__device__ __forceinline__ unsigned
clear_sources(const HelmertWarpBackward<T>& a, const PartMaps<acc_t<T>>& parts, const Tiles& tiles,
              const Lanes& lanes, int64_t n, const int (&low)[3]) {
  using A = acc_t<T>;
  int at[3];
  const bool exists = tiles.voxel(low, 0, lane_index(), at);
  const int voxel[1] = {exists ? tiles.flat(at) : 0};
  bool alive = exists && a.grad_mask;
  if (exists && parts.bits)
    alive = parts.bits[n * parts.voxels() + voxel[0]] != 0;
  for (int p = 0; p < parts.P && exists && !alive && !parts.bits; ++p) {
    A mask[1];
    parts.read(n, p, voxel, mask);
    alive = mask[0] != A(0);
  }
  if (a.grad_mask && exists)
    for (int p = 0; p < parts.P; ++p)
      a.grad_mask[(n * parts.P + p) * parts.voxels() + voxel[0]] = 0;
  T* out = a.grad_volume.data + n * a.C * parts.voxels();
  if (a.grad_volume.data && WALK == Walk::planes && exists)
    for (int64_t c = 0; c < a.C; ++c)
      out[c * a.grad_volume.channel + voxel[0] * a.grad_volume.pixel] = T{};
  if (a.grad_volume.data && WALK != Walk::planes)
    for (int i = lane_index() / lanes.group; i < kWarp; i += kWarp / lanes.group)
      for (int64_t block = 0; block < lanes.blocks; ++block) {
        const OwnChannels<T, WALK, K> own(lanes, block, a.C);
        const A zero[K] = {};
        if (tiles.voxel(low, 0, i, at))
          own.store_sums(out + own.first + tiles.flat(at) * a.grad_volume.pixel, 1, zero);
      }
  return ballot(alive);
}

// A block owns as many patches as it has warps. They lie far apart, because those that have work
// lie close together. Each warp clears one, then the warps share the voxels with work.
template <class T, Walk WALK>
__global__ void __launch_bounds__(kSourceWarps* kWarp, sizeof(acc_t<T>) == 4 ? 2 : 1)
    sources_kernel(HelmertWarpBackward<T> a, PartMaps<acc_t<T>> parts, Tiles tiles, Lanes lanes,
                   Planes<const unsigned char> winner) {
  using A = acc_t<T>;
  constexpr int K = kChannels<T, WALK, kPlanes<T>>;
  auto* readers = reinterpret_cast<Reader<A>*>(dynamic_shared());
  auto* todo = reinterpret_cast<unsigned*>(readers + kSourceWarps * kWarp); // [kSourceWarps]
  readers += warp_index() * kWarp;
  {
    const int64_t patch = blockIdx.x + int64_t(warp_index()) * gridDim.x;
    const int64_t n = patch / tiles.tiles();
    int low[3];
    tiles.open(patch % tiles.tiles(), low);
    const unsigned alive = n < a.N ? clear_sources<T, WALK, K>(a, parts, tiles, lanes, n, low) : 0u;
    if (lane_index() == 0)
      todo[warp_index()] = alive;
  }
  __syncthreads(); // makes the zeros come first, too

  int turn = 0;
  for (int i = 0; i < kSourceWarps; ++i)
    for (unsigned alive = todo[i]; alive != 0; alive &= alive - 1, ++turn) {
      if (turn % kSourceWarps != warp_index())
        continue;
      const int64_t patch = blockIdx.x + int64_t(i) * gridDim.x, n = patch / tiles.tiles();
      int low[3], q[3];
      tiles.open(patch % tiles.tiles(), low);
      tiles.voxel(low, 0, __ffs(int(alive)) - 1, q);
      for (int64_t block = 0; block < lanes.blocks; ++block)
        gather_source<T, WALK, K>(a, parts, n, q, tiles.flat(q),
                                  OwnChannels<T, WALK, K>(lanes, block, a.C), lanes.group, winner,
                                  readers);
    }
}

template <class T, Walk WALK>
void run(const HelmertWarpBackward<T>& a, const Plan<T>& plan, void* stream) {
  using A = acc_t<T>;
  constexpr bool planes = WALK == Walk::planes;
  constexpr int K = kChannels<T, WALK, kPlanes<T>>, V = kVoxels<T, WALK, kPlanes<T>>;
  const Lanes lanes = Lanes::plan(a.C, K, V, planes ? 1 : kWarp);
  const Tiles tiles =
      Tiles::plan(a.D, a.H, a.W, V * kWarp / lanes.group, planes, plan.warps, planes ? 1 : kRounds);
  const int64_t per_sample = plan.partial ? plan.per_sample : tiles.tiles() * lanes.blocks;
  const int64_t shared = plan.warps * kWarp * kStagedBytes<A> + 2 * kMostParts +
                         (plan.partial ? plan.warps * a.P * 12 * int64_t(sizeof(double)) : 0);
  launch("helmert_warp_backward", winners_kernel<T, WALK>, a.N * per_sample, plan.warps * kWarp,
         shared, stream, a, plan.parts, plan.bricks, tiles, lanes, plan.winner, plan.partial,
         per_sample);
  if (plan.partial)
    launch("helmert_warp_backward", sum_slopes_kernel<A>, blocks_for(a.N * a.P * 12, 4), 128, 0,
           stream, plan.partial, a.grad_transform, a.N * a.P * 12, per_sample);
  if (!plan.winner.data)
    return;
  const Lanes source_lanes = Lanes::plan(a.C, K, 1, planes ? 4 : kWarp);
  const Tiles sources = Tiles::plan(a.D, a.H, a.W, kWarp, planes, 1, 1);
  const Planes<const unsigned char> winner{plan.winner.data, plan.winner.channel,
                                           plan.winner.pixel};
  launch("helmert_warp_backward", sources_kernel<T, WALK>,
         blocks_for(a.N * sources.tiles(), kSourceWarps), kSourceWarps * kWarp,
         kSourceWarps * (kWarp * int64_t(sizeof(Reader<A>)) + int64_t(sizeof(unsigned))), stream, a,
         plan.parts, sources, source_lanes, winner);
}

} // namespace

template <class T>
int64_t helmert_warp_backward_workspace(const HelmertWarpBackward<T>& a) {
  return Plan<T>(a, nullptr).bytes;
}

template <class T>
void helmert_warp_backward(const HelmertWarpBackward<T>& a, void* workspace, void* stream) {
  const Plan<T> plan(a, workspace);
  if (a.N == 0)
    return;
  mark_bricks(plan.parts, plan.bricks, a.N, stream);
  const Walk walk = choose_walk<T>(
      a.C, channels_last(a.grad) && channels_last(a.volume) && channels_last(a.grad_volume),
      aligned(a.grad.data) && aligned(a.volume.data) && aligned(a.grad_volume.data));
  if (walk == Walk::planes)
    run<T, Walk::planes>(a, plan, stream);
  else if (walk == Walk::rows)
    run<T, Walk::rows>(a, plan, stream);
  else
    run<T, Walk::vectors>(a, plan, stream);
}

#define INSTANTIATE(T)                                                                             \
  template int64_t helmert_warp_backward_workspace(const HelmertWarpBackward<T>&);                 \
  template void helmert_warp_backward(const HelmertWarpBackward<T>&, void*, void*);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(float16)
INSTANTIATE(bfloat16)
#undef INSTANTIATE

} // namespace pose_kernels::cuda
