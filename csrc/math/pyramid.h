// SPDX-License-Identifier: Apache-2.0
// Push-pull hole filling at one node (Kraus 2009, "The Pull-Push Algorithm Revisited", with a
// binary mask).
//
// Level 0 is the tile; level l+1 has ceil(side / 2) nodes a side. A node is known when any of its
// children is.
//   pull:  N_{l+1} = mean of its known children
//   push:  R_l = N_l where known, else Up(R_{l+1}),   R_top = N_top
// Up is bilinear x2 with half-pixel centers and border clamp: child i reads parent i/2 with weight
// 3/4 and its neighbor on the child's side (i even: left, i odd: right) with 1/4.
#pragma once

#include "scalar.h"

namespace pose_kernels {

HD int64_t parent_side(int64_t side) {
  return (side + 1) / 2;
}

// The second parent of child i among `parents`; the first is i / 2.
HD int64_t side_parent(int64_t i, int64_t parents) {
  const int64_t j = (i & 1) ? i / 2 + 1 : i / 2 - 1;
  return j < 0 ? 0 : j >= parents ? parents - 1 : j;
}

// Nodes of all levels above 0 of an H x W tile.
HD int64_t pyramid_nodes(int64_t H, int64_t W) {
  int64_t nodes = 0;
  while (H > 1 || W > 1) {
    H = parent_side(H);
    W = parent_side(W);
    nodes += H * W;
  }
  return nodes;
}

} // namespace pose_kernels
