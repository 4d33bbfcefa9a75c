// A convolution of each sample with a mixture of kernels, and its gradients, for training.
#pragma once

#include "kernels.h"

namespace dynaconv {

// A feature map of one convolution; the distances between elements are in floats.
struct Map {
  Index channels, height, width;
  Index stride_n, stride_c, stride_h, stride_w;

  Index pixels() const { return height * width; }
};

// W(x)[o, i, t] = filter[o] channel[i] spatial[t] sum_k attention[k] W_k[o, i, t] for output channel o, input channel i and
// tap t; the last three may be null. The kernels come twice, in panels of 16 channels, a last one of at most 8 channels 8
// wide: `weights` in panels of output channels, (tap, input channel, kernel, lane), and `transposed` in panels of input
// channels, (tap, output channel, kernel, lane), for the gradient of the input. With strides, taps that read pixels of
// the same phase (column and row modulo the stride) form one such matrix after another.
struct MixtureConv {
  Index batch, kernels;
  Map x, y;
  Index kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
  const float* input;
  const float *weights, *transposed;
  const float* attention;   // (sample, kernel)
  const float* channel;     // (sample, lane of the panels of input channels)
  const float* spatial;     // (sample, tap)
  const float* filter;      // (sample, lane of the panels of output channels)

  Index taps() const { return kernel_h * kernel_w; }
  Index rows() const { return taps() * x.channels; }
  Index input_lanes() const;
  Index output_lanes() const;
  Index weights_size() const;
  Index transposed_size() const;
};

// `out` has the distances of `c.y`.
void mixture_conv(const MixtureConv& c, float* out);

// Gradients, in the layout of what they belong to; null where none is wanted. That of the kernels is in the layout of
// `weights`.
struct MixtureGradients {
  float *input, *weights, *attention, *channel, *spatial, *filter;
};
void mixture_conv_gradients(const MixtureConv& c, const float* gradient, const MixtureGradients& to);

}  // namespace dynaconv
