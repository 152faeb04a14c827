// Compares the portable matmul kernels with float64 over dtypes, sizes, layouts and ways of packing. A
// program of its own, because it is compiled for processors that this machine's Python does not run on
// (test_aarch64.py). Prints one line for every wrong case and a summary; exits with 1 if any was wrong.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "matmul/cpu/plan.h"

namespace {

using namespace tilewright;

std::mt19937 generator(1);

// A dtype's numbers as the kernels store them, and what they are worth.
struct Operand {
  std::vector<float> values;
  std::vector<uint16_t> halves;

  Operand(size_t count, const std::string& dtype) : values(count) {
    std::normal_distribution<float> normal;
    for (float& value : values) value = normal(generator);
    if (dtype == "f32") return;
    halves.resize(count);
    for (size_t i = 0; i < count; ++i) {
      if (dtype == "f16") {
        const __fp16 half = static_cast<__fp16>(values[i]);
        __builtin_memcpy(&halves[i], &half, 2);
        values[i] = static_cast<float>(half);
      } else {
        uint32_t bits;  // bf16 by truncation: which of its numbers does not matter here
        __builtin_memcpy(&bits, &values[i], 4);
        halves[i] = static_cast<uint16_t>(bits >> 16);
        bits &= 0xffff0000u;
        __builtin_memcpy(&values[i], &bits, 4);
      }
    }
  }

  const void* data() const {
    return halves.empty() ? static_cast<const void*>(values.data()) : halves.data();
  }
};

// Strides of a rows × cols matrix: by rows, by columns, or with gaps in both.
std::vector<int64_t> strides_of(int layout, int64_t rows, int64_t cols) {
  if (layout == 0) return {std::max<int64_t>(cols, 1), 1};
  if (layout == 1) return {1, std::max<int64_t>(rows, 1)};
  return {3 * cols + 1, 2};
}

size_t extent(const std::vector<int64_t>& strides, int64_t rows, int64_t cols) {
  if (rows == 0 || cols == 0) return 1;
  return static_cast<size_t>((rows - 1) * strides[0] + (cols - 1) * strides[1] + 1);
}

struct Tile {
  const char* algorithm;
  int tile_m, tile_n;
};

// The largest error, as a share of what the sum of K products in fp32 may be off by.
double worst_error(MatmulRequest& r) {
  Operand a(extent(r.a_strides, r.m, r.k), r.dtype), b(extent(r.b_strides, r.k, r.n), r.dtype);
  Operand bias(static_cast<size_t>(r.n), "f32");
  std::vector<float> c(static_cast<size_t>(r.m * r.n), NAN);
  const MatmulPlan plan(r);
  std::vector<char> packed;
  const void* b_data = b.data();
  if (r.pack_b == "frozen") {
    packed.resize(plan.packed_bytes() + 1);
    plan.pack(b.data(), packed.data());
    b_data = packed.data();
  }
  plan.run({a.data(), b_data, c.data(), nullptr, bias.data(), nullptr});

  double worst = 0;
  for (int64_t i = 0; i < r.m; ++i) {
    for (int64_t j = 0; j < r.n; ++j) {
      double sum = bias.values[static_cast<size_t>(j)], size = std::fabs(sum);
      for (int64_t k = 0; k < r.k; ++k) {
        const double product =
            static_cast<double>(a.values[static_cast<size_t>(i * r.a_strides[0] + k * r.a_strides[1])]) *
            b.values[static_cast<size_t>(k * r.b_strides[0] + j * r.b_strides[1])];
        sum += product;
        size += std::fabs(product);
      }
      const double allowed = (4 + 2 * std::sqrt(static_cast<double>(r.k))) * 0x1p-24 * size + 1e-30;
      const double error = std::fabs(c[static_cast<size_t>(i * r.n + j)] - sum) / allowed;
      worst = std::isnan(error) ? INFINITY : std::max(worst, error);
    }
  }
  return worst;
}

}  // namespace

int main(int count, char** arguments) {
  std::vector<Tile> tiles = {{"gemv", 0, 0}};
  for (int i = 1; i + 1 < count; i += 2) {
    tiles.push_back({"gemm", std::stoi(arguments[i]), std::stoi(arguments[i + 1])});
  }
  int cases = 0, wrong = 0;
  for (const char* dtype : {"f32", "bf16", "f16"}) {
    for (const int m : {1, 3, 14, 15, 40}) {
      for (const int n : {1, 7, 9, 16, 37}) {
        for (const int k : {0, 1, 5, 64, 131}) {
          for (int layouts = 0; layouts < 9; ++layouts) {
            for (const Tile& tile : tiles) {
              const bool gemv = tile.tile_m == 0;
              if (gemv && (std::min(m, n) > 16 || (m > n ? layouts / 3 : layouts % 3) == 2)) continue;
              for (const char* pack_b : {"private", "shared", "frozen"}) {
                if (gemv && std::string(pack_b) != "private") continue;
                MatmulRequest r{};
                r.isa = "portable";
                r.algorithm = tile.algorithm;
                r.m = m;
                r.n = n;
                r.k = k;
                r.a_strides = strides_of(layouts / 3, m, k);
                r.b_strides = strides_of(layouts % 3, k, n);
                r.bias_stride = 1;
                r.dtype = dtype;
                r.out_dtype = "f32";
                r.bias_dtype = "f32";
                r.activation = "none";
                r.compute = "f32";
                r.pack_b = pack_b;
                r.block_m = gemv ? 16 : 28;
                r.block_n = 16;
                r.block_k = 48;
                r.tile_m = tile.tile_m;
                r.tile_n = tile.tile_n;
                r.parts_m = 1;
                r.parts_n = 2;
                r.prefetch = 64;
                r.threads = 2;
                const double error = worst_error(r);
                ++cases;
                if (error <= 1) continue;
                ++wrong;
                std::printf("%s %s %dx%dx%d layouts %d tile %dx%d %s: %g times the bound\n", tile.algorithm,
                            dtype, m, n, k, layouts, tile.tile_m, tile.tile_n, pack_b, error);
              }
            }
          }
        }
      }
    }
  }
  std::printf("%d cases, %d wrong\n", cases, wrong);
  return wrong == 0 ? 0 : 1;
}
