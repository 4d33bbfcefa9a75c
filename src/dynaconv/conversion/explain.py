"""Explains why a checkpoint does not fit a model, and how to fix that."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from dynaconv.conversion.match import Match, Slot
from dynaconv.conversion.network_names import network_of
from dynaconv.errors import abbreviated, listed, with_article
from dynaconv.families import DCDConv2d, DynamicConv, families
from dynaconv.families.dcd.published import published_dcd_options
from dynaconv.families.kernel_warehouse.assignment import BUDGETS
from dynaconv.families.kernel_warehouse.layer import KernelWarehouseLayer

_MAX_SHOWN = 3
_STEMS = ("conv_stem.weight", "conv1.weight", "features.0.0.weight")
_CLASSIFIERS = ("classifier.", "fc.")
_Misfits = Mapping[str, tuple[Slot, Tensor]]


def file_description(match: Match) -> str:
    """Describe a file: ``a DCD MobileNetV2 (mobilenetv2_050)``."""
    size = f" ({match.size})" if match.size else ""
    return f"{with_article(match.kind)} {network_of(match.layout) or 'state dict'}{size}"


def build_advice(match: Match) -> str:
    """Say which network to build so that a file fits it."""
    size = match.size or f"{(network_of(match.layout) or 'network').lower()}..."
    names = {
        family.published_keys.kind: f"{family.name}_{size}{'_published' * (family.published is not None)}"
        for family in families()
        if family.published_keys is not None
    }
    return f"build {names[match.kind]}" if match.kind in names else f"build static_{size} or a dynamic twin of it"


def difference_report(match: Match, state: Mapping[str, Tensor]) -> str:
    """Return advice, then every kind of difference with its first keys, under the file's names."""
    parts = _advice(match, state)
    misfits = [_misfit(*pair) for pair in match.misfits]
    for names, one, many in (
        ([repr(key) for key in match.missing], "tensor is missing", "tensors are missing"),
        ([repr(key) for key in match.unexpected], "tensor was not expected", "tensors were not expected"),
        (misfits, "tensor does not fit", "tensors do not fit"),
    ):
        if names:
            parts.append(f"{len(names)} {one if len(names) == 1 else many}: {abbreviated(names, most=_MAX_SHOWN)}")
    return "; ".join(parts)


def _misfit(slot: Slot, tensor: Tensor) -> str:
    if slot.adapted(tensor).shape != slot.shape:
        expected = _shape_text(slot.file_shape(tensor.dim()))
        return f"{slot.file_key!r} is {_shape_text(tensor.shape)} and should be {expected}"
    if tensor.is_meta:
        return f"{slot.file_key!r} is on the meta device, without data"
    kind = "" if tensor.layout == torch.strided else "sparse "
    wanted = "floating-point" if slot.floating else "whole"
    dtype = str(tensor.dtype).removeprefix("torch.")
    return f"{slot.file_key!r} holds {kind}{dtype} and should hold dense {wanted} numbers"


def _shape_text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) if shape else "a scalar"


def _advice(match: Match, state: Mapping[str, Tensor]) -> list[str]:
    if not match.fitting and not match.misfits:
        return ["no name of the file is a name of the model; build the network that the file was saved from"]
    if match.size and match.model_size and match.size != match.model_size:
        return [f"the model is a {match.model_size}; {build_advice(match)}"]
    misfits = {slot.key: (slot, tensor) for slot, tensor in match.misfits}
    classes = _num_classes(match, state, misfits)
    options = [*_stem_options(misfits), *([f"num_classes={classes}"] if classes else [])]
    options += [*_fc_squeeze(match, misfits), *_num_kernels(match, misfits), *_budget(match, misfits)]
    advice = [f"build the model with {listed(options, quote=False)}"] if options else []
    if classes and any(key.startswith(_CLASSIFIERS) for key in misfits):
        advice.append("to train other classes, call model.reset_classifier(...) after loading")
    elif classes:
        advice.append("or pass strict=False to skip the file's classifier")
    if match.kind == "dynaconv" and match.missing and match.unexpected:
        advice.append("the file has other dynamic layers: build the model with the family of the file")
    return advice


def _stem_options(misfits: _Misfits) -> Iterator[str]:
    for slot, tensor in (misfits[key] for key in _STEMS if key in misfits):
        if tensor.dim() == 4 and tensor.shape[1] != slot.shape[1]:
            yield f"in_chans={tensor.shape[1]}"
        if tensor.dim() == 4 and tensor.shape[2:] == (7, 7) != slot.shape[2:]:
            yield "stem_stride=4"


def _num_classes(match: Match, state: Mapping[str, Tensor], misfits: _Misfits) -> int | None:
    """Return the file's number of classes if the model has another number or no classifier, else None."""
    for key in ("classifier.weight", "fc.weight"):
        if key in misfits and misfits[key][1].dim() == 2:
            return misfits[key][1].shape[0]
    if any(slot.key.startswith(_CLASSIFIERS) for slot in match.slots):
        return None
    ends = ("cls.weight", "classifier.weight", "fc.weight", ".1.weight")
    matrices = (state[key] for key in match.unexpected if key.startswith(_CLASSIFIERS) and key.endswith(ends))
    return next((tensor.shape[0] for tensor in matrices if tensor.dim() == 2), None)


def _fc_squeeze(match: Match, misfits: _Misfits) -> Iterator[str]:
    """Yield the option that gives the branches the widths of the file."""
    if match.kind != "DCD" or network_of(match.layout) != "MobileNetV2":
        return
    widths = [
        (layer, misfits[key][1].shape[0])
        for name, layer in match.layers.items()
        if isinstance(layer, DCDConv2d)
        and (key := f"{name}.branch.squeeze.weight") in misfits
        and misfits[key][1].dim() == 2
    ]
    candidates = (16, 8, 4, 32, *range(1, 65)) if widths else ()
    fitting = (s for s in candidates if all(_published_width(layer, s) == width for layer, width in widths))
    yield from (f"fc_squeeze={squeeze}" for squeeze in list(fitting)[:1])


def _published_width(layer: DCDConv2d, fc_squeeze: int) -> int:
    sizes = published_dcd_options("mobilenet", layer.in_channels, layer.out_channels, fc_squeeze=fc_squeeze)
    width: int = sizes["hidden_channels"]
    return width


def _budget(match: Match, misfits: _Misfits) -> Iterator[str]:
    """Yield the option that gives the warehouses the file's number of cells."""
    budgets = set()
    for name, layer in match.layers.items():
        if isinstance(layer, KernelWarehouseLayer) and (pair := misfits.get(f"{name}.warehouse.cells")):
            weights = pair[0].shape.numel() / layer.budget
            budgets.add(min(BUDGETS, key=lambda budget: abs(budget - pair[1].numel() / weights)))
    if len(budgets) == 1:
        yield f"family_options={{'budget': {budgets.pop()}}}"


def _num_kernels(match: Match, misfits: _Misfits) -> Iterator[str]:
    """Yield the option that gives the layers the file's number of kernels."""
    counts: set[int] = set()
    for name, layer in match.layers.items():
        if isinstance(layer, DynamicConv) and (pair := misfits.get(f"{name}.weight")):
            slot, tensor = pair
            same_but_for_k = tensor.dim() == layer.dims + 3 == len(slot.shape) and tensor.shape[1:] == slot.shape[1:]
            counts |= {tensor.shape[0]} if same_but_for_k else set()
        elif isinstance(layer, DynamicConv) and (pair := misfits.get(f"{name}.branch.heads.kernel.bias")):
            counts |= {pair[1].shape[0]}
    if len(counts) == 1:
        yield f"family_options={{'num_kernels': {counts.pop()}}}"
