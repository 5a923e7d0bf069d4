# SPDX-License-Identifier: Apache-2.0
"""What ``python -m pose_kernels`` runs: a module a command, and the pictures and tables they write.

A command is ``add_arguments(parser)`` and ``run(args) -> int``; ``pose_kernels.__main__`` finds it
by its name. Nothing in the package imports from here.
"""
