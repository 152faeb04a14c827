#include "emulator/hopper/multiply.h"

#include <cstring>

#include "emulator/hopper/proxy.h"
#include "emulator/memory/memory.h"

namespace tilewright::emulator {
namespace {

constexpr int kMaxN = 256;
constexpr uint32_t kStepBytes = 32;  // of k, in one wgmma

float from_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

float half_value(uint16_t bits) {
  const uint32_t magnitude = bits & 0x7fffu, sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  if (magnitude >= 0x7c00u) return from_bits(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
  // Moves the exponent by 112, and makes subnormal numbers normal.
  const float scaled = from_bits(magnitude << 13) * from_bits(0x77800000u);
  return sign != 0 ? -scaled : scaled;
}

// The elements of a 16-byte chunk, `step` floats apart.
void decode(const unsigned char* chunk, Operand type, float* to, size_t step) {
  if (type == Operand::tf32) {
    uint32_t words[4];
    std::memcpy(words, chunk, sizeof words);
    for (size_t i = 0; i < 4; ++i)
      to[i * step] = from_bits(words[i] & 0xffffe000u);  // the rest is not looked at
    return;
  }
  uint16_t halves[8];
  std::memcpy(halves, chunk, sizeof halves);
  for (size_t i = 0; i < 8; ++i) {
    to[i * step] =
        type == Operand::bf16 ? from_bits(static_cast<uint32_t>(halves[i]) << 16) : half_value(halves[i]);
  }
}

// Reads `rows` rows (of A) or columns (of B) from `first` on, all k: element (m, k) goes to to[m row_step + k
// k_step].
void read_operand(const MatrixDescriptor& descriptor, bool mn_major, Operand type, uint32_t first,
                  uint32_t rows, Block& block, const Actor& actor, Site site, float* to, size_t row_step,
                  size_t k_step) {
  const uint32_t bytes = type == Operand::tf32 ? 4 : 2;
  const uint32_t per_chunk = kChunkBytes / bytes, depth = kStepBytes / bytes;
  const auto read = [&](uint32_t m, uint32_t k, size_t step) {
    const unsigned char* const at = block.shared + operand_address(descriptor, mn_major, first + m, k, bytes);
    float* const here = to + m * row_step + k * k_step;
    check_proxy(actor, at, kChunkBytes, site, "wgmma", "reads");
    if (check_access(actor, at, kChunkBytes, kRead, site)) {
      decode(at, type, here, step);
    } else {
      for (uint32_t i = 0; i < per_chunk; ++i) here[i * step] = from_bits(kPoison);
    }
  };
  if (mn_major) {
    for (uint32_t k = 0; k < depth; ++k) {
      for (uint32_t m = 0; m < rows; m += per_chunk) read(m, k, row_step);
    }
  } else {
    for (uint32_t m = 0; m < rows; ++m) {
      for (uint32_t k = 0; k < depth; k += per_chunk) read(m, k, k_step);
    }
  }
}

#if defined(__x86_64__)
__attribute__((target_clones("avx2", "default"), optimize("O3")))  // without fma: the same bits everywhere
#endif
void add_products(const float (&a)[16][16], const float (&b)[16][kMaxN], size_t n, int depth, float* sums) {
  for (size_t row = 0; row < 16; ++row) {
    float* __restrict__ const to = sums + row * n;
    for (int k = 0; k < depth; ++k) {
      const float factor = a[row][k];
      const float* __restrict__ const from = b[k];
      for (size_t column = 0; column < n; ++column) to[column] += factor * from[column];
    }
  }
}

}  // namespace

const char* descriptor_error(const MatrixDescriptor& descriptor, bool mn_major) {
  if (descriptor.base_offset != 0) return "its base offset is not 0, which the emulator does not model";
  if (descriptor.swizzle == Swizzle::none) return nullptr;
  const uint32_t period = swizzle_period(descriptor.swizzle), span = swizzle_span(descriptor.swizzle);
  if (descriptor.stride % period != 0 || descriptor.stride == 0) {
    return "its stride is no positive multiple of eight spans of its swizzle";
  }
  const uint32_t inside = descriptor.start % period;
  if (mn_major) {
    if (inside != 0) return "its start is no multiple of eight spans of its swizzle";
    if (descriptor.leading % period != 0)
      return "its leading offset is no multiple of eight spans of its swizzle";
  } else if (inside + kStepBytes > span) {
    return "its start, less a multiple of eight spans of its swizzle, leaves no 32 bytes in the first span";
  }
  return nullptr;
}

void multiply(const Multiply& what, unsigned quarter, Block& block, const Actor& actor, Site site,
              float* sums) {
  const int depth = what.type == Operand::tf32 ? 8 : 16;
  const size_t n = static_cast<size_t>(what.n);
  alignas(64) static float a[16][16], b[16][kMaxN];  // a[row][k], b[k][column]
  read_operand(decode_descriptor(what.a), what.a_mn_major, what.type, 16 * quarter, 16, block, actor, site,
               a[0], 16, 1);
  read_operand(decode_descriptor(what.b), what.b_mn_major, what.type, 0, static_cast<uint32_t>(n), block,
               actor, site, b[0], 1, kMaxN);
  if (!what.accumulate) std::memset(sums, 0, 16 * n * sizeof(float));
  add_products(a, b, n, depth, sums);
}

}  // namespace tilewright::emulator
