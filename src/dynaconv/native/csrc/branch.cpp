// The dynamic branch: pooled context -> linear -> activation -> heads, as products with one pixel per sample.
#include <algorithm>
#include <cmath>

#include "layers.h"

namespace dynaconv {
namespace {

struct Cell {
  Index top, bottom, left, right;
  Index pixels() const { return (bottom - top) * (right - left); }
};

// A cell of the grid of `adaptive_avg_pool2d`. If a side is odd, the cells of a 2 x 2 grid share its middle row or
// column.
Cell cell_at(const Images& x, Index size, Index cell) {
  if (size == 1) return {0, x.height, 0, x.width};
  const bool lower = cell / 2, second = cell % 2;
  return {lower ? x.height / 2 : 0, lower ? x.height : (x.height + 1) / 2, second ? x.width / 2 : 0,
          second ? x.width : (x.width + 1) / 2};
}

template <class F>
void for_each_vector(float* context, Index cells, Index channels, Index samples, Index sample, const F& f) {
  const Index blocks = (channels + kPanel - 1) / kPanel;
  for (Index cell = 0; cell < cells; ++cell)
    for (Index b = 0; b < blocks; ++b)
      f(context + ((cell * blocks + b) * samples + sample) * kPanel, std::min<Index>(kPanel, channels - b * kPanel));
}

// Layer norm of each sample's context, without a learned scale. Sums have 16 lanes, which the compiler vectorises.
void normalise(float* context, Index cells, Index channels, Index samples) {
  const float count = float(cells * channels);
  for (Index n = 0; n < samples; ++n) {
    float lanes[kPanel] = {};
    for_each_vector(context, cells, channels, samples, n, [&](float* v, Index width) {
      for (Index i = 0; i < width; ++i) lanes[i] += v[i];
    });
    float mean = 0;
    for (float lane : lanes) mean += lane;
    mean /= count;
    std::fill_n(lanes, kPanel, 0.0f);
    for_each_vector(context, cells, channels, samples, n, [&](float* v, Index width) {
      for (Index i = 0; i < width; ++i) {
        v[i] -= mean;
        lanes[i] += v[i] * v[i];
      }
    });
    float variance = 0;
    for (float lane : lanes) variance += lane;
    const float factor = 1.0f / std::sqrt(variance / count + kNormEpsilon);
    for_each_vector(context, cells, channels, samples, n, [&](float* v, Index width) {
      for (Index i = 0; i < width; ++i) v[i] *= factor;
    });
  }
}

float hard_sigmoid(float t) { return std::min(std::max(t + 3.0f, 0.0f), 6.0f); }

float activated(float t, std::int64_t kind) {
  switch (kind) {
    case kReluB: return t < 0.0f ? 0.0f : t;
    case kRelu6B: return t < 0.0f ? 0.0f : t > 6.0f ? 6.0f : t;
    case kSilu: return t / (1.0f + std::exp(-t));
    case kGelu: return 0.5f * t * (1.0f + std::erf(t * 0.70710678118654752440f));
    default: return t * hard_sigmoid(t) / 6.0f;
  }
}

void activate_hidden(const Step& s, const float* constants, float* hidden, Index samples, const Team& team) {
  const Index blocks = (s.hidden + kPanel - 1) / kPanel;
  if (s.branch_activation == kGate) {
    float* gate = Workspace::this_thread().scratch[kGateOut].get(blocks * samples * kPanel);
    multiply(pointwise(hidden, samples * kPanel, s.hidden, constants + s.gate, samples, s.hidden, gate,
                       samples * kPanel),
             team);
    for (Index i = 0; i < blocks * samples * kPanel; ++i) hidden[i] *= hard_sigmoid(gate[i]) / 3.0f;
  } else {
    for (Index n = 0; n < samples; ++n)
      for_each_vector(hidden, 1, s.hidden, samples, n, [&](float* v, Index width) {
        for (Index i = 0; i < width; ++i) v[i] = activated(v[i], s.branch_activation);
      });
  }
  if (!s.unit) return;
  for (Index n = 0; n < samples; ++n) {
    float squares = 0;
    for_each_vector(hidden, 1, s.hidden, samples, n, [&](float* v, Index width) {
      for (Index i = 0; i < width; ++i) squares += v[i] * v[i];
    });
    const float factor = 1.0f / std::sqrt(squares + kLengthEpsilon);
    for_each_vector(hidden, 1, s.hidden, samples, n, [&](float* v, Index width) {
      for (Index i = 0; i < width; ++i) v[i] *= factor;
    });
  }
}

void activate_scale(std::int64_t kind, float* scale, Index channels) {
  if (kind == kAffine) return;
  for (Index i = 0; i < channels; ++i) {
    const float t = scale[i];
    scale[i] = kind == kHardSigmoid ? hard_sigmoid(t) / 3.0f
               : kind == kSigmoid   ? 2.0f / (1.0f + std::exp(-t))
                                    : 1.0f + std::tanh(t);
  }
}

}  // namespace

void adaptive_avg_pool(const Images& x, Index size, float* context, const Team& team) {
  const Index cells = size * size, per_cell = x.blocks() * x.samples;
  const auto add = kernels().sum_pixels;
  const bool has_sums = size == 1 && x.sums;
  const double work = has_sums ? 0 : double(x.samples) * double(x.pixels()) * double(x.channels);
  team.parallel_for(cells * per_cell, work, [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) {
      const Index cell = i / per_cell, rest = i - cell * per_cell;
      const Cell c = cell_at(x, size, cell);
      float* sum = context + i * kPanel;
      if (has_sums) {
        std::copy_n(x.sums + rest * kPanel, kPanel, sum);
      } else {
        std::fill_n(sum, kPanel, 0.0f);
        const float* image = x.data + rest * x.pixels() * kPanel;
        if (size == 1) add(image, x.pixels(), sum);
        for (Index y = c.top; size != 1 && y < c.bottom; ++y)
          add(image + (y * x.width + c.left) * kPanel, c.right - c.left, sum);
      }
      const float factor = 1.0f / float(c.pixels());
      for (int lane = 0; lane < kPanel; ++lane) sum[lane] *= factor;
    }
  });
}

Index heads_size(const Step& s) {
  const Index channels = round_up(s.out_channels, kPanel);
  const Index phi = panel_width(s.latent) * s.latent;
  return round_up((s.has_scale ? channels : 0) + (s.has_shift ? channels : 0) + phi, kPanel);
}

Coefficients coefficients(const Step& s, const float* constants, const Images& x, const Team& team) {
  Workspace& work = Workspace::this_thread();
  const Index cells = s.context_size * s.context_size, samples = x.samples;
  float* context = work.scratch[kContext].get(cells * x.blocks() * samples * kPanel);
  adaptive_avg_pool(x, s.context_size, context, team);
  if (s.normalise) normalise(context, cells, x.channels, samples);

  float* hidden = work.scratch[kHidden].get(round_up(s.hidden, kPanel) * samples);
  Index taps[4];
  for (Index cell = 0; cell < cells; ++cell) taps[cell] = cell * x.blocks() * samples * kPanel;
  Product squeeze = pointwise(context, samples * kPanel, x.channels, constants + s.squeeze, samples, s.hidden, hidden,
                              samples * kPanel);
  squeeze.tile.taps = taps;
  squeeze.tile.num_taps = int(cells);
  squeeze.tile.bias = constant_at(constants, s.squeeze_bias);
  multiply(squeeze, team);
  activate_hidden(s, constants, hidden, samples, team);

  const Index size = heads_size(s), channels = round_up(s.out_channels, kPanel);
  float* heads = work.scratch[kHeads].get(size * samples);
  Product out = pointwise(hidden, samples * kPanel, s.hidden, constants + s.heads, samples, size, heads, kPanel);
  out.tile.out_pixel = size;
  out.tile.bias = constant_at(constants, s.heads_bias);
  multiply(out, team);

  Coefficients c;
  c.sample = size;
  float* next = heads;
  if (s.has_scale) {
    for (Index n = 0; n < samples; ++n) activate_scale(s.scale_activation, next + n * size, s.out_channels);
    c.scale = next;
    next += channels;
  }
  if (s.has_shift) {
    const float* scaled = constant_at(constants, s.scaled_bias);
    for (Index n = 0; scaled && n < samples; ++n)
      for (Index i = 0; i < s.out_channels; ++i) next[n * size + i] += scaled[i] * c.scale[n * size + i];
    c.bias = next;
    next += channels;
  }
  if (s.latent) c.phi = next;
  return c;
}

}  // namespace dynaconv
