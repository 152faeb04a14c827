// The host's side of the sm_90a matmul: what it cannot take, its tensor maps, its rows of the instance table.
#pragma once

#include <algorithm>
#include <limits>

#include "cuda/launch.cuh"
#include "cuda/multiprocessors.cuh"
#include "cuda/tensor_map.h"
#include "matmul/cuda/matmul.h"
#include "matmul/cuda/sm90.cuh"

namespace tilewright::cuda {

constexpr int64_t kTmaStrideLimit = int64_t{1} << 40;  // bytes

// A matrix of A, B or y as the TMA sees it: `inner` neighbours in memory.
struct TmaMatrix {
  int64_t inner, outer, inner_stride, outer_stride;
  const int64_t* batch;
  const int64_t* batch_strides;
  DataType type;

  bool stride_fits(int64_t stride) const {
    const int64_t bytes = stride * size_of(type);
    return bytes > 0 && bytes % 16 == 0 && bytes < kTmaStrideLimit;
  }
  // A dimension of one element or a repeated one is walked by coordinate 0 alone.
  bool walks(int i) const {
    return batch[i] > 1 && batch_strides[i] != 0;
  }
};

inline TmaMatrix a_matrix(const MatmulArguments& g, DataType type, bool mn_major) {
  if (mn_major) return {g.m, g.k, g.a_strides[2], g.a_strides[3], g.batch, g.a_strides, type};
  return {g.k, g.m, g.a_strides[3], g.a_strides[2], g.batch, g.a_strides, type};
}

inline TmaMatrix b_matrix(const MatmulArguments& g, DataType type, bool mn_major) {
  if (mn_major) return {g.n, g.k, g.b_strides[3], g.b_strides[2], g.batch, g.b_strides, type};
  return {g.k, g.n, g.b_strides[2], g.b_strides[3], g.batch, g.b_strides, type};
}

inline TmaMatrix y_matrix(const MatmulArguments& g) {
  const Epilogue& e = g.epilogue;
  return {g.n, g.m, e.y_strides[3], e.y_strides[2], g.batch, e.y_strides, e.y_type};
}

// Which of the three sentences tells why the TMA cannot read this; null if it can.
inline const char* refuses_matrix(const TmaMatrix& x, const char* layout, const char* rows,
                                  const char* matrices) {
  if (x.inner > 1 && x.inner_stride != 1) return layout;
  if (x.outer > 1 && !x.stride_fits(x.outer_stride)) return rows;
  for (int i = 0; i < 2; ++i) {
    if (x.walks(i) && !x.stride_fits(x.batch_strides[i])) return matrices;
  }
  return nullptr;
}

inline TensorMap matrix_map(const TmaMatrix& x, const void* base, uint32_t inner_box, uint32_t outer_box) {
  const uint64_t sizes[4] = {static_cast<uint64_t>(x.inner), static_cast<uint64_t>(x.outer),
                             static_cast<uint64_t>(x.walks(1) ? x.batch[1] : 1),
                             static_cast<uint64_t>(x.walks(0) ? x.batch[0] : 1)};
  auto bytes = [&](bool walked, int64_t stride) {
    return walked ? static_cast<uint64_t>(stride * size_of(x.type)) : uint64_t{16};
  };
  const uint64_t strides[3] = {bytes(x.outer > 1, x.outer_stride), bytes(x.walks(1), x.batch_strides[1]),
                               bytes(x.walks(0), x.batch_strides[0])};
  const uint32_t box[4] = {inner_box, outer_box, 1, 1};
  return tiled_map(x.type, 4, base, sizes, strides, box, Swizzle::b128);
}

template <class Tile>
constexpr DataType kElementType = std::is_same_v<typename Tile::Element, __nv_bfloat16> ? DataType::bf16
                                  : std::is_same_v<typename Tile::Element, __half>      ? DataType::f16
                                                                                        : DataType::f32;

// The grid of tiles, in tiles of a cluster.
template <class Tile, int cluster>
inline int64_t tile_rows(const MatmulArguments& g) {
  constexpr int64_t kRows = Tile::kBlockM * (Tile::kSharesB ? cluster : 1);
  return (g.m + kRows - 1) / kRows;
}
template <class Tile, int cluster>
inline int64_t tile_columns(const MatmulArguments& g) {
  constexpr int64_t kColumns = Tile::kBlockN * (Tile::kSharesB ? 1 : cluster);
  return (g.n + kColumns - 1) / kColumns;
}

template <class Tile, int cluster>
const char* sm90_refuses(const MatmulArguments& g) {
  constexpr int64_t kLimit = int64_t{1} << 30;  // coordinates are 32-bit, and reach past the edges
  if (g.k == 0) return "K is 0, which leaves nothing to fetch";
  if (g.m > kLimit || g.n > kLimit || g.k > kLimit) return "M, N or K is above 2^30";
  if (tile_rows<Tile, cluster>(g) * tile_columns<Tile, cluster>(g) >
      kLimit / std::max<int64_t>(1, g.batch[0] * g.batch[1])) {
    return "there are more than 2^30 tiles";
  }
  if (g.split_k != 1) return "takes no split_k but 1";
  if (g.alignment < 16) return "a pointer is no multiple of 16 bytes, as the TMA needs it";
  if (const char* reason =
          refuses_matrix(a_matrix(g, kElementType<Tile>, Tile::kAMnMajor),
                         Tile::kAMnMajor ? "A's rows are not contiguous along M, as this instance reads them"
                                         : "A's rows are not contiguous along K, as this instance reads them",
                         "the strides of A's matrices are no positive multiples of 16 bytes below 2^40, as "
                         "the TMA needs them",
                         "the strides of A's batch are no positive multiples of 16 bytes below 2^40, as the "
                         "TMA needs them")) {
    return reason;
  }
  return refuses_matrix(
      b_matrix(g, kElementType<Tile>, Tile::kBMnMajor),
      Tile::kBMnMajor ? "B is not contiguous along N, as this instance reads it"
                      : "B is not contiguous along K, as this instance reads it",
      "the strides of B's matrices are no positive multiples of 16 bytes below 2^40, as the TMA needs them",
      "the strides of B's batch are no positive multiples of 16 bytes below 2^40, as the TMA needs them");
}

// Whether y can leave by store_bulk. The TMA writes whole 16-byte chunks, also past a ragged edge.
template <class Tile>
bool stores_in_bulk(const MatmulArguments& g, const Epilogue& e) {
  const bool simple = e.residual == nullptr && e.preact == nullptr &&
                      (e.activation == Activation::none || e.activation == Activation::relu);
  const bool typed = e.y_type == kElementType<Tile> || e.y_type == DataType::f32;
  return simple && typed && g.n * size_of(e.y_type) % 16 == 0 && reinterpret_cast<uintptr_t>(e.y) % 16 == 0 &&
         refuses_matrix(y_matrix(g), "", "", "") == nullptr;
}

template <class Tile, int cluster>
void sm90_launch(const MatmulArguments& g, Stream stream) {
  if (g.m == 0 || g.n == 0 || g.batch[0] == 0 || g.batch[1] == 0) return;
  Epilogue e = g.epilogue;
  find_vectors(e);
  const TmaMatrix a = a_matrix(g, kElementType<Tile>, Tile::kAMnMajor);
  const TmaMatrix b = b_matrix(g, kElementType<Tile>, Tile::kBMnMajor);
  Sm90Problem p{};
  p.m = static_cast<int>(g.m);
  p.n = static_cast<int>(g.n);
  p.k = static_cast<int>(g.k);
  p.cluster = cluster;
  p.rows = static_cast<int>(tile_rows<Tile, cluster>(g));
  p.columns = static_cast<int>(tile_columns<Tile, cluster>(g));
  p.group = std::clamp(g.group_m / (Tile::kSharesB ? cluster : 1), 1, p.rows);
  p.batch1 = static_cast<int>(g.batch[1]);
  p.count = static_cast<int>(p.rows * p.columns * g.batch[0] * g.batch[1]);
  for (int i = 0; i < 2; ++i) {
    p.a_steps[i] = a.walks(i);
    p.b_steps[i] = b.walks(i);
  }
  p.bulk = stores_in_bulk<Tile>(g, e);

  // A box of a K-major operand is what one block fetches of it; of an MN-major one, 64 rows or columns.
  auto box = [&](const TmaMatrix& x, const void* base, bool mn_major, int rows) {
    return mn_major ? matrix_map(x, base, 64, Tile::kBlockK)
                    : matrix_map(x, base, Tile::kBlockK, static_cast<uint32_t>(rows));
  };
  const TensorMap a_map = box(a, g.a, Tile::kAMnMajor, Tile::kBlockM / (Tile::kSharesB ? 1 : cluster));
  const TensorMap b_map = box(b, g.b, Tile::kBMnMajor, Tile::kBlockN / (Tile::kSharesB ? cluster : 1));
  TensorMap y_map{};
  if (p.bulk) {
    y_map = matrix_map(y_matrix(g), e.y, static_cast<uint32_t>(Tile::kRowBytes / size_of(e.y_type)), 64);
  }

  LaunchShape shape;
  const int clusters = std::min(p.count, std::max(1, multiprocessors() / cluster));
  shape.grid = dim3(static_cast<unsigned>(clusters * cluster), 1, 1);
  shape.threads = Tile::kThreads;
  shape.cluster = cluster;
  shape.shared_bytes = Tile::kSharedBytes;
  launch(&sm90_matmul<Tile>, shape, stream, a_map, b_map, y_map, p, e);
}

inline size_t no_workspace(const MatmulArguments&) {
  return 0;
}

// A row of the table. `cluster` is a number of the launch: rows that differ in it alone share a kernel.
template <class Tile, int cluster>
constexpr MatmulInstance sm90_instance() {
  return {.algorithm = Tile::kSchedule == Schedule::cooperative ? "cooperative" : "ping_pong",
          .capability = 90,
          .exact_architecture = true,
          .dtype = kElementType<Tile>,
          .tf32 = kElementType<Tile> == DataType::f32,
          .a_layout = Tile::kAMnMajor ? MatrixLayout::column : MatrixLayout::row,
          .b_layout = Tile::kBMnMajor ? MatrixLayout::row : MatrixLayout::column,
          .copy = CopyWidth::bytes16,
          .block_m = Tile::kBlockM,
          .block_n = Tile::kBlockN,
          .block_k = Tile::kBlockK,
          .num_warps = Tile::kThreads / 32,
          .num_stages = Tile::kStages,
          .cluster = cluster,
          .threads = Tile::kThreads,
          .shared_bytes = Tile::kSharedBytes,
          .refuses = sm90_refuses<Tile, cluster>,
          .workspace = no_workspace,
          .launch = sm90_launch<Tile, cluster>};
}

// The tiles of one 16-bit type. 128 x 256 asks least of shared memory and L2 for each product; 128 x 128 in
// ping-pong hides its stores, and has twice the tiles to share out; the others fill in between.
template <class T, bool a_mn_major, bool b_mn_major>
using Wide = Sm90Tile<T, 128, 256, 4, Schedule::cooperative, a_mn_major, b_mn_major>;
template <class T, bool a_mn_major, bool b_mn_major>
using Square = Sm90Tile<T, 128, 128, 6, Schedule::ping_pong, a_mn_major, b_mn_major>;

template <class T>
inline constexpr MatmulInstance kSm90SixteenBit[] = {
    sm90_instance<Wide<T, false, false>, 2>(),
    sm90_instance<Wide<T, false, true>, 2>(),
    sm90_instance<Wide<T, true, false>, 2>(),
    sm90_instance<Wide<T, true, true>, 2>(),
    sm90_instance<Square<T, false, false>, 2>(),
    sm90_instance<Square<T, false, true>, 2>(),
    sm90_instance<Square<T, true, false>, 2>(),
    sm90_instance<Square<T, true, true>, 2>(),
    sm90_instance<Square<T, false, false>, 1>(),
    sm90_instance<Square<T, false, true>, 1>(),
    sm90_instance<Sm90Tile<T, 128, 192, 4, Schedule::cooperative, false, false>, 2>(),
    sm90_instance<Sm90Tile<T, 256, 128, 4, Schedule::cooperative, false, false>, 2>(),
    sm90_instance<Sm90Tile<T, 64, 256, 4, Schedule::ping_pong, false, false>, 1>(),
};

}  // namespace tilewright::cuda
