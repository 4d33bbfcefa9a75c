// The layers that the steps of a program run, each in its own file.
#pragma once

#include <algorithm>

#include "int8.h"
#include "product.h"

namespace dynaconv {

// The images of a group of samples in the blocked layout: (channel block, sample, row, column, 16).
struct Images {
  float* data = nullptr;
  Index samples = 0, channels = 0, height = 0, width = 0;
  // Sums over the pixels of each image, (channel block, sample, 16); null if the step did not compute them.
  float* sums = nullptr;

  Index pixels() const { return height * width; }
  Index block() const { return samples * pixels() * kPanel; }
  Index blocks() const { return (channels + kPanel - 1) / kPanel; }
};

// Adds `count` partial sums of 16 channels. A partial sum belongs to a row or a tile, never to a thread, so that
// results are bitwise equal for every number of threads.
inline void sum_parts(const float* parts, Index count, Index distance, float* sum) {
  std::fill_n(sum, kPanel, 0.0f);
  for (Index i = 0; i < count; ++i)
    for (int lane = 0; lane < kPanel; ++lane) sum[lane] += parts[i * distance + lane];
}

// The taps of one axis that are inside an image, for an output whose first tap reads position `from`.
struct TapRange {
  Index first, count;
};
inline TapRange taps_inside(Index from, Index taps, Index dilation, Index size) {
  const Index first = std::min(taps, from >= 0 ? 0 : (-from + dilation - 1) / dilation);
  const Index last = from >= size ? 0 : std::min(taps, (size - 1 - from) / dilation + 1);
  return {first, std::max<Index>(0, last - first)};
}

Size output_size(const Step& step, Index height, Index width);
// The shape of a step's images, without data.
Images shape_after(const Step& step, const Images& x);

// The branch's result for sample 0: Lambda, which is also the attention over output channels, the bias, Phi in panels,
// the weights of the kernels of a mixture, those of the cells in each block, one float apart, and a factor for each tap
// and input channel. `sample` and the other distances from one sample to the next are in floats.
struct Coefficients {
  const float* scale = nullptr;
  const float* phi = nullptr;
  const float* attention = nullptr;
  const float* cells = nullptr;
  Index sample = 0;
  const float* bias = nullptr;
  Index bias_sample = 0;
  const float* factors = nullptr;
  Index factors_sample = 0;
};

Coefficients coefficients(const Step& step, const float* constants, const Images& x, const Team& team);
// Number of floats that the heads compute per sample.
Index heads_size(const Step& step);

// Returns whether the kernel is a mixture, or has attention over input channels or taps, so that W(x) must be formed.
inline bool is_mixture(const Step& s) { return s.dynamic && (s.kernels > 1 || s.has_channel || s.has_spatial); }
// Returns whether the kernel is assembled from cells.
inline bool is_assembled(const Step& s) { return s.dynamic && s.num_cells > 0; }
// Input channels of the kernel of one output channel.
inline Index kernel_inputs(const Step& s) { return s.kind == kDepthwise ? 1 : s.in_channels / s.groups; }
// The words of 32 bits in which the weights of `rows` rows are stored, for one channel and kernel. In int8 each tap is
// rounded up to whole words; mixtures and cells are in floats.
inline std::int64_t stored_rows(const Step& s, std::int64_t rows) {
  if (s.precision == kBf16) return (rows + 1) / 2;
  if (s.precision != kInt8 || is_mixture(s) || is_assembled(s)) return rows;
  const std::int64_t taps = s.kernel_h * s.kernel_w;
  return taps * words_of(rows / taps);
}
// Number of blocks of an assembled kernel.
Index num_blocks(const Step& step);
// Assembles W(x) of all samples from cells; one of them takes `size` floats.
void assemble(const Step& step, const float* constants, const Coefficients& c, const Windows& windows, Index samples,
              Index size, float* out, const Team& team);

// Forms W(x) of every sample in panels of float32: of DCD by products with Phi, of a mixture, or of cells. Or widens
// panels of bfloat16, those of W0 or of a static kernel, which are the same for all samples.
class Formation {
 public:
  // The step must have a Phi, which is multiplied here with the smaller one of P and Q (or R), be a mixture or be
  // assembled from cells.
  Formation(const Step& step, const float* constants, const Coefficients& c, Index samples, const Team& team);
  // Widens the weights of the step.
  Formation(const Step& step, const float* constants);
  // Floats of one W(x).
  Index size() const { return size_; }
  // Whether one kernel serves all samples.
  bool is_shared() const { return is_shared_; }
  // Forms W(x) of all samples, one after another.
  void run(float* out, const Team& team) const;
  // Whether only whole kernels can be formed.
  bool is_whole() const { return is_assembled(step_); }
  // Forms `count` panels of one sample from panel `first` on as the weights of `part`, which computes these panels.
  void run(Index sample, Index first, Index count, Product& part) const;
  // Makes W(x) of all samples, `w_sample` floats apart, the weights of a product.
  void set_weights(Product& product, const float* w, Index w_sample, const Team& team) const;
  // The memory that forming `count` panels from panel `first` on reads most of.
  Prefetch kernels(Index first, Index count) const {
    const float *from = weights(first), *to = weights(first + count);
    return {reinterpret_cast<const char*>(from), reinterpret_cast<const char*>(to)};
  }

 private:
  Index panels() const { return (step_.out_channels + kPanel - 1) / kPanel; }
  void form(Index sample, Index first, Index count, float* out) const;
  // The stored weights of a panel.
  const float* weights(Index panel) const {
    return constants_ + step_.weight + panel * stored_rows(step_, rows_) * kPanel * kernels_;
  }
  // Mixes all panels of all samples.
  void mix(float* out, const Team& team) const;
  // Mixes rows [from, to) of one panel; a row has the weights of one tap and input channel.
  void mix(Index sample, Index panel, Index from, Index to, float* out) const;

  const Step& step_;
  const float* constants_;
  Coefficients c_;
  Windows windows_;
  Index samples_, kernels_;
  bool is_shared_, mixes_;
  Index rows_;   // of the panels with the most rows
  Index size_;
  Product product_;
};

// Computes `out`, whose data, size and channels are set; `add`, which may be null, has the same shape. With `next`, a
// static depthwise step, each panel of the result is the input of that step while it is in the cache, and `out` is the
// result of the depthwise step.
struct Next {
  const Step& step;
  const Images& intermediate;   // the shape of the images between the two steps
};
void dense(const Step& step, const float* constants, const Images& x, const Images* add, Images& out, const Next* next,
           const Prefetch& prefetch, const Team& team);
// Runs the product of a dense step, panel by panel, and the depthwise step after it. If `formed` is not null, it forms
// the panels of W(x) when they are needed.
void run_fused(const Product& product, const Formation* formed, const float* constants, const Images& intermediate,
               const Next& next, Images& out, const Team& team);
// A static convolution with few input channels, which reads the program's input itself, from sample `first` on.
void dense_from(const Step& step, const float* constants, const Input& input, Index first, Images& out,
                const Next* next, const Prefetch& prefetch, const Team& team);
bool reads_input(const Step& step);

// out = act(x * Lambda / 2 + bias + add): squeeze-and-excitation, whose gates are half of the scale activations.
void scale(const Step& step, const float* constants, const Images& x, const Images* add, Images& out,
           const Team& team);

// Layer norm of each pixel over its channels.
void norm(const Step& step, const float* constants, const Images& x, Images& out, const Team& team);

// The maximum over each window, and the mean over the whole image, of each channel.
void max_pool(const Step& step, const Images& x, Images& out, const Team& team);
void mean(const Images& x, Images& out, const Team& team);
// Means over the cells of a size x size grid, (cell, channel block, sample, 16).
void adaptive_avg_pool(const Images& x, Index size, float* context, const Team& team);

// Weights of a depthwise convolution: one set for all samples, or one per sample.
struct DepthwiseWeights {
  const float* w;
  Index w_sample;
  const float* bias;
  Index bias_sample;
};

// One channel block of one sample of a depthwise convolution.
class DepthwiseBlock {
 public:
  DepthwiseBlock(const Step& step, const DepthwiseWeights& weights, const Images& x, const Images& out);
  DepthwiseBlock(const Step& step, const float* constants, const Images& x, const Images& out);
  // Computes output rows [from, to) into `out`; `x` starts with image row `x_from`. Writes the sum of row i to
  // `sums` + 16 i if `sums` is not null.
  void run(const float* x, Index x_from, Index block, Index sample, Index from, Index to, float* sums) const;
  // The image rows that output rows [from, to) read.
  struct Span {
    Index from, to;
  };
  Span input_rows(Index from, Index to) const;

 private:
  // `count` runs of `length` output pixels each, from column `begin` on.
  void run_part(const float* row, TapRange rows, Index begin, Index count, Index length, const float* w,
                const float* bias, float* out, float* sum) const;

  const Step& s_;
  const DepthwiseWeights weights_;
  const Images& x_;
  const Images& out_;
  bool fast_;
};

void depthwise(const Step& step, const float* constants, const Images& x, Images& out, const Team& team);

inline const float* constant_at(const float* constants, std::int64_t offset) {
  return offset < 0 ? nullptr : constants + offset;
}

}  // namespace dynaconv
