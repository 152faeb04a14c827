#include "emulator/tensor_map.h"

#include <cstring>

#include "cuda/error.h"

namespace tilewright::emulator {
namespace {

constexpr uint32_t kMagic = 0x70616d74;
constexpr uint64_t kStrideLimit = uint64_t{1} << 40;
constexpr uint64_t kSizeLimit = uint64_t{1} << 32;
constexpr uint32_t kBoxLimit = 256;
constexpr uint32_t kPixelLimit = 1024;
constexpr uint32_t kTraversalLimit = 8;
constexpr int kCornerMin = -128, kCornerMax = 127;  // of two spatial dimensions; others are encoded otherwise
constexpr int kOffsetLimit = 255;

[[noreturn]] void refuse(const char* operation, const std::string& argument, const std::string& got,
                         const std::string& expected) {
  throw cuda::Error(std::string(operation) + ": " + argument + " is " + got + "; expected " + expected);
}

void need(bool condition, const char* operation, const std::string& argument, int64_t got,
          const std::string& expected) {
  if (!condition) refuse(operation, argument, std::to_string(got), expected);
}

std::string at(const char* name, int index) {
  return std::string(name) + "[" + std::to_string(index) + "]";
}

uint32_t checksum(MapDescription description) {
  description.checksum = 0;
  unsigned char bytes[sizeof description];
  std::memcpy(bytes, &description, sizeof description);
  uint32_t hash = 2166136261u;
  for (unsigned char byte : bytes) hash = (hash ^ byte) * 16777619u;
  return hash;
}

// What both kinds share: everything but the box.
MapDescription common(const char* operation, cuda::DataType type, int rank, const void* base,
                      const uint64_t* sizes, const uint64_t* stride_bytes, Swizzle swizzle) {
  MapDescription map;
  std::memset(&map, 0, sizeof map);  // padding too: it is part of the checksum
  map.magic = kMagic;
  map.rank = static_cast<uint8_t>(rank);
  map.element_bytes = static_cast<uint8_t>(cuda::size_of(type));
  map.swizzle = static_cast<uint8_t>(swizzle);
  map.base = reinterpret_cast<uint64_t>(base);
  if (base == nullptr || map.base % 16 != 0) {
    refuse(operation, "base", "address " + std::to_string(map.base), "a nonzero multiple of 16");
  }
  for (int dim = 0; dim < rank; ++dim) {
    need(sizes[dim] >= 1 && sizes[dim] <= kSizeLimit, operation, at("sizes", dim),
         static_cast<int64_t>(sizes[dim]), "1 to 2^32");
    map.last[dim] = static_cast<uint32_t>(sizes[dim] - 1);
  }
  for (int dim = 1; dim < rank; ++dim) {
    const uint64_t stride = stride_bytes[dim - 1];
    need(stride % 16 == 0 && stride < kStrideLimit, operation, at("stride_bytes", dim - 1),
         static_cast<int64_t>(stride), "a multiple of 16 below 2^40");
    need(stride > 0 || sizes[dim] == 1, operation, at("stride_bytes", dim - 1), 0,
         "more than 0 where the size is not 1: give a repeated dimension coordinate 0 instead");
    map.stride_bytes[dim - 1] = stride;
  }
  for (uint8_t& step : map.traversal) step = 1;
  return map;
}

void check_line(const char* operation, const char* argument, const MapDescription& map) {
  const uint32_t bytes = map.line_bytes();
  const std::string name =
      std::string(argument) + " times the element's " + std::to_string(int{map.element_bytes}) + " bytes";
  need(bytes % 16 == 0, operation, name, bytes, "a multiple of 16");
  if (map.swizzle_kind() != Swizzle::none) {
    const uint32_t span = swizzle_span(map.swizzle_kind());
    need(bytes <= span, operation, name, bytes, "at most the swizzle's " + std::to_string(span) + " bytes");
  }
}

cuda::TensorMap encoded(MapDescription map) {
  map.checksum = checksum(map);
  cuda::TensorMap result;
  std::memset(&result, 0, sizeof result);
  std::memcpy(&result, &map, sizeof map);
  return result;
}

}  // namespace

uint32_t MapDescription::lines() const {
  if (is_im2col) return pixels;
  uint32_t product = 1;
  for (int dim = 1; dim < rank; ++dim) product *= box[dim];
  return product;
}

bool describe(const cuda::TensorMap& map, MapDescription* description) {
  std::memcpy(description, &map, sizeof *description);
  return description->magic == kMagic && description->checksum == checksum(*description);
}

namespace {

// Bytes [first, end) of a line of `elements` that starts at element `start` of dimension 0.
void clip(const MapDescription& map, int64_t start, uint32_t elements, CopyLine* line) {
  const int64_t size = int64_t{map.last[0]} + 1;
  const int64_t low = std::max<int64_t>(0, -start);
  const int64_t high = std::min<int64_t>(elements, size - start);
  if (high <= low) return;
  line->first = static_cast<uint32_t>(low) * map.element_bytes;
  line->end = static_cast<uint32_t>(high) * map.element_bytes;
}

}  // namespace

std::vector<CopyLine> tiled_lines(const MapDescription& map, const int* coordinates) {
  std::vector<CopyLine> lines;
  lines.reserve(map.lines());
  std::array<uint32_t, kMaxRank> position{};  // inside the box; dimension 0 stays 0
  for (uint32_t count = map.lines(); count > 0; --count) {
    CopyLine line{map.base + static_cast<int64_t>(coordinates[0]) * map.element_bytes, 0, 0};
    bool inside = true;
    for (int dim = 1; dim < map.rank; ++dim) {
      const int64_t coordinate = int64_t{coordinates[dim]} + position[dim];
      inside = inside && coordinate >= 0 && coordinate <= map.last[dim];
      line.global += static_cast<uint64_t>(coordinate) * map.stride_bytes[dim - 1];
    }
    if (inside) clip(map, coordinates[0], map.box[0], &line);
    lines.push_back(line);
    for (int dim = 1; dim < map.rank && ++position[dim] == map.box[dim]; ++dim) position[dim] = 0;
  }
  return lines;
}

std::vector<CopyLine> im2col_lines(const MapDescription& map, const Im2colStart& start) {
  const int64_t lower_w = map.lower[0], upper_w = int64_t{map.last[1]} + map.upper[0];
  const int64_t lower_h = map.lower[1], upper_h = int64_t{map.last[2]} + map.upper[1];
  int64_t w = start.w, h = start.h, n = start.n;
  std::vector<CopyLine> lines;
  lines.reserve(map.pixels);
  for (uint32_t count = map.pixels; count > 0; --count) {
    const int64_t read_w = w + start.offset_w, read_h = h + start.offset_h;
    CopyLine line{map.base + static_cast<int64_t>(start.c) * map.element_bytes +
                      static_cast<uint64_t>(read_w) * map.stride_bytes[0] +
                      static_cast<uint64_t>(read_h) * map.stride_bytes[1] +
                      static_cast<uint64_t>(n) * map.stride_bytes[2],
                  0, 0};
    const bool inside = read_w >= 0 && read_w <= map.last[1] && read_h >= 0 && read_h <= map.last[2] &&
                        n >= 0 && n <= map.last[3];
    if (inside) clip(map, start.c, map.channels, &line);
    lines.push_back(line);
    w += map.traversal[1];
    if (w <= upper_w) continue;
    w = lower_w;
    h += map.traversal[2];
    if (h <= upper_h) continue;
    h = lower_h;
    ++n;
  }
  return lines;
}

std::string im2col_start_error(const MapDescription& map, const Im2colStart& start) {
  const int from[2] = {start.w, start.h}, offset[2] = {start.offset_w, start.offset_h};
  const char* const names[2] = {"w", "h"};
  for (int dim = 0; dim < 2; ++dim) {
    const int64_t end = int64_t{map.last[dim + 1]} + map.upper[dim];
    const std::string name = names[dim];
    if (from[dim] < map.lower[dim] || from[dim] > end) {
      return name + " is " + std::to_string(from[dim]) + "; the bounding box has " +
             std::to_string(map.lower[dim]) + " to " + std::to_string(end);
    }
    if ((from[dim] - map.lower[dim]) % map.traversal[dim + 1] != 0) {
      return name + " is " + std::to_string(from[dim]) + ", which steps of " +
             std::to_string(int{map.traversal[dim + 1]}) + " from the corner " +
             std::to_string(map.lower[dim]) + " never meet";
    }
    if (offset[dim] < 0 || offset[dim] > kOffsetLimit) {
      return "offset_" + name + " is " + std::to_string(offset[dim]) + "; expected 0 to " +
             std::to_string(kOffsetLimit);
    }
  }
  return {};
}

}  // namespace tilewright::emulator

namespace tilewright::cuda {

using emulator::at;
using emulator::need;

TensorMap tiled_map(DataType type, int rank, const void* base, const uint64_t* sizes,
                    const uint64_t* stride_bytes, const uint32_t* box, Swizzle swizzle) {
  static constexpr char kOperation[] = "tiled_map";
  need(rank >= 1 && rank <= emulator::kMaxRank, kOperation, "rank", rank, "1 to 5");
  emulator::MapDescription map = emulator::common(kOperation, type, rank, base, sizes, stride_bytes, swizzle);
  for (int dim = 0; dim < rank; ++dim) {
    need(box[dim] >= 1 && box[dim] <= emulator::kBoxLimit, kOperation, at("box", dim), box[dim], "1 to 256");
    map.box[dim] = static_cast<uint16_t>(box[dim]);
  }
  emulator::check_line(kOperation, "box[0]", map);
  return emulator::encoded(map);
}

TensorMap im2col_map(DataType type, const void* base, const uint64_t* sizes, const uint64_t* stride_bytes,
                     const int* lower_corner, const int* upper_corner, uint32_t channels_per_pixel,
                     uint32_t pixels_per_column, const uint32_t* traversal_stride, Swizzle swizzle) {
  static constexpr char kOperation[] = "im2col_map";
  emulator::MapDescription map = emulator::common(kOperation, type, 4, base, sizes, stride_bytes, swizzle);
  map.is_im2col = 1;
  for (int dim = 0; dim < 2; ++dim) {
    for (const auto& [name, value] :
         {std::pair{"lower_corner", lower_corner[dim]}, {"upper_corner", upper_corner[dim]}}) {
      need(value >= emulator::kCornerMin && value <= emulator::kCornerMax, kOperation, at(name, dim), value,
           "-128 to 127");
    }
    const int64_t extent = static_cast<int64_t>(sizes[dim + 1]) + upper_corner[dim] - lower_corner[dim];
    need(extent > 0, kOperation, at("the bounding box's extent", dim), extent,
         "at least 1 (size + upper_corner - lower_corner)");
    map.lower[dim] = static_cast<int16_t>(lower_corner[dim]);
    map.upper[dim] = static_cast<int16_t>(upper_corner[dim]);
  }
  need(channels_per_pixel >= 1 && channels_per_pixel <= emulator::kBoxLimit, kOperation, "channels_per_pixel",
       channels_per_pixel, "1 to 256");
  need(pixels_per_column >= 1 && pixels_per_column <= emulator::kPixelLimit, kOperation, "pixels_per_column",
       pixels_per_column, "1 to 1024");
  map.channels = static_cast<uint16_t>(channels_per_pixel);
  map.pixels = static_cast<uint16_t>(pixels_per_column);
  for (int dim = 0; dim < 4; ++dim) {
    const bool steps = dim == 1 || dim == 2;  // the driver ignores it for c; the walk over n knows no other
    need(traversal_stride[dim] >= 1 && traversal_stride[dim] <= (steps ? emulator::kTraversalLimit : 1),
         kOperation, at("traversal_stride", dim), traversal_stride[dim], steps ? "1 to 8" : "1");
    map.traversal[dim] = static_cast<uint8_t>(traversal_stride[dim]);
  }
  emulator::check_line(kOperation, "channels_per_pixel", map);
  return emulator::encoded(map);
}

}  // namespace tilewright::cuda
