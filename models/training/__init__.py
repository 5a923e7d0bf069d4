# SPDX-License-Identifier: Apache-2.0
"""The trainer of every system: what `python -m models.train` and its two companions run."""
