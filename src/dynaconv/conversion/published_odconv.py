"""Names of ODConv layers' tensors in checkpoints of the published code."""

from dynaconv.families.odconv.published import ODCONV_STEMS


def is_published_odconv(keys: list[str]) -> bool:
    """Whether a state dict holds ODConv layers under the names of the published code."""
    return any(key.endswith(".attention.channel_fc.weight") for key in keys)


def published_odconv_name(key: str) -> str:
    """Return the published name of an ODConv layer's tensor, such as ``attention.fc.weight``."""
    for stem, prefix in ODCONV_STEMS.items():
        if prefix and key.startswith(prefix):
            return f"{stem}.{key.removeprefix(prefix)}"
    return key
