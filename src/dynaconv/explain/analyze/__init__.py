"""All analyses of trained networks in one report: `dynaconv analyze`."""
