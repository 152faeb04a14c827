// What a tensor map says, and the lines of memory that a bulk tensor copy walks because of it.
//
// The emulator's cuda::tiled_map and cuda::im2col_map refuse whatever the driver would refuse, and write this
// description into the 128 opaque bytes of a TensorMap in place of the hardware's.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "cuda/tensor_map.h"
#include "emulator/swizzle.h"

namespace tilewright::emulator {

inline constexpr int kMaxRank = 5;

// Dimension 0 is the innermost, whose elements are adjacent.
struct MapDescription {
  uint32_t magic;
  uint8_t rank;
  uint8_t element_bytes;
  uint8_t swizzle;
  uint8_t is_im2col;
  uint64_t base;
  uint64_t stride_bytes[kMaxRank - 1];  // of dimensions 1, 2, ...
  uint32_t last[kMaxRank];              // sizes less one: a size may be 2^32
  uint16_t box[kMaxRank];               // tiled
  int16_t lower[2], upper[2];           // im2col: corners in (w, h)
  uint16_t channels, pixels;            // im2col: per pixel, per column
  uint8_t traversal[kMaxRank];
  uint32_t checksum;

  Swizzle swizzle_kind() const {
    return static_cast<Swizzle>(swizzle);
  }
  // Elements of one line in shared memory, and lines of one copy.
  uint32_t line_elements() const {
    return is_im2col ? channels : box[0];
  }
  uint32_t lines() const;
  uint32_t line_bytes() const {
    return line_elements() * element_bytes;
  }
  uint32_t copy_bytes() const {
    return lines() * line_bytes();
  }
};
static_assert(sizeof(MapDescription) <= sizeof(cuda::TensorMap));

// False where `map` holds no description: memory that no tiled_map or im2col_map wrote.
bool describe(const cuda::TensorMap& map, MapDescription* description);

// One line of a copy: adjacent elements in global memory, and adjacent (before swizzling) in shared memory.
// Bytes [first, end) are inside the tensor; the rest of the line is zero in a load, and not written by a
// store.
struct CopyLine {
  uint64_t global;  // address of the line's first byte, inside the tensor or not
  uint32_t first, end;
};

// The lines of the box at `coordinates` (`rank` of them), in the order in which they lie in shared memory.
std::vector<CopyLine> tiled_lines(const MapDescription& map, const int* coordinates);

// The lines of one im2col column: `pixels` positions from (w, h, n) on, walked with w fastest inside the
// bounding box [lower, size - 1 + upper] in steps of the traversal stride, wrapping into the next row and the
// next image; each is read at (w + offset_w, h + offset_h, n), channels c .. c + channels - 1.
struct Im2colStart {
  int c, w, h, n;
  int offset_w, offset_h;
};
std::vector<CopyLine> im2col_lines(const MapDescription& map, const Im2colStart& start);

// Why the instruction may not be given these operands; empty where it may.
std::string im2col_start_error(const MapDescription& map, const Im2colStart& start);

}  // namespace tilewright::emulator
