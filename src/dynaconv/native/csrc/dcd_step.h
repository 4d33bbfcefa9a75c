// A DCD layer in training: context, branch, and the sum Lambda (W0 x) + P Phi (Q^T x) or the kernel W(x), with their
// gradients. That of Lambda is taken with respect to its logarithm.
#pragma once

#include "kernels.h"

namespace dynaconv {

// scale = 2 sigmoid(V_s u) and mix = P Phi with Phi = V_f u / (rms lengths of P and Q), where u = gain h / |h| and
// h = relu(W c) for a normalised context c. A row v of the heads is used as v / sqrt(1 + |v|^2 / bound^2).
struct DCDBranch {
  Index batch, features, hidden, outputs, inputs, latent;   // outputs: a multiple of 8
  const float *context, *squeeze, *scale_head, *fusion_head, *p, *q;   // row-major, as torch has them
  float gain, scale_bound, fusion_bound;

  Index heads() const { return outputs + latent * latent; }
  Index saved_size() const { return batch * (2 * hidden + 1 + heads()); }
};

// Writes `scale`, (sample, output), `mix` in panels, (sample, panel, latent, lane), and what the gradients need.
void dcd_branch(const DCDBranch& b, float* scale, float* mix, float* saved);

struct DCDBranchGradients {
  float *context, *squeeze, *scale_head, *fusion_head, *p, *q;
};
void dcd_branch_gradients(const DCDBranch& b, const float* scale, const float* saved, const float* to_scale,
                          const float* to_mix, const DCDBranchGradients& to);

// The feature maps below have adjacent channels, a multiple of 8 in number; pixels and samples follow one another.

// What a layer reads of its input: the context, averaged over the pixels and normalised over the batch, and z = Q^T x at the
// pixels of the kernel's centre tap. Output pixel (y, x) has the z of input pixel (y stride_h + offset_h, x stride_w +
// offset_w), and zero if this is outside the image.
struct DCDInput {
  Index batch, inputs, latent;
  Index height, width, out_height, out_width, stride_h, stride_w, offset_h, offset_w;
  const float *x, *q;

  Index pixels() const { return height * width; }
  Index out_pixels() const { return out_height * out_width; }
};

// The running statistics of the context, which each call moves.
struct ContextNorm {
  float *mean, *variance;
  float momentum, epsilon;
};

// Writes the context and the `inverse` of its standard deviations, and z; each is left out if it is null.
void dcd_input(const DCDInput& d, const ContextNorm& norm, float* context, float* inverse, float* z);

// Adds the gradients of the normalised context and of z, (sample, pixel, lane of the panels of latent channels), to those of
// x and Q; each of the first three may be null.
void dcd_input_gradients(const DCDInput& d, const float* context, const float* inverse, const float* to_context,
                         const float* to_z, float* to_x, float* to_q);

struct DCDSum {
  Index batch, pixels, outputs, latent;
  float* z;                                   // Q^T x
  const float *scale, *mix;
};

// Adds z to `fixed`, W0 x, whose pixels are `fixed_pixel` floats apart. If Q^T x follows in the same pixel, it becomes z.
// `out` may be `fixed`.
void dcd_sum(const DCDSum& s, const float* fixed, Index fixed_pixel, float* out);

// That of `fixed` has its pixels `fixed_pixel` floats apart, and that of z follows in the same pixel, or has lanes as in
// `dcd_input_gradients` if `z` is not null.
struct DCDSumGradients {
  float* fixed;
  Index fixed_pixel;
  float *z, *scale, *mix;
};
void dcd_sum_gradients(const DCDSum& s, const float* out, const float* gradient, const DCDSumGradients& to);

// W(x) = Lambda W0 + P Phi Q^T of a 1x1 kernel, (sample, output, input); both channels are a multiple of 8.
struct DCDKernel {
  Index batch, outputs, inputs, latent;
  const float *weight, *q, *scale, *mix;

  Index size() const { return outputs * inputs; }
};

void dcd_kernel(const DCDKernel& k, float* out);

struct DCDKernelGradients {
  float *weight, *q, *scale, *mix;
};
void dcd_kernel_gradients(const DCDKernel& k, const float* gradient, const DCDKernelGradients& to);

}  // namespace dynaconv
