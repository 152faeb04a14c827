"""Side-by-side timing of operations and whole models: what ``tilewright bench``, the demo and ``make gpu-check`` share.

A folder for each operation holds the published problems (``shapes``), random operands with torch's ways to run them
(``operands``), and their `Suite`; ``models`` has the like for models. For all of them, ``contenders`` adds our ways,
``timing`` races everybody in one process, ``run`` goes through a list, ``results`` sums up and stores, ``plot`` draws.
Needs torch alone; ``plot`` needs matplotlib.
"""
