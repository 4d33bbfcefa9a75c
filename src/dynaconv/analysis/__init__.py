"""Looking at networks: size and cost, latency, what the dynamic branch computes, figures and reports.

`profile` and `latency` need torch alone; `figures` needs matplotlib, and printing a table needs rich.
"""
