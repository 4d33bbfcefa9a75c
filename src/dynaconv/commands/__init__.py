"""The commands of ``dynaconv``, one module each.

``add`` adds a command to the parser, and ``run`` runs it. Heavy packages are imported in ``run``, so that ``--help``
and ``--version`` are fast.
"""
