#include "average.h"

#include "parts.h"

namespace dynaconv {

void average_pixels(const float* x, Index pixels, Index channels, float* average) {
  // Short sums of pixels are added up, for the sake of accuracy.
  constexpr Index kStrip = 128;
  std::fill_n(average, channels, 0.0f);
  for (Index pixel = 0; pixel < pixels; pixel += kStrip)
    kernels().sum_pixels(x + pixel * channels, channels, channels, std::min(kStrip, pixels - pixel), average);
  const float factor = 1.0f / float(pixels);
  for (Index i = 0; i < channels; ++i) average[i] *= factor;
}

void average(const float* x, Index batch, Index pixels, Index channels, float* average) {
  parallel_for_each(batch, [&](Index n) {
    average_pixels(x + n * pixels * channels, pixels, channels, average + n * channels);
  });
}

void average_gradient(const float* to_average, Index batch, Index pixels, Index channels, float* to_x) {
  const float factor = 1.0f / float(pixels);
  parallel_for_each(batch, [&](Index n) {
    thread_local Buffer buffer;
    float* values = buffer.get(channels);
    for (Index i = 0; i < channels; ++i) values[i] = factor * to_average[n * channels + i];
    kernels().add_to_pixels(values, channels, pixels, to_x + n * pixels * channels);
  });
}

}  // namespace dynaconv
