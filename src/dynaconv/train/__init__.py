"""Training: data, the Lightning modules, recipes and runs. Needs the ``train`` extra."""

from dynaconv.train.named_yaml import ShippedYaml

RECIPES = ShippedYaml("recipe", "dynaconv.train", "recipes", suggestions=4)
"""The recipes that come with the package."""
