// A DCD layer in training: its branch, and the sum Lambda (W0 x) + P Phi (Q^T x), with their gradients.
#pragma once

#include "mixture_conv.h"

namespace dynaconv {

// scale = 2 sigmoid(V_s u) and mix = P Phi with Phi = V_f u / (rms lengths of P and Q), where u = gain h / |h| and
// h = relu(W c) for a normalised context c. A row v of the heads is used as v / sqrt(1 + |v|^2 / bound^2).
struct DCDBranch {
  Index batch, features, hidden, outputs, inputs, latent;
  const float *context, *squeeze, *scale_head, *fusion_head, *p, *q;   // row-major, as torch has them
  float gain, scale_bound, fusion_bound;

  Index lanes() const;                        // of panels of the output channels
  Index heads() const { return outputs + latent * latent; }
  Index saved_size() const { return batch * (2 * hidden + 1 + heads()); }
};

// Writes `scale`, (sample, lane), `mix` in panels, (sample, panel, latent, lane), and what the gradients need.
void dcd_branch(const DCDBranch& b, float* scale, float* mix, float* saved);

struct DCDBranchGradients {
  float *context, *squeeze, *scale_head, *fusion_head, *p, *q;
};
void dcd_branch_gradients(const DCDBranch& b, const float* saved, const float* to_scale, const float* to_mix,
                          const DCDBranchGradients& to);

// Feature maps whose channels are adjacent and a multiple of 8 in number.
struct DCDSum {
  Index batch, pixels, outputs, latent;
  const float *fixed, *z;                     // W0 x and Q^T x
  Index fixed_pixel, z_pixel;                 // distances; samples follow one another
  const float *scale, *mix;
};

void dcd_sum(const DCDSum& s, float* out);

struct DCDSumGradients {
  float *fixed, *z;
  Index fixed_pixel, z_pixel;
  float *scale, *mix;
};
void dcd_sum_gradients(const DCDSum& s, const float* gradient, const DCDSumGradients& to);

}  // namespace dynaconv
