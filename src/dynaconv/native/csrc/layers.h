// The steps of a program, each in a file of its own.
#pragma once

#include <algorithm>

#include "product.h"

namespace dynaconv {

// The images of a group of samples, blocked: channel blocks outside, samples, rows and columns inside.
struct Images {
  float* data = nullptr;
  Index samples = 0, channels = 0, height = 0, width = 0;
  // Sums over each image's pixels, (channel block, sample, 16), where the step that made the images took them.
  float* sums = nullptr;

  Index pixels() const { return height * width; }
  Index block() const { return samples * pixels() * kPanel; }
  Index blocks() const { return (channels + kPanel - 1) / kPanel; }
};

// The sum of `count` parts of a sum, 16 channels each. Parts are rows or tiles, never what a thread happened to do, so
// that results are the same to the last bit however many threads there are.
inline void add_up(const float* parts, Index count, Index distance, float* sum) {
  std::fill_n(sum, kPanel, 0.0f);
  for (Index i = 0; i < count; ++i)
    for (int lane = 0; lane < kPanel; ++lane) sum[lane] += parts[i * distance + lane];
}

// The taps of one axis that lie inside an image, for an output whose first tap reads position `from`.
struct Inside {
  Index first, count;
};
inline Inside inside(Index from, Index taps, Index dilation, Index size) {
  const Index first = std::min(taps, from >= 0 ? 0 : (-from + dilation - 1) / dilation);
  const Index last = from >= size ? 0 : std::min(taps, (size - 1 - from) / dilation + 1);
  return {first, std::max<Index>(0, last - first)};
}

Size output_size(const Step& step, Index height, Index width);

// What the branch computes for each sample: Lambda, the bias and Phi in panels, at these places of a sample's row.
struct Coefficients {
  const float* scale = nullptr;
  const float* bias = nullptr;
  const float* phi = nullptr;
  Index sample = 0;
};

Coefficients coefficients(const Step& step, const float* constants, const Images& x, const Team& team);
// Floats that the heads give for one sample.
Index heads_size(const Step& step);

// The product that forms W(x) of every sample in the order of W0: it lacks but `tile.out`, from sample to sample
// `out_sample` floats apart. Phi, which there must be, is multiplied here, with the smaller of P and Q or R.
Product formation(const Step& step, const float* constants, const Coefficients& c, Index samples, const Team& team);

// Fills `out`, whose data, size and channels are set; `add` (or null) has the same shape. With `next`, a static
// depthwise step, each panel of the result goes through it while it is in the cache: `out` is then the depthwise
// result.
struct Next {
  const Step& step;
  const Images& between;   // the shape of what lies between the two
};
void dense(const Step& step, const float* constants, const Images& x, const Images* add, Images& out, const Next* next,
           const Ahead& ahead, const Team& team);
// A static convolution of few input channels, read where the caller has them: samples from `first` on.
void dense_from(const Step& step, const float* constants, const Input& input, Index first, Images& out,
                const Next* next, const Ahead& ahead, const Team& team);
bool reads_input(const Step& step);

// The largest value under the kernel, and the mean of the whole image, of each channel.
void max_pool(const Step& step, const Images& x, Images& out, const Team& team);
void mean(const Images& x, Images& out, const Team& team);
// Means over a grid of size x size cells, (cell, channel block, sample, 16).
void pool(const Images& x, Index size, float* context, const Team& team);

// Weights of a depthwise convolution, one set for all samples or one each.
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
  // Output rows [from, to), where `x` starts with image row `x_from`. The result goes where `out` has it, and the sum
  // of row i to `sums` + 16 i, if that is not null.
  void run(const float* x, Index x_from, Index block, Index sample, Index from, Index to, float* sums) const;
  // The image rows that output rows [from, to) read.
  struct Span {
    Index from, to;
  };
  Span reads(Index from, Index to) const;

 private:
  // `count` runs of `length` output pixels each, from column `begin` on.
  void part(const float* row, Inside rows, Index begin, Index count, Index length, const float* w, const float* bias,
            float* out, float* sum) const;

  const Step& s_;
  const DepthwiseWeights weights_;
  const Images& x_;
  const Images& out_;
  bool fast_;
};

void depthwise(const Step& step, const float* constants, const Images& x, Images& out, const Team& team);

inline const float* at(const float* constants, std::int64_t offset) {
  return offset < 0 ? nullptr : constants + offset;
}

}  // namespace dynaconv
