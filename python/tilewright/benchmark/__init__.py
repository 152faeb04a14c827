"""Side-by-side timing of matrix products: what ``tilewright bench``, the demo and ``make gpu-check`` share.

``shapes`` lists the published problems, ``contenders`` the ways to run one, ``timing`` races them in one
process, ``run`` goes through a list, ``results`` sums up and stores, ``plot`` draws. Needs torch alone;
``plot`` needs matplotlib.
"""
