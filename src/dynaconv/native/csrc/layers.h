// The steps of a program, each in a file of its own.
#pragma once

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

// Fills `out`, whose data, size and channels are set; `add` (or null) has the same shape. A convolution of few input
// channels reads the caller's tensor instead of `x`.
void dense(const Step& step, const float* constants, const Images& x, const Images* add, Images& out, const Team& team);
void dense_from(const Step& step, const float* constants, const Input& input, Index first, Images& out,
                const Team& team);
bool reads_input(const Step& step);

void depthwise(const Step& step, const float* constants, const Images& x, Images& out, const Team& team);

inline const float* at(const float* constants, std::int64_t offset) {
  return offset < 0 ? nullptr : constants + offset;
}

}  // namespace dynaconv
