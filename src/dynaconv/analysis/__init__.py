"""Analysis of networks: size and cost, latency, outputs of the dynamic branch, figures and reports.

`profile` and `latency` need only torch; `figures` needs matplotlib, and printing a table needs rich.
"""
