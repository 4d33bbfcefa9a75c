// The kernels of one instruction set: a table of functions, filled by kernels_impl.h.
//
// Layout of images ("blocked"): blocks of 16 channels. Element (c, pixel) is at (c / 16) * block + pixel * 16 + c % 16;
// the distance `block` between channel blocks is 16 times the number of pixels.
//
// Layout of matrices ("panels"): panels of 16 output channels. Weight (o, k) is at panel(o / 16) + k * 16 + o % 16. A
// last panel of at most 8 channels is 8 wide: panel + k * 8 + o % 16.
//
// Panels of bfloat16 weights are words of 32 bits in place of floats. A word holds the weights of rows 2 k and 2 k + 1
// (the latter zero behind the last row) in its lower and upper half, so that a shift and a mask widen it to float32.
#pragma once

#include <cstddef>

namespace dynaconv {

using Index = std::ptrdiff_t;

constexpr int kPanel = 16;
constexpr int kHalf = 8;

enum class Activation : int { kNone = 0, kRelu = 1, kRelu6 = 2, kSilu = 3, kGelu = 4, kHardswish = 5 };

// Functions of single values, in the order of the activations. The last three are 2 hsig, 2 sigmoid and 1 + tanh.
enum class Function { kRelu, kRelu6, kSilu, kGelu, kHardswish, kHardSigmoid, kSigmoid, kTanh };

// ReLUs are part of the kernels; other activations are applied to results that were just stored.
inline bool is_applied_later(Activation act) { return act > Activation::kRelu6; }
inline Function function_of(Activation act) { return Function(int(act) - 1); }

// Memory that is read soon. Products prefetch it into the L2 cache, a few cache lines of 64 bytes at a time, to hide
// the latency of main memory.
struct Prefetch {
  const char* from = nullptr;
  const char* to = nullptr;
  int lines = 0;        // per prefetch

  Index count() const { return (to - from) / 64; }
  // The part for tasks [begin, end) of `tasks` equal ones, which prefetch `times` times in all.
  Prefetch part(Index begin, Index end, Index tasks, Index times) const {
    const Index n = count(), first = n * begin / tasks, last = n * end / tasks;
    return {from + first * 64, from + last * 64, int((last - first + times - 1) / times)};
  }
};

// `count` adjacent register tiles of out = act(scale * (W x) + P z + bias + add). Terms with a null pointer are
// skipped. Distances are in floats.
struct Tile {
  Index count;
  const float* x;       // first pixel at tap offset 0
  Index x_pixel;        // from one pixel to the next
  Index x_block;        // from one channel block to the next
  const Index* taps;    // offset of each tap of the convolution
  int num_taps;
  int depth;            // input channels per tap
  const float* w;       // first panel, (taps, inputs, 16)
  Index w_panel;        // to the second panel
  const float* z;       // latent features, blocked, at the same output pixels
  Index z_block;
  const float* p;
  Index p_panel;
  int latent;
  const float* scale;   // one per channel of the tile
  // Of a product of bytes (int8.h), else null: scale and offset of each pixel of x, and the sum of the bytes of w of each
  // channel of the tile.
  const float* range;
  Index range_pixel;
  const float* sums;
  const float* bias;
  const float* add;
  Index add_pixel, add_block;
  bool scales_add;      // scale multiplies `add` instead of W x, to form the kernel Lambda W0 + P T
  float* out;
  Index out_pixel, out_block;
  Activation act;
  float* sum;           // output: the sum over the pixels of each tile
  Index sum_tile;       // from the sums of one tile to those of the next
  Prefetch next_panels, next_step;
};

using TileFn = void (*)(const Tile&);

// Output pixels of one row of a depthwise convolution, 16 channels, in `count` adjacent runs. Taps outside the image
// are skipped.
struct Row {
  Index count;
  const float* x;       // tap (first row, column 0) of the first pixel; may point outside the image
  Index x_row;          // floats from one image row to the next, times the dilation
  int rows;             // kernel rows inside the image
  const float* w;       // weights of the first of these rows, 16 per tap
  int left, right;      // tap columns outside the image, of the first pixel of the row and of the last one
  const float* bias;
  float* out;
  Activation act;
};

using RowFn = void (*)(const Row&, float* sum);

// Rows of a panel of W(x) = lanes * factors * sum_k attention_k W_k. A row has one weight per output channel.
struct Mix {
  Index rows;
  const float* w;          // (row, kernel, channel), or (pair of rows, kernel, channel) in bfloat16
  int kernels;
  const float* attention;  // one per kernel
  const float* factors;    // one per row, or null
  const float* lanes;      // one per channel, or null
  float* out;              // (row, channel)
  bool odd = false;        // bfloat16: the first row is the second one of its pair
};

// The gradients of what a mix is formed from, for the gradient of its result. They are added to what is there.
struct Unmix {
  Mix mix;
  const float* gradient;   // (row, channel)
  float* to_w;             // (row, kernel, channel)
  float* to_attention;
  float* to_factors;       // or null
  float* to_lanes;         // or null
};

// out(m, n) += sum_k a(m, k) b(k, n), or =, for small matrices; the rows of b and out are contiguous.
struct Gemm {
  Index m, n, k;
  const float* a;
  Index a_m, a_k;
  const float* b;
  Index b_k;
  float* out;
  Index out_m;
  bool overwrites = false;
};

// out(m, n) += sum_k a(m, k) b(n, k); the rows of a and b are contiguous.
struct Dots {
  Index m, n, k;
  const float* a;
  Index a_m;
  const float* b;
  Index b_n;
  float* out;
  Index out_m;
};

// The row factor * row * factors.
struct ScaledRow {
  Index size;
  const float* row;
  float factor;
  const float* factors;
};

// Gradients of scale * fixed + sum_l mix_l z_l for one panel of channels, from that of the sum; all adjacent in a pixel.
// `to_along` is the sum of the product of `out`, the sum itself, and its gradient.
struct SumGradients {
  Index pixels;
  const float* gradient;
  Index gradient_pixel;
  const float* out;
  Index out_pixel;
  const float* z;
  Index z_pixel;
  int latent;
  const float* scale;
  float* to_fixed;
  Index to_fixed_pixel;
  float *to_along, *to_mix;   // (channel) and (latent, channel)
};

// Layer norm of each pixel over its channels: out = (x - mean) / sqrt(variance + epsilon) * scale + shift.
struct Norm {
  Index pixels, channels;
  const float* x;
  Index block;         // from one channel block to the next, of `x` and of `out`
  const float* scale;
  const float* shift;  // or null
  float epsilon;
  float* out;
};

constexpr int kMaxPixels = 14;
// Most pixels of a depthwise run: their accumulators fit into registers. Benchmark:
// benchmarks/native.py (results on Zen 4: docs/native.md).
constexpr int kMaxRow = 7;

enum Width { kWidthHalf = 0, kWidthOne = 1, kWidthTwo = 2 };
enum Stride { kStride16 = 0, kStride32 = 1, kStrideAny = 2 };

struct Kernels {
  const char* name;
  int pixels;      // maximum of a tile
  int panels;      // maximum of a tile
  TileFn tile[3][3][kMaxPixels];   // [Width][Stride][pixels - 1]
  RowFn row[3][2][kMaxRow];        // [3x3, 5x5, 7x7][stride 1, 2][pixels - 1]
  // One pixel of any depthwise convolution; `rows` x `columns` taps are inside the image.
  void (*point)(const float* x, Index x_row, Index x_column, int rows, int columns, const float* w, int w_row,
                const float* bias, Activation act, float* out, float* sum);
  // Maximum over `rows` x `columns` pixels of each of 16 channels; NaN if one of the pixels is NaN.
  void (*max_pool)(const float* x, Index x_row, Index x_column, Index rows, Index columns, float* out);
  // Adds the sum over `pixels` pixels of each of `channels` adjacent channels, a multiple of 8, to `sum`.
  void (*sum_pixels)(const float* x, Index x_pixel, Index channels, Index pixels, float* sum);
  // Adds one value per channel to each pixel of `channels` channels, a multiple of 8.
  void (*add_to_pixels)(const float* values, Index channels, Index pixels, float* x);
  void (*mix[2])(const Mix&);      // of a half panel, of a panel
  void (*mix_bf16[2])(const Mix&);
  void (*unmix[2])(const Unmix&);
  void (*gemm)(const Gemm&);
  void (*dots)(const Dots&);
  void (*scale_row)(const ScaledRow&, float* out);
  // Adds the gradients of the row and of the factors.
  void (*scale_row_gradients)(const ScaledRow&, const float* gradient, float* to_row, float* to_factor,
                              float* to_factors);
  void (*sum_gradients[2])(const SumGradients&);
  // Applies a function to pixels of 16 channels in place. Writes their sum to `sum` if it is not null.
  void (*apply)(Function function, float* x, Index pixels, float* sum);
  // out = scale * x + bias + add, on pixels of 16 channels; `bias` and `add` may be null.
  void (*scale)(const float* x, const float* scale, const float* bias, const float* add, Index pixels, float* out);
  void (*normalise)(const Norm&);
};

// Null if this build has no code for the instruction set.
const Kernels* kernels_avx512();
const Kernels* kernels_avx2();
const Kernels* kernels_portable();

// Returns the table for this processor, or for the instruction set that DYNACONV_ISA names. Throws std::runtime_error
// with a message for the user if the name is unknown or the processor lacks the set.
const Kernels& kernels();
const Kernels& kernels_named(const char* name);

}  // namespace dynaconv
