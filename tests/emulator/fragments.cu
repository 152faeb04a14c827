// Fragments against plain products: ldmatrix in its forms, the three multiplications, stmatrix.
#include "cuda/ptx/mma.cuh"
#include "harness.h"

using namespace tilewright;
using emulator::Use;
using harness::Global;

namespace {

// One m16n8k16 product of a warp. A (16 x 16) and B (16 x 8) come to shared memory as rows of 16 elements, A
// by rows or columns, B by columns or rows; each is read plainly or transposed so that the fragments agree.
template <class T>
TILEWRIGHT_KERNEL void multiply_16(const T* a, const T* b, float* d, bool a_by_columns, bool b_by_rows) {
  TILEWRIGHT_SHARED(shared);
  T* const a_tile = reinterpret_cast<T*>(shared);  // 16 rows of 16
  T* const b_tile = a_tile + 16 * 16;              // 8 rows of 16, or 16 rows of 8
  const int lane = ptx::lane_id();
  for (int i = lane; i < 256; i += 32) a_tile[a_by_columns ? i % 16 * 16 + i / 16 : i] = a[i];
  for (int i = lane; i < 128; i += 32) b_tile[b_by_rows ? i : i % 8 * 16 + i / 8] = b[i];
  ptx::sync_warp();
  uint32_t a_words[4];
  uint32_t b_words[2];
  // Lane 8j + i names row i of matrix j: rows 0-7 and 8-15 of the left half of A, then of the right half.
  const int row = lane % 8 + lane / 8 % 2 * 8;
  const int column = lane / 16 * 8;
  if (a_by_columns) {
    ptx::ldmatrix_x4_trans(a_words, a_tile + (lane % 8 + column) * 16 + lane / 8 % 2 * 8);
  } else {
    ptx::ldmatrix_x4(a_words, a_tile + row * 16 + column);
  }
  if (b_by_rows) {
    ptx::ldmatrix_x2_trans(b_words, b_tile + lane % 16 * 8);
  } else {
    ptx::ldmatrix_x2(b_words, b_tile + lane % 8 * 16 + lane / 8 % 2 * 8);
  }
  float sums[4] = {1, 2, 3, 4};
  ptx::mma_m16n8k16<T>(sums, a_words, b_words);
  for (int i = 0; i < 4; ++i) {
    d[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = sums[i] - static_cast<float>(i + 1);
  }
}

template <class T>
bool products() {
  bool right = true;
  for (int form = 0; form < 4; ++form) {
    Global<T> a(256, Use::input, "a");
    Global<T> b(128, Use::input, "b");
    Global<float> d(128, Use::output, "d");
    for (uint32_t i = 0; i < 256; ++i) a[i] = T(harness::whole(i));
    for (uint32_t i = 0; i < 128; ++i) b[i] = T(harness::whole(i + 1000));
    cuda::launch(multiply_16<T>, {dim3(1), 32, 1, 768}, nullptr, a.data(), b.data(), d.data(), form % 2 != 0,
                 form / 2 != 0);
    for (size_t row = 0; row < 16; ++row) {
      for (size_t column = 0; column < 8; ++column) {
        float sum = 0;
        for (size_t k = 0; k < 16; ++k) sum += float(a[row * 16 + k]) * float(b[k * 8 + column]);
        right &= d[row * 8 + column] == sum;
      }
    }
  }
  return right;
}

// A from its fragment's definition: no ldmatrix reads 32-bit elements by columns.
TILEWRIGHT_KERNEL void multiply_tf32(const float* a, const float* b, float* d) {
  const int lane = ptx::lane_id();
  const int group = lane / 4;
  const int within = lane % 4;
  const uint32_t a_words[4] = {ptx::to_tf32(a[group * 8 + within]), ptx::to_tf32(a[(group + 8) * 8 + within]),
                               ptx::to_tf32(a[group * 8 + within + 4]),
                               ptx::to_tf32(a[(group + 8) * 8 + within + 4])};
  const uint32_t b_words[2] = {ptx::to_tf32(b[within * 8 + group]),
                               ptx::to_tf32(b[(within + 4) * 8 + group])};
  float sums[4] = {};
  ptx::mma_m16n8k8_tf32(sums, a_words, b_words);
  for (int i = 0; i < 4; ++i) d[(group + i / 2 * 8) * 8 + within * 2 + i % 2] = sums[i];
}

bool product_tf32() {
  Global<float> a(128, Use::input, "a");
  Global<float> b(64, Use::input, "b");
  Global<float> d(128, Use::output, "d");
  for (uint32_t i = 0; i < 128; ++i) a[i] = harness::whole(i) + 0x1p-12f;  // rounds away
  for (uint32_t i = 0; i < 64; ++i) b[i] = harness::whole(i + 500);
  cuda::launch(multiply_tf32, {dim3(1), 32}, nullptr, a.data(), b.data(), d.data());
  bool right = true;
  for (size_t row = 0; row < 16; ++row) {
    for (size_t column = 0; column < 8; ++column) {
      float sum = 0;
      for (size_t k = 0; k < 8; ++k) {
        // A zero keeps the small addend: it has the exponent for it.
        const float rounded = std::round(a[row * 8 + k]) == 0 ? 0x1p-12f : std::round(a[row * 8 + k]);
        sum += rounded * b[k * 8 + column];
      }
      right &= d[row * 8 + column] == sum;
    }
  }
  return right;
}

// What ldmatrix distributes, stmatrix puts back.
TILEWRIGHT_KERNEL void there_and_back(const uint16_t* from, uint16_t* to) {
  TILEWRIGHT_SHARED(shared);
  uint16_t* const first = reinterpret_cast<uint16_t*>(shared);
  uint16_t* const second = first + 256;
  const int lane = ptx::lane_id();
  for (int i = lane; i < 256; i += 32) first[i] = from[i];
  ptx::sync_warp();
  uint32_t words[4];
  ptx::ldmatrix_x4(words, first + lane * 8);
  ptx::stmatrix_x4(second + lane * 8, words);
  ptx::sync_warp();
  for (int i = lane; i < 256; i += 32) to[i] = second[i];
}

bool store_matrix() {
  Global<uint16_t> from(256, Use::input, "from");
  Global<uint16_t> to(256, Use::output, "to");
  for (size_t i = 0; i < 256; ++i) from[i] = static_cast<uint16_t>(i * 257);
  cuda::launch(there_and_back, {dim3(1), 32, 1, 1024}, nullptr, from.data(), to.data());
  return std::memcmp(from.data(), to.data(), 512) == 0;
}

const harness::Registration bf16({"fragments_bf16", {}, [](int) { return products<__nv_bfloat16>(); }});
const harness::Registration f16({"fragments_f16", {}, [](int) { return products<__half>(); }});
const harness::Registration tf32({"fragments_tf32", {}, [](int) { return product_tf32(); }});
const harness::Registration stmatrix({"stmatrix", {}, [](int) { return store_matrix(); }});

}  // namespace
