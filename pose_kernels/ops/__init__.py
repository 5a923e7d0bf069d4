# SPDX-License-Identifier: Apache-2.0
"""The public functions, one file per op: docstring, checks, schema, gradient formula."""
