// How Winograd's convolution cuts an image into tiles, and where their values lie.
//
// Where four does not divide the image, its last row and column of tiles have fewer outputs and fewer
// positions, and the matrices of positions that they lack fewer rows. So that those rows lie side by side, a
// block's tiles are ordered: those of the last column, inner ones, those of the last row, the corners.
//
//      kind of position       has rows
//      0  every tile has      last column | inner | last row | corner
//      1  last column lacks                 inner | last row
//      2  last row lacks      last column | inner
//      3  both lack                         inner
#pragma once

#include "conv2d/cpu/conv2d.h"
#include "conv2d/cpu/winograd_tile.h"

namespace tilewright::TILEWRIGHT_ISA_NAMESPACE::winograd {

// Floats that keep rows of a matrix, one per position, from starting at the same set of a cache.
TW_INLINE int64_t apart(int64_t floats) {
  constexpr int64_t line = kLine / 4;
  const int64_t lines = ceil_div(floats, line);
  return (lines % 2 == 0 ? lines + 1 : lines) * line;
}

// Sizes of what a launch works with, in floats unless the name says bytes.
struct Layout {
  bool phased;
  int64_t tiles_h, tiles_w, tiles;
  int edge_h, edge_w;  // outputs of the tiles in the last row, in the last column
  int64_t block, blocks;
  int64_t row, position, block_floats;  // of V
  int64_t panels, group_panels;
  int64_t weight_position, panel;  // of the transformed weight
  int64_t sums_position, sums_panel;
  int64_t packed_bytes;
  int64_t own_bytes;
  int64_t tasks;

  Layout(const Conv2dGeometry& g, bool in_phases) : phased(in_phases) {
    tiles_h = ceil_div(g.out_height, kTileSide);
    tiles_w = ceil_div(g.out_width, kTileSide);
    tiles = g.batch * tiles_h * tiles_w;
    edge_h = static_cast<int>(g.out_height - (tiles_h - 1) * kTileSide);
    edge_w = static_cast<int>(g.out_width - (tiles_w - 1) * kTileSide);
    blocks = ceil_div(tiles, min(g.block_w, tiles));
    block = ceil_div(tiles, blocks);
    row = round_up(g.in_channels, kLanes);
    if (row % 128 == 0) row += kLine / 4;  // the rows of a register tile, too, would meet in a few sets
    position = apart(block * row);
    block_floats = kPositions * position;
    panels = ceil_div(g.out_channels, kPanel);
    group_panels = max(1, min(g.block_n / kPanel, panels));
    weight_position = apart(g.in_channels * kPanel);
    panel = kPositions * weight_position;
    sums_position = apart(block * kPanel);
    sums_panel = kPositions * sums_position;
    packed_bytes = g.groups * panels * panel * 4;
    own_bytes = 4 * ((phased ? 0 : block_floats + kLine) + group_panels * sums_panel + kLine + scratch());
    tasks = blocks * g.groups * g.parts;
  }

  // A run's outputs, and its copied patches; not needed at the same time.
  static int64_t scratch() {
    return max(kTileSide * kOutputRow, kPoints * kSlabRow) + kLine;
  }

  int64_t weight_bytes(const Conv2dGeometry& g) const {
    return g.frozen ? 0 : round_up(packed_bytes, kLine) + kApart;
  }

  int64_t shared_bytes(const Conv2dGeometry& g) const {
    return weight_bytes(g) + (phased ? 4 * (g.groups * blocks * block_floats + kLine) : 0);
  }

  int threads(const Conv2dGeometry& g) const {
    return static_cast<int>(max(1, min(g.threads, tasks)));
  }

  bool last_row_differs() const {
    return edge_h < kTileSide;
  }
  bool last_col_differs() const {
    return edge_w < kTileSide;
  }

  // The kind of a position: 2 where tiles of the last row lack it, plus 1 where those of the last column do.
  int kind(int i, int j) const {
    return (i >= edge_h + 2 ? 2 : 0) + (j >= edge_w + 2 ? 1 : 0);
  }
};

// Neighbouring tiles of one row of tiles.
struct TileRun {
  int64_t image, tile_row, tile_col;
  int count;
  int rows;           // of outputs
  int last_cols;      // columns of outputs of the last tile; the others have kTileSide
  int64_t slot;       // the first tile's row in the matrices; its neighbours follow
  int64_t last_slot;  // that of the last tile

  int cols(int tile) const {
    return tile + 1 < count ? kTileSide : last_cols;
  }
  int64_t slot_of(int tile) const {
    return tile + 1 < count ? slot + tile : last_slot;
  }
  int all_cols() const {
    return (count - 1) * kTileSide + last_cols;
  }
};

// Rows of a matrix.
struct Rows {
  int64_t first, count;
};

// Where the tiles of a block have their rows.
class Order {
 public:
  Order(const Layout& layout, int64_t block)
      : layout_(layout),
        begin_(share(layout.tiles, layout.blocks, block)),
        end_(share(layout.tiles, layout.blocks, block + 1)) {
    const int64_t image = layout.tiles_h * layout.tiles_w;
    const auto until = [&](int64_t tile) {
      const int64_t in_last_row = max(0, tile % image - (image - layout.tiles_w));
      return Counts{tile / layout.tiles_w, tile / image * layout.tiles_w + in_last_row, tile / image};
    };
    const Counts from = until(begin_), to = until(end_);
    corners_ = layout.last_col_differs() && layout.last_row_differs() ? to.corners - from.corners : 0;
    last_col_ = layout.last_col_differs() ? to.last_col - from.last_col - corners_ : 0;
    last_row_ = layout.last_row_differs() ? to.last_row - from.last_row - corners_ : 0;
  }

  // Of the matrices of positions of a kind.
  Rows rows(int kind) const {
    const int64_t first = kind % 2 == 0 ? 0 : last_col_;
    const int64_t last = end_ - begin_ - (kind == 0 ? 0 : corners_) - (kind < 2 ? 0 : last_row_);
    return {first, last - first};
  }

  // Calls f(run) for the runs of which the block consists.
  template <class F>
  TW_INLINE void for_runs(F f) const {
    // The next row of tiles of the last column, of inner ones, of the last row, of corners.
    int64_t next[4] = {0, last_col_, end_ - begin_ - corners_ - last_row_, end_ - begin_ - corners_};
    for (int64_t tile = begin_; tile < end_;) {
      const int64_t col = tile % layout_.tiles_w, line = tile / layout_.tiles_w;
      const int64_t side_by_side = min(layout_.tiles_w - col, end_ - tile);
      const int count = static_cast<int>(ceil_div(side_by_side, ceil_div(side_by_side, kRunTiles)));
      const bool last_row = line % layout_.tiles_h == layout_.tiles_h - 1;
      const bool last_col = col + count == layout_.tiles_w;
      const bool outermost = last_col && layout_.last_col_differs(),
                 below = last_row && layout_.last_row_differs();
      int64_t& inner = next[below ? 2 : 1];
      int64_t& outer = outermost ? next[below ? 3 : 0] : inner;
      TileRun run{line / layout_.tiles_h,
                  line % layout_.tiles_h,
                  col,
                  count,
                  last_row ? layout_.edge_h : kTileSide,
                  last_col ? layout_.edge_w : kTileSide,
                  inner,
                  0};
      inner += count - 1;
      run.last_slot = outer++;
      f(run);
      tile += count;
    }
  }

 private:
  // Of the tiles before one.
  struct Counts {
    int64_t last_col, last_row, corners;
  };

  const Layout& layout_;
  int64_t begin_, end_;
  int64_t last_col_, last_row_, corners_;  // tiles
};

}  // namespace tilewright::TILEWRIGHT_ISA_NAMESPACE::winograd
