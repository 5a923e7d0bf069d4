# SPDX-License-Identifier: Apache-2.0
"""How fast the ops are, against plain PyTorch and public peers: ``python -m benchmarks.run``."""
