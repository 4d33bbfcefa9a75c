"""Training: data, the Lightning modules, recipes and runs. Needs the ``train`` extra."""
