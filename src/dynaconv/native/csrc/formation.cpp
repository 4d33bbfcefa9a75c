// Forms W(x): Lambda W0 + P Phi Q^T of a DCD layer, Lambda W0 + P Phi R^T if it is depthwise, a mixture of kernels, or a
// kernel of cells. Weights in bfloat16 that are not mixed are widened as a mixture of one.
#include "layers.h"
#include "product_int8.h"

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

Product dcd_formation(const Step& s, const float* constants, const Coefficients& c, Index samples, Index rows,
                      const Team& team) {
  const Index block = rows * kPanel;
  Product p = pointwise(constants + s.q_rows, block, s.latent, constants + s.p, rows, s.out_channels, nullptr, block);
  p.samples = samples;
  if (s.out_channels < rows && phi_has_equal_panels(s)) {
    p.w_sample = panel_width(s.out_channels) * s.latent;
    p.tile.w = multiply_p_phi(s, constants, c, samples, p.w_sample, team);
  } else {
    p.x_sample = round_up(s.latent, kPanel) * rows;
    p.tile.x = multiply_phi_q(s, constants, c, samples, rows, p.x_sample, team);
  }
  p.tile.add = s.precision == kInt8 ? unpacked_weight(s, constants, team) : constants + s.weight;
  p.tile.scale = c.scale;
  p.tile.scales_add = true;
  p.scale_sample = c.sample;
  p.to_panels = s.kind != kDepthwise;
  return p;
}

}  // namespace

Formation::Formation(const Step& s, const float* constants, const Coefficients& c, Index samples, const Team& team)
    : Formation(s, constants) {
  c_ = c;
  samples_ = samples;
  is_shared_ = false;
  mixes_ = is_mixture(s);
  if (!mixes_ && !is_assembled(s)) {
    product_ = dcd_formation(s, constants, c, samples, rows_, team);
    product_.out_sample = size_;
  }
}

Formation::Formation(const Step& s, const float* constants)
    : step_(s), constants_(constants), windows_(s.kind == kDepthwise ? Windows(1) : Windows(s)), samples_(1),
      kernels_(s.dynamic ? s.kernels : 1), is_shared_(true), mixes_(true) {
  const bool depthwise = s.kind == kDepthwise;
  rows_ = s.kernel_h * s.kernel_w * windows_.size();
  // The weights of a dense layer are panels; those of a depthwise layer are blocks of 16 channels, including the last.
  size_ = rows_ * (depthwise ? round_up(s.out_channels, kPanel) : panel_width(s.out_channels));
}

void Formation::run(float* out, const Team& team) const {
  if (is_assembled(step_)) return assemble(step_, constants_, c_, windows_, samples_, size_, out, team);
  if (mixes_ || step_.precision == kBf16) mix(out, team);
  if (mixes_) return;
  Product p = product_;
  p.tile.out = out;
  if (step_.precision == kBf16) {
    p.tile.add = out;
    p.add_sample = size_;
  }
  multiply(p, team);
}

void Formation::mix(float* out, const Team& team) const {
  // Parts of a panel whose kernels fit into the L1 cache, so that they are read once for all samples.
  constexpr Index kPartBytes = 16 << 10;
  const Index row_bytes = kernels_ * kPanel * Index(sizeof(float));
  const Index height = std::min(rows_, std::max<Index>(8, kPartBytes / row_bytes / 8 * 8));
  const Index parts = (rows_ + height - 1) / height;
  const double work = double(samples_) * double(size_) * double(kernels_);
  team.parallel_for(panels() * parts, work, [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) {
      const Index panel = i / parts, from = (i - panel * parts) * height, to = std::min(from + height, rows_);
      for (Index n = 0; n < samples_; ++n) mix(n, panel, from, to, out + n * size_ + panel * rows_ * kPanel);
    }
  });
}

void Formation::run(Index sample, Index first, Index count, Product& part) const {
  float* w = Workspace::this_thread().scratch[kFormed].get(count * rows_ * kPanel);
  form(sample, first, count, w);
  set_weights(part, w, 0, Team());
}

void Formation::set_weights(Product& product, const float* w, Index w_sample, const Team& team) const {
  if (step_.precision == kInt8) return set_formed(product, step_, w, w_sample, team);
  product.tile.w = w;
  product.w_sample = w_sample;
}

void Formation::form(Index sample, Index first, Index count, float* out) const {
  const Index panel = rows_ * kPanel;
  const bool bf16 = step_.precision == kBf16;
  for (Index i = 0; (mixes_ || bf16) && i < count; ++i) mix(sample, first + i, 0, rows_, out + i * panel);
  if (mixes_) return;
  Product p = columns(product_, sample, first * kPanel, count * kPanel, out, panel);
  if (bf16) p.tile.add = out;
  multiply(p, Team());
}

void Formation::mix(Index sample, Index panel, Index from, Index to, float* out) const {
  const auto window = windows_.at(panel);
  const Index taps = step_.kernel_h * step_.kernel_w, inputs = kernel_inputs(step_) * step_.groups;
  to = std::min(to, taps * window.count);
  // The factors of a window are adjacent for one tap.
  const Index part = windows_.is_grouped() && c_.factors ? window.count : rows_;
  const bool half = step_.kind != kDepthwise && step_.out_channels - panel * kPanel <= kHalf;
  const Index width = half ? kHalf : kPanel;
  Mix m{};
  m.kernels = int(kernels_);
  static const float kOne = 1.0f;
  m.attention = c_.attention ? c_.attention + sample * c_.sample : &kOne;
  if (c_.scale && mixes_) m.lanes = c_.scale + sample * c_.sample + panel * kPanel;
  const float* w = weights(panel);
  const bool bf16 = step_.precision == kBf16;
  const auto& mixed = bf16 ? dynaconv::kernels().mix_bf16 : dynaconv::kernels().mix;
  for (; from < to; from += m.rows) {
    const Index tap = from / part;
    m.rows = std::min(to, (tap + 1) * part) - from;
    m.w = w + (bf16 ? from / 2 : from) * width * kernels_;
    m.odd = bf16 && from % 2;
    if (c_.factors) m.factors = c_.factors + sample * c_.factors_sample + tap * inputs + window.first + from - tap * part;
    m.out = out + from * width;
    mixed[!half](m);
  }
}

}  // namespace dynaconv
