"""The kernels: a folder per operation, a file per algorithm, and the few definitions that they share.

Nothing below this package knows of torch's dispatcher, of the tuner, or of another operation's folder.
"""
