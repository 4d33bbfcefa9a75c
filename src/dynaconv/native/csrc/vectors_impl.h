// Vectors and functions of single values, and kernels that are loops over them; part of kernels_impl.h.
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <type_traits>

#if defined(__AVX__)
#include <immintrin.h>
#endif

#include "kernels.h"

namespace dynaconv {
namespace {

template <int N>
struct Vec {
  typedef float type __attribute__((vector_size(4 * N)));
};

// Vectors of 32-bit integers with as many lanes as V.
template <class V>
struct Ints {
  typedef std::int32_t type __attribute__((vector_size(sizeof(V))));
};
template <class V>
using IntsOf = typename Ints<V>::type;

template <class V>
[[gnu::always_inline]] inline V load(const float* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

template <class V>
[[gnu::always_inline]] inline void store(float* p, V v) {
  __builtin_memcpy(p, &v, sizeof v);
}

// Maximum and minimum of two vectors; `b` if one of the two is NaN, as the x86 instructions do.
template <class V>
[[gnu::always_inline]] inline V vector_max(V a, V b) {
#if defined(__AVX512F__)
  if constexpr (sizeof(V) == 64) return V(_mm512_max_ps(__m512(a), __m512(b)));
#endif
#if defined(__AVX__)
  if constexpr (sizeof(V) == 32) return V(_mm256_max_ps(__m256(a), __m256(b)));
#endif
  return a > b ? a : b;
}

template <class V>
[[gnu::always_inline]] inline V vector_min(V a, V b) {
#if defined(__AVX512F__)
  if constexpr (sizeof(V) == 64) return V(_mm512_min_ps(__m512(a), __m512(b)));
#endif
#if defined(__AVX__)
  if constexpr (sizeof(V) == 32) return V(_mm256_min_ps(__m256(a), __m256(b)));
#endif
  return a < b ? a : b;
}

// acc + x w for a number at `x`. Where V has integers, x and the lanes of w are words of four bytes: adds the products of
// the unsigned bytes of x with the signed ones of w.
template <class V>
[[gnu::always_inline]] inline V multiply_add(V acc, const float* x, V w) {
  if constexpr (std::is_same_v<std::remove_reference_t<decltype(acc[0])>, float>) {
    return acc + *x * w;
  } else {
    std::int32_t bytes;
    __builtin_memcpy(&bytes, x, sizeof bytes);
#if defined(__AVX512VNNI__)
    if constexpr (sizeof(V) == 64)
      return V(_mm512_dpbusd_epi32(__m512i(acc), _mm512_set1_epi32(bytes), __m512i(w)));
    if constexpr (sizeof(V) == 32)
      return V(_mm256_dpbusd_epi32(__m256i(acc), _mm256_set1_epi32(bytes), __m256i(w)));
#elif defined(__AVXVNNI__)
    if constexpr (sizeof(V) == 32)
      return V(_mm256_dpbusd_avx_epi32(__m256i(acc), _mm256_set1_epi32(bytes), __m256i(w)));
#endif
    for (int i = 0; i < 4; ++i) acc += ((bytes >> (8 * i)) & 255) * ((w << (24 - 8 * i)) >> 24);
    return acc;
  }
}

// exp(x), by powers of two and the Taylor series of the rest, whose error is below that of rounding. NaN stays NaN.
template <class V>
[[gnu::always_inline]] inline V exponential(V x) {
  typedef int Ints __attribute__((vector_size(sizeof(V))));
  x = vector_min(V{} + 88.0f, vector_max(V{} - 87.0f, x));
  // Adding this number rounds to an integer.
  constexpr float kRound = 12582912.0f;
  const V n = (x * 1.44269504088896341f + kRound) - kRound;
  const V r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  V p = V{} + 1.0f / 5040;
  for (const float c : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f}) p = p * r + c;
  const Ints bits = (__builtin_convertvector(n, Ints) + 127) << 23;
  V power;
  __builtin_memcpy(&power, &bits, sizeof power);
  return p * power;
}

// The error function, by formula 7.1.26 of Abramowitz and Stegun; its error is below 1.5e-7.
template <class V>
[[gnu::always_inline]] inline V error_function(V x) {
  const V size = vector_max(-x, x), t = 1.0f / (1.0f + 0.3275911f * size);
  V p = V{} + 1.061405429f;
  for (const float c : {-1.453152027f, 1.421413741f, -0.284496736f, 0.254829592f}) p = p * t + c;
  const V tail = p * t * exponential(-size * size);
  return x < V{} ? tail - 1.0f : 1.0f - tail;
}

template <Function F, class V>
[[gnu::always_inline]] inline V value_of(V v) {
  const V zero = {};
  if constexpr (F == Function::kRelu) return vector_max(zero, v);
  if constexpr (F == Function::kRelu6) return vector_min(zero + 6.0f, vector_max(zero, v));
  if constexpr (F == Function::kSilu) return v / (1.0f + exponential(-v));
  if constexpr (F == Function::kGelu) return 0.5f * v * (1.0f + error_function(v * 0.70710678118654752440f));
  if constexpr (F == Function::kHardswish) return v * value_of<Function::kRelu6>(v + 3.0f) / 6.0f;
  if constexpr (F == Function::kHardSigmoid) return value_of<Function::kRelu6>(v + 3.0f) / 3.0f;
  if constexpr (F == Function::kSigmoid) return 2.0f / (1.0f + exponential(-v));
  // 1 + tanh(t)
  return 2.0f / (1.0f + exponential(-2.0f * v));
}

template <Function F>
void apply_one(float* x, Index pixels, float* sum) {
  using V = typename Vec<VL>::type;
  for (int lane = 0; lane < kPanel; lane += VL) {
    V total = {};
    for (Index m = 0; m < pixels; ++m) {
      const V value = value_of<F>(load<V>(x + m * kPanel + lane));
      store<V>(x + m * kPanel + lane, value);
      total += value;
    }
    if (sum) store<V>(sum + lane, total);
  }
}

void apply(Function function, float* x, Index pixels, float* sum) {
  switch (function) {
    case Function::kRelu: return apply_one<Function::kRelu>(x, pixels, sum);
    case Function::kRelu6: return apply_one<Function::kRelu6>(x, pixels, sum);
    case Function::kSilu: return apply_one<Function::kSilu>(x, pixels, sum);
    case Function::kGelu: return apply_one<Function::kGelu>(x, pixels, sum);
    case Function::kHardswish: return apply_one<Function::kHardswish>(x, pixels, sum);
    case Function::kHardSigmoid: return apply_one<Function::kHardSigmoid>(x, pixels, sum);
    case Function::kSigmoid: return apply_one<Function::kSigmoid>(x, pixels, sum);
    case Function::kTanh: return apply_one<Function::kTanh>(x, pixels, sum);
  }
}

void scale(const float* x, const float* scale, const float* bias, const float* add, Index pixels, float* out) {
  using V = typename Vec<VL>::type;
  for (int lane = 0; lane < kPanel; lane += VL) {
    const V s = load<V>(scale + lane), b = bias ? load<V>(bias + lane) : V{};
    for (Index m = lane; m < pixels * kPanel; m += kPanel) {
      const V value = s * load<V>(x + m) + b;
      store<V>(out + m, add ? value + load<V>(add + m) : value);
    }
  }
}

// Calls f(pixel, values) for the channels of `count` pixels, block by block, with vectors of 16 lanes or single values.
template <class F>
[[gnu::always_inline]] inline void for_each_channel(const Norm& n, Index first, Index count, const F& f) {
  using V = typename Vec<VL>::type;
  const Index full = n.channels / kPanel * kPanel;
  for (Index c = 0; c < full; c += kPanel)
    for (Index m = 0; m < count; ++m)
      for (Index lane = 0; lane < kPanel; lane += VL)
        f(m, c + lane, load<V>(n.x + c / kPanel * n.block + (first + m) * kPanel + lane));
  for (Index m = 0; m < count; ++m)
    for (Index c = full; c < n.channels; ++c)
      f(m, c, n.x[full / kPanel * n.block + (first + m) * kPanel + c - full]);
}

void normalise(const Norm& n) {
  using V = typename Vec<VL>::type;
  // Pixels of a run, whose channels are read three times.
  constexpr Index kRun = 8;
  const auto mean_of = [&](const V& lanes, float rest) {
    for (int lane = 0; lane < VL; ++lane) rest += lanes[lane];
    return rest / float(n.channels);
  };
  for (Index first = 0; first < n.pixels; first += kRun) {
    const Index count = n.pixels - first < kRun ? n.pixels - first : kRun;
    V lanes[kRun] = {};
    float rest[kRun] = {}, mean[kRun], factor[kRun];
    const auto add = [&](Index m, auto value) {
      if constexpr (sizeof(value) == sizeof(V)) lanes[m] += value;
      else rest[m] += value;
    };
    for_each_channel(n, first, count, [&](Index m, Index, auto value) { add(m, value); });
    for (Index m = 0; m < count; ++m) {
      mean[m] = mean_of(lanes[m], rest[m]);
      lanes[m] = V{};
      rest[m] = 0;
    }
    for_each_channel(n, first, count, [&](Index m, Index, auto value) {
      value -= mean[m];
      add(m, value * value);
    });
    for (Index m = 0; m < count; ++m) factor[m] = 1.0f / std::sqrt(mean_of(lanes[m], rest[m]) + n.epsilon);
    for_each_channel(n, first, count, [&](Index m, Index c, auto value) {
      using T = decltype(value);
      value = (value - mean[m]) * factor[m] * load<T>(n.scale + c);
      if (n.shift) value += load<T>(n.shift + c);
      store<T>(n.out + c / kPanel * n.block + (first + m) * kPanel + c % kPanel, value);
    });
  }
}

// Multiplies the rows of a mix from row `row` on, except SKIP of `acc`, by their factors and stores them.
template <class V, int N, int WIDTH, int ROWS, int SKIP = 0>
[[gnu::always_inline]] inline void store_rows(const Mix& m, Index row, const V* lanes, V (&acc)[ROWS][WIDTH / N],
                                              int end = ROWS) {
#pragma GCC unroll 8
  for (int r = SKIP; r < end; ++r) {
    const Index i = row + r - SKIP;
    const V factor = V{} + (m.factors ? m.factors[i] : 1.0f);
#pragma GCC unroll 4
    for (int v = 0; v < WIDTH / N; ++v) store<V>(m.out + i * WIDTH + v * N, acc[r][v] * (factor * lanes[v]));
  }
}

// ROWS rows of a mix from row `row` on, of KERNELS kernels unless that is 0. Each sum is a chain of multiply-adds; there are
// enough rows to hide its latency.
template <class V, int N, int WIDTH, int ROWS, int KERNELS = 0>
[[gnu::always_inline]] inline void mix_rows(const Mix& m, Index row, const V* lanes) {
  constexpr int kVectors = WIDTH / N;
  V acc[ROWS][kVectors] = {};
  const int kernels = KERNELS ? KERNELS : m.kernels;
  const float* w = m.w + row * kernels * WIDTH;
#pragma GCC unroll 8
  for (int k = 0; k < kernels; ++k, w += WIDTH) {
    const V attention = V{} + m.attention[k];
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) acc[r][v] += attention * load<V>(w + r * kernels * WIDTH + v * N);
  }
  store_rows<V, N, WIDTH>(m, row, lanes, acc);
}

template <class V, int N, int WIDTH>
[[gnu::always_inline]] inline void load_lanes(const Mix& m, V (&lanes)[WIDTH / N]) {
  for (int v = 0; v < WIDTH / N; ++v) lanes[v] = m.lanes ? load<V>(m.lanes + v * N) : V{} + 1.0f;
}

template <class V, int N, int WIDTH>
void mix(const Mix& m) {
  constexpr int kVectors = WIDTH / N, kRows = kVectors > 8 ? 1 : 8 / kVectors;
  V lanes[kVectors];
  load_lanes<V, N, WIDTH>(m, lanes);
  Index row = 0;
  // Several rows at a time would not read memory in order, which the hardware prefetcher needs; rows of so many kernels
  // overlap without that.
  if (m.kernels == 4)
    for (; row < m.rows; ++row) mix_rows<V, N, WIDTH, 1, 4>(m, row, lanes);
  if (m.kernels == 8)
    for (; row < m.rows; ++row) mix_rows<V, N, WIDTH, 1, 8>(m, row, lanes);
  for (; row + kRows <= m.rows; row += kRows) mix_rows<V, N, WIDTH, kRows>(m, row, lanes);
  for (; row < m.rows; ++row) mix_rows<V, N, WIDTH, 1>(m, row, lanes);
}

// As `mix_rows`, for PAIRS pairs of rows in bfloat16. The first SKIP rows of the pairs, and those from `end` on, are not
// stored.
template <class V, int N, int WIDTH, int PAIRS, int KERNELS = 0, int SKIP = 0>
[[gnu::always_inline]] inline void mix_pairs(const Mix& m, Index row, const V* lanes, int end = 2 * PAIRS) {
  typedef unsigned Words __attribute__((vector_size(sizeof(V))));
  constexpr int kVectors = WIDTH / N;
  V acc[2 * PAIRS][kVectors] = {};
  const int kernels = KERNELS ? KERNELS : m.kernels;
  const float* w = m.w + (m.odd + row) / 2 * kernels * WIDTH;
#pragma GCC unroll 8
  for (int k = 0; k < kernels; ++k, w += WIDTH) {
    const V attention = V{} + m.attention[k];
#pragma GCC unroll 8
    for (int pair = 0; pair < PAIRS; ++pair)
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        Words words;
        __builtin_memcpy(&words, w + pair * kernels * WIDTH + v * N, sizeof words);
        acc[2 * pair][v] += attention * V(words << 16);
        acc[2 * pair + 1][v] += attention * V(words & 0xffff0000u);
      }
  }
  store_rows<V, N, WIDTH, 2 * PAIRS, SKIP>(m, row, lanes, acc, end);
}

template <class V, int N, int WIDTH>
void mix_bf16(const Mix& m) {
  constexpr int kVectors = WIDTH / N, kPairs = kVectors > 4 ? 1 : 4 / kVectors;
  V lanes[kVectors];
  load_lanes<V, N, WIDTH>(m, lanes);
  Index row = 0;
  if (m.odd && m.rows) {
    mix_pairs<V, N, WIDTH, 1, 0, 1>(m, 0, lanes);
    row = 1;
  }
  if (m.kernels == 4)
    for (; row + 2 <= m.rows; row += 2) mix_pairs<V, N, WIDTH, 1, 4>(m, row, lanes);
  if (m.kernels == 8)
    for (; row + 2 <= m.rows; row += 2) mix_pairs<V, N, WIDTH, 1, 8>(m, row, lanes);
  for (; row + 2 * kPairs <= m.rows; row += 2 * kPairs) mix_pairs<V, N, WIDTH, kPairs>(m, row, lanes);
  for (; row + 2 <= m.rows; row += 2) mix_pairs<V, N, WIDTH, 1>(m, row, lanes);
  if (row < m.rows) mix_pairs<V, N, WIDTH, 1>(m, row, lanes, 1);
}

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

// ROWS rows of N columns of a product.
template <class V, int N, int ROWS>
[[gnu::always_inline]] inline void gemm_tile(const Gemm& g, Index m, Index n) {
  V acc[ROWS];
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r) acc[r] = load<V>(g.out + (m + r) * g.out_m + n);
  const float *a = g.a + m * g.a_m, *b = g.b + n;
  for (Index k = 0; k < g.k; ++k, a += g.a_k, b += g.b_k) {
    const V row = load<V>(b);
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) acc[r] += a[r * g.a_m] * row;
  }
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r) store<V>(g.out + (m + r) * g.out_m + n, acc[r]);
}

// Columns [n, end), N at a time; returns the first column that is left.
template <int N>
[[gnu::always_inline]] inline Index gemm_columns(const Gemm& g, Index n) {
  using V = typename Vec<N>::type;
  for (; n + N <= g.n; n += N) {
    Index m = 0;
    for (; m + 8 <= g.m; m += 8) gemm_tile<V, N, 8>(g, m, n);
    for (; m < g.m; ++m) gemm_tile<V, N, 1>(g, m, n);
  }
  return n;
}

void gemm(const Gemm& g) {
  Index n = 0;
  if constexpr (VL > 8) n = gemm_columns<VL>(g, n);
  if constexpr (VL > 4) n = gemm_columns<8>(g, n);
  n = gemm_columns<4>(g, n);
  gemm_columns<1>(g, n);
}

// Latent channels are taken four at a time, so that their sums stay in registers.
template <class V, int N, int WIDTH>
void sum_gradients(const SumGradients& s) {
  for (int lane = 0; lane < WIDTH; lane += N) {
    const V scale = load<V>(s.scale + lane);
    V to_scale = {};
    for (int first = 0; first == 0 || first < s.latent; first += 4) {
      const int count = s.latent - first < 4 ? s.latent - first : 4;
      V to_mix[4] = {};
      for (Index pixel = 0; pixel < s.pixels; ++pixel) {
        const V gradient = load<V>(s.gradient + pixel * s.gradient_pixel + lane);
        const float* z = s.z + pixel * s.z_pixel + first;
        if (first == 0) {
          to_scale += gradient * load<V>(s.fixed + pixel * s.fixed_pixel + lane);
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
    store<V>(s.to_scale + lane, to_scale);
  }
}

}  // namespace
}  // namespace dynaconv
