"""The explorer: a page that runs exported networks in the browser and shows their kernels."""
