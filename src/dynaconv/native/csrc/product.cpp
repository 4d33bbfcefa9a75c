#include "product.h"

#include <algorithm>

namespace dynaconv {
namespace {

const Index kNoOffset = 0;

// Channels of the output taken at a time: pairs of panels where the registers hold them, a half panel at the end.
struct Columns {
  int width;
  Index step;
};

Columns columns_at(const Product& p, Index channel, int panels) {
  const Index rest = p.channels - channel;
  if (rest <= kHalf) return {kWidthHalf, kHalf};
  if (panels == 2 && rest > kPanel + kHalf) return {kWidthTwo, 2 * kPanel};
  return {kWidthOne, kPanel};
}

class Tiles {
 public:
  Tiles(const Product& p, const Kernels& k) : p_(p), k_(k) {
    per_row_ = (p.length + k.pixels - 1) / k.pixels;
    tiles_ = p.samples * p.rows * per_row_;
    groups_ = (p.channels + k.panels * kPanel - 1) / (k.panels * kPanel);
    const Tile& t = p.tile;
    depth_ = Index(t.num_taps) * t.depth;
    // Large matrices are read once: all pixels for one panel before the next. Small ones stay in the cache, so the
    // pixels are read once, a strip that fits beside the panels at a time.
    const Index bytes = p.channels * depth_ * Index(sizeof(float));
    const Index strip = std::max<Index>(1, (64 << 10) / (Index(k.pixels) * depth_ * Index(sizeof(float))));
    strip_ = bytes > (256 << 10) && p.w_sample == 0 ? tiles_ : std::min(strip, tiles_);
    prefetches_ = strip_ == tiles_ && bytes > (256 << 10);
    stride_ = t.x_pixel == 16 ? kStride16 : t.x_pixel == 32 ? kStride32 : kStrideAny;
  }

  Index count() const { return tiles_ * groups_; }

  void run(Index index) const {
    const Index full = strip_ * groups_;
    const Index strip = index / full;
    const Index within = index - strip * full;
    const Index here = std::min(strip_, tiles_ - strip * strip_);
    const Index group = within / here;
    if (prefetches_) prefetch(group + 1, within - group * here);
    run(strip * strip_ + within - group * here, group * k_.panels * kPanel);
  }

 private:
  // Large matrices come from a far cache: each tile fetches its share of the panels that come next.
  void prefetch(Index group, Index tile) const {
    if (group >= groups_) return;
    const Index width = k_.panels * kPanel, channels = std::min(width, p_.channels - group * width);
    const Index lines = channels * depth_ * Index(sizeof(float)) / 64;
    const char* from = reinterpret_cast<const char*>(p_.tile.w + group * width * depth_);
    for (Index i = tile * lines / tiles_; i < (tile + 1) * lines / tiles_; ++i) __builtin_prefetch(from + i * 64, 0, 2);
  }

  void run(Index tile, Index channel) const {
    const Index row_of_all = tile / per_row_, part = tile - row_of_all * per_row_;
    const Index sample = row_of_all / p_.rows, row = row_of_all - sample * p_.rows;
    const Index begin = part * p_.length / per_row_, end = (part + 1) * p_.length / per_row_;
    // The last columns may be one panel and a half where two panels are the rule.
    for (Index stop = channel + k_.panels * kPanel; channel < stop && channel < p_.channels;) {
      const Columns columns = columns_at(p_, channel, k_.panels);
      Tile t = p_.tile;
      const Index panel = channel / kPanel;
      const Index pixel = p_.to_panels && columns.width == kWidthHalf ? kHalf : kPanel;
      t.x += sample * p_.x_sample + row * p_.x_row + begin * t.x_pixel;
      t.w += sample * p_.w_sample + channel * depth_;
      t.w_panel = kPanel * depth_;
      if (t.latent) {
        t.z += sample * p_.z_sample + row * p_.z_row + begin * kPanel;
        t.p += channel * t.latent;
        t.p_panel = kPanel * Index(t.latent);
      }
      if (t.scale) t.scale += sample * p_.scale_sample + channel;
      if (t.bias) t.bias += sample * p_.bias_sample + channel;
      if (p_.to_panels) t.out_pixel = t.add_pixel = pixel;
      if (t.add) t.add += sample * p_.add_sample + row * p_.add_row + panel * t.add_block + begin * t.add_pixel;
      t.out += sample * p_.out_sample + row * p_.out_row + panel * t.out_block + begin * t.out_pixel;
      k_.tile[columns.width][stride_][end - begin - 1](t);
      channel += columns.step;
    }
  }

  const Product& p_;
  const Kernels& k_;
  Index per_row_, tiles_, groups_, depth_, strip_;
  bool prefetches_;
  int stride_;
};

}  // namespace

void multiply(const Product& product, const Team& team) {
  if (product.samples * product.rows * product.length == 0) return;
  const Tiles tiles(product, kernels());
  const Tile& t = product.tile;
  const double work = double(product.samples) * double(product.rows) * double(product.length) *
                      double(product.channels) * (double(t.num_taps) * t.depth + t.latent);
  team.each(tiles.count(), work, [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) tiles.run(i);
  });
}

Product columns(const Product& product, Index sample, Index first, Index channels, float* out, Index out_block) {
  Product p = product;
  Tile& t = p.tile;
  t.x += sample * p.x_sample;
  t.w += sample * p.w_sample + first * t.num_taps * t.depth;
  if (t.latent) {
    t.z += sample * p.z_sample;
    t.p += first * t.latent;
  }
  if (t.scale) t.scale += sample * p.scale_sample + first;
  if (t.bias) t.bias += sample * p.bias_sample + first;
  t.out = out;
  t.out_block = out_block;
  p.samples = 1;
  p.channels = std::min(channels, product.channels - first);
  return p;
}

Product pointwise(const float* x, Index x_block, Index depth, const float* w, Index pixels, Index channels, float* out,
                  Index out_block) {
  Product p;
  p.tile.x = x;
  p.tile.x_pixel = kPanel;
  p.tile.x_block = x_block;
  p.tile.taps = &kNoOffset;
  p.tile.num_taps = 1;
  p.tile.depth = int(depth);
  p.tile.w = w;
  p.tile.out = out;
  p.tile.out_pixel = p.tile.add_pixel = kPanel;
  p.tile.out_block = p.tile.add_block = out_block;
  p.length = pixels;
  p.channels = channels;
  return p;
}

}  // namespace dynaconv
