// Weighted sums of the kernels of a mixture, in float32 and bfloat16; part of kernels_impl.h.
#include "vectors_impl.h"

namespace dynaconv {
namespace {

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

}  // namespace
}  // namespace dynaconv
