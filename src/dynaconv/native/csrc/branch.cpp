// The dynamic branch: pooled context -> linear -> activation -> heads, as products with one pixel per sample.
#include <algorithm>
#include <cmath>
#include <utility>

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


void activate_hidden(const Step& s, const float* constants, float* hidden, Index samples, const Team& team) {
  const Index blocks = (s.hidden + kPanel - 1) / kPanel;
  if (s.branch_activation == kGate) {
    float* gate = Workspace::this_thread().scratch[kGateOut].get(blocks * samples * kPanel);
    multiply(pointwise(hidden, samples * kPanel, s.hidden, constants + s.gate, samples, s.hidden, gate,
                       samples * kPanel),
             team);
    kernels().apply(Function::kHardSigmoid, gate, blocks * samples, nullptr);
    for (Index i = 0; i < blocks * samples * kPanel; ++i) hidden[i] *= gate[i];
  } else {
    kernels().apply(Function(s.branch_activation), hidden, blocks * samples, nullptr);
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

Function scale_function(std::int64_t kind) {
  return kind == kHardSigmoid ? Function::kHardSigmoid : kind == kSigmoid ? Function::kSigmoid : Function::kTanh;
}

// Turns logits into the weights of the kernels of a mixture.
void activate_attention(const Step& s, float* attention) {
  const Index first = s.static_kernel ? 1 : 0;
  if (s.softmax) {
    const float largest = *std::max_element(attention + first, attention + s.kernels);
    float total = 0;
    for (Index k = first; k < s.kernels; ++k) total += attention[k] = std::exp(attention[k] - largest);
    for (Index k = first; k < s.kernels; ++k) attention[k] /= total;
  } else {
    for (Index k = first; k < s.kernels; ++k) attention[k] = 1.0f / (1.0f + std::exp(-attention[k]));
  }
  if (first) attention[0] = 1.0f;
}

// Turns logits into the weights of the cells in each block: their shares of the sum of the magnitudes. The last logit of a
// block belongs to no cell.
void weigh_cells(const Step& s, const float* constants, float* logits) {
  const float* blend = constant_at(constants, s.blend);
  for (Index block = 0; block < num_blocks(s); ++block, logits += s.num_cells + 1) {
    float total = kSharesEpsilon;
    for (Index k = 0; k <= s.num_cells; ++k) total += std::abs(logits[k]);
    const float factor = (blend ? blend[0] : 1.0f) / total;
    for (Index k = 0; k < s.num_cells; ++k) {
      logits[k] *= factor;
      if (blend) logits[k] += blend[kPanel + block * s.num_cells + k];
    }
  }
}

// The bias of each sample: the one of the heads or the constant one, Lambda times `scaled_bias`, and mixed `biases`.
void sum_bias(const Step& s, const float* constants, const float* shift, Index samples, Coefficients& c) {
  if (!s.has_shift && s.scaled_bias < 0 && s.biases < 0) return;
  const Index channels = round_up(s.out_channels, kPanel);
  float* bias = Workspace::this_thread().scratch[kBias].get(samples * channels);
  const float* start = s.has_shift ? shift : constant_at(constants, s.bias);
  for (Index n = 0; n < samples; ++n) {
    float* b = bias + n * channels;
    if (start) {
      std::copy_n(start + (s.has_shift ? n * c.sample : 0), channels, b);
    } else {
      std::fill_n(b, channels, 0.0f);
    }
    const float* scaled = constant_at(constants, s.scaled_bias);
    for (Index i = 0; scaled && i < channels; ++i) b[i] += scaled[i] * c.scale[n * c.sample + i];
    const float* mixed = constant_at(constants, s.biases);
    for (Index k = 0; mixed && k < s.kernels; ++k, mixed += channels)
      for (Index i = 0; i < channels; ++i) b[i] += c.attention[n * c.sample + k] * mixed[i];
  }
  c.bias = bias;
  c.bias_sample = channels;
}

// The factor of each tap and input channel: the product of their attentions, where logits are null for no attention.
void multiply_attentions(const Step& s, float* channel, float* spatial, Index samples, Coefficients& c) {
  if (!channel && !spatial) return;
  const Index taps = s.kernel_h * s.kernel_w, inputs = s.kind == kDepthwise ? 1 : s.in_channels;
  float* factors = Workspace::this_thread().scratch[kAttentions].get(samples * taps * inputs);
  for (Index n = 0; n < samples; ++n) {
    if (channel) kernels().apply(Function::kSigmoid, channel + n * c.sample, (inputs + kPanel - 1) / kPanel, nullptr);
    if (spatial) kernels().apply(Function::kSigmoid, spatial + n * c.sample, (taps + kPanel - 1) / kPanel, nullptr);
    for (Index tap = 0; tap < taps; ++tap)
      for (Index i = 0; i < inputs; ++i)
        factors[(n * taps + tap) * inputs + i] =
            (channel ? channel[n * c.sample + i] : 1.0f) * (spatial ? spatial[n * c.sample + tap] : 1.0f);
  }
  c.factors = factors;
  c.factors_sample = taps * inputs;
}

// The hidden vector: the squeeze of the context and its activation.
const float* squeezed(const Step& s, const float* constants, const float* context, const Images& x, const Team& team) {
  const Index cells = s.context_size * s.context_size, samples = x.samples;
  float* hidden = Workspace::this_thread().scratch[kHidden].get(round_up(s.hidden, kPanel) * samples);
  Index taps[4];
  for (Index cell = 0; cell < cells; ++cell) taps[cell] = cell * x.blocks() * samples * kPanel;
  Product squeeze = pointwise(context, samples * kPanel, x.channels, constants + s.squeeze, samples, s.hidden, hidden,
                              samples * kPanel);
  squeeze.tile.taps = taps;
  squeeze.tile.num_taps = int(cells);
  squeeze.tile.bias = constant_at(constants, s.squeeze_bias);
  multiply(squeeze, team);
  if (s.hidden_norm >= 0) {
    normalise(hidden, 1, s.hidden, samples);
    const Index length = round_up(s.hidden, kPanel);
    for (Index i = 0; i < length * samples; ++i) {
      const float* scale = constants + s.hidden_norm + i / (samples * kPanel) * kPanel + i % kPanel;
      hidden[i] = hidden[i] * scale[0] + scale[length];
    }
  }
  activate_hidden(s, constants, hidden, samples, team);
  return hidden;
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
        if (size == 1) add(image, kPanel, kPanel, x.pixels(), sum);
        for (Index y = c.top; size != 1 && y < c.bottom; ++y)
          add(image + (y * x.width + c.left) * kPanel, kPanel, kPanel, c.right - c.left, sum);
      }
      const float factor = 1.0f / float(c.pixels());
      for (int lane = 0; lane < kPanel; ++lane) sum[lane] *= factor;
    }
  });
}

Index heads_size(const Step& s) {
  const Index channels = round_up(s.out_channels, kPanel);
  const Index phi = round_up(panel_width(s.latent) * s.latent, kPanel);
  return (s.has_scale ? channels : 0) + (s.has_shift ? channels : 0) + phi +
         (s.kernels > 1 ? round_up(s.kernels, kPanel) : 0) + (s.has_channel ? round_up(s.in_channels, kPanel) : 0) +
         (s.has_spatial ? round_up(s.kernel_h * s.kernel_w, kPanel) : 0) +
         (is_assembled(s) ? round_up(num_blocks(s) * (s.num_cells + 1), kPanel) : 0);
}

Coefficients coefficients(const Step& s, const float* constants, const Images& x, const Team& team) {
  Workspace& work = Workspace::this_thread();
  const Index cells = s.context_size * s.context_size, samples = x.samples;
  float* context = work.scratch[kContext].get(cells * x.blocks() * samples * kPanel);
  adaptive_avg_pool(x, s.context_size, context, team);
  if (s.normalise) normalise(context, cells, x.channels, samples);

  const float* hidden = s.squeeze < 0 ? context : squeezed(s, constants, context, x, team);
  const Index size = heads_size(s);
  float* heads = work.scratch[kHeads].get(size * samples);
  Product out = pointwise(hidden, samples * kPanel, s.hidden, constants + s.heads, samples, size, heads, kPanel);
  out.tile.out_pixel = size;
  out.tile.bias = constant_at(constants, s.heads_bias);
  multiply(out, team);

  Coefficients c;
  c.sample = size;
  // The parts of the heads, in order; null if the step does not have it.
  auto part = [next = heads](bool exists, Index length) mutable {
    return exists ? std::exchange(next, next + round_up(length, kPanel)) : nullptr;
  };
  float* scale = part(s.has_scale, s.out_channels);
  const float* shift = part(s.has_shift, s.out_channels);
  c.scale = scale;
  c.phi = part(s.latent, panel_width(s.latent) * s.latent);
  float* attention = part(s.kernels > 1, s.kernels);
  float* channel = part(s.has_channel, s.in_channels);
  float* spatial = part(s.has_spatial, s.kernel_h * s.kernel_w);
  float* cell_weights = is_assembled(s) ? part(true, num_blocks(s) * (s.num_cells + 1)) : nullptr;
  for (Index n = 0; n < samples; ++n) {
    if (scale && s.scale_activation != kAffine)
      kernels().apply(scale_function(s.scale_activation), scale + n * size,
                      (s.out_channels + kPanel - 1) / kPanel, nullptr);
    if (attention) activate_attention(s, attention + n * size);
    if (cell_weights) weigh_cells(s, constants, cell_weights + n * size);
  }
  c.attention = attention;
  c.cells = cell_weights;
  sum_bias(s, constants, shift, samples, c);
  multiply_attentions(s, channel, spatial, samples, c);
  return c;
}

}  // namespace dynaconv
