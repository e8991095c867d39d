"""Kubernetes without one: manifests fit the schemas, and a stand-in for kubectl starts what they describe."""

from __future__ import annotations

import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from distributed.security import Security

from chunkflow.errors import ClusterError, UsageError
from chunkflow.run.kubernetes import Pods, kubernetes_engine, manifests
from chunkflow.run.profiles import Pool, Profile, load_profile
from chunkflow.run.watchdog import Patience

DEPLOY = Path(__file__).parents[2] / "deploy" / "kubernetes"
POOL = Pool(
    cores=2,
    gpus=2,
    memory="2GB",
    jobs=2,
    image="chunkflow:test",
    namespace="lab",
    volumes=("data:/data",),
    node_selector={"gpu": "a100"},
)

STAND_IN = '''#!{python}
"""Starts as processes what a cluster would start as pods: one scheduler, and one pod of workers."""
import json, os, re, signal, socket, subprocess, sys
from pathlib import Path
here = Path({folder!r})
words = [word for word in sys.argv[1:] if not word.startswith("--namespace")]
with (here / "log").open("a") as log:
    log.write(" ".join(words) + "\\n")

def container(part):
    return json.loads((here / "cluster.json").read_text())["spec"][part]["spec"]["containers"][0]

def start(part, **values):
    port = (here / "port").read_text()
    args = [re.sub(r"tls://[^ ]*:8786", "tls://127.0.0.1:" + port, a) for a in container(part)["args"]]
    args = [a.replace("/etc/chunkflow/tls", str(here)).replace("--port=8786", "--port=" + port) for a in args]
    args = [a.replace("$(DASK_WORKER_NAME)", "pod-0") for a in args] + ["--host=127.0.0.1", *values.get("more", [])]
    env = {{**os.environ, **{{e["name"]: e["value"] for e in container(part)["env"]}}, **values.get("env", {{}})}}
    process = subprocess.Popen([sys.executable, "-m", *args], env=env, stdout=(here / part).open("w"), stderr=-2)
    with (here / "pids").open("a") as pids:
        pids.write(str(process.pid) + "\\n")

if words[0] == "apply":
    for item in json.loads(sys.stdin.read())["items"]:
        if item["kind"] == "Secret":
            for name, text in item["stringData"].items():
                (here / name).write_text(text)
        if item["kind"] == "DaskCluster":
            (here / "cluster.json").write_text(json.dumps(item))
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        (here / "port").write_text(str(found.getsockname()[1]))
    start("scheduler", more=["--dashboard-address=127.0.0.1:0"])
elif words[0] == "patch":
    start("worker", env={{"CUDA_VISIBLE_DEVICES": "0,1"}}, more=["--local-directory=" + str(here)])
elif words[0] == "get":
    print(json.dumps({{"items": []}}))
elif words[0] == "port-forward":
    print("Forwarding from 127.0.0.1:" + (here / "port").read_text() + " -> 8786", flush=True)
    signal.pause()
elif words[0] == "delete":
    for pid in (here / "pids").read_text().split():
        os.kill(int(pid), signal.SIGTERM)
'''


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a stand-in for kubectl, which is found first."""
    program = tmp_path / "kubectl"
    program.write_text(STAND_IN.format(python=sys.executable, folder=str(tmp_path)))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def _visible(unit: int) -> str:
    import time

    time.sleep(0.2)
    return os.environ["CUDA_VISIBLE_DEVICES"]


@pytest.mark.thorough
def test_a_pod_with_two_gpus_has_a_worker_for_each_and_all_are_ended(kubectl: Path) -> None:
    """On the CPU, through a stand-in: no Kubernetes has seen it."""
    profile = Profile(scheduler="kubernetes", gpu=POOL)
    engine = kubernetes_engine(POOL, profile, patience=Patience(lonely_seconds=90.0))
    try:
        assert set(dict(engine.map(_visible, range(20))).values()) == {"0", "1"}
    finally:
        engine.close()
    said = (kubectl / "log").read_text().splitlines()
    assert [line.split()[0] for line in said if not line.startswith("get")] == [
        "apply",
        "wait",
        "port-forward",
        "patch",
        "delete",
    ]
    assert '"replicas": 2' in next(line for line in said if line.startswith("patch"))


def test_a_cluster_that_cannot_be_told_anything_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="needs kubectl"):
        kubernetes_engine(POOL, Profile(scheduler="kubernetes", gpu=POOL))


def test_a_pod_that_cannot_start_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    pods = Pods("name", POOL)
    stuck = {"status": {"containerStatuses": [{"state": {"waiting": {"reason": "ImagePullBackOff"}}}]}}
    pending = {"status": {"phase": "Pending"}}
    running = {"status": {"phase": "Running", "containerStatuses": [{"state": {"running": {}}}]}}
    monkeypatch.setattr(Pods, "kubectl", lambda self, *words, given=None: json.dumps({"items": found}))
    found = [pending, running]
    pods.tend(8, {})
    assert pods.expects_workers()
    found = [running, running]
    monkeypatch.setattr("chunkflow.run.kubernetes.LOOK_SECONDS", 0.0)
    pods = Pods("name", POOL)
    pods.tend(8, {})
    assert not pods.expects_workers()
    found = [stuck]
    with pytest.raises(ClusterError, match="ImagePullBackOff"):
        pods.tend(8, {})


@pytest.mark.thorough
def test_clusters_fit_the_schema_of_the_operator() -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    found = find_spec("dask_kubernetes")
    if found is None or found.origin is None:
        pytest.skip("the operator's schema is not here: pip install --no-deps dask-kubernetes")
    crds = Path(found.origin).parent / "operator/deployment/helm/dask-kubernetes-operator/crds"
    definition = yaml.load((crds / "daskcluster.yaml").read_text(), yaml.CSafeLoader)
    check = jsonschema.Draft202012Validator(_strict(definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]))
    for pool in (POOL, Pool(image="chunkflow:test")):
        cluster = manifests(pool, "chunkflow-1", Security.temporary())[-1]
        check.validate(cluster)
        broken = json.loads(json.dumps(cluster).replace('"containerPort"', '"containerport"'))
        assert not check.is_valid(broken)


def _strict(schema: Any) -> Any:
    """A schema of Kubernetes as JSON Schema, in which unknown keys are errors."""
    if isinstance(schema, list):
        return [_strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _strict(value) for key, value in schema.items()}
    if "properties" in made and not made.get("x-kubernetes-preserve-unknown-fields"):
        if "spec" in made["properties"]:  # of the whole: what every object has
            made["properties"] |= {name: {} for name in ("apiVersion", "kind", "metadata")}
        made["additionalProperties"] = False
    if made.pop("x-kubernetes-int-or-string", False):
        made = {"type": ["integer", "string"]}
    return made


@pytest.mark.thorough
def test_deployed_and_made_manifests_fit_the_schemas_of_kubernetes() -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    files = sorted(DEPLOY.glob("*.yaml"))
    assert files
    documents = [document for path in files for document in yaml.safe_load_all(path.read_text())]
    documents += [d for d in manifests(POOL, "chunkflow-1", Security.temporary()) if d["kind"] != "DaskCluster"]
    for document in documents:
        validate.validate(document, "1.31", strict=True)


def test_the_profile_of_the_deployed_driver_is_one(tmp_path: Path) -> None:
    documents = list(yaml.safe_load_all((DEPLOY / "driver.yaml").read_text()))
    config = next(document for document in documents if document["kind"] == "ConfigMap")
    (tmp_path / "kubernetes.yaml").write_text(config["data"]["kubernetes.yaml"])
    profile = load_profile("kubernetes", [tmp_path])
    assert profile.scheduler == "kubernetes"
    assert {name: pool.processes for name, pool in profile.pools.items()} == {"cpu": 8, "gpu": 1}


def test_every_pod_is_unprivileged_and_encrypted() -> None:
    cluster = manifests(POOL, "chunkflow-1", Security.temporary())[-1]["spec"]
    for part in ("scheduler", "worker"):
        pod = cluster[part]["spec"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["containers"][0]["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert any(word.startswith("--tls-key=") for word in pod["containers"][0]["args"])
    assert cluster["worker"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "2"
