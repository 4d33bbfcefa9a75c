"""Size, cost, latency and memory of networks. Needs only torch; printing a table needs rich."""
