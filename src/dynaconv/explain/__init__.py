"""What dynamic layers do: outputs of the branch, matrix decomposition, suppression, figures and reports.

Collecting needs only torch; `figures` needs matplotlib, and printing a table needs rich.
"""
