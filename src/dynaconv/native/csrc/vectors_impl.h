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

template <class V>
[[gnu::always_inline]] inline void sum_vector(const float* x, Index x_pixel, Index pixels, float* sum) {
  V acc[4] = {};
  Index m = 0;
  for (; m + 4 <= pixels; m += 4)
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) acc[i] += load<V>(x + (m + i) * x_pixel);
  for (; m < pixels; ++m) acc[0] += load<V>(x + m * x_pixel);
  store<V>(sum, load<V>(sum) + ((acc[0] + acc[1]) + (acc[2] + acc[3])));
}

void sum_pixels(const float* x, Index x_pixel, Index channels, Index pixels, float* sum) {
  Index c = 0;
  for (; c + VL <= channels; c += VL) sum_vector<typename Vec<VL>::type>(x + c, x_pixel, pixels, sum + c);
  if constexpr (VL > kHalf)
    for (; c < channels; c += kHalf) sum_vector<typename Vec<kHalf>::type>(x + c, x_pixel, pixels, sum + c);
}

void add_to_pixels(const float* values, Index channels, Index pixels, float* x) {
  using V = typename Vec<VL>::type;
  using Half = typename Vec<(VL < kHalf ? VL : kHalf)>::type;
  for (Index m = 0; m < pixels; ++m, x += channels) {
    Index c = 0;
    for (; c + VL <= channels; c += VL) store<V>(x + c, load<V>(x + c) + load<V>(values + c));
    if constexpr (VL > kHalf)
      if (c < channels) store<Half>(x + c, load<Half>(x + c) + load<Half>(values + c));
  }
}

}  // namespace
}  // namespace dynaconv
