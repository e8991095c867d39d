"""Faults on purpose: the promises of a run, each with cases that break something and a check that says what must hold.

    matrix     a case is a promise, a name and a function that counts the faults that fired; the table of all of them
    world      a small volume, pipelines on it, runs of them, and what makes two outputs equal
    faults     files that vanish, shrink, rot or change places
    mutants    the code with one promise broken, and the case that must notice

`benchmarks/chaos.py` prints the matrix. A case that raises has found a failure; one whose fault did not fire, too.
"""
