"""Matches the tensors of a file with those of a model."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from dynaconv.conversion.network_names import find_layout, module_namer, network_of, size_name
from dynaconv.families import DynamicConv, DynamicLayer, families
from dynaconv.families.contract.operator import STATIC_KEYS
from dynaconv.families.family import PublishedKeys


@dataclass(frozen=True, kw_only=True)
class Slot:
    """A tensor of the model, and the key of the tensor in the file that belongs there.

    Attributes:
        key: Key in the model's state dict.
        file_key: Key in the file.
        shape: Shape of the model's tensor.
        floating: Whether the model's tensor is floating-point.
        transposed: Whether the file stores the matrix transposed.
        optional: Whether the file may lack the tensor.
    """

    key: str
    file_key: str
    shape: torch.Size
    floating: bool
    transposed: bool = False
    optional: bool = False

    def adapted(self, tensor: Tensor) -> Tensor:
        """Return the file's tensor in the model's form: matrices stored as 1x1 kernels or transposed are restored."""
        if tensor.dim() == 4 == len(self.shape) + 2 and tensor.shape[2:] == (1, 1):
            tensor = tensor[:, :, 0, 0]
        return tensor.T if self.transposed and tensor.dim() == 2 else tensor

    def file_shape(self, axes: int) -> tuple[int, ...]:
        """Return the shape that fits, as a file stores it in a tensor of ``axes`` axes."""
        shape = tuple(self.shape[::-1] if self.transposed else self.shape)
        return (*shape, 1, 1) if axes == 4 == len(shape) + 2 else shape


@dataclass(kw_only=True)
class Match:
    """The kind of a file, and how its tensors fit a model.

    Attributes:
        kind: One of `published_kinds`, ``static``, or ``dynaconv`` for a state dict that the model itself
            could have saved.
        layout, model_layout: Naming schemes of file and model; see `dynaconv.conversion.network_names`.
        size, model_size: Network and size, such as ``mobilenetv2_050``; None if unknown.
        layers: The model's dynamic layers by name.
        slots: Every tensor of the model that the file has to provide.
        fitting: The file's tensors that fit, by the model's keys.
        missing, unexpected: Keys, as in the file, of tensors that the file or the model lacks.
        misfits: Slots whose tensor in the file does not fit, with that tensor.
    """

    kind: str
    layout: str | None
    model_layout: str | None
    size: str | None
    model_size: str | None
    layers: dict[str, DynamicLayer]
    slots: list[Slot] = field(default_factory=list)
    fitting: dict[str, Tensor] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    misfits: list[tuple[Slot, Tensor]] = field(default_factory=list)

    @property
    def same_network(self) -> bool:
        """Whether file and model may be the same network; False only if both are known and differ."""
        networks = network_of(self.layout), network_of(self.model_layout)
        return None in networks or networks[0] == networks[1]


def match_state(model: nn.Module, state: Mapping[str, Tensor]) -> Match:
    """Match each tensor of a file with a tensor of a model. The model is not changed."""
    model_state = model.state_dict()
    layers = {name: module for name, module in model.named_modules() if isinstance(module, DynamicLayer)}
    layout, model_layout = find_layout(state), find_layout(model_state)
    match = Match(
        kind=_kind(model_state, layers, state),
        layout=layout,
        model_layout=model_layout,
        size=size_name(layout, state),
        model_size=size_name(model_layout, model_state),
        layers=layers,
    )
    match.slots = list(_slots(match, model_state, state))
    for slot in match.slots:
        if slot.file_key not in state:
            match.missing += [] if slot.optional else [slot.file_key]
            continue
        tensor = slot.adapted(state[slot.file_key])
        if tensor.shape == slot.shape and _is_copyable(tensor, floating=slot.floating):
            match.fitting[slot.key] = tensor
        else:
            match.misfits.append((slot, state[slot.file_key]))
    expected = {slot.file_key for slot in match.slots}
    match.unexpected = [key for key in state if key not in expected]
    return match


def _kind(model_state: Mapping[str, Tensor], layers: Mapping[str, DynamicLayer], state: Mapping[str, Tensor]) -> str:
    dynamic = [
        key for key in model_state if (split := _split(key, layers))[0] in layers and split[1] not in STATIC_KEYS
    ]
    if any(key in state for key in dynamic):
        return "dynaconv"
    kinds = published_kinds()
    return next((kind for kind in kinds if any(key.endswith(kinds[kind].marker) for key in state)), "static")


def published_kinds() -> dict[str, PublishedKeys]:
    """Return the names in published checkpoints, by kind of checkpoint, of the families that describe them."""
    described = (family.published_keys for family in families())
    return {keys.kind: keys for keys in described if keys is not None}


def _slots(match: Match, model_state: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Iterator[Slot]:
    """Yield a slot for each tensor of the model that a file of the match's kind and layout holds."""
    if match.kind == "dynaconv":
        for key, tensor in model_state.items():
            yield Slot(key=key, file_key=key, shape=tensor.shape, floating=tensor.is_floating_point())
        return
    names = module_namer(model_state, match.model_layout, match.layout)
    modules = {key.rpartition(".")[0] for key in state}
    parents = {".".join(parts[:n]) for parts in (name.split(".") for name in modules) for n in range(len(parts) + 1)}
    kinds = published_kinds()
    published = kinds.get(match.kind)
    # Old files have no batch count, and published ones lack some buffers.
    optional = {"num_batches_tracked", "temperature"}.union(*(keys.optional for keys in kinds.values()))
    shared = {} if published is None else published.shared(match.layers, model_state)
    entries: dict[str, Tensor] = dict(model_state)
    if match.kind == "static":
        # The kernel of a layer that computes `weight` from other tensors.
        entries |= {f"{name}.weight": layer.weight for name, layer in match.layers.items()}
    for key, tensor in entries.items():
        module, rest = _split(key, match.layers)
        layer = match.layers.get(module)
        if match.kind == "static" and layer is not None and rest not in STATIC_KEYS:
            continue
        candidates = names(module)
        file_module = next((name for name in candidates if name in parents), candidates[0])
        shape = tensor.shape
        if match.kind == "static" and isinstance(layer, DynamicConv):
            shape = shape[-layer.static_axes(rest) :]
        file_name, transposed = rest, False
        if published is not None and layer is not None:
            file_name, transposed = published.name(layer, rest, network_of(match.layout)), rest in published.transposed
        file_key = f"{file_module}.{file_name}" if file_module else file_name
        yield Slot(
            key=key,
            file_key=shared.get((module, rest), file_key),
            shape=shape,
            floating=tensor.is_floating_point(),
            transposed=transposed,
            optional=key.rpartition(".")[2] in optional,
        )


def _split(key: str, layers: Mapping[str, DynamicLayer]) -> tuple[str, str]:
    """Split a key into module and rest. A dynamic layer counts as one module with its submodules."""
    parts = key.split(".")
    for end in range(1, len(parts)):
        if (name := ".".join(parts[:end])) in layers:
            return name, ".".join(parts[end:])
    module, _, rest = key.rpartition(".")
    return module, rest


def _is_copyable(tensor: Tensor, *, floating: bool) -> bool:
    """Whether a tensor is dense and its dtype can be copied into the model's tensor."""
    plain = tensor.layout == torch.strided and not tensor.is_meta and not tensor.is_complex()
    return plain and not tensor.is_quantized and tensor.is_floating_point() == floating
