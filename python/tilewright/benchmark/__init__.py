"""Side-by-side timing of an operation: what ``tilewright bench``, the demo and ``make gpu-check`` share.

A folder for each operation holds the published problems (``shapes``), random operands with torch's ways to run them
(``operands``), and their `Suite`. For all of them, ``contenders`` adds our ways, ``timing`` races everybody in one
process, ``run`` goes through a list, ``results`` sums up and stores, ``plot`` draws. Needs torch alone; ``plot``
needs matplotlib.
"""
