// The arithmetic of one wgmma, for the part of one warp: 16 rows of sums.
#pragma once

#include <cstdint>

#include "emulator/block.h"
#include "emulator/descriptor.h"
#include "emulator/hopper/operand.h"

namespace tilewright::emulator {

struct Multiply {
  uint64_t a, b;  // descriptors
  int n;
  Operand type;
  bool a_mn_major, b_mn_major;
  bool accumulate;
};

// Why the operand cannot be read so; null where it can.
const char* descriptor_error(const MatrixDescriptor& descriptor, bool mn_major);

// sums (16 x n) = [sums +] A B, where A is rows 16 quarter .. 16 quarter + 15 of the tile of 64. Reads shared
// memory as `actor`, through the asynchronous proxy.
void multiply(const Multiply& what, unsigned quarter, Block& block, const Actor& actor, Site site,
              float* sums);

}  // namespace tilewright::emulator
