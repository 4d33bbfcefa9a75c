"""Studies: runs of variants over several seeds, compared with error bars. `dynaconv study` runs and reports them."""

from dynaconv.train.named_yaml import ShippedYaml

STUDIES = ShippedYaml("study", "dynaconv.study", "studies", suggestions=3)
"""The studies that come with the package."""
