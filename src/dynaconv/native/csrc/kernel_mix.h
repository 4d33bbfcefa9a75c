// The kernels of 1x1 convolutions of each sample as sums of shared ones, for training.
#pragma once

#include "kernels.h"

namespace dynaconv {

// W(x)[o, i] = filter[o] channel[i] sum_k attention[k] W_k[o, i]; channel and filter are both null, or neither is.
struct KernelMix {
  Index batch, kernels, outputs, inputs;
  const float* weights;             // (kernel, output, input)
  const float* attention;           // (sample, kernel)
  const float *channel, *filter;    // (sample, input) and (sample, output)

  Index size() const { return outputs * inputs; }
};

// Writes W(x), (sample, output, input).
void kernel_mix(const KernelMix& m, float* out);

// Gradients for that of W(x), each in the layout of what it belongs to.
struct KernelMixGradients {
  float *weights, *attention, *channel, *filter;
};
void kernel_mix_gradients(const KernelMix& m, const float* gradient, const KernelMixGradients& to);

}  // namespace dynaconv
