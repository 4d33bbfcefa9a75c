// Forms W(x) of a DCD layer: Lambda W0 + P Phi Q^T, or Lambda W0 + P Phi R^T if it is depthwise.
#include "layers.h"

namespace dynaconv {
namespace {

// Returns whether the panels of Phi all have one width, so that they can be the pixels of a product.
bool phi_has_equal_panels(const Step& s) { return s.latent <= kHalf || panel_width(s.latent) % kPanel == 0; }

// P Phi in panels, in scratch memory.
const float* multiply_p_phi(const Step& s, const float* constants, const Coefficients& c, Index samples, Index size,
                   const Team& team) {
  float* result = Workspace::this_thread().scratch[kLatent].get(samples * size);
  const Index width = std::min<Index>(panel_width(s.latent), kPanel);
  Product p = pointwise(c.phi, width * s.latent, s.latent, constants + s.p, s.latent, s.out_channels, result,
                        kPanel * s.latent);
  p.tile.x_pixel = width;
  p.samples = samples;
  p.x_sample = c.sample;
  p.out_sample = size;
  p.to_panels = true;
  multiply(p, team);
  return result;
}

// Phi Q^T or Phi R^T: `rows` pixels of L channels, in scratch memory.
const float* multiply_phi_q(const Step& s, const float* constants, const Coefficients& c, Index samples, Index rows,
                      Index size, const Team& team) {
  float* result = Workspace::this_thread().scratch[kLatent].get(samples * size);
  const Index block = rows * kPanel;
  Product p = pointwise(constants + s.q_rows, block, s.latent, c.phi, rows, s.latent, result, block);
  p.samples = samples;
  p.w_sample = c.sample;
  p.out_sample = size;
  multiply(p, team);
  return result;
}

}  // namespace

Product formation(const Step& s, const float* constants, const Coefficients& c, Index samples, const Team& team) {
  const bool depthwise = s.kind == kDepthwise;
  const Index rows = depthwise ? s.kernel_h * s.kernel_w : s.in_channels, block = rows * kPanel;
  Product p = pointwise(constants + s.q_rows, block, s.latent, constants + s.p, rows, s.out_channels, nullptr, block);
  p.samples = samples;
  if (s.out_channels < rows && phi_has_equal_panels(s)) {
    p.w_sample = panel_width(s.out_channels) * s.latent;
    p.tile.w = multiply_p_phi(s, constants, c, samples, p.w_sample, team);
  } else {
    p.x_sample = round_up(s.latent, kPanel) * rows;
    p.tile.x = multiply_phi_q(s, constants, c, samples, rows, p.x_sample, team);
  }
  p.tile.add = constants + s.weight;
  p.tile.scale = c.scale;
  p.tile.scales_add = true;
  p.scale_sample = c.sample;
  // The weights of a dense layer are panels; those of a depthwise layer are blocks of 16 channels, including the last.
  p.to_panels = !depthwise;
  p.out_sample = rows * (depthwise ? round_up(s.out_channels, kPanel) : panel_width(s.out_channels));
  return p;
}

}  // namespace dynaconv
