// What -fsanitize=alignment,bounds,shift,signed-integer-overflow makes the kernels call where C++ leaves the
// outcome open and a GPU traps or goes wrong: misaligned vector accesses (of which the memory hooks see only
// the parts), indices beyond an array, index arithmetic that overflows. The usual runtime is not linked.
#include <cstdint>
#include <string>

#include "emulator/report.h"
#include "emulator/scheduler.h"

namespace tilewright::emulator {
namespace {

// What the compiler passes along, as far as it is used here.
struct Location {
  const char* file;
  uint32_t line;
  uint32_t column;
};
struct Type {
  uint16_t kind;
  uint16_t info;
  char name[1];
};
struct Mismatch {
  Location location;
  const Type* type;
  unsigned char log_alignment;
  unsigned char check;
};
struct Indexed {
  Location location;
  const Type* array;
  const Type* index;
};

void found(Kind kind, const Location& location, Site site, const std::string& what) {
  if (current == nullptr || seen(kind, site)) return;
  report(kind, site, std::string(location.file) + ":" + std::to_string(location.line) + ": " + what);
}

}  // namespace
}  // namespace tilewright::emulator

using namespace tilewright::emulator;

#define SITE __builtin_return_address(0)

extern "C" {

void __ubsan_handle_type_mismatch_v1(const Mismatch* data, uintptr_t address) {
  const uintptr_t alignment = uintptr_t{1} << data->log_alignment;
  found(Kind::misaligned, data->location, SITE,
        std::string("access to ") + data->type->name + " at an address that leaves " +
            std::to_string(address % alignment) + " when divided by " + std::to_string(alignment));
}

void __ubsan_handle_out_of_bounds(const Indexed* data, uintptr_t index) {
  found(Kind::out_of_bounds, data->location, SITE,
        "index " + std::to_string(static_cast<int32_t>(index)) + " of an array of type " + data->array->name);
}

void __ubsan_handle_shift_out_of_bounds(const Location* data, uintptr_t, uintptr_t) {
  found(Kind::undefined, *data, SITE, "shift by more than the type's bits, or of a negative number");
}

void __ubsan_handle_add_overflow(const Location* data, uintptr_t, uintptr_t) {
  found(Kind::undefined, *data, SITE, "a sum overflows its signed type");
}

void __ubsan_handle_sub_overflow(const Location* data, uintptr_t, uintptr_t) {
  found(Kind::undefined, *data, SITE, "a difference overflows its signed type");
}

void __ubsan_handle_mul_overflow(const Location* data, uintptr_t, uintptr_t) {
  found(Kind::undefined, *data, SITE, "a product overflows its signed type");
}

void __ubsan_handle_divrem_overflow(const Location* data, uintptr_t, uintptr_t) {
  found(Kind::undefined, *data, SITE, "a division by zero, or of the least number by -1");
}

void __ubsan_handle_negate_overflow(const Location* data, uintptr_t) {
  found(Kind::undefined, *data, SITE, "a negation overflows its signed type");
}

}  // extern "C"
