"""Studies: many runs that differ in one thing each, with error bars. `dynaconv study` runs and reports them."""
