// What an instruction set offers: one table of functions, filled in by kernels_impl.h.
//
// Layout of images ("blocked"): channels in blocks of 16, pixels inside, so that element (c, pixel) lies at
// (c / 16) * block + pixel * 16 + c % 16. The distance `block` between channel blocks is 16 times the pixels held.
//
// Layout of matrices ("panels"): output channels in panels of 16, inputs inside, so that weight (o, k) lies at
// panel(o / 16) + k * 16 + o % 16. A last panel of at most 8 channels is 8 wide: panel + k * 8 + o % 16.
#pragma once

#include <cstddef>

namespace dynaconv {

using Index = std::ptrdiff_t;

constexpr int kPanel = 16;
constexpr int kHalf = 8;

enum class Activation : int { kNone = 0, kRelu = 1, kRelu6 = 2 };

// Memory that is read soon, to be fetched into the second cache beside other work: a few lines of 64 bytes at a time,
// in the time that products leave. What lies far away would else be waited for.
struct Ahead {
  const char* from = nullptr;
  const char* to = nullptr;
  int lines = 0;        // at a time

  Index count() const { return (to - from) / 64; }
  // The part that goes with pieces [begin, end) of `pieces` equal ones, in which lines can be fetched `times` times.
  Ahead part(Index begin, Index end, Index pieces, Index times) const {
    const Index n = count(), first = n * begin / pieces, last = n * end / pieces;
    return {from + first * 64, from + last * 64, int((last - first + times - 1) / times)};
  }
};

// Register tiles of out = act(scale * (W x) + P z + bias + add), `count` of them side by side; parts with a null
// pointer are left out.
struct Tile {
  Index count;
  const float* x;       // first pixel at tap offset 0
  Index x_pixel;        // floats from one pixel to the next
  Index x_block;        // floats from one channel block to the next
  const Index* taps;    // offset of each tap of the convolution, in floats
  int num_taps;
  int depth;            // input channels of a tap
  const float* w;       // first panel: taps outside, inputs inside
  Index w_panel;        // floats to the second panel
  const float* z;       // latent features, blocked, at the same output pixels
  Index z_block;
  const float* p;
  Index p_panel;
  int latent;
  const float* scale;   // one a channel of the tile
  const float* bias;
  const float* add;
  Index add_pixel, add_block;
  bool scales_add;      // scale multiplies `add` instead of W x; forms the kernel Lambda W0 + P T
  float* out;
  Index out_pixel, out_block;
  Activation act;
  float* sum;           // where the sums over each tile's pixels go
  Index sum_tile;       // floats from one tile's to the next one's
  Ahead next_panels, next_step;
};

using TileFn = void (*)(const Tile&);

// Output pixels of one row of a depthwise convolution, 16 channels, in `count` runs side by side. Taps outside the
// image are left out.
struct Row {
  Index count;
  const float* x;       // where tap (first row, column 0) of the first pixel would lie
  Index x_row;          // floats from one image row to the next (times the dilation)
  int rows;             // kernel rows inside the image
  const float* w;       // weights of the first of them, 16 a tap
  int left, right;      // columns of the first pixel's, and the very last one's, taps outside the image
  const float* bias;
  float* out;
  Activation act;
};

using RowFn = void (*)(const Row&, float* sum);

constexpr int kMaxPixels = 14;
constexpr int kMaxRow = 7;

enum Width { kWidthHalf = 0, kWidthOne = 1, kWidthTwo = 2 };
enum Stride { kStride16 = 0, kStride32 = 1, kStrideAny = 2 };

struct Kernels {
  const char* name;
  int pixels;      // most pixels of a tile
  int panels;      // most panels of a tile
  TileFn tile[3][3][kMaxPixels];   // [Width][Stride][pixels - 1]
  RowFn row[2][2][kMaxRow];        // [3x3, 5x5][stride 1, 2][pixels - 1]
  // A single pixel of any depthwise convolution: `rows` x `columns` taps lie inside the image.
  void (*point)(const float* x, Index x_row, Index x_column, int rows, int columns, const float* w, int w_row,
                const float* bias, Activation act, float* out, float* sum);
  // The largest of `rows` x `columns` pixels, 16 channels each; NaN where one of them is.
  void (*largest)(const float* x, Index x_row, Index x_column, Index rows, Index columns, float* out);
  // Adds 16 channels of `pixels` pixels to `sum`.
  void (*pool)(const float* x, Index pixels, float* sum);
};

// Null where this build has no code for the instruction set.
const Kernels* kernels_avx512();
const Kernels* kernels_avx2();
const Kernels* kernels_portable();

// The table for this processor, or for the set named in DYNACONV_ISA. Throws std::runtime_error with a message for
// the user when that name is unknown or the processor lacks the set.
const Kernels& kernels();
const Kernels& kernels_named(const char* name);

}  // namespace dynaconv
