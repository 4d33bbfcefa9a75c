// The kernels, for vectors of VL floats; included once by each isa_*.cpp, which sets VL, TILE_PIXELS and TILE_PANELS.
//
// The code uses GCC's vector extensions, and intrinsics where a compiler would otherwise generate two instructions for
// one. Everything is in an unnamed namespace: if two instruction sets shared an inline function, the linker could keep
// the copy that the processor cannot run.
#include <utility>

#include "training_impl.h"

namespace dynaconv {
namespace {

// Applies an activation; NaN stays NaN.
template <Activation ACT, class V>
[[gnu::always_inline]] inline V activate(V v) {
  if constexpr (ACT == Activation::kNone) return v;
  const V zero = {};
  v = vector_max(zero, v);
  return ACT == Activation::kRelu6 ? vector_min(zero + 6.0f, v) : v;
}

[[gnu::always_inline]] inline void prefetch_lines(Prefetch& p) {
  if (p.from >= p.to) return;
  for (int line = 0; line < p.lines; ++line, p.from += 64) __builtin_prefetch(p.from, 0, 2);
}

// acc[pixel][vector] += x[pixel][k] * w[k][vector] for `depth` inputs, in blocks of 16.
template <class V, int N, int PIXELS, int PANELS, int PER_PANEL, int XS>
[[gnu::always_inline]] inline void multiply(V (&acc)[PIXELS][PANELS * PER_PANEL], const float* x, Index x_pixel,
                                            Index x_block, int depth, const float*& w, Index w_panel,
                                            Prefetch& first, Prefetch& second) {
  constexpr int kWide = N * PER_PANEL;
  for (int k = 0; k < depth; k += kPanel, x += x_block) {
    const int end = depth - k < kPanel ? depth - k : kPanel;
    prefetch_lines(first);
    prefetch_lines(second);
    const float* xk = x;
    for (int i = 0; i < end; ++i, ++xk, w += kWide) {
      V wv[PANELS * PER_PANEL];
#pragma GCC unroll 8
      for (int v = 0; v < PANELS * PER_PANEL; ++v)
        wv[v] = load<V>(w + (v / PER_PANEL) * w_panel + (v % PER_PANEL) * N);
      const float* xm = xk;
#pragma GCC unroll 16
      for (int m = 0; m < PIXELS; ++m) {
        const float* value = XS ? xk + m * XS : xm;
        if (!XS) xm += x_pixel;
#pragma GCC unroll 8
        for (int v = 0; v < PANELS * PER_PANEL; ++v) acc[m][v] = multiply_add(acc[m][v], value, wv[v]);
      }
    }
  }
}

// Adds `add`, times a scale per channel if SCALES.
template <bool SCALES, class V, int N, int PIXELS, int PANELS, int PER_PANEL>
[[gnu::always_inline]] inline void accumulate(V (&acc)[PIXELS][PANELS * PER_PANEL], const float* add, Index add_pixel,
                                        Index add_block, const float* scale) {
#pragma GCC unroll 8
  for (int v = 0; v < PANELS * PER_PANEL; ++v) {
    const float* a = add + (v / PER_PANEL) * add_block + (v % PER_PANEL) * N;
    const V s = SCALES ? load<V>(scale + v * N) : V{};
#pragma GCC unroll 16
    for (int m = 0; m < PIXELS; ++m, a += add_pixel) acc[m][v] += SCALES ? s * load<V>(a) : load<V>(a);
  }
}

// Applies the activation to a tile and stores it; with SUMS also stores the sums over its pixels.
template <Activation ACT, bool SUMS, class V, int N, int PIXELS, int PANELS, int PER_PANEL>
[[gnu::always_inline]] inline void epilogue(V (&acc)[PIXELS][PANELS * PER_PANEL], float* out, Index out_pixel,
                                          Index out_block, float* sum) {
#pragma GCC unroll 8
  for (int v = 0; v < PANELS * PER_PANEL; ++v) {
    float* o = out + (v / PER_PANEL) * out_block + (v % PER_PANEL) * N;
    // Two accumulators: in one chain each addition would wait for the previous one.
    V total[2] = {};
#pragma GCC unroll 16
    for (int m = 0; m < PIXELS; ++m) {
      const V value = activate<ACT>(acc[m][v]);
      store<V>(o + m * out_pixel, value);
      if (SUMS) total[m % 2] += value;
    }
    if (SUMS) store<V>(sum + v * N, total[0] + total[1]);
  }
}

// Branches on the activation once. The compiler cannot hoist the branch out of the loop: it must assume that a store
// changes `t.act`.
template <bool SUMS, class V, int N, int PIXELS, int PANELS, int PER_PANEL>
[[gnu::always_inline]] inline void epilogue(Activation act, V (&acc)[PIXELS][PANELS * PER_PANEL], float* out,
                                          Index out_pixel, Index out_block, float* sum) {
  if (act == Activation::kRelu6)
    epilogue<Activation::kRelu6, SUMS, V, N, PIXELS, PANELS, PER_PANEL>(acc, out, out_pixel, out_block, sum);
  else if (act == Activation::kRelu)
    epilogue<Activation::kRelu, SUMS, V, N, PIXELS, PANELS, PER_PANEL>(acc, out, out_pixel, out_block, sum);
  else
    epilogue<Activation::kNone, SUMS, V, N, PIXELS, PANELS, PER_PANEL>(acc, out, out_pixel, out_block, sum);
}

// acc = scale * (W x) + bias by the product of bytes with integers.
template <class V, int N, int PIXELS, int PANELS, int PER_PANEL, int XS>
[[gnu::always_inline]] inline void multiply_bytes(V (&acc)[PIXELS][PANELS * PER_PANEL], const Tile& t, const float* x,
                                                  const float* range, Prefetch& next_panels, Prefetch& next_step) {
  using I = IntsOf<V>;
  I products[PIXELS][PANELS * PER_PANEL] = {};
  const float* w = t.w;
  for (int tap = 0; tap < t.num_taps; ++tap)
    multiply<I, N, PIXELS, PANELS, PER_PANEL, XS>(products, x + t.taps[tap], t.x_pixel, t.x_block, t.depth, w,
                                                  t.w_panel, next_panels, next_step);
#pragma GCC unroll 8
  for (int v = 0; v < PANELS * PER_PANEL; ++v) {
    const V scale = load<V>(t.scale + v * N), sums = load<V>(t.sums + v * N);
    const V bias = t.bias ? load<V>(t.bias + v * N) : V{};
#pragma GCC unroll 16
    for (int m = 0; m < PIXELS; ++m) {
      const float* r = range + m * t.range_pixel;
      acc[m][v] = (r[0] * __builtin_convertvector(products[m][v], V) - r[1] * sums) * scale + bias;
    }
  }
}

template <class V, int N, int PIXELS, int PANELS, int PER_PANEL, int XS>
[[gnu::always_inline]] inline void multiply_floats(V (&acc)[PIXELS][PANELS * PER_PANEL], const Tile& t, const float* x,
                                                   Prefetch& next_panels, Prefetch& next_step) {
  constexpr int kVectors = PANELS * PER_PANEL;
  // A product that is not scaled starts from the bias.
  const bool starts_from_bias = t.bias && !(t.scale && !t.scales_add);
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) {
    const V b = starts_from_bias ? load<V>(t.bias + v * N) : V{};
#pragma GCC unroll 16
    for (int m = 0; m < PIXELS; ++m) acc[m][v] = b;
  }
  const float* w = t.w;
  for (int tap = 0; tap < t.num_taps; ++tap)
    multiply<V, N, PIXELS, PANELS, PER_PANEL, XS>(acc, x + t.taps[tap], t.x_pixel, t.x_block, t.depth, w, t.w_panel,
                                                next_panels, next_step);
  if (t.scale && !t.scales_add) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      const V s = load<V>(t.scale + v * N);
#pragma GCC unroll 16
      for (int m = 0; m < PIXELS; ++m) acc[m][v] *= s;
    }
  }
  if (t.bias && !starts_from_bias) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      const V b = load<V>(t.bias + v * N);
#pragma GCC unroll 16
      for (int m = 0; m < PIXELS; ++m) acc[m][v] += b;
    }
  }
}

template <bool INT8, class V, int N, int PIXELS, int PANELS, int PER_PANEL, int XS>
[[gnu::always_inline]] inline void compute_tile(const Tile& t, Activation act, const float* x, const float* range,
                                                const float* z, const float* add, float* out, float* sum,
                                                Prefetch& next_panels, Prefetch& next_step) {
  V acc[PIXELS][PANELS * PER_PANEL];
  if constexpr (INT8)
    multiply_bytes<V, N, PIXELS, PANELS, PER_PANEL, XS>(acc, t, x, range, next_panels, next_step);
  else
    multiply_floats<V, N, PIXELS, PANELS, PER_PANEL, XS>(acc, t, x, next_panels, next_step);
  if (t.latent) {
    const float* p = t.p;
    multiply<V, N, PIXELS, PANELS, PER_PANEL, kPanel>(acc, z, kPanel, t.z_block, t.latent, p, t.p_panel,
                                                    next_panels, next_step);
  }
  if (add && t.scales_add && t.scale)
    accumulate<true, V, N, PIXELS, PANELS, PER_PANEL>(acc, add, t.add_pixel, t.add_block, t.scale);
  else if (add)
    accumulate<false, V, N, PIXELS, PANELS, PER_PANEL>(acc, add, t.add_pixel, t.add_block, nullptr);
  if (sum)
    epilogue<true, V, N, PIXELS, PANELS, PER_PANEL>(act, acc, out, t.out_pixel, t.out_block, sum);
  else
    epilogue<false, V, N, PIXELS, PANELS, PER_PANEL>(act, acc, out, t.out_pixel, t.out_block, sum);
}

// The loop over tiles is inside the kernel: the overhead of a call per tile would be significant for few inputs.
template <bool INT8, class V, int N, int PIXELS, int PANELS, int PER_PANEL, int XS>
void tile(const Tile& t) {
  const float *x = t.x, *range = t.range, *z = t.z, *add = t.add;
  float *out = t.out, *sum = t.sum;
  Prefetch next_panels = t.next_panels, next_step = t.next_step;
  const bool later = is_applied_later(t.act);
  const Activation act = later ? Activation::kNone : t.act;
  for (Index i = 0; i < t.count; ++i) {
    compute_tile<INT8, V, N, PIXELS, PANELS, PER_PANEL, XS>(t, act, x, range, z, add, out, later ? nullptr : sum,
                                                          next_panels, next_step);
    for (int panel = 0; later && panel < PANELS; ++panel)
      apply(function_of(t.act), out + panel * t.out_block, PIXELS, sum ? sum + panel * kPanel : nullptr);
    x += PIXELS * (XS ? XS : t.x_pixel);
    if (INT8) range += PIXELS * t.range_pixel;
    out += PIXELS * t.out_pixel;
    if (z) z += PIXELS * kPanel;
    if (add) add += PIXELS * t.add_pixel;
    if (sum) sum += t.sum_tile;
  }
}

template <Activation ACT, class V, int PIXELS>
[[gnu::always_inline]] inline void epilogue(V (&acc)[PIXELS], float* out) {
#pragma GCC unroll 8
  for (int m = 0; m < PIXELS; ++m) {
    acc[m] = activate<ACT>(acc[m]);
    store<V>(out + m * kPanel, acc[m]);
  }
}

// Depthwise runs of PIXELS outputs of one image row. Only the outermost taps can be outside the image, so only those
// are checked.
template <int K, int STRIDE, int PIXELS>
void row(const Row& r, float* sum) {
  using V = typename Vec<VL>::type;
  constexpr int kColumns = (PIXELS - 1) * STRIDE + K;
  constexpr int kEdge = (K - 1) / 2;
  for (int lane = 0; lane < kPanel; lane += VL) {
    V acc[PIXELS];
    const V bias = r.bias ? load<V>(r.bias + lane) : V{};
    for (Index i = 0; i < r.count; ++i) {
    const int left = i ? 0 : r.left, right = i + 1 < r.count ? 0 : r.right;
#pragma GCC unroll 8
    for (int m = 0; m < PIXELS; ++m) acc[m] = bias;
    const float* x = r.x + i * PIXELS * STRIDE * kPanel + lane;
    const float* w = r.w + lane;
    for (int ky = 0; ky < r.rows; ++ky, x += r.x_row, w += K * kPanel) {
      V wv[K];
#pragma GCC unroll 8
      for (int kx = 0; kx < K; ++kx) wv[kx] = load<V>(w + kx * kPanel);
#pragma GCC unroll 24
      for (int c = 0; c < kColumns; ++c) {
        if (c < kEdge && c < left) continue;
        if (c >= kColumns - kEdge && kColumns - 1 - c < right) continue;
        const V value = load<V>(x + c * kPanel);
#pragma GCC unroll 8
        for (int kx = 0; kx < K; ++kx) {
          const int from = c - kx;
          if (from >= 0 && from % STRIDE == 0 && from / STRIDE < PIXELS) acc[from / STRIDE] += value * wv[kx];
        }
      }
    }
    float* out = r.out + i * PIXELS * kPanel + lane;
    if (r.act == Activation::kRelu6)
      epilogue<Activation::kRelu6>(acc, out);
    else if (r.act == Activation::kRelu)
      epilogue<Activation::kRelu>(acc, out);
    else
      epilogue<Activation::kNone>(acc, out);
    if (sum) {
      // A tree, so that additions do not wait for each other.
#pragma GCC unroll 4
      for (int width = 1; width < PIXELS; width *= 2)
#pragma GCC unroll 8
        for (int m = 0; m + width < PIXELS; m += 2 * width) acc[m] += acc[m + width];
      store<V>(sum + lane, load<V>(sum + lane) + acc[0]);
    }
    }
  }
}

void point(const float* x, Index x_row, Index x_column, int rows, int columns, const float* w, int w_row,
           const float* bias, Activation act, float* out, float* sum) {
  using V = typename Vec<VL>::type;
  for (int lane = 0; lane < kPanel; lane += VL) {
    V acc = bias ? load<V>(bias + lane) : V{};
    for (int ky = 0; ky < rows; ++ky)
      for (int kx = 0; kx < columns; ++kx)
        acc += load<V>(x + ky * x_row + kx * x_column + lane) * load<V>(w + (ky * w_row + kx) * kPanel + lane);
    acc = act == Activation::kRelu6  ? activate<Activation::kRelu6>(acc)
          : act == Activation::kRelu ? activate<Activation::kRelu>(acc)
                                     : acc;
    store<V>(out + lane, acc);
    if (sum) store<V>(sum + lane, load<V>(sum + lane) + acc);
  }
}

void max_pool(const float* x, Index x_row, Index x_column, Index rows, Index columns, float* out) {
  using V = typename Vec<VL>::type;
  for (int lane = 0; lane < kPanel; lane += VL) {
    V acc = V{} - __builtin_inff();
    for (Index ky = 0; ky < rows; ++ky) {
      const float* from = x + ky * x_row + lane;
      for (Index kx = 0; kx < columns; ++kx, from += x_column) {
        const V value = load<V>(from);
        // A NaN replaces the maximum and stays.
        acc = (acc >= value) | (acc != acc) ? acc : value;
      }
    }
    store<V>(out + lane, acc);
  }
}

constexpr int kHalfVector = VL < kHalf ? VL : kHalf;

template <int WIDTH, int XS, bool INT8 = false, std::size_t... M>
void fill_tiles(TileFn* out, std::index_sequence<M...>) {
  if constexpr (WIDTH == kWidthHalf) {
    using V = typename Vec<kHalfVector>::type;
    ((out[M] = &tile<INT8, V, kHalfVector, int(M) + 1, 1, kHalf / kHalfVector, XS>), ...);
  } else if constexpr (WIDTH <= TILE_PANELS) {
    using V = typename Vec<VL>::type;
    ((out[M] = &tile<INT8, V, VL, int(M) + 1, WIDTH, kPanel / VL, XS>), ...);
  }
}

template <int K, int STRIDE, std::size_t... M>
void fill_rows(RowFn* out, std::index_sequence<M...>) {
  ((out[M] = &row<K, STRIDE, int(M) + 1>), ...);
}

template <int WIDTH>
void fill_width(Kernels& k) {
  using Pixels = std::make_index_sequence<TILE_PIXELS>;
  fill_tiles<WIDTH, 16>(k.tile[WIDTH][kStride16], Pixels{});
  fill_tiles<WIDTH, 32>(k.tile[WIDTH][kStride32], Pixels{});
  fill_tiles<WIDTH, 0>(k.tile[WIDTH][kStrideAny], Pixels{});
}

// A template, so that a source that includes this file for its tiles alone does not compile the others.
template <class = void>
Kernels table(const char* name) {
  Kernels k{};
  k.name = name;
  k.pixels = TILE_PIXELS;
  k.panels = TILE_PANELS;
  fill_width<kWidthHalf>(k);
  fill_width<kWidthOne>(k);
  fill_width<kWidthTwo>(k);
  using Pixels = std::make_index_sequence<kMaxRow>;
  fill_rows<3, 1>(k.row[0][0], Pixels{});
  fill_rows<3, 2>(k.row[0][1], Pixels{});
  fill_rows<5, 1>(k.row[1][0], Pixels{});
  fill_rows<5, 2>(k.row[1][1], Pixels{});
  fill_rows<7, 1>(k.row[2][0], Pixels{});
  fill_rows<7, 2>(k.row[2][1], Pixels{});
  k.point = &point;
  k.max_pool = &max_pool;
  k.sum_pixels = &sum_pixels;
  k.add_to_pixels = &add_to_pixels;
  k.mix[0] = &mix<typename Vec<kHalfVector>::type, kHalfVector, kHalf>;
  k.mix[1] = &mix<typename Vec<VL>::type, VL, kPanel>;
  k.mix_bf16[0] = &mix_bf16<typename Vec<kHalfVector>::type, kHalfVector, kHalf>;
  k.mix_bf16[1] = &mix_bf16<typename Vec<VL>::type, VL, kPanel>;
  k.unmix[0] = &unmix<typename Vec<kHalfVector>::type, kHalfVector, kHalf>;
  k.unmix[1] = &unmix<typename Vec<VL>::type, VL, kPanel>;
  k.gemm = &gemm;
  k.dots = &dots;
  k.scale_row = &scale_row;
  k.scale_row_gradients = &scale_row_gradients;
  k.sum_gradients[0] = &sum_gradients<typename Vec<kHalfVector>::type, kHalfVector, kHalf>;
  k.sum_gradients[1] = &sum_gradients<typename Vec<VL>::type, VL, kPanel>;
  k.apply = &apply;
  k.scale = &scale;
  k.normalise = &normalise;
  return k;
}

}  // namespace
}  // namespace dynaconv
