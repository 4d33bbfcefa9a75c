// Max pooling, and the mean over whole images.
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

void mean(const Images& x, Images& out, const Team& team) { adaptive_avg_pool(x, 1, out.data, team); }

}  // namespace dynaconv
