// The int8 kernels, for vectors of VL words; included once by each isa_*vnni.cpp and by isa_int8_portable.cpp, which set
// VL, TILE_PIXELS and TILE_PANELS. Every instruction set computes the same integers: conversions round to the nearest,
// ties to even, and no sum of a product is rounded before.
#include "int8.h"
#include "kernels_impl.h"

namespace dynaconv {
namespace {

// Rounds to the nearest integers.
template <class V>
[[gnu::always_inline]] inline IntsOf<V> rounded(V v) {
#if defined(__AVX512F__)
  if constexpr (sizeof(V) == 64) return IntsOf<V>(_mm512_cvtps_epi32(__m512(v)));
#endif
#if defined(__AVX__)
  if constexpr (sizeof(V) == 32) return IntsOf<V>(_mm256_cvtps_epi32(__m256(v)));
#endif
  IntsOf<V> out;
  for (unsigned i = 0; i < sizeof(V) / 4; ++i) out[i] = int(__builtin_lrintf(v[i]));
  return out;
}

template <class V>
float largest(V v) {
#if defined(__AVX512F__)
  if constexpr (sizeof(V) == 64) return _mm512_reduce_max_ps(__m512(v));
#endif
  float out = v[0];
  for (unsigned i = 1; i < sizeof(V) / 4; ++i) out = v[i] > out ? v[i] : out;
  return out;
}

// Whether a lane is NaN.
template <class V>
bool has_nan(V v) {
#if defined(__AVX512F__)
  if constexpr (sizeof(V) == 64) return _mm512_cmp_ps_mask(__m512(v), __m512(v), _CMP_UNORD_Q);
#endif
  float sum = 0;
  for (unsigned i = 0; i < sizeof(V) / 4; ++i) sum += v[i];
  return sum != sum;
}

// Zero in the lanes from `lanes` on.
template <class V>
[[gnu::always_inline]] inline V first_lanes(V v, int lanes) {
  IntsOf<V> index;
  for (unsigned i = 0; i < sizeof(V) / 4; ++i) index[i] = int(i);
  return V(IntsOf<V>(v) & (index < lanes));
}

// A range below this number is that of zeros: its inverse could overflow.
constexpr float kSmallest = 1e-30f;

Level level(float low, float high, float* range) {
  const float reach = high - low;
  // The integers of numbers that are not finite would overflow.
  const bool usable = reach > kSmallest && __builtin_isfinite(reach);
  const float inverse = usable ? 255.0f / reach : 0.0f;
  const auto zero = usable ? std::int32_t(__builtin_lrintf(-low * inverse)) : 0;
  range[0] = reach * (1.0f / 255.0f);
  range[1] = range[0] * float(zero);
  return {inverse, zero};
}

// The bytes of 16 channels of one pixel. The padding behind the last channel may be out of range.
[[gnu::always_inline]] inline void store_bytes(const float* x, const Level& at, std::uint8_t* out) {
  using V = typename Vec<VL>::type;
  IntsOf<V> q[kPanel / VL];
#pragma GCC unroll 4
  for (int v = 0; v < kPanel / VL; ++v) q[v] = rounded(load<V>(x + v * VL) * at.inverse) + at.zero;
#if defined(__AVX512F__)
  if constexpr (VL == 16) return _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm512_cvtusepi32_epi8(__m512i(q[0])));
#elif defined(__AVX2__)
  if constexpr (VL == 8) {
    const __m256i shorts = _mm256_permute4x64_epi64(_mm256_packus_epi32(__m256i(q[0]), __m256i(q[1])), 0xd8);
    const __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(shorts), _mm256_extracti128_si256(shorts, 1));
    return _mm_storeu_si128(reinterpret_cast<__m128i*>(out), bytes);
  }
#endif
  for (int i = 0; i < kPanel; ++i) {
    const std::int32_t value = q[i / VL][i % VL];
    out[i] = std::uint8_t(value < 0 ? 0 : value > 255 ? 255 : value);
  }
}

void quantise_at(const Quantise& q, const Level& at) {
  for (Index b = 0; b * kPanel < q.channels; ++b) {
    const float* x = q.x + b * q.x_block;
    std::uint8_t* out = q.out + b / kWord * q.out_block + b % kWord * kPanel;
    for (Index m = 0; m < q.pixels; ++m, x += q.x_pixel, out += kWord * kPanel) store_bytes(x, at, out);
  }
}

// The limits of PIXELS pixels, over all channels.
template <int PIXELS>
struct PixelLimits {
  using V = typename Vec<VL>::type;
  static constexpr int kLanes = kPanel / VL;
  V low[PIXELS][kLanes] = {}, high[PIXELS][kLanes] = {}, faults = {};

  template <bool PARTIAL>
  [[gnu::always_inline]] void add(const float* x, Index x_pixel, int lanes) {
#pragma GCC unroll 8
    for (int m = 0; m < PIXELS; ++m)
#pragma GCC unroll 4
      for (int v = 0; v < kLanes; ++v) {
        V value = load<V>(x + m * x_pixel + v * VL);
        if (PARTIAL) value = first_lanes(value, lanes - v * VL);
        low[m][v] = vector_min(value, low[m][v]);
        high[m][v] = vector_max(value, high[m][v]);
        // NaN times 0 and infinity times 0 are NaN.
        faults += value * 0.0f;
      }
  }

  // Writes the smallest and the largest number of each pixel.
  [[gnu::always_inline]] void reduce(float* lows, float* highs) const {
#if defined(__AVX512F__)
    if constexpr (VL == 16 && PIXELS == 8) return reduce_eight(lows, highs);
#endif
#pragma GCC unroll 8
    for (int m = 0; m < PIXELS; ++m) {
      V least = low[m][0], most = high[m][0];
      for (int v = 1; v < kLanes; ++v) {
        least = vector_min(least, low[m][v]);
        most = vector_max(most, high[m][v]);
      }
      lows[m] = -largest(-least);
      highs[m] = largest(most);
    }
  }

#if defined(__AVX512F__)
  // As `reduce`. Each step halves the lanes of two vectors and joins them, so that half as many vectors remain.
  [[gnu::always_inline]] void reduce_eight(float* lows, float* highs) const {
    __m512 pairs[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      __m512 joined[2];
#pragma GCC unroll 2
      for (int j = 0; j < 2; ++j) {
        const __m512 most = __m512(high[2 * i + j][0]), least = __m512(-low[2 * i + j][0]);
        joined[j] = _mm512_max_ps(_mm512_shuffle_f32x4(most, least, 0x44), _mm512_shuffle_f32x4(most, least, 0xee));
      }
      pairs[i] = _mm512_max_ps(_mm512_shuffle_f32x4(joined[0], joined[1], 0x88),
                               _mm512_shuffle_f32x4(joined[0], joined[1], 0xdd));
    }
    __m512 fours[2];
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i)
      fours[i] = _mm512_max_ps(_mm512_unpacklo_ps(pairs[2 * i], pairs[2 * i + 1]),
                               _mm512_unpackhi_ps(pairs[2 * i], pairs[2 * i + 1]));
    const __m512 all = _mm512_max_ps(_mm512_shuffle_ps(fours[0], fours[1], 0x44),
                                     _mm512_shuffle_ps(fours[0], fours[1], 0xee));
    // Lanes of 128 bits are: the largest of even pixels, the negative smallest of even pixels, then of odd pixels.
    const __m512i order = _mm512_setr_epi32(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15);
    const __m512 sorted = _mm512_permutexvar_ps(order, all);
    _mm256_storeu_ps(highs, _mm512_castps512_ps256(sorted));
    _mm256_storeu_ps(lows, -_mm512_extractf32x8_ps(sorted, 1));
  }
#endif
};

template <int PIXELS>
[[gnu::always_inline]] inline PixelLimits<PIXELS> limits_of(const float* x, Index x_pixel, Index x_block, Index channels) {
  PixelLimits<PIXELS> limits;
  const Index full = channels / kPanel;
  for (Index b = 0; b < full; ++b) limits.template add<false>(x + b * x_block, x_pixel, kPanel);
  if (channels % kPanel) limits.template add<true>(x + full * x_block, x_pixel, int(channels % kPanel));
  return limits;
}

// As `level`, for several pixels at once.
template <int PIXELS>
[[gnu::always_inline]] inline void levels(const float* lows, const float* highs, Level* at, float* range) {
  if constexpr (PIXELS == 1) {
    at[0] = level(lows[0], highs[0], range);
  } else {
    using V = typename Vec<PIXELS>::type;
    const V low = load<V>(lows), reach = load<V>(highs) - low;
    const V inverse = reach > kSmallest ? 255.0f / reach : V{};
    const V nothing = reach - reach;
    const IntsOf<V> zero = rounded(-low * inverse) & IntsOf<V>(nothing == nothing);
    const V scale = reach * (1.0f / 255.0f), offset = scale * __builtin_convertvector(zero, V);
#pragma GCC unroll 8
    for (int m = 0; m < PIXELS; ++m) {
      at[m] = {inverse[m], zero[m]};
      range[2 * m] = scale[m];
      range[2 * m + 1] = offset[m];
    }
  }
}

template <int PIXELS>
void quantise_pixels(const Quantise& q, Index first) {
  const float* x = q.x + first * q.x_pixel;
  const auto limits = limits_of<PIXELS>(x, q.x_pixel, q.x_block, q.channels);
  float lows[PIXELS], highs[PIXELS];
  limits.reduce(lows, highs);
  if (has_nan(limits.faults))
    for (int m = 0; m < PIXELS; ++m)
      if (has_nan(limits_of<1>(x + m * q.x_pixel, q.x_pixel, q.x_block, q.channels).faults))
        highs[m] = __builtin_nanf("");
  Level at[PIXELS];
  levels<PIXELS>(lows, highs, at, q.range + 2 * first);
  for (Index b = 0; b * kPanel < q.channels; ++b) {
    std::uint8_t* out = q.out + b / kWord * q.out_block + (first * kWord + b % kWord) * kPanel;
#pragma GCC unroll 8
    for (int m = 0; m < PIXELS; ++m)
      store_bytes(x + b * q.x_block + m * q.x_pixel, at[m], out + m * kWord * kPanel);
  }
}

void quantise(const Quantise& q) {
  // Their limits fit into registers.
  constexpr int kPixels = VL / 2;
  Index m = 0;
  for (; m + kPixels <= q.pixels; m += kPixels) quantise_pixels<kPixels>(q, m);
  for (; m < q.pixels; ++m) quantise_pixels<1>(q, m);
}

void limits(const float* x, Index pixels, int lanes, float* low, float* high) {
  PixelLimits<1> found;
  for (Index m = 0; m < pixels; ++m) found.template add<true>(x + m * kPanel, kPanel, lanes);
  found.reduce(low, high);
  if (has_nan(found.faults)) *high = __builtin_nanf("");
}

template <class V, int N, int WIDTH>
void pack(const PanelWords& p) {
  constexpr int kVectors = WIDTH / N;
  using I = IntsOf<V>;
  V limit[kVectors] = {}, faults[kVectors] = {}, inverse[kVectors];
  for (Index row = 0; row < p.taps * p.depth; ++row)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      const V value = load<V>(p.floats + row * WIDTH + v * N);
      limit[v] = vector_max(vector_max(-value, value), limit[v]);
      faults[v] += value * 0.0f;
    }
  for (int v = 0; v < kVectors; ++v) {
    inverse[v] = limit[v] > kSmallest ? 127.0f / limit[v] : V{};
    store<V>(p.scale + v * N, limit[v] * (1.0f / 127.0f) + faults[v]);
  }
  I total[kVectors] = {};
  float* out = p.words;
  for (Index tap = 0; tap < p.taps; ++tap)
    for (Index first = 0; first < p.depth; first += kWord, out += WIDTH) {
      const float* w = p.floats + (tap * p.depth + first) * WIDTH;
      const int count = p.depth - first < kWord ? int(p.depth - first) : kWord;
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        I word = {};
        for (int i = 0; i < count; ++i) {
          const I q = rounded(load<V>(w + i * WIDTH + v * N) * inverse[v]);
          total[v] += q;
          word |= (q & 255) << (8 * i);
        }
        store<V>(out + v * N, V(word));
      }
    }
  for (int v = 0; v < kVectors; ++v) store<V>(p.sums + v * N, __builtin_convertvector(total[v], V));
}

template <class V, int N, int WIDTH>
void unpack(const PanelWords& p) {
  using I = IntsOf<V>;
  const float* in = p.words;
  for (Index tap = 0; tap < p.taps; ++tap)
    for (Index first = 0; first < p.depth; first += kWord, in += WIDTH) {
      float* w = p.floats + (tap * p.depth + first) * WIDTH;
      const int count = p.depth - first < kWord ? int(p.depth - first) : kWord;
#pragma GCC unroll 4
      for (int v = 0; v < WIDTH / N; ++v) {
        const I word = I(load<V>(in + v * N));
        const V scale = load<V>(p.scale + v * N);
        for (int i = 0; i < count; ++i)
          store<V>(w + i * WIDTH + v * N, scale * __builtin_convertvector((word << (24 - 8 * i)) >> 24, V));
      }
    }
}

template <int WIDTH>
void fill_int8_width(Int8Kernels& k) {
  using Pixels = std::make_index_sequence<TILE_PIXELS>;
  fill_tiles<WIDTH, 16, true>(k.tile[WIDTH][kStride16], Pixels{});
  fill_tiles<WIDTH, 0, true>(k.tile[WIDTH][kStrideAny], Pixels{});
  for (int m = 0; m < TILE_PIXELS; ++m) k.tile[WIDTH][kStride32][m] = k.tile[WIDTH][kStrideAny][m];
}

Int8Kernels int8_table(const char* name, bool is_fast) {
  Int8Kernels k{};
  k.name = name;
  k.is_fast = is_fast;
  k.pixels = TILE_PIXELS;
  k.panels = TILE_PANELS;
  fill_int8_width<kWidthHalf>(k);
  fill_int8_width<kWidthOne>(k);
  fill_int8_width<kWidthTwo>(k);
  k.quantise = &quantise;
  k.quantise_at = &quantise_at;
  k.level = &level;
  k.limits = &limits;
  k.pack[0] = &pack<typename Vec<kHalfVector>::type, kHalfVector, kHalf>;
  k.pack[1] = &pack<typename Vec<VL>::type, VL, kPanel>;
  k.unpack[0] = &unpack<typename Vec<kHalfVector>::type, kHalfVector, kHalf>;
  k.unpack[1] = &unpack<typename Vec<VL>::type, VL, kPanel>;
  return k;
}

}  // namespace
}  // namespace dynaconv
