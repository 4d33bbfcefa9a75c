// Max pooling, and the mean of whole images.
#include <algorithm>
#include <limits>

#include "layers.h"

namespace dynaconv {

void max_pool(const Step& s, const Images& x, Images& out, const Team& team) {
  const Index rows = out.blocks() * out.samples * out.height;
  const double work = double(rows) * double(out.width * kPanel * s.kernel_h * s.kernel_w);
  team.each(rows, work, [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) {
      const Index image = i / out.height, y = (i - image * out.height) * s.stride_h - s.pad_top;
      const float* from = x.data + image * x.pixels() * kPanel;
      float* to = out.data + i * out.width * kPanel;
      for (Index ox = 0; ox < out.width; ++ox, to += kPanel) {
        std::fill_n(to, kPanel, -std::numeric_limits<float>::infinity());
        for (Index ky = 0; ky < s.kernel_h; ++ky) {
          const Index iy = y + ky * s.dilation_h;
          if (iy < 0 || iy >= x.height) continue;
          for (Index kx = 0; kx < s.kernel_w; ++kx) {
            const Index ix = ox * s.stride_w - s.pad_left + kx * s.dilation_w;
            if (ix < 0 || ix >= x.width) continue;
            const float* pixel = from + (iy * x.width + ix) * kPanel;
            // Written so that NaN is taken over, and kept.
            for (int c = 0; c < kPanel; ++c) to[c] = to[c] >= pixel[c] || to[c] != to[c] ? to[c] : pixel[c];
          }
        }
      }
    }
  });
}

void mean(const Images& x, Images& out, const Team& team) { pool(x, 1, out.data, team); }

}  // namespace dynaconv
