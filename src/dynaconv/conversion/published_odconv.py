"""Names of our ODConv layers' tensors in the published code's checkpoints."""

from dynaconv.families.odconv.published import ODCONV_STEMS


def is_published_odconv(keys: list[str]) -> bool:
    """Whether a state dict holds ODConv layers as the published code names them."""
    return any(key.endswith(".attention.channel_fc.weight") for key in keys)


def published_odconv_name(key: str) -> str:
    """The published name of one tensor of an ODConv layer, such as ``attention.fc.weight``."""
    for stem, ours in ODCONV_STEMS.items():
        if ours and key.startswith(ours):
            return f"{stem}.{key.removeprefix(ours)}"
    return key
