// Matrix products with few rows (or few columns): bound by memory, so the large matrix is read once.
//
// The *stream* is the large matrix, seen as rows of length k; the *queries* are the few rows (at most
// kGemvRows) that each of its rows is multiplied with. For m <= n the stream is Bᵀ and the queries are the
// rows of A; otherwise the stream is A and the queries are the columns of B. The queries are copied to fp32
// first.
//
//   stream contiguous along k (dot)             stream contiguous across its rows (axpy)
//
//   row s   [ ====== k ======> ]                k     [ ====== rows ======> ]  ·q[k]
//   row s+1 [ ====== k ======> ]                k + 1 [ ====== rows ======> ]  ·q[k+1]
//   each vector is multiplied with the same     kDepth rows of vectors are loaded and added, weighted, to the
//   vector of every query; a sum per pair       sums of every query, which stay in L1
//
// k is cut into chunks of block_k whatever the thread count. With more than one chunk the sums of each are
// kept and added in order, so the result does not depend on the threads.
#include "cpu/threads.h"
#include "instances.h"
#include "matmul/cpu/walk.h"

namespace tilewright::TILEWRIGHT_ISA_NAMESPACE {

namespace {

constexpr int kMaxQueries = static_cast<int>(kGemvRows);
constexpr int kAxpyDepth = kLanes == 16 ? 8 : 4;  // registers for the stream's vectors

struct Layout {
  bool swapped;  // the stream is A
  int64_t rows, queries, k;
  int64_t stream_row, stream_k, query_row, query_k;
  int64_t block_rows, block_k, row_blocks, chunks;
  int64_t query_floats, sum_floats, thread_floats;
  int64_t k_padded, rows_padded;

  explicit Layout(const MatmulGeometry& g) {
    swapped = g.m > g.n;
    rows = swapped ? g.m : g.n;
    queries = swapped ? g.n : g.m;
    k = g.k;
    stream_row = swapped ? g.a_m : g.b_n;
    stream_k = swapped ? g.a_k : g.b_k;
    query_row = swapped ? g.b_n : g.a_m;
    query_k = swapped ? g.b_k : g.a_k;
    block_rows = min(swapped ? g.block_m : g.block_n, rows);
    block_k = min(g.block_k, k);
    row_blocks = ceil_div(rows, block_rows);
    chunks = k == 0 ? 1 : ceil_div(k, block_k);
    k_padded = round_up(block_k, kLanes);
    rows_padded = round_up(block_rows, kLanes);
    query_floats = round_up(queries * k_padded, 16);
    sum_floats = round_up(queries * rows_padded, 16);
    // Queries, sums, and the sums again as rows of C where C is walked the other way.
    thread_floats = query_floats + sum_floats + (swapped ? round_up(block_rows, 16) * kMaxQueries : 0) + 64;
  }

  int64_t tasks(const MatmulGeometry& g) const {
    return g.batch_count * row_blocks * chunks;
  }

  int threads(const MatmulGeometry& g) const {
    return static_cast<int>(min(g.threads, tasks(g)));
  }

  int64_t partial_floats(const MatmulGeometry& g) const {
    return chunks > 1 ? tasks(g) * sum_floats : 0;
  }
};

struct Run {
  const MatmulGeometry* geometry;
  const MatmulPointers* pointers;
  Layout layout;
  float* partials;  // [batch][row block][chunk][sum_floats]
  float* threads;   // [thread][thread_floats]
};

// queries[q][kk], zero from k up to whole vectors.
template <class T>
void copy_queries(float* to, const T* from, const Layout& layout, int64_t k0, int64_t k) {
  for (int64_t q = 0; q < layout.queries; ++q) {
    const T* source = from + q * layout.query_row + k0 * layout.query_k;
    for (int64_t kk = 0; kk < k; kk += kLanes) {
      const int used = static_cast<int>(min(kLanes, k - kk));
      const T* at = source + kk * layout.query_k;
      store(to + q * layout.k_padded + kk,
            layout.query_k == 1 ? load_upto(at, used) : load_strided(at, layout.query_k, used));
    }
  }
}

// How many values of the stream are read in a round (a cache line, or a vector where registers are few), and
// how many of them ahead it is fetched.
#if defined(__AVX2__) || defined(__aarch64__)
template <class T>
constexpr int64_t kStep = 64 / sizeof(T);
#else
template <class T>
constexpr int64_t kStep = kLanes;
#endif
template <class T>
constexpr int64_t kAhead = 1024 / sizeof(T);

// sums[q][row] for kRows rows and kQueries queries at once. The tail of k is loaded as zeros on both sides.
template <class T, int kRows, int kQueries>
[[gnu::noinline]] void dot_tile(float* sums, int64_t sums_row, const T* stream, int64_t stream_row,
                                const float* queries, int64_t queries_row, int64_t k) {
  vf acc[kRows][kQueries];
  TW_UNROLL for (int r = 0; r < kRows; ++r) {
    TW_UNROLL for (int q = 0; q < kQueries; ++q) acc[r][q] = zero();
  }
  // Fetched ahead in the same rows, and near their end in those of the next tile.
  int64_t kk = 0;
  const int64_t turn = k - kAhead<T>;
  const auto upto = [&](int64_t end, [[maybe_unused]] int64_t ahead) __attribute__((always_inline)) {
    for (; kk + kStep<T> <= end; kk += kStep<T>) {
      // fp32 fills the hardware's own fetching: with this it lost a tenth, bf16 gained half (Zen 5, one
      // core).
      if constexpr (sizeof(T) == 2) {
        TW_UNROLL for (int r = 0; r < kRows; ++r)
            __builtin_prefetch(stream + r * stream_row + kk + ahead, 0, 2);
      }
      TW_UNROLL for (int64_t u = 0; u < kStep<T>; u += kLanes) {
        vf row[kRows];
        TW_UNROLL for (int r = 0; r < kRows; ++r) row[r] = load(stream + r * stream_row + kk + u);
        TW_UNROLL for (int q = 0; q < kQueries; ++q) {
          const vf query = load(queries + q * queries_row + kk + u);
          TW_UNROLL for (int r = 0; r < kRows; ++r) acc[r][q] = fma(row[r], query, acc[r][q]);
        }
      }
    }
  };
  upto(turn, kAhead<T>);
  upto(k, kRows * stream_row - turn);
  for (; kk + kLanes <= k; kk += kLanes) {
    vf row[kRows];
    TW_UNROLL for (int r = 0; r < kRows; ++r) row[r] = load(stream + r * stream_row + kk);
    TW_UNROLL for (int q = 0; q < kQueries; ++q) {
      const vf query = load(queries + q * queries_row + kk);
      TW_UNROLL for (int r = 0; r < kRows; ++r) acc[r][q] = fma(row[r], query, acc[r][q]);
    }
  }
  if (kk < k) {
    const int rest = static_cast<int>(k - kk);
    TW_UNROLL for (int r = 0; r < kRows; ++r) {
      const vf row = load_part(stream + r * stream_row + kk, rest);
      TW_UNROLL for (int q = 0; q < kQueries; ++q) {
        acc[r][q] = fma(row, load(queries + q * queries_row + kk), acc[r][q]);
      }
    }
  }
  TW_UNROLL for (int r = 0; r < kRows; ++r) {
    TW_UNROLL for (int q = 0; q < kQueries; ++q) sums[q * sums_row + r] = sum(acc[r][q]);
  }
}

// As many rows at once as leave the accumulators, a query and the rows in registers.
template <class T>
constexpr int dot_rows(int queries) {
#if defined(__AVX2__) || defined(__aarch64__)
  constexpr int budget = kLanes < 16 ? 8 : (sizeof(T) == 4 ? 24 : 16);  // 16-bit rounds are of two vectors
#else
  constexpr int budget = __is_same(T, f16) ? 4 : 8;  // fp16 is decoded by hand: more would push sums out
#endif
  constexpr int most = budget < 8 ? 2 : 4;
  const int rows = budget / queries;
  return rows > most ? most : (rows < 1 ? 1 : rows);
}

template <class T, int kQueries>
void dot_group(float* sums, int64_t sums_row, const T* stream, int64_t stream_row, const float* queries,
               int64_t queries_row, int64_t rows, int64_t k) {
  constexpr int kRows = dot_rows<T>(kQueries);
  int64_t row = 0;
  for (; row + kRows <= rows; row += kRows) {
    dot_tile<T, kRows, kQueries>(sums + row, sums_row, stream + row * stream_row, stream_row, queries,
                                 queries_row, k);
  }
  for (; row < rows; ++row) {
    dot_tile<T, 1, kQueries>(sums + row, sums_row, stream + row * stream_row, stream_row, queries,
                             queries_row, k);
  }
}

// Queries in groups of at most 6: with more, fewer of the stream's rows fit the registers beside them (8
// queries took 1.5 times as long as 6 on Zen 5). A second group finds the stream's rows in cache, a few at a
// time. Cutting k so that the queries stay in L1 was slower (Zen 4 and Zen 5): it breaks up the stream.
// 16-bit rounds are of two vectors, whose sixth query GCC 12 puts on the stack.
template <class T>
constexpr int kGroup = sizeof(T) == 4 ? 6 : 5;

template <class T>
void dot(float* sums, int64_t sums_row, const T* stream, int64_t stream_row, const float* queries,
         int64_t queries_row, int64_t count, int64_t rows, int64_t k) {
  using Kernel = void (*)(float*, int64_t, const T*, int64_t, const float*, int64_t, int64_t, int64_t);
  constexpr Kernel kernels[] = {nullptr,         dot_group<T, 1>, dot_group<T, 2>,        dot_group<T, 3>,
                                dot_group<T, 4>, dot_group<T, 5>, dot_group<T, kGroup<T>>};
  const int64_t group = ceil_div(count, ceil_div(count, kGroup<T>));
  constexpr int64_t kBand = 12;  // a multiple of every dot_rows()
  for (int64_t row = 0; row < rows; row += kBand) {
    for (int64_t q = 0; q < count; q += group) {
      kernels[min(group, count - q)](sums + q * sums_row + row, sums_row, stream + row * stream_row,
                                     stream_row, queries + q * queries_row, queries_row,
                                     min(kBand, rows - row), k);
    }
  }
}

// sums[q][row] += Σ over kDepth steps of k of queries[q][kk]·stream[kk][row]
template <class T, int kDepth>
[[gnu::noinline]] void axpy_rows(float* sums, int64_t sums_row, const T* stream, int64_t stream_k,
                                 const float* queries, int64_t queries_row, int64_t count, int64_t rows) {
  for (int64_t row = 0; row < rows; row += kLanes) {
    const int lanes = static_cast<int>(min(kLanes, rows - row));
    vf part[kDepth];
    if (lanes == kLanes) {
      TW_UNROLL for (int d = 0; d < kDepth; ++d) part[d] = load(stream + d * stream_k + row);
    } else {
      TW_UNROLL for (int d = 0; d < kDepth; ++d) part[d] = load_part(stream + d * stream_k + row, lanes);
    }
    for (int64_t q = 0; q < count; ++q) {
      float* at = sums + q * sums_row + row;
      vf total = load(at);
      TW_UNROLL for (int d = 0; d < kDepth; ++d) {
        total = fma(broadcast(queries[q * queries_row + d]), part[d], total);
      }
      store(at, total);
    }
  }
}

template <class T>
void axpy(float* sums, int64_t sums_row, const T* stream, int64_t stream_k, const float* queries,
          int64_t queries_row, int64_t count, int64_t rows, int64_t k) {
  for (int64_t i = 0; i < count * sums_row; i += kLanes) store(sums + i, zero());
  int64_t kk = 0;
  for (; kk + kAxpyDepth <= k; kk += kAxpyDepth) {
    axpy_rows<T, kAxpyDepth>(sums, sums_row, stream + kk * stream_k, stream_k, queries + kk, queries_row,
                             count, rows);
  }
  for (; kk < k; ++kk) {
    axpy_rows<T, 1>(sums, sums_row, stream + kk * stream_k, stream_k, queries + kk, queries_row, count, rows);
  }
}

// Writes rows row0 … of the stream: the epilogue of sums[q][row].
void finish(float* sums, float* turned, const Layout& layout, const Epilogue& whole, int64_t row0,
            int64_t rows) {
  if (!layout.swapped) {
    finish_tile(sums, layout.rows_padded, static_cast<int>(layout.queries), rows, advance(whole, 0, row0));
    return;
  }
  Epilogue e = advance(whole, row0, 0);
  if (layout.queries == 1) {
    // C is one contiguous column: walk it as a row in which every element has the same bias.
    e.bias_stride = 0;
    e.residual_col = e.residual_row;
    finish_tile(sums, layout.rows_padded, 1, rows, e);
    return;
  }
  const int64_t width = round_up(layout.queries, kLanes);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t q = 0; q < layout.queries; ++q) turned[row * width + q] = sums[q * layout.rows_padded + row];
    for (int64_t q = layout.queries; q < width; ++q) turned[row * width + q] = 0.0f;
  }
  for (int64_t row = 0; row < rows; row += 1 << 20) {
    finish_tile(turned + row * width, width, static_cast<int>(min(rows - row, 1 << 20)), layout.queries,
                advance(e, row, 0));
  }
}

template <class T>
void work(void* context, int thread, int team) {
  const Run& run = *static_cast<const Run*>(context);
  const MatmulGeometry& g = *run.geometry;
  const Layout& layout = run.layout;
  float* queries = run.threads + thread * layout.thread_floats;
  float* own_sums = queries + layout.query_floats;
  float* turned = own_sums + layout.sum_floats;

  // Tasks of a thread follow each other within a chunk, so that it copies its queries once per chunk.
  const int64_t tasks = layout.tasks(g);
  int64_t copied = -1;
  for (int64_t task = tasks / team * thread + min(thread, tasks % team),
               end = task + tasks / team + (thread < tasks % team ? 1 : 0);
       task < end; ++task) {
    const int64_t chunk = task / layout.row_blocks % layout.chunks;
    const int64_t batch = task / layout.row_blocks / layout.chunks;
    const int64_t row0 = task % layout.row_blocks * layout.block_rows;
    const int64_t rows = min(layout.block_rows, layout.rows - row0);
    const int64_t k0 = chunk * layout.block_k;
    const int64_t k = min(layout.block_k, layout.k - k0);
    const BatchEntry entry = batch_entry(g, *run.pointers, batch);
    if (copied != batch * layout.chunks + chunk) {
      copy_queries(queries, static_cast<const T*>(layout.swapped ? entry.b : entry.a), layout, k0, k);
      copied = batch * layout.chunks + chunk;
    }
    const T* stream = static_cast<const T*>(layout.swapped ? entry.a : entry.b) + row0 * layout.stream_row +
                      k0 * layout.stream_k;
    float* sums = layout.chunks == 1 ? own_sums : run.partials + task * layout.sum_floats;
    if (layout.stream_k == 1) {
      dot(sums, layout.rows_padded, stream, layout.stream_row, queries, layout.k_padded, layout.queries, rows,
          k);
    } else {
      axpy(sums, layout.rows_padded, stream, layout.stream_k, queries, layout.k_padded, layout.queries, rows,
           k);
    }
    if (layout.chunks == 1) finish(sums, turned, layout, entry.epilogue, row0, rows);
  }
  if (layout.chunks == 1) return;

  barrier(team);
  const int64_t blocks = layout.row_blocks * g.batch_count;
  for (int64_t block = thread; block < blocks; block += team) {
    const int64_t batch = block / layout.row_blocks;
    const int64_t row_block = block % layout.row_blocks;
    const int64_t row0 = row_block * layout.block_rows;
    const int64_t rows = min(layout.block_rows, layout.rows - row0);
    const float* first =
        run.partials + (batch * layout.chunks * layout.row_blocks + row_block) * layout.sum_floats;
    for (int64_t q = 0; q < layout.queries; ++q) {
      for (int64_t row = 0; row < rows; row += kLanes) {
        const int64_t at = q * layout.rows_padded + row;
        vf total = load(first + at);
        for (int64_t chunk = 1; chunk < layout.chunks; ++chunk) {
          total += load(first + chunk * layout.row_blocks * layout.sum_floats + at);
        }
        store(own_sums + at, total);
      }
    }
    finish(own_sums, turned, layout, batch_entry(g, *run.pointers, batch).epilogue, row0, rows);
  }
}

void run_gemv(const MatmulGeometry& g, const MatmulPointers& pointers, void* workspace) {
  const Layout layout(g);
  float* floats = static_cast<float*>(workspace);
  Run run{&g, &pointers, layout, floats, floats + layout.partial_floats(g)};
  const int threads = layout.threads(g);
  switch (g.dtype) {
    case Dtype::f32:
      return parallel(threads, work<float>, &run);
    case Dtype::bf16:
      return parallel(threads, work<bf16>, &run);
    case Dtype::f16:
      return parallel(threads, work<f16>, &run);
  }
}

size_t gemv_workspace(const MatmulGeometry& g) {
  const Layout layout(g);
  return sizeof(float) *
         static_cast<size_t>(layout.partial_floats(g) + layout.threads(g) * layout.thread_floats);
}

}  // namespace

extern const MatmulKernel kGemv[];
constinit const MatmulKernel kGemv[] = {
    {"gemv", Compute::f32, 0, 0, run_gemv, gemv_workspace, nullptr, nullptr},
    {},
};

}  // namespace tilewright::TILEWRIGHT_ISA_NAMESPACE
