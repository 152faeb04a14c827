// How many passes over the 32 banks of shared memory a warp's access takes beyond those its size needs.
#pragma once

#include "emulator/block.h"

namespace tilewright::emulator {

enum class BankUse { copy, vector, scalar };

// One lane's part of an access that the lanes of a warp make one by one: gathered by line until all are
// there.
void count_banks(Thread& thread, const void* address, size_t bytes, BankUse use, Site site);

// Eight rows of 16 bytes that ldmatrix or stmatrix moves at once.
unsigned conflicts_of_rows(const unsigned char* const* rows);

// What was gathered of a warp is complete now: it synchronised, or its threads ended.
void flush_banks();

}  // namespace tilewright::emulator
