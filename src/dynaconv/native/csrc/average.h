// The average of images over their pixels, in training. Channels are adjacent, a multiple of 8 in number.
#pragma once

#include "kernels.h"

namespace dynaconv {

// Of one image.
void average_pixels(const float* x, Index pixels, Index channels, float* average);

// Of each image, (sample, channel).
void average(const float* x, Index batch, Index pixels, Index channels, float* average);
// Adds the gradient of the averages to that of the images.
void average_gradient(const float* to_average, Index batch, Index pixels, Index channels, float* to_x);

}  // namespace dynaconv
