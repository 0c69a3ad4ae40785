"""The manifests in examples/ start workers that meet, as far as one machine can tell."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.processes import ROOT, SECONDS
from tf_finetune.cluster.spec import read_cluster

EXAMPLES = ROOT / "examples"
_WORKER = str(ROOT / "tests" / "cluster" / "worker.py")


@pytest.fixture
def manifest() -> tuple[dict[str, Any], dict[str, Any]]:
    """The service and the job."""
    service, job = yaml.safe_load_all((EXAMPLES / "kubernetes.yaml").read_text(encoding="utf-8"))
    return service, job


def test_pods_of_the_manifest_find_each_other(manifest) -> None:
    service, job = manifest
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    given = {one["name"]: one["value"] for one in container["env"]}
    clusters = []
    for index in range(job["spec"]["completions"]):
        # What Kubernetes adds to each pod of an Indexed Job.
        own = {"JOB_COMPLETION_INDEX": str(index), "HOSTNAME": f"{job['metadata']['name']}-{index}"}
        clusters.append(read_cluster({**given, **own}))
    assert [cluster.index for cluster in clusters] == list(range(job["spec"]["completions"]))
    (addresses,) = {cluster.addresses for cluster in clusters}
    (port,) = {one["port"] for one in service["spec"]["ports"]}
    # A pod's name in DNS: its host name, then the subdomain, which is the service.
    names = [f"{job['metadata']['name']}-{i}.{pod['subdomain']}:{port}" for i in range(4)]
    assert list(addresses) == names
    assert service["metadata"]["name"] == pod["subdomain"]
    assert container["ports"] == [{"containerPort": port}]


def test_the_manifest_is_what_kubernetes_wants(manifest) -> None:
    service, job = manifest
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    assert spec["completionMode"] == "Indexed"
    assert spec["parallelism"] == spec["completions"]
    assert pod["restartPolicy"] == "Never"  # which a podFailurePolicy needs
    names = {one["name"] for one in pod["containers"]}
    for rule in spec["podFailurePolicy"]["rules"]:
        if "onExitCodes" in rule:
            assert rule["onExitCodes"]["containerName"] in names
            # Kubernetes wants them in order, and no 0.
            assert 0 not in rule["onExitCodes"]["values"]
            assert rule["onExitCodes"]["values"] == sorted(rule["onExitCodes"]["values"])
    mounted = {one["name"] for one in pod["containers"][0]["volumeMounts"]}
    assert mounted == {one["name"] for one in pod["volumes"]}


@pytest.fixture
def slurm(tmp_path: Path):
    """Runs `slurm.sh` with an `srun` that starts all tasks here, and says what it did."""
    shutil.copy(EXAMPLES / "slurm.sh", tmp_path)
    fake = tmp_path / "bin"
    fake.mkdir()
    programs = {
        # Two nodes that are both this machine, with other ports.
        "srun": (
            "#!/bin/bash\nprintf '%s\\n' \"$@\" > srun.txt\n"
            'while [[ "$1" == --* ]]; do shift; done\n'
            "export SLURM_NTASKS=2 SLURM_STEP_NUM_TASKS=2 SLURM_STEP_TASKS_PER_NODE=2\n"
            "export SLURM_STEP_NODELIST=localhost SLURM_NODEID=0\n"
            "for task in 0 1; do\n"
            '  SLURM_PROCID=$task SLURM_LOCALID=$task "$@" & pids+=($!)\n'
            "done\nworst=0\n"
            'for pid in "${pids[@]}"; do\n  wait "$pid"; status=$?\n'
            '  if ((status > worst)); then worst=$status; fi\ndone\nexit "$worst"\n'
        ),
        "scontrol": '#!/bin/bash\necho "scontrol $*"\n',
        "tf-finetune-launch": (
            f"#!{sys.executable}\nimport os, sys\nfrom tf_finetune.launch import run\n"
            "sys.argv[2:] = [os.environ['OPTIONS']]\n"
            f"sys.exit(run(program=[sys.executable, {_WORKER!r}]))\n"
        ),
    }
    for name, text in programs.items():
        (fake / name).write_text(text)
        (fake / name).chmod(0o755)

    def ran(options: dict[str, Any], **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "slurm.sh"],
            cwd=tmp_path,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "PATH": f"{fake}:{os.environ['PATH']}",
                "SLURM_JOB_ID": str(os.getpid()),  # and with it the ports
                "OPTIONS": json.dumps(options),
                **environ,
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )

    return ran


def test_workers_of_the_slurm_script_meet(slurm, tmp_path: Path) -> None:
    done = slurm({"shared": "hello"})
    assert (done.returncode, done.stderr) == (0, "")
    # Two processes write at the same time here: words, not lines, are whole.
    for word in ("starts", "met", '"hello"', "finished"):
        assert done.stdout.count(word) == 2
    asked = (tmp_path / "srun.txt").read_text().split("\n")
    assert asked[:3] == ["--distribution=block", "--kill-on-bad-exit=0", "tf-finetune-launch"]
    assert "--config.fit.strategy=multi_worker" in asked


def test_the_slurm_script_starts_again_when_a_worker_was_lost(slurm, tmp_path: Path) -> None:
    options = {"killed_once": str(tmp_path / "killed")}
    done = slurm(options)
    assert done.returncode == 0
    assert f"scontrol requeue {os.getpid()}\n" in done.stdout
    assert "worker 1 (localhost:" in done.stderr
    again = slurm(options, SLURM_RESTART_COUNT="1")
    assert again.returncode == 0
    assert "scontrol" not in again.stdout
    (tmp_path / "killed").unlink()
    last = slurm(options, SLURM_RESTART_COUNT="10")
    assert last.returncode == 137
    assert "scontrol" not in last.stdout


def test_the_slurm_script_does_not_repeat_a_mistake(slurm) -> None:
    done = slurm({}, TF_FINETUNE_PORT="http")
    assert done.returncode == 2
    assert "scontrol" not in done.stdout
    assert done.stderr.count('TF_FINETUNE_PORT is "http"') == 2
