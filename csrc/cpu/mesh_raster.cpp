// SPDX-License-Identifier: Apache-2.0
// mesh_raster on the CPU.
//
// Two passes for a few meshes at a time. First faces, a thousand to a task: triangles that reach a
// pixel center become records, and for each band of rows the task lists its records, in order. Then
// bands: a task draws the lists of its band, task after task, into a depth and a record number per
// pixel that stay in L2, eight pixels at a time, and writes faces and barycentrics. Within a band
// faces are drawn in their order and only a smaller depth wins, which is what the key of the other
// backends says; nothing is shared between bands, so threads change nothing.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <vector>

// Every operation of the geometry is rounded by itself: see math/depth_triangle.h.
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off")
#endif

#include "../ops/mesh_raster.h"

#include "lanes.h"
#include "memory.h"
#include "parallel.h"

namespace pose_kernels::cpu {
namespace {

constexpr int kLanes = 8;
constexpr int kRows = 16;            // of a band
constexpr int64_t kChunk = 1024;     // faces of a task
constexpr int64_t kAtOnce = 1 << 14; // faces of the meshes that are drawn together, about
constexpr int kWide = 4 * kLanes;    // pixels in a row from which on it pays to look for its ends

struct Record {
  DepthTriangle triangle;
  PixelBox box;
  int32_t face;
  int32_t turned;
};

// What a task found among its faces.
struct Chunk {
  std::vector<int32_t> records; // band after band, numbers into the records of the mesh
  std::vector<int32_t> first;   // [bands + 1]
};

template <class T>
bool find_triangles(const MeshRaster<T>& op, int64_t n, int64_t begin, int64_t end, int bands,
                    int32_t base, Record* records, Chunk& chunk) {
  bool known = true;
  int32_t count = 0;
  chunk.first.assign(bands + 1, 0);
  for (int64_t f = begin; f < end; ++f) {
    double x[3], y[3], z[3];
    bool turned;
    Record& record = records[count];
    if (!read_face(op, n, f, x, y, z)) {
      known = false;
      continue;
    }
    if (!make_triangle(x, y, z, int(op.H), int(op.W), record.triangle, record.box, turned))
      continue;
    record.face = int32_t(f);
    record.turned = turned;
    for (int band = record.box.y0 / kRows; band <= record.box.y1 / kRows; ++band)
      ++chunk.first[band + 1];
    ++count;
  }
  for (int band = 0; band < bands; ++band)
    chunk.first[band + 1] += chunk.first[band];
  chunk.records.resize(chunk.first[bands]);
  std::vector<int32_t> next(chunk.first.begin(), chunk.first.end() - 1);
  for (int32_t i = 0; i < count; ++i)
    for (int band = records[i].box.y0 / kRows; band <= records[i].box.y1 / kRows; ++band)
      chunk.records[next[band]++] = base + i;
  return known;
}

// Whether crossings of the edges with a row are known to a pixel.
ALWAYS_INLINE bool is_tame(const DepthTriangle& t) {
  double most = 0;
  for (int i = 0; i < 3; ++i)
    most = std::max(most, std::max(std::abs(t.x[i]), std::abs(t.y[i])));
  return most <= 1e9;
}

// The pixels of row y that a tame triangle can cover: between the crossings of its edges, and one
// more on either side for what is rounded.
ALWAYS_INLINE void narrow(const DepthTriangle& t, double y, int& x0, int& x1) {
  double left = std::numeric_limits<double>::infinity(), right = -left;
  for (int i = 0; i < 3; ++i) {
    const int j = i == 2 ? 0 : i + 1;
    const double low = std::min(t.y[i], t.y[j]), high = std::max(t.y[i], t.y[j]);
    if (low <= y && y <= high && low < high) {
      const double x = t.x[i] + (t.x[j] - t.x[i]) * ((y - t.y[i]) / (t.y[j] - t.y[i]));
      left = std::min(left, x);
      right = std::max(right, x);
    }
  }
  if (left > right)
    return;
  if (left > x0 + 1)
    x0 = int(left) - 1;
  if (right < x1 - 1)
    x1 = int(std::floor(right)) + 1;
}

// Rows of a band while it is drawn. Rows are padded, so that eight pixels can start anywhere.
struct Band {
  int first, end, pitch; // rows, pixels from row to row
  float* depth;
  int32_t* record; // -1: none
};

VECTOR_CLONES void draw(const Record* records, const int32_t* list, int64_t count, Band band) {
  for (int64_t k = 0; k < count; ++k) {
    const int32_t number = list[k];
    const Record& own = records[number];
    const DepthTriangle t = own.triangle;
    const int end = std::min(own.box.y1 + 1, band.end);
    const bool narrowed = own.box.x1 - own.box.x0 >= kWide && is_tame(t);
    for (int y = std::max(own.box.y0, band.first); y < end; ++y) {
      int x0 = own.box.x0, x1 = own.box.x1;
      if (narrowed)
        narrow(t, y, x0, x1);
      const double y0 = t.y[0] - y, y1 = t.y[1] - y, y2 = t.y[2] - y, last = x1;
      for (int x = x0; x <= x1; x += kLanes) {
        const int64_t at = int64_t(y - band.first) * band.pitch + x;
        float* __restrict depth = band.depth + at;
        int32_t* __restrict record = band.record + at;
#pragma omp simd
        for (int i = 0; i < kLanes; ++i) {
          const double px = x + i;
          const double q0 = t.x[0] - px, q1 = t.x[1] - px, q2 = t.x[2] - px;
          const double e0 = cross(q1, y1, q2, y2), e1 = cross(q2, y2, q0, y0),
                       e2 = cross(q0, y0, q1, y1);
          const float z = depth_at(t, e1, e2), before = depth[i];
          const int32_t former = record[i];
          const bool wins = (px <= last) & (e0 >= 0) & (e1 >= 0) & (e2 >= 0) & (z < before);
          depth[i] = wins ? z : before;
          record[i] = wins ? number : former;
        }
      }
    }
  }
}

void copy_near(void* target, const void* source, int64_t bytes) {
  memcpy(target, source, bytes);
}

// One number of each of eight records side by side: compilers gather by themselves on no CPU whose
// gathers were made slow.
ALWAYS_INLINE void line_up(const double* const (&from)[kLanes], double* to) {
  const lanes_t<double, kLanes> all = {*from[0], *from[1], *from[2], *from[3],
                                       *from[4], *from[5], *from[6], *from[7]};
  store(to, all);
}

// A finished row before it goes out: faces and three barycentrics, padded.
template <class T>
struct Row {
  explicit Row(int64_t pitch) : face(pitch), pitch(pitch), bary(3 * pitch) {}
  std::vector<int32_t> face;
  int64_t pitch;
  std::vector<T> bary;
};

template <class T>
VECTOR_CLONES void finish_row(const Record* records, const int32_t* winner, int y, int W,
                              int64_t pitch, int32_t* __restrict face, T* __restrict bary) {
  for (int x = 0; x < W; x += kLanes) {
    const int32_t* who = winner + x; // padded, with -1
    T* b0 = bary + x;
    T* b1 = b0 + pitch;
    T* b2 = b1 + pitch;
    int32_t most = -1;
    for (int i = 0; i < kLanes; ++i)
      most = std::max(most, who[i]);
    if (most < 0) {
      for (int i = 0; i < kLanes; ++i)
        face[x + i] = -1, b0[i] = b1[i] = b2[i] = 0;
      continue;
    }
    const Record* own[kLanes];
    for (int i = 0; i < kLanes; ++i) {
      own[i] = records + (who[i] < 0 ? most : who[i]);
      face[x + i] = who[i] < 0 ? -1 : own[i]->face;
    }
    double vx[3][kLanes], vy[3][kLanes];
    for (int k = 0; k < 3; ++k) {
      const double *ax[kLanes], *ay[kLanes];
      for (int i = 0; i < kLanes; ++i) { // in the order of the corners
        const int corner = k > 0 && own[i]->turned ? 3 - k : k;
        ax[i] = own[i]->triangle.x + corner;
        ay[i] = own[i]->triangle.y + corner;
      }
      line_up(ax, vx[k]);
      line_up(ay, vy[k]);
    }
#pragma omp simd
    for (int i = 0; i < kLanes; ++i) {
      const double px = x + i;
      const double q0 = vx[0][i] - px, q1 = vx[1][i] - px, q2 = vx[2][i] - px;
      const double y0 = vy[0][i] - y, y1 = vy[1][i] - y, y2 = vy[2][i] - y;
      double first, second, third;
      barycentrics(cross(q1, y1, q2, y2), cross(q2, y2, q0, y0), cross(q0, y0, q1, y1), first,
                   second, third);
      const bool any = who[i] >= 0;
      b0[i] = any ? T(first) : T(0);
      b1[i] = any ? T(second) : T(0);
      b2[i] = any ? T(third) : T(0);
    }
  }
}

} // namespace

template <class T>
bool mesh_raster(const MeshRaster<T>& op) {
  const int64_t chunks = (op.F + kChunk - 1) / kChunk, pixels = op.H * op.W;
  const int bands = int((op.H + kRows - 1) / kRows), W = int(op.W);
  const int64_t group =
      std::clamp<int64_t>(kAtOnce / std::max<int64_t>(op.F, 1), 1, std::max<int64_t>(op.N, 1));
  const std::unique_ptr<Record[]> records(new Record[group * op.F]);
  std::vector<Chunk> found(group * chunks);
  std::atomic<bool> known{true};
  const auto copy = op.N * pixels * int64_t(sizeof(int32_t) + 3 * sizeof(T)) >= kStreamBytes
                        ? stream_anywhere
                        : copy_near;
  for (int64_t first = 0; first < op.N; first += group) {
    const int64_t meshes = std::min(group, op.N - first);
    parallel(meshes * chunks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t mesh = task / chunks, from = task % chunks * kChunk;
        Record* own = records.get() + mesh * op.F + from;
        if (!find_triangles(op, first + mesh, from, std::min(from + kChunk, op.F), bands,
                            int32_t(from), own, found[task]))
          known = false;
      }
    });
    parallel(meshes * bands, 1, [&](int64_t begin, int64_t end) {
      const int pitch = W + kLanes;
      std::vector<float> depth(int64_t(kRows) * pitch);
      std::vector<int32_t> winner(int64_t(kRows) * pitch);
      Row<T> row(pitch);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t task = spread(i, meshes * bands), mesh = task / bands, n = first + mesh;
        const int number = int(task % bands), y0 = number * kRows;
        const Band band{y0, int(std::min<int64_t>(y0 + kRows, op.H)), pitch, depth.data(),
                        winner.data()};
        const Record* own = records.get() + mesh * op.F;
        std::fill(depth.begin(), depth.end(), std::numeric_limits<float>::infinity());
        std::fill(winner.begin(), winner.end(), -1);
        for (int64_t c = 0; c < chunks; ++c) {
          const Chunk& chunk = found[mesh * chunks + c];
          const int32_t from = chunk.first[number], to = chunk.first[number + 1];
          if (from < to)
            draw(own, chunk.records.data() + from, to - from, band);
        }
        for (int y = y0; y < band.end; ++y) {
          finish_row(own, winner.data() + int64_t(y - y0) * pitch, y, W, pitch, row.face.data(),
                     row.bary.data());
          const int64_t at = int64_t(y) * W;
          copy(op.face + n * pixels + at, row.face.data(), W * sizeof(int32_t));
          for (int k = 0; k < 3; ++k)
            copy(op.bary + (n * 3 + k) * pixels + at, row.bary.data() + k * row.pitch,
                 W * sizeof(T));
        }
      }
      stream_fence();
    });
  }
  return known;
}

template bool mesh_raster(const MeshRaster<float>&);
template bool mesh_raster(const MeshRaster<double>&);

} // namespace pose_kernels::cpu
