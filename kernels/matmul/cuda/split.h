// What the launches of all matmul kernels work out alike: how K is cut into parts, where the parts go, what a
// kernel cannot take. Host code.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>

#include "cuda/error.h"
#include "matmul/cuda/matmul.h"

namespace tilewright::cuda {

constexpr int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

inline bool is_empty(const MatmulArguments& p) {
  return p.m == 0 || p.n == 0 || p.batch[0] == 0 || p.batch[1] == 0;
}

// K in tiles, the tiles in parts. Every part has at least one tile (the only one none, where K is 0): parts
// whose share would be empty are left out.
struct Split {
  int64_t k_tiles, tiles_per_part, parts;
};

inline Split split_of(const MatmulArguments& p, int block_k) {
  Split split{};
  split.k_tiles = ceil_div(p.k, block_k);
  const int64_t wanted = std::clamp<int64_t>(p.split_k, 1, std::max<int64_t>(split.k_tiles, 1));
  split.tiles_per_part = std::max<int64_t>(ceil_div(split.k_tiles, wanted), 1);
  split.parts = std::max<int64_t>(ceil_div(split.k_tiles, split.tiles_per_part), 1);
  return split;
}

// The workspace is fp32, (batch 0, batch 1, parts, m, n).
inline size_t workspace_bytes(const MatmulArguments& p, int64_t parts) {
  if (parts == 1) return 0;
  return static_cast<size_t>(p.batch[0] * p.batch[1] * parts * p.m * p.n) * sizeof(float);
}

// The caller's epilogue with what does not matter made plain: a stride along a dimension of one element says
// nothing, and would only spoil vectors.
inline Epilogue whole_epilogue(const MatmulArguments& p) {
  Epilogue e = p.epilogue;
  const int64_t sizes[4] = {p.batch[0], p.batch[1], p.m, p.n};
  for (int i = 0; i < 3; ++i) {
    if (sizes[i] == 1) e.y_strides[i] = e.residual_strides[i] = 0;
    if (sizes[i] == 1 && i < 2) e.bias_strides[i] = 0;
  }
  find_vectors(e);
  return e;
}

// Stores the sums of a part as they are.
inline Epilogue part_epilogue(const MatmulArguments& p, const Split& split) {
  Epilogue e;
  e.y = p.workspace;
  e.y_strides[3] = 1;
  e.y_strides[2] = p.n;
  e.y_strides[1] = split.parts * p.m * p.n;
  e.y_strides[0] = p.batch[1] * e.y_strides[1];
  find_vectors(e);
  // Parts begin m·n floats after one another.
  e.y_vectors = e.y_vectors && p.m * p.n % 4 == 0;
  return e;
}

// Sums the parts in ascending order, for every element alike, and applies the epilogue: the same bits in
// every run. In reduce.cu.
void launch_reduce(const MatmulArguments& p, int64_t parts, Stream stream);

inline unsigned grid_size(std::initializer_list<int64_t> factors) {
  int64_t blocks = 1;
  for (const int64_t factor : factors) {
    blocks *= factor;
    if (blocks > 0x7fffffff) throw Error("matmul: more than 2^31 - 1 blocks; take larger tiles");
  }
  return static_cast<unsigned>(blocks);
}

inline const char* refuses_sizes(const MatmulArguments& p) {
  constexpr int64_t kLimit = int64_t{1} << 30;
  if (p.k > kLimit) return "k is above 2^30; cut it into parts and add these";
  if (p.batch[0] > kLimit || p.batch[1] > kLimit) return "a batch dimension is above 2^30";
  return nullptr;
}

// Whether one operand can be fetched `bytes` at a time: along its neighbouring dimension, of size `along`,
// the stride is 1 and the size, and every other stride, a multiple of that.
inline bool is_copied_by(int bytes, int element, int64_t along, int64_t along_stride,
                         std::initializer_list<int64_t> other_sizes,
                         std::initializer_list<int64_t> other_strides) {
  if (along_stride != 1 && along != 1) return false;
  if (along * element % bytes != 0) return false;
  const int64_t* size = other_sizes.begin();
  for (const int64_t stride : other_strides) {
    if (*size++ > 1 && stride * element % bytes != 0) return false;
  }
  return true;
}

inline const char* refuses_copies(const MatmulArguments& p, int element, CopyWidth width, bool a_along_k,
                                  bool b_along_k) {
  const int bytes = static_cast<int>(width);
  if (bytes == 0) return nullptr;
  if (p.alignment % bytes != 0) return "a pointer is not aligned to the width of its copies";
  const auto &a = p.a_strides, &b = p.b_strides;
  const bool a_fits =
      a_along_k ? is_copied_by(bytes, element, p.k, a[3], {p.batch[0], p.batch[1], p.m}, {a[0], a[1], a[2]})
                : is_copied_by(bytes, element, p.m, a[2], {p.batch[0], p.batch[1], p.k}, {a[0], a[1], a[3]});
  if (!a_fits) return "A's layout, or a stride or size of it, does not suit the width of its copies";
  const bool b_fits =
      b_along_k ? is_copied_by(bytes, element, p.k, b[2], {p.batch[0], p.batch[1], p.n}, {b[0], b[1], b[3]})
                : is_copied_by(bytes, element, p.n, b[3], {p.batch[0], p.batch[1], p.k}, {b[0], b[1], b[2]});
  if (!b_fits) return "B's layout, or a stride or size of it, does not suit the width of its copies";
  return nullptr;
}

}  // namespace tilewright::cuda
