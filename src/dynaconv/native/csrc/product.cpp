#include "product.h"

#include <algorithm>
#include <utility>

#include "int8.h"

namespace dynaconv {
namespace {

const Index kNoOffset = 0;

// Output channels of one tile: two panels if the registers hold them and they read the same inputs, a half panel at the
// end.
struct Columns {
  int width;
  Index step;
};

Columns columns_at(const Product& p, Index channel, int panels) {
  const Index rest = p.channels - channel;
  if (rest <= kHalf) return {kWidthHalf, kHalf};
  const Index panel = p.first_panel + channel / kPanel;
  if (panels == 2 && rest > kPanel + kHalf && p.windows.at(panel).first == p.windows.at(panel + 1).first)
    return {kWidthTwo, 2 * kPanel};
  return {kWidthOne, kPanel};
}

// The tiles of a product, and their largest size.
struct Table {
  int pixels, panels;
  const TileFn (*tile)[3][kMaxPixels];
};

Table table_of(const Product& p) {
  if (!is_int8(p)) return {kernels().pixels, kernels().panels, kernels().tile};
  return {int8_kernels().pixels, int8_kernels().panels, int8_kernels().tile};
}

Index tiles_per_row(const Product& p, const Table& k) { return (p.length + k.pixels - 1) / k.pixels; }

class Tiles {
 public:
  explicit Tiles(const Product& p) : p_(p), k_(table_of(p)) {
    const Table& k = k_;
    per_row_ = tiles_per_row(p, k);
    tiles_ = p.samples * p.rows * per_row_;
    groups_ = (p.channels + k.panels * kPanel - 1) / (k.panels * kPanel);
    const Tile& t = p.tile;
    depth_ = Index(t.num_taps) * t.depth;
    // A large matrix is read once: each panel is multiplied with all pixels. A small one stays in the cache, so the
    // pixels are read once: each strip of pixels, which fits beside the panels, is multiplied with all panels.
    // Benchmark of both sizes: benchmarks/native.py, also with --network resnet18 (results on Zen 4: docs/native.md).
    constexpr Index kStripBytes = 64 << 10, kLargeMatrixBytes = 256 << 10;
    const Index bytes = p.channels * depth_ * Index(sizeof(float));
    const Index strip = std::max<Index>(1, kStripBytes / (Index(k.pixels) * depth_ * Index(sizeof(float))));
    strip_ = bytes > kLargeMatrixBytes && p.w_sample == 0 ? tiles_ : std::min(strip, tiles_);
    // With one tile, panels are read in sequence, which the hardware prefetcher recognises.
    prefetches_panels_ = strip_ == tiles_ && tiles_ > 1 && bytes > kLargeMatrixBytes;
    blocks_ = Index(t.num_taps) * ((t.depth + kPanel - 1) / kPanel);
    stride_ = t.x_pixel == 16 ? kStride16 : t.x_pixel == 32 ? kStride32 : kStrideAny;
  }

  Index count() const { return tiles_ * groups_; }

  // Runs tiles [begin, end); the order is strips (outermost), groups of panels, tiles of the strip.
  void run(Index begin, Index end) const {
    const Index full = strip_ * groups_;
    while (begin < end) {
      const Index strip = begin / full, in_strip = begin - strip * full;
      const Index strip_tiles = std::min(strip_, tiles_ - strip * strip_);
      const Index group = in_strip / strip_tiles, first = in_strip - group * strip_tiles;
      const Index n = std::min(end - begin, strip_tiles - first);
      run_group(strip * strip_ + first, n, group * k_.panels * kPanel);
      begin += n;
    }
  }

 private:
  // The part of a group of panels that tiles [tile, tile + n) prefetch, if a large matrix is read once.
  Prefetch prefetch_panels(Index group, Index tile, Index n) const {
    if (!prefetches_panels_ || group >= groups_) return {};
    const Index width = k_.panels * kPanel, channels = std::min(width, p_.channels - group * width);
    const char* from = reinterpret_cast<const char*>(p_.tile.w + group * width * depth_);
    return Prefetch{from, from + channels * depth_ * Index(sizeof(float))}.part(tile, tile + n, tiles_, n * blocks_);
  }

  // Runs tiles [tile, tile + n) of the panels from `channel` on. A row has tiles of two sizes, the larger ones first.
  void run_group(Index tile, Index n, Index channel) const {
    const Index small = p_.length / per_row_, larger = p_.length - small * per_row_;
    while (n > 0) {
      const Index row = tile / per_row_, part = tile - row * per_row_;
      const bool is_larger = part < larger;
      const Index count = std::min(n, (is_larger ? larger : per_row_) - part);
      const Index pixel = part * small + std::min(part, larger);
      run_columns(tile, row / p_.rows, row % p_.rows, pixel, small + is_larger, count, channel);
      tile += count;
      n -= count;
    }
  }

  void run_columns(Index index, Index sample, Index row, Index begin, Index pixels, Index count, Index channel) const {
    const Index group = channel / (k_.panels * kPanel), first = group * tiles_ + index;
    Prefetch next_panels = prefetch_panels(group + 1, index, count);
    Prefetch next_step = p_.prefetch.part(first, first + count, this->count(), count * blocks_);
    // The last group may have one panel and a half instead of two panels.
    for (Index stop = channel + k_.panels * kPanel; channel < stop && channel < p_.channels;) {
      const Columns columns = columns_at(p_, channel, k_.panels);
      Tile t = p_.tile;
      t.count = count;
      t.next_panels = std::exchange(next_panels, {});
      t.next_step = std::exchange(next_step, {});
      const Index panel = channel / kPanel;
      const Index pixel = p_.to_panels && columns.width == kWidthHalf ? kHalf : kPanel;
      t.x += sample * p_.x_sample + row * p_.x_row + begin * t.x_pixel;
      if (p_.windows.is_grouped()) {
        const auto window = p_.windows.at(p_.first_panel + panel);
        t.x += window.first / kPanel * t.x_block;
        t.depth = int(window.count);
      }
      t.w += sample * p_.w_sample + channel * depth_;
      t.w_panel = kPanel * depth_;
      if (t.latent) {
        t.z += sample * p_.z_sample + row * p_.z_row + begin * kPanel;
        t.p += channel * t.latent;
        t.p_panel = kPanel * Index(t.latent);
      }
      if (t.scale) t.scale += sample * p_.scale_sample + channel;
      if (t.range) {
        t.range += sample * p_.range_sample + row * p_.range_row + begin * t.range_pixel;
        t.sums += sample * p_.sums_sample + channel;
      }
      if (t.bias) t.bias += sample * p_.bias_sample + channel;
      if (p_.to_panels) t.out_pixel = t.add_pixel = pixel;
      if (t.sum) t.sum += index * t.sum_tile + channel;
      if (t.add) t.add += sample * p_.add_sample + row * p_.add_row + panel * t.add_block + begin * t.add_pixel;
      t.out += sample * p_.out_sample + row * p_.out_row + panel * t.out_block + begin * t.out_pixel;
      k_.tile[columns.width][stride_][pixels - 1](t);
      channel += columns.step;
    }
  }

  const Product& p_;
  Table k_;
  Index per_row_, tiles_, groups_, depth_, strip_;
  Index blocks_;   // blocks of 16 inputs of all taps
  bool prefetches_panels_;
  int stride_;
};

}  // namespace

void multiply(const Product& product, const Team& team) {
  if (product.samples * product.rows * product.length == 0) return;
  const Tiles tiles(product);
  const Tile& t = product.tile;
  const double work = double(product.samples) * double(product.rows) * double(product.length) *
                      double(product.channels) * (double(t.num_taps) * t.depth + t.latent);
  team.parallel_for(tiles.count(), work, [&](Index begin, Index end) {
    tiles.run(begin, end);
  });
}

Index tiles_per_sample(const Product& product) { return product.rows * tiles_per_row(product, table_of(product)); }

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
  if (t.range) t.range += sample * p.range_sample;
  if (t.sums) t.sums += sample * p.sums_sample + first;
  if (t.bias) t.bias += sample * p.bias_sample + first;
  if (t.add) t.add += sample * p.add_sample + first / kPanel * t.add_block;
  t.out = out;
  t.out_block = out_block;
  p.samples = 1;
  p.first_panel += first / kPanel;
  p.channels = std::min(channels, product.channels - first);
  return p;
}

Product rows(const Product& product, Index from, Index to, Index width) {
  Product p = product;
  // `merge_rows` makes contiguous rows one row of the product.
  const bool merged = p.rows == 1 && p.length != width;
  p.tile.x += merged ? from * width * p.tile.x_pixel : from * p.x_row;
  if (p.tile.range) p.tile.range += merged ? from * width * p.tile.range_pixel : from * p.range_row;
  if (p.tile.latent) p.tile.z += merged ? from * width * kPanel : from * p.z_row;
  (merged ? p.length : p.rows) = (to - from) * (merged ? width : 1);
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
