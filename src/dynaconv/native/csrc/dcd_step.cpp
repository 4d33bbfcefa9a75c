#include "dcd_step.h"

#include <algorithm>
#include <cmath>

#include "parts.h"
#include "product.h"

namespace dynaconv {
namespace {

constexpr float kLeastLength = 1e-12f;

struct Buffers {
  Buffer squeeze, heads, rows, unit, logits, hidden, p, fusion, product, pixels;

  static Buffers& this_thread() {
    thread_local Buffers buffers;
    return buffers;
  }
};

void transpose(const float* from, Index rows, Index columns, float* to) {
  for (Index r = 0; r < rows; ++r)
    for (Index c = 0; c < columns; ++c) to[c * rows + r] = from[r * columns + c];
}

float dot(const float* a, const float* b, Index n) {
  float lanes[kPanel] = {}, total = 0;
  Index i = 0;
  for (; i + kPanel <= n; i += kPanel)
    for (Index lane = 0; lane < kPanel; ++lane) lanes[lane] += a[i + lane] * b[i + lane];
  for (; i < n; ++i) total += a[i] * b[i];
  for (float lane : lanes) total += lane;
  return total;
}

// out(m, n) = sum_k a(m, k) b(k, n), the rows of b and out contiguous.
void gemm(Index m, Index n, Index k, const float* a, Index a_m, Index a_k, const float* b, Index b_k, float* out,
          Index out_m) {
  kernels().gemm({m, n, k, a, a_m, a_k, b, b_k, out, out_m, true});
}

void add_gemm(Index m, Index n, Index k, const float* a, Index a_m, Index a_k, const float* b, Index b_k, float* out,
              Index out_m) {
  kernels().gemm({m, n, k, a, a_m, a_k, b, b_k, out, out_m});
}

// The heads' rows, scale before fusion, each divided by sqrt(1 + |row|^2 / bound^2); `factors` are 1 over that.
struct Heads {
  float *rows, *factors;

  explicit Heads(const DCDBranch& b)
      : rows(Buffers::this_thread().heads.get(b.heads() * b.hidden)),
        factors(Buffers::this_thread().rows.get(b.heads())) {
    for (Index i = 0; i < b.heads(); ++i) {
      const float* row = source(b, i);
      factors[i] = 1.0f / std::sqrt(1.0f + dot(row, row, b.hidden) * inverse_square(b, i));
      for (Index h = 0; h < b.hidden; ++h) rows[i * b.hidden + h] = row[h] * factors[i];
    }
  }

  static const float* source(const DCDBranch& b, Index i) {
    return i < b.outputs ? b.scale_head + i * b.hidden : b.fusion_head + (i - b.outputs) * b.hidden;
  }
  static float inverse_square(const DCDBranch& b, Index i) {
    const float bound = i < b.outputs ? b.scale_bound : b.fusion_bound;
    return 1.0f / (bound * bound);
  }
};

// The product of the root-mean-square lengths of P's and Q's columns.
struct Lengths {
  float p, q;

  explicit Lengths(const DCDBranch& b)
      : p(dot(b.p, b.p, b.outputs * b.latent)), q(dot(b.q, b.q, b.inputs * b.latent)) {}

  float product(const DCDBranch& b) const { return std::sqrt(p) * std::sqrt(q) / float(b.latent); }
};

struct Saved {
  float *hidden, *factors, *logits, *unit;

  Saved(const DCDBranch& b, float* data)
      : hidden(data), factors(hidden + b.batch * b.hidden), logits(factors + b.batch),
        unit(logits + b.batch * b.heads()) {}
};

// Phi of one sample, transposed: (column, row).
const float* fusion_of(const DCDBranch& b, const float* logits, float inverse) {
  float* out = Buffers::this_thread().fusion.get(b.latent * b.latent);
  transpose(logits + b.outputs, b.latent, b.latent, out);
  for (Index i = 0; i < b.latent * b.latent; ++i) out[i] *= inverse;
  return out;
}

// Copies some adjacent channels of each pixel.
void copy_channels(const float* from, Index from_pixel, Index channels, Index pixels, float* to, Index to_pixel) {
  constexpr Index kFew = 4;
  for (Index pixel = 0; pixel < pixels; ++pixel, from += from_pixel, to += to_pixel)
    if (channels == kFew) std::copy_n(from, kFew, to);
    else std::copy_n(from, channels, to);
}

// 2 sigmoid of each of `size` numbers, a multiple of 8.
void scale_of_logits(float* values, Index size) {
  const Index full = size / kPanel * kPanel;
  kernels().apply(Function::kSigmoid, values, full / kPanel, nullptr);
  if (full == size) return;
  float last[kPanel] = {};
  std::copy_n(values + full, kHalf, last);
  kernels().apply(Function::kSigmoid, last, 1, nullptr);
  std::copy_n(last, kHalf, values + full);
}

}  // namespace

void dcd_branch(const DCDBranch& b, float* scale, float* mix, float* data) {
  Buffers& buffers = Buffers::this_thread();
  const Saved saved(b, data);
  const Heads heads(b);
  const Index count = b.heads();
  float* squeeze = buffers.squeeze.get(b.features * b.hidden);
  transpose(b.squeeze, b.hidden, b.features, squeeze);
  float* columns = buffers.product.get(count * b.hidden);
  transpose(heads.rows, count, b.hidden, columns);
  gemm(b.batch, b.hidden, b.features, b.context, b.features, 1, squeeze, b.hidden, saved.hidden, b.hidden);
  for (Index n = 0; n < b.batch; ++n) {
    float* h = saved.hidden + n * b.hidden;
    for (Index i = 0; i < b.hidden; ++i) h[i] = h[i] > 0 || std::isnan(h[i]) ? h[i] : 0.0f;
    const float factor = saved.factors[n] = b.gain / std::sqrt(dot(h, h, b.hidden) + kLengthEpsilon);
    for (Index i = 0; i < b.hidden; ++i) saved.unit[n * b.hidden + i] = h[i] * factor;
  }
  gemm(b.batch, count, b.hidden, saved.unit, b.hidden, 1, columns, count, saved.logits, count);
  float* p = buffers.p.get(b.latent * b.outputs);
  transpose(b.p, b.outputs, b.latent, p);
  const float inverse = 1.0f / std::max(Lengths(b).product(b), kLeastLength);
  for (Index n = 0; n < b.batch; ++n) {
    const float* logits = saved.logits + n * count;
    std::copy_n(logits, b.outputs, scale + n * b.outputs);
    const float* fusion = fusion_of(b, logits, inverse);
    for_each_panel(b.outputs, [&](Index channel, Index width) {
      gemm(b.latent, width, b.latent, fusion, b.latent, 1, p + channel, b.outputs,
           mix + (n * b.outputs + channel) * b.latent, width);
    });
  }
  scale_of_logits(scale, b.batch * b.outputs);
}

void dcd_branch_gradients(const DCDBranch& b, const float* scale, const float* data, const float* to_scale,
                          const float* to_mix, const DCDBranchGradients& to) {
  Buffers& buffers = Buffers::this_thread();
  const Saved saved(b, const_cast<float*>(data));
  const Heads heads(b);
  const Lengths lengths(b);
  const Index count = b.heads(), square = b.latent * b.latent;
  const float product = lengths.product(b), inverse = 1.0f / std::max(product, kLeastLength);
  float* to_logits = buffers.logits.get(b.batch * count);
  float* to_p = buffers.p.get(b.latent * b.outputs);
  float* to_fusion = buffers.product.get(square);
  std::fill_n(to_p, b.latent * b.outputs, 0.0f);
  float to_inverse = 0;
  for (Index n = 0; n < b.batch; ++n) {
    const float* logits = saved.logits + n * count;
    float* own = to_logits + n * count;
    for (Index o = 0; o < b.outputs; ++o) {
      own[o] = to_scale[n * b.outputs + o] * (1.0f - 0.5f * scale[n * b.outputs + o]);
    }
    // Phi^T: (column, row); to_fusion has the same layout.
    const float* fusion = fusion_of(b, logits, inverse);
    std::fill_n(to_fusion, square, 0.0f);
    for_each_panel(b.outputs, [&](Index channel, Index width) {
      const float* panel = to_mix + (n * b.outputs + channel) * b.latent;
      add_gemm(b.latent, b.latent, width, panel, width, 1, b.p + channel * b.latent, b.latent, to_fusion, b.latent);
      add_gemm(b.latent, width, b.latent, fusion, 1, b.latent, panel, width, to_p + channel, b.outputs);
    });
    for (Index row = 0; row < b.latent; ++row)
      for (Index column = 0; column < b.latent; ++column) {
        const float value = to_fusion[column * b.latent + row];
        own[b.outputs + row * b.latent + column] = value * inverse;
        to_inverse += value * logits[b.outputs + row * b.latent + column];
      }
  }
  // The inverse is constant where the product of the lengths is below the least one.
  const float factor = product > kLeastLength ? -to_inverse * inverse : 0.0f;
  const float by_p = lengths.p > 0 ? factor / lengths.p : 0.0f, by_q = lengths.q > 0 ? factor / lengths.q : 0.0f;
  for (Index o = 0; o < b.outputs; ++o)
    for (Index l = 0; l < b.latent; ++l)
      to.p[o * b.latent + l] = to_p[l * b.outputs + o] + by_p * b.p[o * b.latent + l];
  for (Index i = 0; i < b.inputs * b.latent; ++i) to.q[i] = by_q * b.q[i];

  float* to_hidden = buffers.hidden.get(b.batch * b.hidden);
  gemm(b.batch, b.hidden, count, to_logits, count, 1, heads.rows, b.hidden, to_hidden, b.hidden);
  float* to_rows = buffers.unit.get(count * b.hidden);
  gemm(count, b.hidden, b.batch, to_logits, 1, count, saved.unit, b.hidden, to_rows, b.hidden);
  for (Index i = 0; i < count; ++i) {
    const float *row = Heads::source(b, i), *gradient = to_rows + i * b.hidden;
    float* out = i < b.outputs ? to.scale_head + i * b.hidden : to.fusion_head + (i - b.outputs) * b.hidden;
    const float f = heads.factors[i], along = f * f * f * Heads::inverse_square(b, i) * dot(gradient, row, b.hidden);
    for (Index h = 0; h < b.hidden; ++h) out[h] = f * gradient[h] - along * row[h];
  }
  for (Index n = 0; n < b.batch; ++n) {
    const float* h = saved.hidden + n * b.hidden;
    float* gradient = to_hidden + n * b.hidden;
    const float f = saved.factors[n], along = f * f * f / (b.gain * b.gain) * dot(gradient, h, b.hidden);
    for (Index i = 0; i < b.hidden; ++i) gradient[i] = h[i] > 0 ? f * gradient[i] - along * h[i] : 0.0f;
  }
  gemm(b.hidden, b.features, b.batch, to_hidden, 1, b.hidden, b.context, b.features, to.squeeze, b.features);
  gemm(b.batch, b.features, b.hidden, to_hidden, b.hidden, 1, b.squeeze, b.features, to.context, b.features);
}

void dcd_sum(const DCDSum& s, const float* fixed, Index fixed_pixel, float* out) {
  parallel_for_each(s.batch, [&](Index n) {
    const float* own = fixed + n * s.pixels * fixed_pixel;
    float* z = s.z + n * s.pixels * s.latent;
    if (fixed_pixel != s.outputs) copy_channels(own + s.outputs, fixed_pixel, s.latent, s.pixels, z, s.latent);
    Product p = pointwise(z, kPanel, s.latent, s.mix + n * s.outputs * s.latent, s.pixels, s.outputs,
                          out + n * s.pixels * s.outputs, kPanel);
    p.tile.x_pixel = s.latent;
    p.tile.add = own;
    p.tile.add_pixel = fixed_pixel;
    p.tile.scale = s.scale + n * s.outputs;
    p.tile.scales_add = true;
    p.tile.out_pixel = s.outputs;
    multiply(p, Team());
  });
}

void dcd_sum_gradients(const DCDSum& s, const float* out, const float* gradient, const DCDSumGradients& to) {
  parallel_for_each(s.batch, [&](Index n) {
    const float* g = gradient + n * s.pixels * s.outputs;
    const float* mix = s.mix + n * s.outputs * s.latent;
    float* to_fixed = to.fixed + n * s.pixels * to.fixed_pixel;
    // z's gradient is (P Phi)^T times the output's: panels of latent channels, a row for each output channel.
    const Index lanes = panel_width(s.latent);
    float* panels = Buffers::this_thread().product.get(lanes * s.outputs);
    std::fill_n(panels, lanes * s.outputs, 0.0f);
    for_each_panel(s.latent, [&](Index first, Index size) {
      for_each_panel(s.outputs, [&](Index channel, Index width) {
        const float* from = mix + channel * s.latent + first * width;
        float* to_row = panels + first * s.outputs + channel * size;
        for (Index l = 0; l < std::min(size, s.latent - first); ++l, from += width)
          for (Index i = 0; i < width; ++i) to_row[i * size + l] = from[i];
      });
    });
    const auto gradient_of_z = [&](Index first, Index count, float* rows, Index row) {
      Product p = pointwise(g + first * s.outputs, kPanel, s.outputs, panels, count, s.latent, rows, kPanel);
      p.tile.x_pixel = s.outputs;
      p.tile.out_pixel = row;
      multiply(p, Team());
    };
    if (to.z) {
      gradient_of_z(0, s.pixels, to.z + n * s.pixels * lanes, lanes);
    } else {
      // Lanes behind the latent channels end up in the pixel behind, whose other channels are written below; there is none
      // behind the last one.
      float* rows = to_fixed + s.outputs;
      float* last = Buffers::this_thread().pixels.get(lanes);
      gradient_of_z(0, s.pixels - 1, rows, to.fixed_pixel);
      gradient_of_z(s.pixels - 1, 1, last, lanes);
      std::copy_n(last, s.latent, rows + (s.pixels - 1) * to.fixed_pixel);
    }
    for_each_panel(s.outputs, [&](Index channel, Index width) {
      const Index lane = n * s.outputs + channel;
      float *to_scale = to.scale + lane, *to_mix = to.mix + lane * s.latent;
      kernels().sum_gradients[width == kPanel]({s.pixels, g + channel, s.outputs, out + n * s.pixels * s.outputs + channel,
                                                s.outputs, s.z + n * s.pixels * s.latent, s.latent, int(s.latent),
                                                s.scale + lane, to_fixed + channel, to.fixed_pixel, to_scale, to_mix});
      // Lambda fixed is the output without P Phi z.
      for (Index l = 0; l < s.latent; ++l)
        for (Index i = 0; i < width; ++i)
          to_scale[i] -= to_mix[l * width + i] * mix[channel * s.latent + l * width + i];
    });
  });
}

}  // namespace dynaconv
