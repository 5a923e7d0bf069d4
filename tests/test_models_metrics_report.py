# SPDX-License-Identifier: Apache-2.0
"""Metrics of poses, of their regions and of trained networks, and the report of all."""

import csv
import importlib
import json
import math
import sys

import pytest
import torch
from torch import nn

from models import metrics
from models.descriptors import LIMBS, local_descriptors

NAN = float("nan")


def standing(height=64, width=64):
    """(1, 18, 2): a person of OpenPose joints, arms spread, in a picture of that size."""
    rows = [
        *((32, 10), (32, 16), (26, 16), (18, 17), (10, 18), (38, 16), (46, 17), (54, 18)),
        *((29, 32), (29, 44), (29, 58), (35, 32), (35, 44), (35, 58)),
        *((31, 9), (33, 9), (28, 10), (36, 10)),
    ]
    return torch.tensor([rows], dtype=torch.float32) * torch.tensor([width / 64, height / 64])


def random_pictures(n, height, width):
    shape = (n, 3, height, width)
    return tuple(torch.randint(0, 256, shape, dtype=torch.uint8) for _ in range(2))


class TestDescriptors:
    def test_there_are_18_31_and_44(self):
        joints = standing()
        joints[0, 4] = -1  # the right wrist: one limb is gone
        for count, there in ((0, 0), (18, 17), (31, 29), (44, 41)):
            found = local_descriptors(joints, count)
            assert found.shape == (1, count, 2)
            assert found.isfinite().all(-1).sum() == there
        assert found[0, 18 + 2].tolist() == pytest.approx([26 - 8 / 3, 16 + 1 / 3])  # elbow next
        assert found[0, 31 + 2].tolist() == pytest.approx([26 - 16 / 3, 16 + 2 / 3])
        middle = local_descriptors(joints, 31)[0, 18]
        assert middle.tolist() == [29, 16] and LIMBS[0] == (1, 2)

    def test_a_joint_beside_the_picture_is_there(self):
        joints = torch.full((1, 18, 2), -1.0)
        joints[0, 3], joints[0, 4] = torch.tensor([-1.0, 5.0]), torch.tensor([NAN, 5.0])
        found = local_descriptors(joints, 18)[0]
        assert found.isfinite().all(-1).nonzero().flatten().tolist() == [3]

    def test_bad_arguments(self):
        with pytest.raises(ValueError, match="count must be one of 0, 18, 31, 44, got 20"):
            local_descriptors(standing(), 20)
        with pytest.raises(ValueError, match=r"joints must be \(N, 18, 2\), got \(1, 17, 2\)"):
            local_descriptors(standing()[:, 1:])


class TestRegions:
    def test_local_ssim_is_the_mean_over_the_regions(self):
        generated, truth = random_pictures(3, 64, 56)
        joints = torch.full((3, 18, 2), -1.0)
        joints[0, 0] = torch.tensor([20.0, 30.0])
        joints[0, 7] = torch.tensor([55.0, 0.0])  # its region is moved into the picture
        joints[1] = standing(64, 56)
        regions = [(..., slice(26, 34), slice(16, 24)), (..., slice(0, 8), slice(48, 56))]
        expected = [metrics.ssim(generated[:1][at], truth[:1][at], "diaf") for at in regions]
        found = metrics.local_ssim(generated, truth, joints)
        assert found[0].item() == pytest.approx(torch.cat(expected).mean().item())
        assert found[2].isnan()
        assert metrics.local_ssim(truth, truth, joints)[:2].tolist() == pytest.approx([1, 1])
        off_the_person = truth.clone()
        off_the_person[1, :, -2:] ^= 255  # below the feet
        assert metrics.local_ssim(off_the_person, truth, joints)[1].item() == pytest.approx(1)

    def test_pose_mask(self):
        joints = torch.full((2, 18, 2), -1.0)
        joints[0, 2], joints[0, 3] = torch.tensor([10.0, 20.0]), torch.tensor([30.0, 20.0])
        joints[0, 10] = torch.tensor([50.0, 50.0])  # an ankle alone: a disc
        mask = metrics.pose_mask(joints, 64, 64)
        assert mask.shape == (2, 1, 64, 64) and not mask[1].any()
        on = mask[0, 0]
        assert on[16:25, 20].all() and not on[15, 20] and not on[25, 20]
        assert on[20, 6:35].all() and not on[20, 5] and not on[20, 35]
        assert on[50, 46:55].all() and not on[45, 50] and not on[40, 40]
        person = metrics.pose_mask(standing(), 64, 64)[0, 0]
        assert person[24, 32]  # the trunk

    def test_closing_fills_narrow_gaps(self):
        joints = torch.full((1, 18, 2), -1.0)
        joints[0, 9], joints[0, 12] = torch.tensor([20.0, 20.0]), torch.tensor([31.0, 20.0])
        mask = metrics.pose_mask(joints, 40, 50)[
            0, 0
        ]  # two knees: discs 8 apart, 2 columns between
        assert mask[20, 16:36].all() and not mask[10, 25]

    def test_mask_ssim(self):
        generated, truth = random_pictures(1, 64, 64)
        mask = metrics.pose_mask(standing(), 64, 64)
        pasted = torch.where(mask, truth, generated)
        assert metrics.mask_ssim(pasted, truth, standing()).item() == pytest.approx(1)
        expected = metrics.ssim(generated * mask, truth * mask, "dsc")
        found = metrics.mask_ssim(generated, truth, standing())
        assert torch.equal(found, expected) and found < 0.9

    def test_bad_arguments(self):
        a, b = random_pictures(2, 48, 64)
        with pytest.raises(ValueError, match=r"at least 56 rows.*got \(48, 64\)"):
            metrics.local_ssim(a, b, standing().expand(2, -1, -1))
        for metric in (metrics.local_ssim, metrics.mask_ssim):
            with pytest.raises(ValueError, match="joints must be .* with N = 2, got"):
                metric(a, b, standing())


class TestPckh:
    def test_literal(self):
        truth = standing().repeat(4, 1, 1)  # the head's box is 8 wide and 7 high
        found = truth.clone()
        found[0, 4, 0] += 3.9  # wrist, right
        found[0, 7, 1] -= 3.5  # wrist, wrong: as far as half the height
        found[0, 10] = -1  # ankle, missing
        truth[1, 13] = -1  # an ankle that is not there: not counted
        truth[2, [1, 14, 15, 16, 17]] = -1  # no head: nothing counted
        share, count = metrics.pckh(found, truth)
        assert count.tolist() == [18, 17, 0, 18]
        assert share[[0, 1, 3]].tolist() == pytest.approx([16 / 18, 1, 1]) and share[2].isnan()
        assert metrics.pckh(found, truth, "wrists")[0][0] == 0.5
        assert metrics.pckh(found, truth, "ankles")[1].tolist() == [2, 1, 0, 2]

    def test_groups_are_all_joints_once(self):
        joints = [j for name, group in metrics.GROUPS.items() if name != "all" for j in group]
        assert sorted(joints) == list(range(18))

    def test_bad_arguments(self):
        with pytest.raises(ValueError, match="group must be one of all, head, .*got 'hands'"):
            metrics.pckh(standing(), standing(), "hands")
        with pytest.raises(ValueError, match=r"predicted must be \(N, 18, 2\), got \(1, 4, 2\)"):
            metrics.pckh(standing()[:, :4], standing())


class TestPoseAuc:
    def test_literal(self):
        truth = torch.randint(-900, 900, (5, 19, 3)).double()
        found = truth.clone()
        found[1, :18, 0] += 75  # 80, 85, ... 150 are above: 15 of 31 thresholds
        found[2] += 1000  # the same pose elsewhere
        found[3, 4:18] = NAN  # 14 of 18 joints not found
        truth[4, :9] = NAN  # half of them not counted
        expected = [1, 15 / 31, 1, 4 / 18, 1]
        assert metrics.pose_auc(found, truth).tolist() == pytest.approx(expected)

    def test_root(self):
        truth = torch.randn(2, 19, 3)
        found = truth.clone()
        truth[0, 18], found[1, 18] = NAN, NAN
        score = metrics.pose_auc(found, truth)
        assert score[0].isnan() and score[1] == 0

    def test_bad_arguments(self):
        pose = torch.zeros(1, 17, 3)
        with pytest.raises(ValueError, match=r"truth must be \(N, J, 3\) with J above 18"):
            metrics.pose_auc(pose, pose)
        with pytest.raises(ValueError, match=r"predicted must be as truth, \(1, 17, 3\), got"):
            metrics.pose_auc(pose[:, 1:], pose, root=0)


class Channels(nn.Module):
    """A network whose features are the means of the three channels, and their opposites."""

    num_features = 6

    def forward(self, pictures):
        means = pictures.float().mean((2, 3)) / 255 * 30
        return torch.cat([means, -means], 1)


class TestLearned:
    def test_says_why_it_is_not_there(self, monkeypatch):
        for name, needs in (("LPIPS", "torchvision"), ("FID", "torch_fidelity")):
            monkeypatch.setitem(sys.modules, needs, None)
            with pytest.raises(metrics.Unavailable, match=f"^{name} needs torch.*pip install"):
                metrics.learned(name)

    def test_says_that_weights_are_not_there(self, monkeypatch):
        module = importlib.import_module("models.metrics.learned")
        pytest.importorskip("torchmetrics")
        monkeypatch.setattr(module, "_import", lambda *_: None)

        def fail(**_):
            raise RuntimeError("no route\nto host")

        fid = importlib.import_module("torchmetrics.image.fid")
        monkeypatch.setattr(fid, "FrechetInceptionDistance", fail)
        with pytest.raises(metrics.Unavailable, match="^FID: no route to host$"):
            metrics.learned("FID")

    def test_lpips_is_per_picture(self):
        def distance(a, b):
            assert a.shape == b.shape == (1, 3, 8, 8) and a.min() >= -1 and b.max() <= 1
            return (a - b).abs().mean()

        metric = metrics.Learned("LPIPS", distance, "AlexNet", "")
        truth = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
        generated = truth.clone()
        generated[1] = 255
        assert metric.update(generated, truth).tolist() == [0, 2] and not metric.of_set
        with pytest.raises(ValueError, match="LPIPS is a mean over pictures"):
            metric.compute()

    def test_fid_of_another_network(self):
        pytest.importorskip("torchmetrics")
        truth, _ = random_pictures(40, 16, 8)
        fid = metrics.learned("FID", network=Channels())
        fid.update(truth[:20], truth[:20])
        with torch.no_grad():
            assert fid.compute() == pytest.approx(0, abs=1e-3)
        # a mean shifted by d in every feature, with equal covariances, has the distance 6 d^2
        shifted = metrics.learned("FID", network=Channels())
        flat = torch.arange(40, dtype=torch.uint8).view(40, 1, 1, 1).expand(-1, 3, 8, 8)
        shifted.update(flat[:20], flat[:20] + 51)
        shifted.update(flat[20:], flat[20:] + 51)
        assert shifted.compute() == pytest.approx(6 * 6**2, rel=1e-3)
        assert shifted.weights == "Channels" and "other network" in shifted.preset
        assert shifted.of_set and shifted.pictures == 40

    @pytest.mark.filterwarnings("ignore:Metric `InceptionScore` will save")
    def test_inception_score_of_another_network(self):
        pytest.importorskip("torchmetrics")
        score = metrics.learned("IS", network=Channels())
        with pytest.raises(ValueError, match="IS needs at least 10 pictures, got 0"):
            score.compute()
        same = torch.full((20, 3, 8, 8), 128, dtype=torch.uint8)
        score.update(same, same)
        assert score.compute() == pytest.approx(1)  # always the same class: no variety

    def test_bad_names(self):
        with pytest.raises(ValueError, match="metric must be one of LPIPS, FID, IS, got 'KID'"):
            metrics.learned("KID")
        with pytest.raises(ValueError, match="network is for FID and IS only"):
            metrics.learned("LPIPS", network=Channels())


class TestReport:
    @pytest.fixture
    def report(self):
        report = metrics.Report("synthetic test, 64x64", system="tiny", step="10")
        report.add("SSIM", torch.tensor([0.5, 1.0]), preset="dsc")
        report.add("SSIM", torch.tensor([0.0]), preset="dsc")
        report.add("SSIM", torch.tensor([0.25]), preset="diaf")
        report.add("PCKh", torch.tensor([1.0, NAN, 0.5]), share=torch.tensor([3.0, 0.0, 1.0]))
        report.add_of_set("FID", 12.5, 3, preset="pool3", weights="Inception")
        report.add("PSNR", torch.tensor([math.inf, 20.0]))
        report.add("empty", torch.tensor([NAN]))
        report.unavailable("LPIPS", "no torchvision", preset="AlexNet")
        return report

    def test_means(self, report):
        assert report.mean("SSIM", "dsc") == 0.5 and report.mean("SSIM", "diaf") == 0.25
        assert report.mean("PCKh") == 3.5 / 4 and report.mean("FID", "pool3") == 12.5
        assert math.isnan(report.mean("LPIPS", "AlexNet")) and math.isnan(report.mean("empty"))
        assert report.values("SSIM", "dsc").tolist() == [0.5, 1.0, 0.0]

    def test_a_row_names_everything(self, report):
        rows = {(row["metric"], row["preset"]): row for row in report.rows()}
        assert rows["FID", "pool3"] == {
            "metric": "FID",
            "preset": "pool3",
            "value": 12.5,
            "pictures": 3,
            "left_out": 0,
            "weights": "Inception",
            "note": "",
            "data": "synthetic test, 64x64",
            "system": "tiny",
            "step": "10",
        }
        assert (rows["PCKh", ""]["pictures"], rows["PCKh", ""]["left_out"]) == (2, 1)
        assert rows["LPIPS", "AlexNet"]["value"] is None
        assert rows["LPIPS", "AlexNet"]["note"] == "not measured: no torchvision"
        assert rows["empty", ""]["note"] == "not measured: no picture has a value"

    def test_table(self, report):
        lines = report.table().splitlines()
        assert lines[:3] == ["data: synthetic test, 64x64", "system: tiny", "step: 10"]
        cells = [line.split() for line in lines[3:]]
        assert cells[0] == [
            "metric",
            "preset",
            "value",
            "pictures",
            "left",
            "out",
            "weights",
            "note",
        ]
        assert cells[1] == ["SSIM", "dsc", "0.5000", "3"]
        assert cells[-1] == "LPIPS AlexNet - 0 not measured: no torchvision".split()

    def test_files(self, report, tmp_path):
        paths = report.write(tmp_path / "run.v2")
        assert [path.name for path in paths] == ["run.v2.json", "run.v2.csv"]
        rows = json.loads(paths[0].read_text())
        assert [row["value"] for row in rows] == [0.5, 0.25, 0.875, 12.5, "inf", None, None]
        with paths[1].open(newline="") as file:
            page = list(csv.DictReader(file))
        assert page[0]["value"] == "0.5" and page[-1]["value"] == ""
        assert page[3]["data"] == "synthetic test, 64x64" and page[3]["step"] == "10"
        with pytest.raises(OSError, match="cannot write .*missing"):
            report.write(tmp_path / "missing" / "run")

    def test_bad_arguments(self, report):
        with pytest.raises(ValueError, match=r"values \(and share\) of SSIM must be \(N,\)"):
            report.add("SSIM", torch.zeros(2, 2))
        with pytest.raises(ValueError, match="there are no values of MS-SSIM$"):
            report.values("MS-SSIM")
