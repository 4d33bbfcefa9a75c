"""FDConv: frequency dynamic convolution."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from dynaconv.families.contract.base import DynamicConv2d
from dynaconv.families.contract.branch import context_dtype
from dynaconv.families.contract.norms import make_context_norm, normalise
from dynaconv.families.fdconv.bands import BandModulation
from dynaconv.families.fdconv.branch import FDConvBranch, LocalLogits
from dynaconv.families.fdconv.config import FDConvConfig
from dynaconv.families.fdconv.core import FDConvolution, deployed_assembly, in_layout
from dynaconv.families.fdconv.deployed import DeployedFDConv
from dynaconv.families.fdconv.kernel import transformed_kernel
from dynaconv.families.fdconv.spectrum import (
    frequency_groups,
    group_dtype,
    image_size,
    kernel_spectrum,
    num_groups,
    spectrum_kernel,
)

KERNEL_SIZES = (1, 3)
"""Side lengths of the kernels that the layer supports."""


class FDConv2d(FDConvolution, DynamicConv2d):
    """A convolution whose kernel is gated along each axis and in its spectrum, of an input modulated band by band.

    ``y = conv(modulate(x); W(x)) + bias``, ``W(x)[o, c, t] = spatial_t channel_c filter_o local_oct V(x)[o, c, t]``.
    The static kernel, as one image of C_out * k rows and C_in * k columns, is stored as the spectrum of that image. Its
    frequencies, sorted by their distance from zero, form K groups of equal size; V(x) is the kernel whose frequencies
    are multiplied by the gain of their group. All gates and gains depend on the averages of x over its pixels: through
    a hidden layer with batch norm, or, for the local gates, through a convolution along the channels. `modulate`
    multiplies bands of frequencies of x by maps that convolutions of x compute, by default only for 3x3 kernels. With
    `context_features`, the given context replaces the averages for all but the local gates, which belong to channels.

    In train mode the branch's batch norm uses the statistics of the batch, so W(x) of a sample depends on the others.
    `kernel` and `coefficients` also use them, but do not update the running statistics.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype:
            As for `torch.nn.Conv2d`. The kernel must be 1x1 or 3x3, with one group.

    Raises:
        ValueError: an argument is out of range or does not match the others.

    Deviations:
        Where K does not divide the number of frequencies, the published code raises, and it needs an even number of
        columns. It starts with random filter gates, which change the function of a converted network; here all heads
        start near zero. It replaces layers with at most 16 channels by static ones; here only `dynaconv.convert` and
        the registered networks do. `padding_mode`, float64 and a single sample in train mode work.

    Reference: Chen et al., CVPR 2025, arXiv:2503.18783, and its code, commit bf7a33d.
    """

    config_class = FDConvConfig
    branch: FDConvBranch
    frequency_group: Tensor
    frequency_order: Tensor

    @property
    def stored_kernel(self) -> Tensor:
        """The parameter ``spectrum``, or ``static`` if the kernel itself is stored."""
        stored: Tensor = getattr(self, self._stored_key)
        return stored

    @property
    def _stored_key(self) -> str:
        return "spectrum" if self.config.stored == "spectrum" else "static"

    @property  # type: ignore[override]
    def weight(self) -> Tensor:
        """The static kernel, ``(C_out, C_in, k_h, k_w)``, computed from the stored spectrum."""
        stored = self.stored_kernel
        if self._stored_key == "static":
            return stored
        total = stored.sum(0).to(context_dtype(stored.dtype))
        kernel = spectrum_kernel(total, self._shape) * self._multiplier
        return in_layout(kernel.to(stored.dtype), stored)

    @weight.setter
    def weight(self, value: Tensor) -> None:
        if self._stored_key == "static":
            self.static = value
            return
        with torch.no_grad():
            self._set_static("weight", value * self.neutral_gain)

    def _store_kernel(self, kernel: Tensor) -> None:
        config = self.config
        if self.groups != 1:
            raise ValueError(f"FDConv2d has one group; got groups={self.groups}. Use another family for this layer.")
        if self.kernel_size[0] != self.kernel_size[1] or self.kernel_size[0] not in KERNEL_SIZES:
            raise ValueError(
                f"kernel_size of FDConv2d must be 1 or 3; got {self.kernel_size}. Use another family for this layer."
            )
        rows, columns = image_size(self._shape)
        half = columns // 2 + 1
        self.num_kernels = num_groups(rows, columns, config.num_kernels)
        if config.stored == "spectrum":
            kernel = kernel.new_empty(config.spectra, rows, half, 2)
        elif config.spectra > 1:
            raise ValueError(f"stored='kernel' holds one kernel; got spectra={config.spectra}. Use stored='spectrum'.")
        self.register_parameter(self._stored_key, nn.Parameter(kernel))
        device, kind = kernel.device, group_dtype(self.num_kernels)
        self.register_buffer("frequency_group", torch.empty(rows, half, dtype=kind, device=device))
        order = torch.empty(rows * half, dtype=torch.int32, device=device)
        self.register_buffer("frequency_order", order, persistent=False)

    @property
    def _multiplier(self) -> int:
        """Factor between the published spectrum and that of the kernel, min(C_out, C_in) // 2."""
        return max(min(self.in_channels, self.out_channels) // 2, 1)

    def _build(self, config: FDConvConfig, device: torch.device, dtype: torch.dtype) -> None:
        taps = self.kernel_size[0] * self.kernel_size[1]
        heads = {
            "channel": self.in_channels,
            "filter": self.out_channels,
            **({"spatial": taps} if taps > 1 else {}),
            "kernel": config.spectra * self.num_kernels,
        }
        features = self._branch_features
        self.context_norm = make_context_norm(config.context_norm, features, device, dtype)
        self.branch = FDConvBranch(
            features,
            max(features // config.reduction, config.min_hidden_channels),
            heads,
            temperatures={
                name: config.kernel_temperature if name == "kernel" else config.temperature for name in heads
            },
            local=(self.in_channels, self.out_channels * taps) if config.local_gate else None,
            device=device,
            dtype=dtype,
        )
        bands = config.bands_of(self.kernel_size)
        self.bands = None
        if bands:
            self.bands = BandModulation(
                self.in_channels,
                bands,
                groups=config.band_groups,
                kernel_size=config.band_kernel_size,
                gate=config.band_gate,
                low_band=config.low_band,
                device=device,
                dtype=dtype,
            )
        self._gate, self._gate_limit, self._local_gate = config.gate, config.gate_limit, config.local_gate
        half = config.gate_limit / 2
        neutral = 1.0 if config.gate == "tanh" else half ** (len(heads) - 1)
        self.neutral_gain = neutral * (half if config.local_gate == "sigmoid" else 1.0)

    def reset_parameters(self) -> None:
        """Initialise the kernel and the bias as `torch.nn.Conv2d` does, and the branch and the maps near neutral."""
        super().reset_parameters()
        if not self.frequency_group.is_meta:
            groups = frequency_groups(*image_size(self._shape), self.num_kernels)
            self.frequency_group.copy_(groups)
            self._sort_frequencies()
        if self.bands is not None:
            self.bands.reset_parameters()

    def _sort_frequencies(self) -> None:
        self.frequency_order = torch.argsort(self.frequency_group.flatten(), stable=True).int()

    def _neutralise(self) -> None:
        super()._neutralise()
        if self.bands is not None:
            self.bands.neutralise()

    @property
    def is_neutral(self) -> bool:
        """Whether gates, gains and maps are neutral for every input, so that the layer is a static convolution."""
        return super().is_neutral and (self.bands is None or self.bands.is_neutral)

    def _from_static(self, name: str, static: Tensor) -> Tensor:
        if name != "weight" or self._stored_key == "static":
            return super()._from_static(name, static)
        own = self.stored_kernel.detach()
        # In float64, on the CPU, so that the rounding of the transform back is the only one.
        kernel = static if static.is_meta else static.detach().cpu().double()
        spectrum = kernel_spectrum(kernel) / (self._multiplier * len(own) * self.neutral_gain)
        mean = spectrum.to(static.device, own.dtype)
        return mean.unsqueeze(0) if len(own) == 1 else self._with_mean(name, mean)

    def _draw(self, name: str, into: Tensor) -> None:
        if name != "weight" or self._stored_key == "static":
            super()._draw(name, into)
            return
        for spectrum in into:
            shape, dtype = (self.out_channels, self.in_channels, *self.kernel_size), context_dtype(into.dtype)
            kernel = torch.empty(shape, device=into.device, dtype=dtype)
            super()._draw(name, kernel)
            with torch.no_grad():
                spectrum.copy_(kernel_spectrum(kernel) / (self._multiplier * math.sqrt(len(into))))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Load a state dict; a static layer's ``weight`` gives the stored spectrum."""
        key, stored = prefix + "weight", prefix + self._stored_key
        static = state_dict.get(key)
        if isinstance(static, Tensor) and static.shape == self._shape and stored not in state_dict:
            assigned = args[0].get("assign_to_params_buffers", False)
            ours = self._from_static("weight", state_dict.pop(key))
            state_dict[stored] = ours.to(static.dtype) if assigned else ours
        super()._load_from_state_dict(state_dict, prefix, *args)
        if not self.frequency_group.is_meta:
            self._sort_frequencies()

    def _normalised(self, context: Tensor, *, track: bool) -> Tensor:
        return normalise(self.context_norm, context, track=track)

    def _heads_of(self, context: Tensor, *, track: bool) -> dict[str, Tensor]:
        heads: dict[str, Tensor] = self.branch(context, track=track)
        return heads

    def _local_logits(self) -> LocalLogits | None:
        return self.branch.local

    def spectra(self) -> Tensor:
        """The spectra whose kernels, weighted by the gains, are added: ``(r, C_out * k_h, F, 2)``."""
        stored = self.stored_kernel.to(context_dtype(self.stored_kernel.dtype))
        spectra: Tensor = kernel_spectrum(stored)[None] if self._stored_key == "static" else stored * self._multiplier
        return spectra

    def _static_part(self, gains: Tensor) -> Tensor:
        return transformed_kernel(
            gains.to(context_dtype(self.stored_kernel.dtype)),
            self.spectra(),
            self.frequency_group,
            self.frequency_order,
            self._shape,
        )

    @property
    def assembly(self) -> str:
        """How the static part of each sample's kernel is formed, in words."""
        return "one inverse transform a sample"

    @property
    def conversion_note(self) -> str:
        """The number of kernels and how the deployed form assembles them."""
        return f"num_kernels={self.num_kernels}, {deployed_assembly(self.config.spectra * self.num_kernels)}"

    def freezing_refusal(self) -> str | None:
        """Return why no static convolution is the mean of this layer: its bands modulate the input."""
        if self.bands is None or self.bands.is_neutral:
            return None
        return "it modulates bands of its input, which no static convolution does; leave it dynamic, or use bands=()"

    def deployed(self) -> DeployedFDConv:
        """Return the deployed form, which computes the layer's function in eval mode."""
        return DeployedFDConv(self)
