"""Everything the analyses find in a trained network, gathered and written as one report: `dynaconv analyze`."""
