"""Studies: runs of variants over several seeds, compared with error bars. `dynaconv study` runs and reports them."""
