// The patches of a convolution with mixed kernels as rows of a matrix, for products with all kernels at once.
#pragma once

#include "mixture_conv.h"

namespace dynaconv {

// Writes rows (sample, output pixel) of columns (kernel, tap, input channel): the input that the tap reads times the sample's
// coefficients of kernel, tap and channel. The channels of the input are adjacent; what belongs to output channels is unused.
void mixture_patches(const MixtureConv& c, float* out);

// Writes the gradients of the input and the coefficients from that of the rows; that of the input has its distances. Those of
// channels and taps may be null.
void mixture_patches_gradients(const MixtureConv& c, const float* gradient, const MixtureGradients& to);

}  // namespace dynaconv
