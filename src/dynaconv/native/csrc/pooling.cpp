// Max pooling, the mean over whole images, squeeze-and-excitation, and layer norms.
#include <algorithm>

#include "layers.h"

namespace dynaconv {

void max_pool(const Step& s, const Images& x, Images& out, const Team& team) {
  const Index rows = out.blocks() * out.samples * out.height;
  const double work = double(rows) * double(out.width * kPanel * s.kernel_h * s.kernel_w);
  team.parallel_for(rows, work, [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) {
      const Index image = i / out.height, y = (i - image * out.height) * s.stride_h - s.pad_top;
      const float* from = x.data + image * x.pixels() * kPanel;
      float* to = out.data + i * out.width * kPanel;
      const TapRange rows = taps_inside(y, s.kernel_h, s.dilation_h, x.height);
      for (Index ox = 0; ox < out.width; ++ox, to += kPanel) {
        const Index left = ox * s.stride_w - s.pad_left;
        const TapRange columns = taps_inside(left, s.kernel_w, s.dilation_w, x.width);
        const Index first = (y + rows.first * s.dilation_h) * x.width + left + columns.first * s.dilation_w;
        kernels().max_pool(from + first * kPanel, s.dilation_h * x.width * kPanel, s.dilation_w * kPanel, rows.count,
                          columns.count, to);
      }
    }
  });
}

void scale(const Step& s, const float* constants, const Images& x, const Images* add, Images& out, const Team& team) {
  const Coefficients c = coefficients(s, constants, x, team);
  const auto act = Activation(s.activation);
  const float* bias = constant_at(constants, s.bias);
  const double work = double(out.blocks()) * double(out.block());
  team.parallel_for(out.blocks() * out.samples * out.height, work, [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) {
      const Index image = i / out.height, b = image / out.samples, n = image - b * out.samples;
      const Index row = i * out.width * kPanel;
      float half[kPanel];
      for (int lane = 0; lane < kPanel; ++lane) half[lane] = 0.5f * c.scale[n * c.sample + b * kPanel + lane];
      kernels().scale(x.data + row, half, bias ? bias + b * kPanel : nullptr, add ? add->data + row : nullptr, out.width,
                      out.data + row);
      if (act != Activation::kNone) kernels().apply(function_of(act), out.data + row, out.width, nullptr);
    }
  });
}

void norm(const Step& s, const float* constants, const Images& x, Images& out, const Team& team) {
  const auto act = Activation(s.activation);
  const float* scale = constants + s.weight;
  const float epsilon = scale[round_up(s.out_channels, kPanel)];
  const double work = 3 * double(x.blocks()) * double(x.block());
  team.parallel_for(x.samples * x.height, work, [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) {
      const Index row = i * x.width * kPanel;
      kernels().normalise({x.width, x.channels, x.data + row, x.block(), scale, constant_at(constants, s.bias), epsilon,
                           out.data + row});
      for (Index b = 0; act != Activation::kNone && b < out.blocks(); ++b)
        kernels().apply(function_of(act), out.data + b * out.block() + row, out.width, nullptr);
    }
  });
}

void mean(const Images& x, Images& out, const Team& team) { adaptive_avg_pool(x, 1, out.data, team); }

}  // namespace dynaconv
