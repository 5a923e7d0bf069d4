// SPDX-License-Identifier: Apache-2.0
// push_pull on the CPU, forward and adjoint.
//
// One task per tile. The known/unknown pyramid is built once and shared by all channels; per
// channel, every level above 0 (a third of a plane) stays in L2, level 0 is read once where
// something is known and written once, past the cache. All inner loops run along a row: the pull
// adds pairs, the push interpolates vertically into a padded row and then emits two children per
// parent. A task owns its tile: the same bits for any number of threads.

#include "../ops/push_pull.h"

#include <algorithm>
#include <vector>

#include "../math/pyramid.h"
#include "memory.h"
#include "parallel.h"

namespace pose_kernels::cpu {
namespace {

// ---- rows
// -----------------------------------------------------------------------------------------

// The loops load both sides of a choice first: a load that depends on a mask would not vectorize.

// parent[j] = sum of the known ones of child[2j], child[2j+1]; added to what is there if `add`.
template <class A>
VECTOR_CLONES void pair_sum(const A* __restrict child, const uint8_t* __restrict known,
                            int64_t width, bool add, A* __restrict parent) {
  const int64_t pairs = width / 2;
  for (int64_t j = 0; j < pairs; ++j) {
    const A before = parent[j], left = child[2 * j], right = child[2 * j + 1];
    const A sum = (known[2 * j] ? left : A(0)) + (known[2 * j + 1] ? right : A(0));
    parent[j] = (add ? before : A(0)) + sum;
  }
  if (width & 1)
    parent[pairs] = (add ? parent[pairs] : A(0)) + (known[width - 1] ? child[width - 1] : A(0));
}

// The same for the number of known children.
template <class A>
VECTOR_CLONES void pair_count(const uint8_t* __restrict known, int64_t width, bool add,
                              A* __restrict parent) {
  const int64_t pairs = width / 2;
  for (int64_t j = 0; j < pairs; ++j) {
    const A before = parent[j];
    parent[j] = (add ? before : A(0)) + A(int(known[2 * j]) + int(known[2 * j + 1]));
  }
  if (width & 1)
    parent[pairs] = (add ? parent[pairs] : A(0)) + A(known[width - 1]);
}

template <class A>
VECTOR_CLONES void above(const A* values, A limit, int64_t count, uint8_t* known) {
  for (int64_t i = 0; i < count; ++i)
    known[i] = values[i] > limit;
}

template <class A>
VECTOR_CLONES void divide(A* __restrict row, const A* __restrict count, int64_t width) {
  for (int64_t x = 0; x < width; ++x)
    row[x] = row[x] / std::max(count[x], A(1)); // a sum over no children is 0 already
}

// up[i] for all children of a row, from the two nearest parent rows. `padded` has parents + 2
// places.
template <class A>
VECTOR_CLONES void upsample(const A* __restrict own, const A* __restrict side, int64_t parents,
                            A* __restrict padded, A* __restrict up) {
  A* t = padded + 1;
  for (int64_t j = 0; j < parents; ++j)
    t[j] = A(0.75) * own[j] + A(0.25) * side[j];
  t[-1] = t[0], t[parents] = t[parents - 1];
  for (int64_t j = 0; j < parents; ++j) {
    up[2 * j] = A(0.75) * t[j] + A(0.25) * t[j - 1];
    up[2 * j + 1] = A(0.75) * t[j] + A(0.25) * t[j + 1];
  }
}

// The transpose of the horizontal half of upsample: h[-1 .. width + 1] is scratch around the row.
template <class A>
VECTOR_CLONES void upsample_transpose(A* h, int64_t width, int64_t parents, A* t) {
  h[-1] = h[0];
  h[width] = (width & 1) ? A(0) : h[width - 1];
  h[width + 1] = A(0);
  for (int64_t j = 0; j < parents; ++j)
    t[j] = A(0.75) * (h[2 * j] + h[2 * j + 1]) + A(0.25) * (h[2 * j - 1] + h[2 * j + 2]);
}

template <class A>
VECTOR_CLONES void add_scaled(A* to, const A* row, A scale, int64_t width) {
  for (int64_t x = 0; x < width; ++x)
    to[x] += scale * row[x];
}

// Takes over the known nodes of `yes`.
template <class A>
VECTOR_CLONES void select(const uint8_t* __restrict known, const A* __restrict yes, int64_t width,
                          A* __restrict row) {
  for (int64_t x = 0; x < width; ++x) {
    const A a = yes[x], b = row[x];
    row[x] = known[x] ? a : b;
  }
}

// The part of a row at unknown (or, with `at` = 1, known) nodes; 0 elsewhere.
template <class A>
VECTOR_CLONES void keep(const A* row, const uint8_t* known, uint8_t at, int64_t width, A* out) {
  for (int64_t x = 0; x < width; ++x) {
    const A a = row[x];
    out[x] = known[x] == at ? a : A(0);
  }
}

// child += parent / count of known children.
template <class A>
VECTOR_CLONES void hand_down(const A* parent, const A* count, int64_t width, A* child) {
  for (int64_t x = 0; x < width; ++x)
    child[x] += parent[x / 2] / std::max(count[x / 2], A(1));
}

template <class T>
VECTOR_CLONES void read_row(const T* row, int64_t pixel, int64_t width, acc_t<T>* out) {
  for (int64_t x = 0; x < width; ++x)
    out[x] = widen(row[x * pixel]);
}

template <class T>
VECTOR_CLONES void narrow_row(const acc_t<T>* row, int64_t width, T* out) {
  for (int64_t x = 0; x < width; ++x)
    out[x] = narrow<T>(row[x]);
}

// ---- one tile
// -------------------------------------------------------------------------------------

template <class A>
struct Level {
  int64_t H, W;
  std::vector<uint8_t> known; // [H, W]
  std::vector<uint8_t> any;   // [H]: a row with something known
  std::vector<A> count;       // [H, W] known children; empty at level 0
  std::vector<A> value;       // [H, W]; empty at level 0
};

template <class A>
struct Pyramid {
  Pyramid(int64_t H, int64_t W) {
    levels.push_back({H, W, std::vector<uint8_t>(H * W), std::vector<uint8_t>(H), {}, {}});
    while (H > 1 || W > 1) {
      H = parent_side(H), W = parent_side(W);
      levels.push_back({H, W, std::vector<uint8_t>(H * W), std::vector<uint8_t>(H),
                        std::vector<A>(H * W), std::vector<A>(H * W)});
    }
    for (std::vector<A>* row : {&row_a, &row_b, &row_c})
      row->resize(levels[0].W + 8);
  }
  std::vector<Level<A>> levels;
  std::vector<uint8_t> within; // [H, W] of level 0; empty: no limit
  std::vector<A> row_a, row_b, row_c;
};

// Known nodes of all levels from one weight plane [H, W]; false if there is none.
template <class A>
bool know(Pyramid<A>& pyramid, const A* weight, A min_weight) {
  Level<A>& base = pyramid.levels[0];
  above(weight, min_weight, base.H * base.W, base.known.data());
  for (size_t l = 0;; ++l) {
    Level<A>& level = pyramid.levels[l];
    for (int64_t y = 0; y < level.H; ++y)
      level.any[y] = memchr(&level.known[y * level.W], 1, level.W) != nullptr;
    if (l + 1 == pyramid.levels.size())
      return level.any[0];
    Level<A>& next = pyramid.levels[l + 1];
    for (int64_t y = 0; y < level.H; ++y)
      pair_count(&level.known[y * level.W], level.W, y & 1, &next.count[y / 2 * next.W]);
    above(next.count.data(), A(0), next.H * next.W, next.known.data());
  }
}

// Texels no farther (Chebyshev) than radius from a known one: rows first, then columns.
template <class A>
void reach(Pyramid<A>& pyramid, int64_t radius) {
  const Level<A>& base = pyramid.levels[0];
  const int64_t H = base.H, W = base.W, far = radius + 1;
  std::vector<uint8_t> rows(H * W, 0);
  pyramid.within.assign(H * W, 0);
  for (int64_t y = 0; y < H; ++y) {
    int64_t left = far, right = far;
    for (int64_t x = 0; x < W; ++x) {
      left = base.known[y * W + x] ? 0 : std::min(left + 1, far);
      rows[y * W + x] |= left <= radius;
      const int64_t mirrored = W - 1 - x;
      right = base.known[y * W + mirrored] ? 0 : std::min(right + 1, far);
      rows[y * W + mirrored] |= right <= radius;
    }
  }
  std::vector<int64_t> above(W, far), below(W, far);
  for (int64_t y = 0; y < H; ++y)
    for (int64_t x = 0; x < W; ++x) {
      above[x] = rows[y * W + x] ? 0 : std::min(above[x] + 1, far);
      pyramid.within[y * W + x] |= above[x] <= radius;
      const int64_t mirrored = H - 1 - y;
      below[x] = rows[mirrored * W + x] ? 0 : std::min(below[x] + 1, far);
      pyramid.within[mirrored * W + x] |= below[x] <= radius;
    }
}

// Row y of level l: its values where stored, or the atlas (widened into `scratch`) at level 0.
template <class T>
const acc_t<T>* values(const Pyramid<acc_t<T>>& pyramid, size_t l, int64_t y, const T* plane,
                       int64_t pixel, acc_t<T>* scratch) {
  const int64_t W = pyramid.levels[l].W;
  if (l > 0)
    return &pyramid.levels[l].value[y * W];
  if constexpr (std::is_same_v<T, acc_t<T>>)
    if (pixel == 1)
      return plane + y * W;
  read_row(plane + y * W * pixel, pixel, W, scratch);
  return scratch;
}

// Writes one finished row of level 0, limited to `within`.
template <class T>
void put(const Pyramid<acc_t<T>>& pyramid, int64_t y, acc_t<T>* row, T* plane, int64_t pixel,
         bool streamed) {
  const int64_t W = pyramid.levels[0].W;
  if (!pyramid.within.empty())
    keep(row, &pyramid.within[y * W], uint8_t(1), W, row);
  T* out = plane + y * W * pixel;
  if (pixel != 1) {
    for (int64_t x = 0; x < W; ++x)
      out[x * pixel] = narrow<T>(row[x]);
  } else if constexpr (std::is_same_v<T, acc_t<T>>) {
    streamed ? stream(out, row, W * int64_t(sizeof(T))) : (void)memcpy(out, row, W * sizeof(T));
  } else {
    narrow_row(row, W, out);
  }
}

template <class T>
void fill_plane(Pyramid<acc_t<T>>& pyramid, const T* plane, int64_t pixel, T* out,
                int64_t out_pixel, bool streamed) {
  using A = acc_t<T>;
  std::vector<Level<A>>& levels = pyramid.levels;
  A *scratch = pyramid.row_a.data(), *padded = pyramid.row_b.data(), *up = pyramid.row_c.data();
  for (size_t l = 0; l + 1 < levels.size(); ++l) { // pull
    const Level<A>& level = levels[l];
    Level<A>& above = levels[l + 1];
    for (int64_t j = 0; j < above.H; ++j) {
      A* sum = &above.value[j * above.W];
      bool add = false;
      for (int64_t y = 2 * j; y < std::min(2 * j + 2, level.H); ++y)
        if (level.any[y]) {
          const A* row = values(pyramid, l, y, plane, pixel, scratch);
          pair_sum(row, &level.known[y * level.W], level.W, add, sum);
          add = true;
        }
      if (add)
        divide(sum, &above.count[j * above.W], above.W);
      else
        std::fill(sum, sum + above.W, A(0));
    }
  }
  for (size_t l = levels.size(); l-- > 0;) { // push
    Level<A>& level = levels[l];
    for (int64_t y = 0; y < level.H; ++y) {
      if (l + 1 < levels.size()) {
        const Level<A>& above = levels[l + 1];
        upsample(&above.value[y / 2 * above.W], &above.value[side_parent(y, above.H) * above.W],
                 above.W, padded, up);
      } else {
        std::fill(up, up + level.W, A(0));
      }
      if (level.any[y])
        select(&level.known[y * level.W], values(pyramid, l, y, plane, pixel, scratch), level.W,
               up);
      if (l > 0)
        std::copy(up, up + level.W, &level.value[y * level.W]);
      else
        put(pyramid, y, up, out, out_pixel, streamed);
    }
  }
}

template <class T>
void fill_plane_adjoint(Pyramid<acc_t<T>>& pyramid, const T* plane, int64_t pixel, T* out,
                        int64_t out_pixel, bool streamed) {
  using A = acc_t<T>;
  std::vector<Level<A>>& levels = pyramid.levels;
  A *scratch = pyramid.row_a.data(), *rest = pyramid.row_b.data() + 1, *t = pyramid.row_c.data();
  auto gradient = [&](size_t l, int64_t y) { // of R_l, level 0 limited to `within`
    const A* row = values(pyramid, l, y, plane, pixel, scratch);
    if (l > 0 || pyramid.within.empty())
      return row;
    keep(row, &pyramid.within[y * levels[0].W], uint8_t(1), levels[0].W, scratch);
    return static_cast<const A*>(scratch);
  };
  for (size_t l = 0; l + 1 < levels.size();
       ++l) { // what the unknown nodes took, back to their parents
    const Level<A>& level = levels[l];
    Level<A>& above = levels[l + 1];
    std::fill(above.value.begin(), above.value.end(), A(0));
    for (int64_t y = 0; y < level.H; ++y) {
      keep(gradient(l, y), &level.known[y * level.W], uint8_t(0), level.W, rest);
      upsample_transpose(rest, level.W, above.W, t);
      add_scaled(&above.value[y / 2 * above.W], t, A(0.75), above.W);
      add_scaled(&above.value[side_parent(y, above.H) * above.W], t, A(0.25), above.W);
    }
  }
  for (size_t l = levels.size(); l-- > 0;) { // and from parents to the known children they average
    Level<A>& level = levels[l];
    for (int64_t y = 0; y < level.H; ++y) {
      keep(gradient(l, y), &level.known[y * level.W], uint8_t(1), level.W, t);
      if (level.any[y] && l + 1 < levels.size()) {
        const Level<A>& above = levels[l + 1];
        hand_down(&above.value[y / 2 * above.W], &above.count[y / 2 * above.W], level.W, t);
        keep(t, &level.known[y * level.W], uint8_t(1), level.W, t);
      }
      if (l > 0)
        std::copy(t, t + level.W, &level.value[y * level.W]);
      else
        put(pyramid, y, t, out, out_pixel, streamed);
    }
  }
}

} // namespace

template <class T>
void push_pull(const PushPull<T>& op) {
  using A = acc_t<T>;
  const int64_t texels = op.H * op.W;
  if (op.M * op.C * texels == 0)
    return;
  const bool streamed = can_stream(op.W * int64_t(sizeof(T)), op.M * op.C * texels * sizeof(T));
  parallel(op.M, 1, [&](int64_t begin, int64_t end) {
    Pyramid<A> pyramid(op.H, op.W);
    for (int64_t m = begin; m < end; ++m) {
      T* filled = op.filled.data + m * op.C * texels;
      if (!know(pyramid, op.weight + m * texels, op.min_weight)) {
        memset(filled, 0, op.C * texels * sizeof(T));
        continue;
      }
      if (op.radius >= 0)
        reach(pyramid, std::min(op.radius, std::max(op.H, op.W)));
      const T* atlas = op.atlas.data + m * op.C * texels;
      const auto apply = op.adjoint ? fill_plane_adjoint<T> : fill_plane<T>;
      for (int64_t c = 0; c < op.C; ++c)
        apply(pyramid, atlas + c * op.atlas.channel, op.atlas.pixel, filled + c * op.filled.channel,
              op.filled.pixel, streamed);
    }
    stream_fence();
  });
}

template void push_pull(const PushPull<float>&);
template void push_pull(const PushPull<double>&);
template void push_pull(const PushPull<float16>&);
template void push_pull(const PushPull<bfloat16>&);

} // namespace pose_kernels::cpu
