"""KernelWarehouse: kernels put together from cells that several layers share."""
