// Multiply-adds per second of one core: float32, float32 with bfloat16 weights widened by a shift and a mask, and
// VDPBF16PS, with weights in the L1 cache, in the L2 cache and in memory.
//
//     g++ -O3 -march=native benchmarks/bf16_arithmetic.cpp -o build/bf16_arithmetic && build/bf16_arithmetic
#include <immintrin.h>
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

constexpr int kSums = 8;

// Each reads 64 bytes of weights at `w` for each of kSums sums; returns the number of multiply-adds per sum.
struct Float32 {
  static constexpr int kWeights = 16;
  static void add(__m512 (&sum)[kSums][2], const float* w, __m512 x) {
    for (int i = 0; i < kSums; ++i) sum[i][0] = _mm512_fmadd_ps(x, _mm512_load_ps(w + 16 * i), sum[i][0]);
  }
};

struct Widened {
  static constexpr int kWeights = 32;
  static void add(__m512 (&sum)[kSums][2], const float* w, __m512 x) {
    const __m512i upper = _mm512_set1_epi32(int(0xffff0000u));
    for (int i = 0; i < kSums; ++i) {
      const __m512i words = _mm512_load_si512(w + 16 * i);
      sum[i][0] = _mm512_fmadd_ps(x, _mm512_castsi512_ps(_mm512_slli_epi32(words, 16)), sum[i][0]);
      sum[i][1] = _mm512_fmadd_ps(x, _mm512_castsi512_ps(_mm512_and_si512(words, upper)), sum[i][1]);
    }
  }
};

#ifdef __AVX512BF16__
struct DotProduct {
  static constexpr int kWeights = 32;
  static void add(__m512 (&sum)[kSums][2], const float* w, __m512 x) {
    __m512bh pairs;
    std::memcpy(&pairs, &x, sizeof pairs);
    for (int i = 0; i < kSums; ++i) {
      __m512bh words;
      std::memcpy(&words, w + 16 * i, sizeof words);
      sum[i][0] = _mm512_dpbf16_ps(sum[i][0], pairs, words);
    }
  }
};
#endif

// Reads `floats` floats again and again; prints 1e9 multiply-adds per second, the best of ten.
template <class Kind>
void measure(const char* name, const float* weights, std::size_t floats) {
  double best = 0;
  const std::size_t times = std::max<std::size_t>(1, (std::size_t(1) << 25) / floats);
  for (int round = 0; round < 10; ++round) {
    __m512 sum[kSums][2] = {}, x = _mm512_set1_ps(1e-3f);
    const auto start = std::chrono::steady_clock::now();
    for (std::size_t time = 0; time < times; ++time)
      for (std::size_t i = 0; i < floats; i += 16 * kSums) {
        // The weights change, so that they are read every time; so do the inputs.
        asm volatile("" : "+v"(x) : : "memory");
        Kind::add(sum, weights + i, x);
      }
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    for (auto& pair : sum) asm volatile("" : : "v"(pair[0]), "v"(pair[1]));
    best = std::max(best, double(times) * double(floats) * (Kind::kWeights / 16) / seconds.count() / 1e9);
  }
  std::printf("%-10s %6zu KiB of weights: %6.1f GMAC/s\n", name, floats / 256, best);
}

}  // namespace

int main() {
  constexpr std::size_t kFloats = std::size_t(16) << 20;
  auto* weights = static_cast<float*>(std::aligned_alloc(2 << 20, kFloats * sizeof(float)));
  madvise(weights, kFloats * sizeof(float), MADV_HUGEPAGE);
  std::fill_n(weights, kFloats, 1.0f);
  for (const std::size_t floats : {std::size_t(2) << 10, std::size_t(128) << 10, kFloats}) {
    measure<Float32>("float32", weights, floats);
    measure<Widened>("widened", weights, floats);
#ifdef __AVX512BF16__
    measure<DotProduct>("VDPBF16PS", weights, floats);
#endif
  }
}
