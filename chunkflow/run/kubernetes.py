"""Workers in pods, by the dask operator, which must be installed in the cluster; spoken to through `kubectl`.

    DaskCluster (scheduler, worker group), Secret (certificates of this run), NetworkPolicy   -> kubectl apply
    as many worker pods as blocks need                                                        -> kubectl patch
    all of them                                                                               -> kubectl delete

The driver may be a pod itself (`deploy/kubernetes/driver.yaml`) and then reaches the scheduler by its service; from
anywhere else it goes through `kubectl port-forward`. Both are encrypted. Pods that die are replaced by the operator.
"""

from __future__ import annotations

import json
import logging
import re
import subprocess
import uuid
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

from distributed import Client
from distributed.security import Security

from chunkflow.errors import ClusterError, UsageError
from chunkflow.run.dask import WORKER_ENVIRONMENT, DaskEngine
from chunkflow.run.flight import RESUME, THREADS, Members
from chunkflow.run.profiles import Pool, Profile
from chunkflow.run.watchdog import Patience

log = logging.getLogger(__name__)

PORT = 8786
TLS_FOLDER = "/etc/chunkflow/tls"
IN_A_POD = Path("/var/run/secrets/kubernetes.io/serviceaccount")
COMMAND_SECONDS = 60.0
LOOK_SECONDS = 10.0
SCHEDULER_SECONDS = 600.0  # for its pod: images are pulled
HOPELESS = ("ImagePullBackOff", "ErrImagePull", "InvalidImageName", "CreateContainerConfigError", "CrashLoopBackOff")


def kubernetes_engine(
    pool: Pool, profile: Profile, *, device: str = "cpu", patience: Patience | None = None
) -> DaskEngine:
    """An engine on pods that are like `pool`.

    Raises
    ------
    UsageError : kubectl is missing, or the cluster refuses.
    ClusterError : the scheduler's pod does not come.
    """
    name = f"chunkflow-{uuid.uuid4().hex[:8]}"
    security = Security.temporary()
    pods = Pods(name, pool)
    wanted = {"apiVersion": "v1", "kind": "List", "items": manifests(pool, name, security)}
    pods.kubectl("apply", "--filename=-", given=wanted)
    forward: subprocess.Popen[str] | None = None

    def close() -> None:
        client.close() if client is not None else None
        if forward is not None:
            forward.terminate()
            forward.communicate(timeout=COMMAND_SECONDS)
        with suppress(ClusterError, UsageError):
            pods.kubectl("delete", "daskcluster,secret,networkpolicy", f"--selector=chunkflow={name}", "--wait=false")

    client: Client | None = None
    try:
        pods.await_scheduler()
        address = f"tls://{name}-scheduler.{pods.namespace}.svc:{PORT}"
        if not IN_A_POD.is_dir():
            forward, address = pods.forwarded()
        client = Client(address, security=security, timeout=COMMAND_SECONDS, set_as_default=False)
    except (OSError, TimeoutError) as error:
        close()
        raise ClusterError(f"the scheduler of {name} cannot be reached ({error})", RESUME) from error
    except BaseException:
        close()
        raise
    return DaskEngine(client, device=device, owned=close, patience=patience, keeper=pods)


class Pods:
    """Worker pods of one cluster. See `chunkflow.run.flight.Keeper`."""

    def __init__(self, name: str, pool: Pool) -> None:
        self.namespace = pool.namespace or "default"
        self._name = name
        self._pool = pool
        self._asked = 0
        self._coming = True
        self._next_look = 0.0

    def tend(self, units: int, members: Members) -> None:
        """See `Keeper`. Pods are never taken away before the pool is: the operator does not know who is idle."""
        wanted = self._pool.jobs_for(units)
        if wanted > self._asked:
            change = json.dumps({"spec": {"worker": {"replicas": wanted}}})
            self.kubectl("patch", "daskworkergroup", f"{self._name}-default", "--type=merge", f"--patch={change}")
            self._asked = wanted
        if monotonic() >= self._next_look and len(members) < self._asked * self._pool.processes:
            self._next_look = monotonic() + LOOK_SECONDS
            waiting = [_waiting(pod) for pod in self._pods("worker")]
            self._coming = any(reason is not None for reason in waiting)
            self._check(waiting, "a worker")

    def expects_workers(self) -> bool:
        """See `Keeper`."""
        return self._coming

    def evict(self, name: str) -> None:
        """See `Keeper`."""
        deployment = re.sub(r"-\d+$", "", name) if self._pool.processes > 1 else name
        with suppress(ClusterError, UsageError):
            self.kubectl("rollout", "restart", f"deployment/{deployment}")

    def await_scheduler(self) -> None:
        """Return when the scheduler's pod is there."""
        target = f"deployment/{self._name}-scheduler"
        end = monotonic() + SCHEDULER_SECONDS
        while monotonic() < end:
            self._check([_waiting(pod) for pod in self._pods("scheduler")], "the scheduler")
            try:
                self.kubectl("wait", "--for=condition=Available", "--timeout=5s", target)
            except ClusterError:
                continue
            return
        raise ClusterError(
            f"the scheduler of {self._name} did not come in {SCHEDULER_SECONDS:.0f} s",
            "Is the dask operator installed? See kubectl get events",
        )

    def forwarded(self) -> tuple[subprocess.Popen[str], str]:
        """A process that makes the scheduler's port one of this machine, and its address."""
        words = self._words("port-forward", f"service/{self._name}-scheduler", f":{PORT}")
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert process.stdout is not None
        found = re.search(r"127\.0\.0\.1:(\d+)", process.stdout.readline())
        if found is None:
            process.kill()
            process.communicate()
            raise ClusterError("kubectl port-forward does not work here", "Run the driver in a pod (docs/clusters.md)")
        return process, f"tls://127.0.0.1:{found.group(1)}"

    def kubectl(self, *words: str, given: Any = None) -> str:
        """What it says.

        Raises
        ------
        UsageError : it is missing, or what it is told is refused.
        ClusterError : the cluster does not answer, or the condition does not hold.
        """
        try:
            done = subprocess.run(
                self._words(*words),
                input=json.dumps(given) if given is not None else None,
                capture_output=True,
                text=True,
                check=True,
                timeout=COMMAND_SECONDS,
            )
        except FileNotFoundError as error:
            what = f"--on kubernetes needs kubectl ({error})"
            raise UsageError(what, "Install it, and log in to the cluster") from error
        except subprocess.CalledProcessError as error:
            said = " ".join(error.stderr.split())
            if given is None:
                raise ClusterError(f"kubectl {words[0]}: {said}", RESUME) from error
            raise UsageError(f"the cluster refuses the run: {said}", "Is the dask operator installed?") from error
        except subprocess.TimeoutExpired as error:
            raise ClusterError(f"kubectl {words[0]} did not answer in {COMMAND_SECONDS:.0f} s", RESUME) from error
        return done.stdout

    def _words(self, *words: str) -> list[str]:
        return ["kubectl", f"--namespace={self.namespace}", *words]

    def _pods(self, component: str) -> list[dict[str, Any]]:
        selector = f"dask.org/cluster-name={self._name},dask.org/component={component}"
        said = self.kubectl("get", "pods", f"--selector={selector}", "--output=json")
        found: list[dict[str, Any]] = json.loads(said)["items"]
        return found

    def _check(self, waiting: list[str | None], whose: str) -> None:
        hopeless = [reason for reason in waiting if reason in HOPELESS]
        if hopeless:
            remedy = f"See kubectl describe pods. {RESUME}"
            raise ClusterError(f"the pod of {whose} does not start: {hopeless[0]}", remedy)


def manifests(pool: Pool, name: str, security: Security) -> list[dict[str, Any]]:
    """What is applied: certificates, the cluster without workers, and who may talk to it."""
    label = {"chunkflow": name}
    about = {"namespace": pool.namespace or "default", "labels": label}
    pem = {**security.get_tls_config_for_role("scheduler")}
    return [
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, **about},
            "stringData": {"ca.pem": pem["ca_file"], "cert.pem": pem["cert"], "key.pem": pem["key"]},
        },
        _policy(name, about),
        {
            "apiVersion": "kubernetes.dask.org/v1",
            "kind": "DaskCluster",
            "metadata": {"name": name, **about},
            "spec": {
                "worker": {"replicas": 0, "spec": _pod(pool, name, _worker(pool, name))},
                "scheduler": {"spec": _pod(pool, name, _scheduler(pool)), "service": _service(name)},
            },
        },
    ]


def _policy(name: str, about: dict[str, Any]) -> dict[str, Any]:
    """Only pods of the run, its driver and the operator reach its ports."""
    own = {"podSelector": {"matchLabels": {"dask.org/cluster-name": name}}}
    driver = {"podSelector": {"matchLabels": {"app": "chunkflow-driver"}}}
    operator = {
        "namespaceSelector": {},
        "podSelector": {"matchLabels": {"app.kubernetes.io/name": "dask-kubernetes-operator"}},
    }
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, **about},
        "spec": {
            "podSelector": own["podSelector"],
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [own, driver, operator]}],
        },
    }


def _service(name: str) -> dict[str, Any]:
    return {
        "type": "ClusterIP",
        "selector": {"dask.org/cluster-name": name, "dask.org/component": "scheduler"},
        "ports": [
            {"name": "tcp-comm", "protocol": "TCP", "port": PORT, "targetPort": "tcp-comm"},
            {"name": "http-dashboard", "protocol": "TCP", "port": 8787, "targetPort": "http-dashboard"},
        ],
    }


def _tls() -> list[str]:
    files = {"ca-file": "ca", "cert": "cert", "key": "key"}
    return [f"--tls-{key}={TLS_FOLDER}/{file}.pem" for key, file in files.items()]


def _scheduler(pool: Pool) -> dict[str, Any]:
    return {
        "name": "scheduler",
        "args": ["dask", "scheduler", "--protocol=tls", f"--port={PORT}", "--no-jupyter", "--no-show", *_tls()],
        "ports": [
            {"name": "tcp-comm", "containerPort": PORT, "protocol": "TCP"},
            {"name": "http-dashboard", "containerPort": 8787, "protocol": "TCP"},
        ],
        "readinessProbe": {"tcpSocket": {"port": "tcp-comm"}, "initialDelaySeconds": 2, "periodSeconds": 5},
        "resources": {"requests": {"cpu": "1", "memory": "2Gi"}, "limits": {"memory": "4Gi"}},
        "env": [{"name": "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES", "value": "2"}],
    }


def _worker(pool: Pool, name: str) -> dict[str, Any]:
    amounts = {"cpu": str(pool.cores), "memory": str(pool.memory_bytes)}
    amounts |= {"nvidia.com/gpu": str(pool.gpus)} if pool.gpus else {}
    off = {f"DASK_DISTRIBUTED__WORKER__MEMORY__{word}": "False" for word in ("TARGET", "SPILL", "PAUSE")}
    preload = ["--preload=chunkflow.run.drain"]
    if pool.gpus > 1:
        preload += ["--preload-nanny=chunkflow.run.drain"]
    return {
        "name": "worker",
        "args": [
            "dask",
            "worker",
            f"tls://{name}-scheduler.{pool.namespace or 'default'}.svc:{PORT}",
            "--name=$(DASK_WORKER_NAME)",
            f"--nworkers={pool.processes}",
            f"--nthreads={THREADS}",
            f"--memory-limit={pool.memory_bytes // pool.processes}",
            "--no-dashboard",
            "--death-timeout=120",
            *preload,
            *_tls(),
        ],
        "resources": {"requests": amounts, "limits": amounts},
        "env": [{"name": key, "value": value} for key, value in {**WORKER_ENVIRONMENT, **off}.items()],
    }


def _pod(pool: Pool, name: str, container: dict[str, Any]) -> dict[str, Any]:
    """A pod that runs as nobody in particular, with the volumes of the profile and the certificates."""
    claims = [volume.partition(":") for volume in pool.volumes]
    volumes: list[dict[str, Any]] = [{"name": "tls", "secret": {"secretName": name, "defaultMode": 0o440}}]
    volumes += [{"name": claim, "persistentVolumeClaim": {"claimName": claim}} for claim, _, _ in claims]
    mounts: list[dict[str, Any]] = [{"name": "tls", "mountPath": TLS_FOLDER, "readOnly": True}]
    mounts += [{"name": claim, "mountPath": path} for claim, _, path in claims]
    hardened = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    container = {**container, "image": pool.image, "volumeMounts": mounts, "securityContext": hardened}
    safe = {"runAsNonRoot": True, "runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 1000}
    return {
        "containers": [{**container, "command": ["/usr/bin/env"]}],  # instead of the image's own entry
        "volumes": volumes,
        "securityContext": {**safe, "seccompProfile": {"type": "RuntimeDefault"}},
        "automountServiceAccountToken": False,
        "nodeSelector": {key: str(value) for key, value in pool.node_selector.items()},
    }


def _waiting(pod: dict[str, Any]) -> str | None:
    """Why a pod is not there yet; None where it is."""
    status = pod.get("status", {})
    states = [container.get("state", {}) for container in status.get("containerStatuses", [])]
    reasons = [state["waiting"].get("reason", "Pending") for state in states if "waiting" in state]
    return (reasons or [status.get("phase", "Pending")])[0] if reasons or status.get("phase") == "Pending" else None
