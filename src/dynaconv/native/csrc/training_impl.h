// Kernels of the training operators; part of kernels_impl.h.
#include "mix_impl.h"

namespace dynaconv {
namespace {

template <class V, int N>
[[gnu::always_inline]] inline float sum_of(V v) {
  float lanes[N], total = 0;
  store<V>(lanes, v);
  for (int i = 0; i < N; ++i) total += lanes[i];
  return total;
}

// Kernels are taken four at a time, so that their sums stay in registers.
template <class V, int N, int WIDTH, int KERNELS>
void unmix_kernels(const Unmix& u, int first) {
  constexpr int kVectors = WIDTH / N;
  const Mix& m = u.mix;
  V to_attention[KERNELS] = {}, lanes[kVectors];
  load_lanes<V, N, WIDTH>(m, lanes);
  for (Index row = 0; row < m.rows; ++row) {
    const V factor = V{} + (m.factors ? m.factors[row] : 1.0f);
    const Index at = (row * m.kernels + first) * WIDTH;
    for (int v = 0; v < kVectors; ++v) {
      const V scaled = load<V>(u.gradient + row * WIDTH + v * N) * (factor * lanes[v]);
#pragma GCC unroll 4
      for (int k = 0; k < KERNELS; ++k) {
        const Index i = at + k * WIDTH + v * N;
        to_attention[k] += scaled * load<V>(m.w + i);
        store<V>(u.to_w + i, load<V>(u.to_w + i) + m.attention[first + k] * scaled);
      }
    }
  }
  for (int k = 0; k < KERNELS; ++k) u.to_attention[first + k] += sum_of<V, N>(to_attention[k]);
}

template <class V, int N, int WIDTH>
void unmix_scales(const Unmix& u) {
  constexpr int kVectors = WIDTH / N;
  const Mix& m = u.mix;
  V to_lanes[kVectors] = {}, lanes[kVectors];
  load_lanes<V, N, WIDTH>(m, lanes);
  for (Index row = 0; row < m.rows; ++row) {
    const V factor = V{} + (m.factors ? m.factors[row] : 1.0f);
    V to_factor = {};
    for (int v = 0; v < kVectors; ++v) {
      V mixed = {};
      for (int k = 0; k < m.kernels; ++k)
        mixed += m.attention[k] * load<V>(m.w + (row * m.kernels + k) * WIDTH + v * N);
      mixed *= load<V>(u.gradient + row * WIDTH + v * N);
      to_lanes[v] += factor * mixed;
      to_factor += lanes[v] * mixed;
    }
    if (u.to_factors) u.to_factors[row] += sum_of<V, N>(to_factor);
  }
  if (u.to_lanes)
    for (int v = 0; v < kVectors; ++v) store<V>(u.to_lanes + v * N, load<V>(u.to_lanes + v * N) + to_lanes[v]);
}

template <class V, int N, int WIDTH>
void unmix(const Unmix& u) {
  int k = 0;
  for (; k + 4 <= u.mix.kernels; k += 4) unmix_kernels<V, N, WIDTH, 4>(u, k);
  for (; k < u.mix.kernels; ++k) unmix_kernels<V, N, WIDTH, 1>(u, k);
  if (u.to_factors || u.to_lanes) unmix_scales<V, N, WIDTH>(u);
}

// ROWS rows of N columns of a product. STEP is the distance between the rows of `a` if it is known.
template <class V, int N, int ROWS, int STEP>
[[gnu::always_inline]] inline void gemm_tile(const Gemm& g, Index m, Index n) {
  V acc[ROWS] = {};
  if (!g.overwrites)
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) acc[r] = load<V>(g.out + (m + r) * g.out_m + n);
  const Index step = STEP ? STEP : g.a_m;
  const float *a = g.a + m * step, *b = g.b + n;
  for (Index k = 0; k < g.k; ++k, a += g.a_k, b += g.b_k) {
    const V row = load<V>(b);
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) acc[r] += a[r * step] * row;
  }
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r) store<V>(g.out + (m + r) * g.out_m + n, acc[r]);
}

// Columns [n, end), N at a time; returns the first column that is left.
template <int N, int STEP>
[[gnu::always_inline]] inline Index gemm_columns(const Gemm& g, Index n) {
  using V = typename Vec<N>::type;
  for (; n + N <= g.n; n += N) {
    Index m = 0;
    if constexpr (VL > 8 && STEP)
      for (; m + 16 <= g.m; m += 16) gemm_tile<V, N, 16, STEP>(g, m, n);
    for (; m + 8 <= g.m; m += 8) gemm_tile<V, N, 8, STEP>(g, m, n);
    for (; m + 4 <= g.m; m += 4) gemm_tile<V, N, 4, STEP>(g, m, n);
    for (; m < g.m; ++m) gemm_tile<V, N, 1, STEP>(g, m, n);
  }
  return n;
}

template <int STEP>
void gemm_of(const Gemm& g) {
  Index n = 0;
  if constexpr (VL > 8) n = gemm_columns<VL, STEP>(g, n);
  if constexpr (VL > 4) n = gemm_columns<8, STEP>(g, n);
  n = gemm_columns<4, STEP>(g, n);
  gemm_columns<1, STEP>(g, n);
}

void gemm(const Gemm& g) { g.a_m == 1 ? gemm_of<1>(g) : gemm_of<0>(g); }

// Latent channels are taken four at a time, so that their sums stay in registers.
template <class V, int N, int WIDTH>
void sum_gradients(const SumGradients& s) {
  for (int lane = 0; lane < WIDTH; lane += N) {
    const V scale = load<V>(s.scale + lane);
    V to_along = {};
    for (int first = 0; first == 0 || first < s.latent; first += 4) {
      const int count = s.latent - first < 4 ? s.latent - first : 4;
      V to_mix[4] = {};
      for (Index pixel = 0; pixel < s.pixels; ++pixel) {
        const V gradient = load<V>(s.gradient + pixel * s.gradient_pixel + lane);
        const float* z = s.z + pixel * s.z_pixel + first;
        if (first == 0) {
          to_along += gradient * load<V>(s.out + pixel * s.out_pixel + lane);
          store<V>(s.to_fixed + pixel * s.to_fixed_pixel + lane, gradient * scale);
        }
        if (count == 4)
#pragma GCC unroll 4
          for (int l = 0; l < 4; ++l) to_mix[l] += z[l] * gradient;
        else
          for (int l = 0; l < count; ++l) to_mix[l] += z[l] * gradient;
      }
      for (int l = 0; l < count; ++l) store<V>(s.to_mix + (first + l) * WIDTH + lane, to_mix[l]);
    }
    store<V>(s.to_along + lane, to_along);
  }
}

// ROWS x COLUMNS scalar products.
template <int ROWS, int COLUMNS>
[[gnu::always_inline]] inline void dots_tile(const Dots& d, Index m, Index n) {
  using V = typename Vec<VL>::type;
  V acc[ROWS][COLUMNS] = {};
  const float *a = d.a + m * d.a_m, *b = d.b + n * d.b_n;
  Index k = 0;
  for (; k + VL <= d.k; k += VL) {
    V columns[COLUMNS];
#pragma GCC unroll 4
    for (int c = 0; c < COLUMNS; ++c) columns[c] = load<V>(b + c * d.b_n + k);
#pragma GCC unroll 4
    for (int r = 0; r < ROWS; ++r) {
      const V row = load<V>(a + r * d.a_m + k);
#pragma GCC unroll 4
      for (int c = 0; c < COLUMNS; ++c) acc[r][c] += row * columns[c];
    }
  }
  for (int r = 0; r < ROWS; ++r)
    for (int c = 0; c < COLUMNS; ++c) {
      float total = sum_of<V, VL>(acc[r][c]);
      for (Index i = k; i < d.k; ++i) total += a[r * d.a_m + i] * b[c * d.b_n + i];
      d.out[(m + r) * d.out_m + n + c] += total;
    }
}

template <int ROWS>
[[gnu::always_inline]] inline Index dots_rows(const Dots& d, Index m) {
  for (; m + ROWS <= d.m; m += ROWS) {
    Index n = 0;
    for (; n + 4 <= d.n; n += 4) dots_tile<ROWS, 4>(d, m, n);
    for (; n < d.n; ++n) dots_tile<ROWS, 1>(d, m, n);
  }
  return m;
}

void dots(const Dots& d) { dots_rows<1>(d, dots_rows<4>(d, 0)); }

// Calls f(i, vector or number) for the elements of a row.
template <class F>
[[gnu::always_inline]] inline void for_each_vector(Index size, const F& f) {
  using V = typename Vec<VL>::type;
  Index i = 0;
  for (; i + VL <= size; i += VL) f(i, V{});
  for (; i < size; ++i) f(i, 0.0f);
}

void scale_row(const ScaledRow& s, float* out) {
  for_each_vector(s.size, [&](Index i, auto none) {
    using T = decltype(none);
    store<T>(out + i, s.factor * (load<T>(s.row + i) * load<T>(s.factors + i)));
  });
}

void scale_row_gradients(const ScaledRow& s, const float* gradient, float* to_row, float* to_factor, float* to_factors) {
  typename Vec<VL>::type lanes = {};
  float total = 0;
  for_each_vector(s.size, [&](Index i, auto none) {
    using T = decltype(none);
    const T own = load<T>(gradient + i), factors = load<T>(s.factors + i), along = own * load<T>(s.row + i);
    if constexpr (sizeof(T) == sizeof(lanes)) lanes += along * factors;
    else total += along * factors;
    store<T>(to_factors + i, load<T>(to_factors + i) + s.factor * along);
    store<T>(to_row + i, load<T>(to_row + i) + own * (s.factor * factors));
  });
  *to_factor += total + sum_of<typename Vec<VL>::type, VL>(lanes);
}

}  // namespace
}  // namespace dynaconv
