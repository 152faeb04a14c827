// Swizzles, matrix descriptors, the accumulator's layout and tensor maps, against models written otherwise:
// from the pictures of the layouts and by brute force over coordinates.
#include <cmath>
#include <cstring>
#include <functional>
#include <iostream>
#include <set>
#include <vector>

#include "cuda/error.h"
#include "emulator/descriptor.h"
#include "emulator/tensor_map.h"
#include "harness.h"

using namespace tilewright;
using cuda::DataType;
using cuda::Swizzle;
using emulator::MapDescription;

namespace {

int failures = 0;

bool check(bool condition, const std::string& what) {
  if (!condition && ++failures <= 20) std::cerr << "FAILED: " << what << "\n";
  return condition;
}

template <class A, class B>
void check_equal(const A& got, const B& expected, const std::string& what) {
  if (got == expected) return;
  if (++failures <= 20)
    std::cerr << "FAILED: " << what << ": got " << got << ", expected " << expected << "\n";
}

constexpr Swizzle kSwizzles[] = {Swizzle::none, Swizzle::b32, Swizzle::b64, Swizzle::b128};

std::string text(Swizzle swizzle) {
  return "swizzle " + std::to_string(emulator::swizzle_span(swizzle));
}

// The published table of the 128-byte pattern: line r holds chunk c at place c ^ r; the narrower patterns do
// so for pairs of places and every second, or fourth line.
void test_swizzle() {
  for (uint32_t line = 0; line < 8; ++line) {
    for (uint32_t chunk = 0; chunk < 8; ++chunk) {
      const uint32_t address = 4096 + line * 128 + chunk * 16 + 5;
      check_equal(emulator::swizzled(address, Swizzle::b128), 4096 + line * 128 + (chunk ^ line) * 16 + 5,
                  "128 bytes");
      check_equal(emulator::swizzled(address, Swizzle::b64),
                  4096 + line * 128 + (chunk ^ (line & 3)) * 16 + 5, "64 bytes");
      check_equal(emulator::swizzled(address, Swizzle::b32),
                  4096 + line * 128 + (chunk ^ (line & 1)) * 16 + 5, "32 bytes");
      check_equal(emulator::swizzled(address, Swizzle::none), address, "no swizzle");
    }
  }
  for (Swizzle swizzle : kSwizzles) {
    const uint32_t period = emulator::swizzle_period(swizzle), span = emulator::swizzle_span(swizzle);
    for (uint32_t address = 0; address < 4096; ++address) {
      const uint32_t to = emulator::swizzled(address, swizzle);
      check_equal(emulator::swizzled(to, swizzle), address, text(swizzle) + " is its own inverse");
      check_equal(to / span, address / span, text(swizzle) + " stays inside its span");
      check_equal(emulator::swizzled(address + period, swizzle), to + period, text(swizzle) + " repeats");
    }
  }
}

void test_descriptor_bits() {
  const uint64_t bits =
      uint64_t{0x1234} | uint64_t{0x0abc} << 16 | uint64_t{0x2345} << 32 | uint64_t{5} << 49;
  const Swizzle kinds[] = {Swizzle::none, Swizzle::b128, Swizzle::b64, Swizzle::b32};
  for (uint64_t code = 0; code < 4; ++code) {
    const emulator::MatrixDescriptor d = emulator::decode_descriptor(bits | code << 62);
    check_equal(d.start, 0x12340u, "start");
    check_equal(d.leading, 0xabc0u, "leading");
    check_equal(d.stride, 0x23450u, "stride");
    check_equal(d.base_offset, 5u, "base offset");
    check(d.swizzle == kinds[code], "swizzle code " + std::to_string(code));
    check_equal(emulator::encode_descriptor(d), bits | code << 62, "encoding is the inverse");
  }
}

// A tile in shared memory as its writer sees it: rows of one span (K-major: m rows; MN-major: k rows), atoms
// of eight rows, laid one after another by `between_rows` and `between_spans`. The descriptor must lead to
// the same bytes.
void test_operands() {
  for (Swizzle swizzle : kSwizzles) {
    for (uint32_t bytes : {2u, 4u}) {
      const uint32_t span = emulator::swizzle_span(swizzle), wide = span / bytes;
      const uint32_t rows = 64, base = 8192, k_step = 32 / bytes;
      // K-major: a panel of `rows` lines of one span, and further panels for further k.
      const auto k_major_byte = [&](uint32_t m, uint32_t k) {
        const uint32_t panel = k / wide;
        return emulator::swizzled(base + panel * rows * span + m * span + k % wide * bytes, swizzle);
      };
      for (uint32_t first_k = 0; first_k < 64; first_k += k_step) {
        emulator::MatrixDescriptor d{base + first_k / wide * rows * span + first_k % wide * bytes,
                                     rows * span, 8 * span, 0, swizzle};
        for (uint32_t m = 0; m < rows; ++m) {
          for (uint32_t k = 0; k < k_step; ++k) {
            check_equal(
                emulator::operand_address(d, false, m, k, bytes), k_major_byte(m, first_k + k),
                text(swizzle) + " K-major m " + std::to_string(m) + " k " + std::to_string(first_k + k));
          }
        }
      }
      if (bytes == 4) continue;  // tf32 is K-major only
      // MN-major: panels of one span of m, each with `depth` lines of k.
      const uint32_t depth = 64;
      const auto mn_major_byte = [&](uint32_t m, uint32_t k) {
        return emulator::swizzled(base + m / wide * depth * span + k * span + m % wide * bytes, swizzle);
      };
      for (uint32_t first_k = 0; first_k < depth; first_k += k_step) {
        emulator::MatrixDescriptor d{base + first_k * span, depth * span, 8 * span, 0, swizzle};
        if (swizzle == Swizzle::none) std::swap(d.leading, d.stride);  // the roles differ there
        for (uint32_t m = 0; m < 128; ++m) {
          for (uint32_t k = 0; k < k_step; ++k) {
            check_equal(
                emulator::operand_address(d, true, m, k, bytes), mn_major_byte(m, first_k + k),
                text(swizzle) + " MN-major m " + std::to_string(m) + " k " + std::to_string(first_k + k));
          }
        }
      }
    }
  }
}

void test_accumulator() {
  for (int n = 8; n <= 256; n += 8) {
    std::set<std::pair<int, int>> places;
    for (int thread = 0; thread < 128; ++thread) {
      for (int index = 0; index < n / 2; ++index) {
        const emulator::AccumulatorPlace place = emulator::accumulator_place(thread, index);
        check(place.row >= 0 && place.row < 64 && place.column >= 0 && place.column < n, "inside the tile");
        check_equal(place.row / 16, thread / 32, "a warp holds sixteen rows");
        places.emplace(place.row, place.column);
      }
    }
    check_equal(places.size(), static_cast<size_t>(64 * n),
                "each element is held once, n " + std::to_string(n));
  }
  // Of the figure: lane 0 of warp 0 holds (0, 0), (0, 1), (8, 0), (8, 1), (0, 8) ...; lane 31 of warp 3 (55,
  // 6) first.
  const int expected[][4] = {{0, 0, 0, 0},    {0, 1, 0, 1},    {0, 2, 8, 0}, {0, 3, 8, 1},   {0, 4, 0, 8},
                             {127, 0, 55, 6}, {127, 3, 63, 7}, {5, 0, 1, 2}, {37, 6, 25, 10}};
  for (const auto& [thread, index, row, column] : expected) {
    const emulator::AccumulatorPlace place = emulator::accumulator_place(thread, index);
    check_equal(place.row, row,
                "row of thread " + std::to_string(thread) + " value " + std::to_string(index));
    check_equal(place.column, column, "column of thread " + std::to_string(thread));
  }
}

MapDescription described(const cuda::TensorMap& map) {
  MapDescription description;
  check(emulator::describe(map, &description), "a map describes itself");
  return description;
}

struct Tiled {
  DataType type = DataType::bf16;
  int rank = 3;
  uint64_t base = 1 << 20;
  std::vector<uint64_t> sizes{100, 7, 3};
  std::vector<uint64_t> strides{208, 2000};
  std::vector<uint32_t> box{64, 5, 2};
  Swizzle swizzle = Swizzle::b128;

  cuda::TensorMap map() const {
    return cuda::tiled_map(type, rank, reinterpret_cast<const void*>(base), sizes.data(), strides.data(),
                           box.data(), swizzle);
  }
};

void test_tiled_lines() {
  const Tiled tiled;
  const MapDescription map = described(tiled.map());
  check_equal(map.copy_bytes(), 64u * 5 * 2 * 2, "bytes of a box");
  for (const auto& [c0, c1, c2] : {std::array{0, 0, 0},
                                   {64, 4, 2},
                                   {-8, -2, -1},
                                   {96, 6, 0},
                                   {128, 0, 0},
                                   {0, 9, 0},
                                   {0, 0, 5},
                                   {-64, 0, 0},
                                   {-200, 0, 0}}) {
    const int coordinates[] = {c0, c1, c2};
    const auto lines = emulator::tiled_lines(map, coordinates);
    check_equal(lines.size(), size_t{10}, "lines of a box");
    for (int z = 0; z < 2; ++z) {
      for (int y = 0; y < 5; ++y) {
        const emulator::CopyLine& line = lines[static_cast<size_t>(z * 5 + y)];
        for (int x = 0; x < 64; ++x) {
          const int64_t at[] = {c0 + x, c1 + y, c2 + z};
          const bool inside = at[0] >= 0 && at[0] < 100 && at[1] >= 0 && at[1] < 7 && at[2] >= 0 && at[2] < 3;
          const uint32_t byte = static_cast<uint32_t>(x) * 2;
          check_equal(line.first <= byte && byte < line.end, inside, "which elements are inside");
          if (inside) {
            check_equal(line.global + byte,
                        tiled.base + static_cast<uint64_t>(at[0] * 2 + at[1] * 208 + at[2] * 2000),
                        "where from");
          }
        }
      }
    }
  }
}

void test_tiled_ranks() {
  for (int rank = 1; rank <= 5; ++rank) {
    Tiled tiled{
        .rank = rank, .sizes = {16, 3, 3, 3, 3}, .strides = {32, 96, 288, 864}, .box = {8, 2, 2, 2, 2}};
    const MapDescription map = described(tiled.map());
    const int coordinates[] = {8, 1, 1, 1, 1};
    const auto lines = emulator::tiled_lines(map, coordinates);
    check_equal(lines.size(), size_t{1} << (rank - 1), "lines in rank " + std::to_string(rank));
    uint64_t last = tiled.base + 16;
    for (int dim = 1; dim < rank; ++dim) last += 2 * tiled.strides[static_cast<size_t>(dim - 1)];
    check_equal(lines.back().global, last, "the last line in rank " + std::to_string(rank));
    check_equal(lines.back().end, 16u, "it is inside");
  }
}

bool refused(const std::function<cuda::TensorMap()>& make, const std::string& word) {
  try {
    make();
  } catch (const cuda::Error& error) {
    return check(std::string(error.what()).find(word) != std::string::npos,
                 "the refusal names " + word + ": " + error.what());
  }
  return check(false, "a map with a wrong " + word + " is refused");
}

void test_tiled_refusals() {
  const auto with = [](const std::function<void(Tiled&)>& change, const std::string& word) {
    Tiled tiled;
    change(tiled);
    refused([&] { return tiled.map(); }, word);
  };
  with([](Tiled& t) { t.base = 0; }, "base");
  with([](Tiled& t) { t.base += 8; }, "base");
  with([](Tiled& t) { t.rank = 0; }, "rank");
  with([](Tiled& t) { t.rank = 6; }, "rank");
  with([](Tiled& t) { t.sizes[1] = 0; }, "sizes[1]");
  with([](Tiled& t) { t.sizes[0] = (uint64_t{1} << 32) + 1; }, "sizes[0]");
  with([](Tiled& t) { t.strides[0] = 200; }, "stride_bytes[0]");
  with([](Tiled& t) { t.strides[1] = uint64_t{1} << 40; }, "stride_bytes[1]");
  with([](Tiled& t) { t.strides[1] = 0; }, "stride_bytes[1]");
  with([](Tiled& t) { t.box[1] = 0; }, "box[1]");
  with([](Tiled& t) { t.box[2] = 257; }, "box[2]");
  with([](Tiled& t) { t.box[0] = 60; }, "multiple of 16");
  with([](Tiled& t) { t.box[0] = 128; }, "128 bytes");
  with([](Tiled& t) { t.swizzle = Swizzle::b64; }, "64 bytes");
  with([](Tiled& t) { t.swizzle = Swizzle::b32; }, "32 bytes");
  with([](Tiled& t) { t.type = DataType::f32; }, "128 bytes");
  // The edges of what is taken.
  check_equal(described(Tiled{.sizes = {uint64_t{1} << 32, 7, 3}}.map()).last[0], 0xffffffffu,
              "2^32 elements");
  check_equal(described(Tiled{.strides = {208, (uint64_t{1} << 40) - 16}}.map()).stride_bytes[1],
              (uint64_t{1} << 40) - 16, "the largest stride");
  check_equal(described(Tiled{.box = {256, 256, 1}, .swizzle = Swizzle::none}.map()).copy_bytes(), 131072u,
              "the largest box");
  check_equal(described(Tiled{.sizes = {100, 1, 1}, .strides = {0, 0}}.map()).stride_bytes[0], 0u,
              "a dimension of size 1 needs no stride");
  MapDescription nothing;
  cuda::TensorMap scribble = Tiled{}.map();
  check(!emulator::describe(cuda::TensorMap{}, &nothing), "zeros are no map");
  reinterpret_cast<unsigned char*>(&scribble)[20] ^= 1;
  check(!emulator::describe(scribble, &nothing), "a damaged map is no map");
}

struct Convolution {
  int channels = 24, width = 9, height = 7, images = 3;
  int filter_w = 3, filter_h = 2;
  int pad_w = 1, pad_h = 2, dilation_w = 2, dilation_h = 1, stride_w = 1, stride_h = 1;
  uint32_t box_channels = 16, pixels = 20;
  uint64_t base = 1 << 16;

  int outputs_w() const {
    return (width + 2 * pad_w - dilation_w * (filter_w - 1) - 1) / stride_w + 1;
  }
  int outputs_h() const {
    return (height + 2 * pad_h - dilation_h * (filter_h - 1) - 1) / stride_h + 1;
  }
  uint64_t pixel_bytes() const {
    return static_cast<uint64_t>(channels) * 2;
  }

  cuda::TensorMap map() const {
    const uint64_t w = static_cast<uint64_t>(width), h = static_cast<uint64_t>(height);
    const uint64_t sizes[] = {static_cast<uint64_t>(channels), w, h, static_cast<uint64_t>(images)};
    const uint64_t strides[] = {pixel_bytes(), w * pixel_bytes(), h * w * pixel_bytes()};
    const int lower[] = {-pad_w, -pad_h};
    const int upper[] = {pad_w - (filter_w - 1) * dilation_w, pad_h - (filter_h - 1) * dilation_h};
    const uint32_t traversal[] = {1, static_cast<uint32_t>(stride_w), static_cast<uint32_t>(stride_h), 1};
    return cuda::im2col_map(DataType::bf16, reinterpret_cast<const void*>(base), sizes, strides, lower, upper,
                            box_channels, pixels, traversal, Swizzle::b32);
  }
};

// The column that starts at output pixel `first` must hold, for filter tap (s, r), what a convolution reads.
void check_column(const Convolution& conv, int first, int s, int r, int c) {
  const MapDescription map = described(conv.map());
  const int p_count = conv.outputs_h(), q_count = conv.outputs_w();
  const int q0 = first % q_count, p0 = first / q_count % p_count, n0 = first / q_count / p_count;
  const emulator::Im2colStart start{c,
                                    q0 * conv.stride_w - conv.pad_w,
                                    p0 * conv.stride_h - conv.pad_h,
                                    n0,
                                    s * conv.dilation_w,
                                    r * conv.dilation_h};
  check_equal(emulator::im2col_start_error(map, start), std::string(),
              "a column may start at any output pixel");
  const auto lines = emulator::im2col_lines(map, start);
  for (uint32_t i = 0; i < conv.pixels; ++i) {
    const int pixel = first + static_cast<int>(i);
    const int q = pixel % q_count, p = pixel / q_count % p_count, n = pixel / q_count / p_count;
    const int x = q * conv.stride_w - conv.pad_w + s * conv.dilation_w;
    const int y = p * conv.stride_h - conv.pad_h + r * conv.dilation_h;
    const bool inside = x >= 0 && x < conv.width && y >= 0 && y < conv.height && n < conv.images;
    const int end = inside ? std::min(static_cast<int>(conv.box_channels), conv.channels - c) : 0;
    check_equal(static_cast<int>(lines[i].end), 2 * end, "channels inside, pixel " + std::to_string(pixel));
    if (end > 0) {
      const int64_t pixel_number = (static_cast<int64_t>(n) * conv.height + y) * conv.width + x;
      check_equal(
          lines[i].global,
          conv.base + static_cast<uint64_t>(pixel_number) * conv.pixel_bytes() + static_cast<uint64_t>(c) * 2,
          "where pixel " + std::to_string(pixel) + " is");
    }
  }
}

void test_im2col() {
  std::vector<Convolution> cases;
  cases.push_back({});
  cases.push_back({.pad_w = 0, .pad_h = 0, .dilation_w = 1});
  cases.push_back({.dilation_w = 1, .stride_w = 2, .stride_h = 3});
  cases.push_back({.filter_w = 1, .filter_h = 1, .pad_w = 0, .pad_h = 0, .stride_w = 2, .stride_h = 2});
  cases.push_back(
      {.width = 1, .height = 1, .filter_w = 3, .filter_h = 3, .pad_w = 1, .pad_h = 1, .dilation_w = 1});
  for (const Convolution& conv : cases) {
    const int outputs = conv.outputs_w() * conv.outputs_h() * conv.images;
    for (int first = 0; first < outputs; ++first) {
      for (int s = 0; s < conv.filter_w; ++s) {
        for (int r = 0; r < conv.filter_h; ++r) {
          for (int c : {0, 16}) check_column(conv, first, s, r, c);
        }
      }
    }
  }
}

void test_im2col_refusals() {
  const auto with = [](const std::function<void(Convolution&)>& change, const std::string& word) {
    Convolution conv;
    change(conv);
    refused([&] { return conv.map(); }, word);
  };
  with([](Convolution& c) { c.pad_w = 129; }, "lower_corner[0]");
  with([](Convolution& c) { c.filter_h = 200; }, "upper_corner[1]");
  with([](Convolution& c) { c.filter_w = 20; }, "bounding box");
  with([](Convolution& c) { c.box_channels = 0; }, "channels_per_pixel");
  with([](Convolution& c) { c.box_channels = 264; }, "channels_per_pixel");
  with([](Convolution& c) { c.box_channels = 32; }, "32 bytes");
  with([](Convolution& c) { c.box_channels = 12; }, "multiple of 16");
  with([](Convolution& c) { c.pixels = 0; }, "pixels_per_column");
  with([](Convolution& c) { c.pixels = 1025; }, "pixels_per_column");
  with([](Convolution& c) { c.stride_w = 9; }, "traversal_stride[1]");
  with([](Convolution& c) { c.channels = 20; }, "stride_bytes[0]");
  const MapDescription map = described(Convolution{.dilation_w = 1, .stride_w = 2}.map());
  const auto error = [&](emulator::Im2colStart start) { return emulator::im2col_start_error(map, start); };
  check(error({0, -1, -2, 0, 2, 1}).empty(), "the lower corner is a start");
  check(error({0, -2, -2, 0, 0, 0}).find("w is -2") == 0, "a start before the box");
  check(error({0, -1, 9, 0, 0, 0}).find("h is 9") == 0, "a start behind the box");
  check(error({0, 0, -2, 0, 0, 0}).find("never meet") != std::string::npos, "a start between the steps");
  check(error({0, -1, -2, 0, 256, 0}).find("offset_w") == 0, "an offset of nine bits");
  check(error({0, -1, -2, 0, 0, -1}).find("offset_h") == 0, "a negative offset");
}

template <void (*... tests)()>
bool run(int) {
  failures = 0;
  (tests(), ...);
  return failures == 0;
}

const harness::Registration kCases[] = {
    harness::Registration({"hopper_swizzles", {}, run<test_swizzle>}),
    harness::Registration(
        {"hopper_descriptors", {}, run<test_descriptor_bits, test_operands, test_accumulator>}),
    harness::Registration(
        {"hopper_tiled_maps", {}, run<test_tiled_lines, test_tiled_ranks, test_tiled_refusals>}),
    harness::Registration({"hopper_im2col_maps", {}, run<test_im2col, test_im2col_refusals>}),
};

}  // namespace
