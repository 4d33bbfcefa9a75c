"""The commands of ``dynaconv``, one module each.

``add`` puts a command into the parser and ``run`` runs it. Heavy packages are imported by ``run``, so that help and
version come at once.
"""
