# SPDX-License-Identifier: Apache-2.0
"""Synthetic people: what they look like and what stands behind them."""
