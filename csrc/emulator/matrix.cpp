// ldmatrix, stmatrix and mma.sync: what 32 lanes do together. The fragments' layouts are those of the PTX
// ISA.
#include <algorithm>
#include <cstring>
#include <string>

#include "emulator/memory/bank_conflicts.h"
#include "emulator/memory/memory.h"
#include "emulator/ptx/mma.h"
#include "emulator/report.h"
#include "emulator/scheduler.h"
#include "emulator/sync.h"

namespace tilewright::emulator {
namespace {

constexpr uint32_t kAll = ~0u;

// What the lanes of a warp bring, and take away.
struct Desk {
  unsigned char* rows[32];
  uint32_t words[32][4];
  uint32_t b[32][2];
  float sums[32][4];
};
Desk desks[512];  // by warp of the group

Desk& desk() {
  return desks[current->warp->number];
}

float from_bf16(uint32_t bits) {
  const uint32_t word = bits << 16;
  float value;
  std::memcpy(&value, &word, 4);
  return value;
}

// Every half as a float: the conversion instruction is not on every host.
const float* half_values() {
  static float* const table = [] {
    auto* values = new float[65536];
    for (uint32_t bits = 0; bits < 65536; ++bits) {
      __half_raw raw;
      raw.x = static_cast<unsigned short>(bits);
      values[bits] = __half2float(__half(raw));
    }
    return values;
  }();
  return table;
}

float from_tf32(uint32_t bits) {
  bits &= 0xffffe000u;  // the unit does not look at the rest
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

#if defined(__x86_64__) && !defined(__clang__)
#define TILEWRIGHT_WIDE \
  __attribute__((target_clones("avx2", "default")))  // without fma: the same bits everywhere
#else
#define TILEWRIGHT_WIDE
#endif

struct Matrices {
  float a[16][16];
  float b[16][8];
  float d[16][8];
};

template <class Convert>
inline void gather_16(const Desk& desk, Matrices& m, Convert convert) {
  for (int lane = 0; lane < 32; ++lane) {
    const int group = lane / 4;
    const int pair = lane % 4 * 2;
    for (int i = 0; i < 4; ++i) {  // i & 1: rows 8 further on, i & 2: columns 8 further on
      float* const at = &m.a[group + (i & 1) * 8][pair + (i & 2) * 4];
      at[0] = convert(desk.words[lane][i] & 0xffff);
      at[1] = convert(desk.words[lane][i] >> 16);
    }
    for (int i = 0; i < 2; ++i) {
      m.b[pair + i * 8][group] = convert(desk.b[lane][i] & 0xffff);
      m.b[pair + i * 8 + 1][group] = convert(desk.b[lane][i] >> 16);
    }
  }
}

// Four rows at a time: each sum waits for its own last addition only.
TILEWRIGHT_WIDE void multiply_add(Matrices& m, int depth) {
  typedef float Row __attribute__((vector_size(32)));
  for (int row = 0; row < 16; row += 4) {
    Row sums[4];
    std::memcpy(sums, m.d[row], sizeof(sums));
    for (int k = 0; k < depth; ++k) {
      Row b;
      std::memcpy(&b, m.b[k], sizeof(b));
      for (int i = 0; i < 4; ++i) sums[i] += m.a[row + i][k] * b;
    }
    std::memcpy(m.d[row], sums, sizeof(sums));
  }
}

void multiply_all(Multiplicand type, Desk& desk) {
  Matrices m;
  int depth = 16;
  if (type == Multiplicand::bf16) {
    gather_16(desk, m, from_bf16);
  } else if (type == Multiplicand::f16) {
    const float* const values = half_values();
    gather_16(desk, m, [values](uint32_t bits) { return values[bits]; });
  } else {
    depth = 8;
    for (int lane = 0; lane < 32; ++lane) {
      const int group = lane / 4;
      const int column = lane % 4;
      for (int i = 0; i < 4; ++i)
        m.a[group + (i & 1) * 8][column + (i & 2) * 2] = from_tf32(desk.words[lane][i]);
      for (int i = 0; i < 2; ++i) m.b[column + i * 4][group] = from_tf32(desk.b[lane][i]);
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 2; ++i) std::memcpy(&m.d[lane / 4 + i * 8][lane % 4 * 2], &desk.sums[lane][i * 2], 8);
  }
  multiply_add(m, depth);
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 2; ++i) std::memcpy(&desk.sums[lane][i * 2], &m.d[lane / 4 + i * 8][lane % 4 * 2], 8);
  }
}

// The rows that the lanes name: alignment, bounds, order. Lane 8j + i answers for row i of matrix j.
void check_rows(Warp& warp, const Desk& d, int matrices, unsigned access, Site site) {
  const char* const what = access == kRead ? "ldmatrix" : "stmatrix";
  for (int lane = 0; lane < matrices * 8; ++lane) {
    const unsigned char* const row = d.rows[lane];
    if (reinterpret_cast<uintptr_t>(row) % 16 != 0) {
      fail(Kind::misaligned, site,
           std::string(what) + ": the row of lane " + std::to_string(lane) + " is not aligned to 16 bytes");
    }
    size_t offset = 0;
    if (shared_block(row, offset) != warp.block) {
      fail(Kind::out_of_bounds, site,
           std::string(what) + ": the row of lane " + std::to_string(lane) + " is not in shared memory");
    }
    if (!check_access(actor_of(warp.lanes[lane]), row, 16, access, site)) abandon();
  }
  if (!counting_banks) return;
  for (int matrix = 0; matrix < matrices; ++matrix) {
    (access == kRead ? counted.ldmatrix_conflicts : counted.stmatrix_conflicts) +=
        conflicts_of_rows(d.rows + matrix * 8);
  }
}

// Where the two halves of a lane's word of a matrix are: its row and column, or with both swapped.
struct Place {
  int row[2];
  int column[2];
};

Place place_of(int lane, bool transposed) {
  const int group = lane / 4;
  const int pair = lane % 4 * 2;
  if (transposed) return {{pair, pair + 1}, {group, group}};
  return {{group, group}, {pair, pair + 1}};
}

}  // namespace

Words4 load_matrices(const void* row, int matrices, bool transposed) {
  const Site site = __builtin_return_address(0);
  Desk& d = desk();
  const unsigned lane = current->lane;
  d.rows[lane] = static_cast<unsigned char*>(const_cast<void*>(row));
  const auto operand = static_cast<uint64_t>(matrices * 2 + transposed);
  if (meet(kLoadMatrix, operand, kAll, "ldmatrix", site)) {
    check_rows(*current->warp, d, matrices, kRead, site);
    for (int matrix = 0; matrix < matrices; ++matrix) {
      for (int to = 0; to < 32; ++to) {
        const Place place = place_of(to, transposed);
        uint16_t halves[2];
        for (int i = 0; i < 2; ++i) {
          std::memcpy(&halves[i], d.rows[matrix * 8 + place.row[i]] + place.column[i] * 2, 2);
        }
        d.words[to][matrix] = halves[0] | static_cast<uint32_t>(halves[1]) << 16;
      }
    }
    release(kAll);
  }
  Words4 words;
  std::copy_n(d.words[lane], 4, words.word);
  return words;
}

void store_matrices(void* row, Words4 words, int matrices, bool transposed) {
  const Site site = __builtin_return_address(0);
  Desk& d = desk();
  const unsigned lane = current->lane;
  d.rows[lane] = static_cast<unsigned char*>(row);
  std::copy_n(words.word, 4, d.words[lane]);
  const auto operand = static_cast<uint64_t>(matrices * 2 + transposed);
  if (!meet(kStoreMatrix, operand, kAll, "stmatrix", site)) return;
  check_rows(*current->warp, d, matrices, kWrite, site);
  for (int matrix = 0; matrix < matrices; ++matrix) {
    for (int from = 0; from < 32; ++from) {
      const Place place = place_of(from, transposed);
      for (int i = 0; i < 2; ++i) {
        const auto half = static_cast<uint16_t>(d.words[from][matrix] >> (16 * i));
        std::memcpy(d.rows[matrix * 8 + place.row[i]] + place.column[i] * 2, &half, 2);
      }
    }
  }
  release(kAll);
}

Sums4 multiply(Multiplicand type, Sums4 sums, Words4 a, uint32_t b0, uint32_t b1) {
  Desk& d = desk();
  const unsigned lane = current->lane;
  std::copy_n(a.word, 4, d.words[lane]);
  d.b[lane][0] = b0;
  d.b[lane][1] = b1;
  std::copy_n(sums.sum, 4, d.sums[lane]);
  if (meet(kMultiply, static_cast<uint64_t>(type), kAll, "mma", __builtin_return_address(0))) {
    multiply_all(type, d);
    ++counted.mma;
    release(kAll);
  }
  std::copy_n(d.sums[lane], 4, sums.sum);
  return sums;
}

}  // namespace tilewright::emulator
