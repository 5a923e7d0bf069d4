# SPDX-License-Identifier: Apache-2.0
"""Published generator systems for human pose transfer, on the ops of pose_kernels.

python -m models.train dense_pose_transfer --data synthetic --preset tiny --out run
python -m models.evaluate run
python -m models.sample run
"""
