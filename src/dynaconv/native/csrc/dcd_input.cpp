#include <cmath>
#include <utility>

#include "average.h"
#include "dcd_step.h"
#include "parts.h"
#include "product.h"

namespace dynaconv {
namespace {

struct Buffers {
  Buffer moments, gradient, panels, sums, others;

  static Buffers& this_thread() {
    thread_local Buffers buffers;
    return buffers;
  }
};

// Positions [first, last) of one axis of the output whose centre tap is inside the image.
struct Range {
  Index first, last;
};

Range inside(Index outputs, Index stride, Index offset, Index size) {
  const Index first = std::min(outputs, offset < 0 ? (-offset + stride - 1) / stride : 0);
  const Index last = offset < size ? (size - 1 - offset) / stride + 1 : 0;
  return {first, std::clamp(last, first, outputs)};
}

// The output pixels whose centre tap is inside the image, by rows; rows that are adjacent in both maps are one.
struct Rows {
  Index count, length;
  Index x, x_row, x_pixel;   // floats
  Index out, out_row;        // pixels

  explicit Rows(const DCDInput& d) {
    const Range y = inside(d.out_height, d.stride_h, d.offset_h, d.height);
    const Range x_range = inside(d.out_width, d.stride_w, d.offset_w, d.width);
    count = y.last - y.first, length = x_range.last - x_range.first;
    x_pixel = d.stride_w * d.inputs, x_row = d.stride_h * d.width * d.inputs;
    x = (y.first * d.stride_h + d.offset_h) * d.width * d.inputs +
        (x_range.first * d.stride_w + d.offset_w) * d.inputs;
    out = y.first * d.out_width + x_range.first, out_row = d.out_width;
    if (x_row == length * x_pixel && out_row == length) length *= std::exchange(count, 1);
  }
};

void normalise(const DCDInput& d, const ContextNorm& norm, float* context, float* inverse) {
  float* mean = Buffers::this_thread().moments.get(2 * d.inputs);
  float* variance = mean + d.inputs;
  std::fill_n(mean, 2 * d.inputs, 0.0f);
  const float share = 1.0f / float(d.batch);
  for (Index n = 0; n < d.batch; ++n)
    for (Index i = 0; i < d.inputs; ++i) mean[i] += context[n * d.inputs + i];
  for (Index i = 0; i < d.inputs; ++i) mean[i] *= share;
  for (Index n = 0; n < d.batch; ++n)
    for (Index i = 0; i < d.inputs; ++i) {
      float& value = context[n * d.inputs + i];
      value -= mean[i];
      variance[i] += value * value;
    }
  for (Index i = 0; i < d.inputs; ++i) {
    inverse[i] = 1.0f / std::sqrt(variance[i] * share + norm.epsilon);
    norm.mean[i] += norm.momentum * (mean[i] - norm.mean[i]);
    norm.variance[i] += norm.momentum * (variance[i] / float(d.batch - 1) - norm.variance[i]);
  }
  for (Index n = 0; n < d.batch; ++n)
    for (Index i = 0; i < d.inputs; ++i) context[n * d.inputs + i] *= inverse[i];
}

// The gradient of each pixel by its sample's context.
const float* gradient_of_average(const DCDInput& d, const float* context, const float* inverse, const float* gradient) {
  Buffers& buffers = Buffers::this_thread();
  float* sum = buffers.moments.get(2 * d.inputs);
  float* along = sum + d.inputs;
  float* out = buffers.gradient.get(d.batch * d.inputs);
  std::fill_n(sum, 2 * d.inputs, 0.0f);
  for (Index n = 0; n < d.batch; ++n)
    for (Index i = 0; i < d.inputs; ++i) {
      sum[i] += gradient[n * d.inputs + i];
      along[i] += gradient[n * d.inputs + i] * context[n * d.inputs + i];
    }
  const float share = 1.0f / float(d.batch), factor = 1.0f / float(d.pixels());
  for (Index n = 0; n < d.batch; ++n)
    for (Index i = 0; i < d.inputs; ++i) {
      const Index at = n * d.inputs + i;
      out[at] = inverse[i] * factor * (gradient[at] - share * (sum[i] + context[at] * along[i]));
    }
  return out;
}

}  // namespace

void dcd_input(const DCDInput& d, const ContextNorm& norm, float* context, float* inverse, float* z) {
  const Rows rows(d);
  parallel_for_each(d.batch, [&](Index n) {
    const float* x = d.x + n * d.pixels() * d.inputs;
    if (context) average_pixels(x, d.pixels(), d.inputs, context + n * d.inputs);
    if (!z) return;
    float* out = z + n * d.out_pixels() * d.latent;
    if (rows.count * rows.length < d.out_pixels()) std::fill_n(out, d.out_pixels() * d.latent, 0.0f);
    for (Index row = 0; row < rows.count; ++row)
      kernels().gemm({rows.length, d.latent, d.inputs, x + rows.x + row * rows.x_row, rows.x_pixel, 1, d.q, d.latent,
                      out + (rows.out + row * rows.out_row) * d.latent, d.latent, true});
  });
  if (context) normalise(d, norm, context, inverse);
}

void dcd_input_gradients(const DCDInput& d, const float* context, const float* inverse, const float* to_context,
                         const float* to_z, float* to_x, float* to_q) {
  Buffers& buffers = Buffers::this_thread();
  const Rows rows(d);
  // One row of all pixels, whose two gradients are added together.
  const bool is_whole = to_z && rows.count == 1 && rows.length == d.pixels();
  const float* to_pixels = to_context && to_x ? gradient_of_average(d, context, inverse, to_context) : nullptr;
  const Index lanes = panel_width(d.latent), parts = num_parts(d.batch);
  float* panels = buffers.panels.get(d.inputs * d.latent);
  for_each_panel(d.inputs, [&](Index channel, Index width) {
    for (Index l = 0; l < d.latent; ++l)
      for (Index i = 0; i < width; ++i)
        panels[channel * d.latent + l * width + i] = d.q[(channel + i) * d.latent + l];
  });
  float* result = buffers.sums.get(d.inputs * lanes);
  const PartSums sums(result, d.inputs * lanes, parts, buffers.others);
  for_each_part(d.batch, parts, [&](Index part, Index first, Index last) {
    for (Index n = first; n < last; ++n) {
      const Index at = n * d.pixels() * d.inputs;
      const float* own = to_pixels ? to_pixels + n * d.inputs : nullptr;
      if (own && !is_whole) kernels().add_to_pixels(own, d.inputs, d.pixels(), to_x + at);
      if (!to_z) continue;
      const float* gradient = to_z + (n * d.out_pixels() + rows.out) * lanes;
      if (to_x) {
        Product p = pointwise(gradient, kPanel, d.latent, panels, rows.length, d.inputs, to_x + at + rows.x, kPanel);
        p.tile.x_pixel = lanes;
        p.tile.bias = is_whole ? own : nullptr;
        p.tile.add = p.tile.out;
        p.tile.out_pixel = p.tile.add_pixel = rows.x_pixel;
        p.rows = rows.count;
        p.x_row = rows.out_row * lanes;
        p.out_row = p.add_row = rows.x_row;
        multiply(p, Team());
      }
      for (Index row = 0; row < rows.count; ++row)
        kernels().gemm({d.inputs, lanes, rows.length, d.x + at + rows.x + row * rows.x_row, 1, rows.x_pixel,
                        gradient + row * rows.out_row * lanes, lanes, sums.of(part), lanes});
    }
  });
  sums.add_up();
  for (Index i = 0; to_z && i < d.inputs; ++i)
    for (Index l = 0; l < d.latent; ++l) to_q[i * d.latent + l] += result[i * lanes + l];
}

}  // namespace dynaconv
