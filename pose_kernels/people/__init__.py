# SPDX-License-Identifier: Apache-2.0
"""Synthetic people: bodies, looks, poses and motion, and exact pictures of them."""
