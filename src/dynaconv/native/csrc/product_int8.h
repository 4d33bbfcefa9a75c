// Dense convolutions in int8: their pixels and weights in bytes. Pixels are quantised when a step reads them, each with a
// range of its own or, for a kernel of several taps, with the range of its image; weights with a scale for each output
// channel.
#pragma once

#include "int8.h"
#include "view.h"

namespace dynaconv {

// Input channels of a product of a step, in floats or words.
inline Index depth_of(const Step& s, Index channels) { return s.precision == kInt8 ? words_of(channels) : channels; }

// The images in bytes, padded for the step.
View quantised_view(const Step& step, const Images& x, const Images& out, const Team& team);

// Sets the scale and the sums of weights in bytes, those at `offset` in the constants: all scales, then all sums. If
// `factor` is not null, it multiplies the scale of each channel of each sample; samples are `factor_sample` apart.
void set_scale(Product& product, const float* constants, std::int64_t offset, const float* factor, Index factor_sample);

// Makes formed weights of all samples, `w_sample` floats apart, the weights of a product. Each panel is quantised.
void set_formed(Product& product, const Step& step, const float* w, Index w_sample, const Team& team);

// The weights of a step in floats, as panels in scratch memory.
const float* unpacked_weight(const Step& step, const float* constants, const Team& team);

}  // namespace dynaconv
