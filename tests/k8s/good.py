"""A few manifests that keep every rule, for tests to spoil one thing at a time."""

from __future__ import annotations

import json

import yaml

from tests.k8s.build import Manifest

SECRETS = {"password": {"redis"}, "token": {"auth_token"}}

_SECURE = """
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
"""
_LIMITS = "{ requests: { cpu: 1, memory: 1Gi }, limits: { cpu: 1, memory: 1Gi } }"
_NOBODY = "{ runAsNonRoot: true, runAsUser: 1000, seccompProfile: { type: RuntimeDefault } }"

_GOOD = """
apiVersion: apps/v1
kind: StatefulSet
metadata: { name: redis }
spec:
  serviceName: redis
  selector: { matchLabels: { app: redis } }
  template:
    metadata: { labels: { app: redis } }
    spec:
      securityContext: NOBODY
      containers:
        - name: redis
          image: valkey/valkey:8.1.10
          command: [sh, -c, "echo requirepass $PASSWORD"]
          securityContext: SECURE
          resources: LIMITS
          env:
            - name: PASSWORD
              valueFrom: { secretKeyRef: { name: password, key: redis } }
          ports: [{ name: redis, containerPort: 6379 }]
      volumes:
        - { name: config, configMap: { name: redis } }
        - { name: data, persistentVolumeClaim: { claimName: data-redis-0 } }
  volumeClaimTemplates: [{ metadata: { name: data } }]
---
apiVersion: v1
kind: ConfigMap
metadata: { name: redis }
data: { redis.conf: appendonly yes }
---
apiVersion: v1
kind: Service
metadata: { name: redis }
spec:
  selector: { app: redis }
  ports: [{ port: 6379, targetPort: redis }]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: redis }
spec:
  podSelector: { matchLabels: { app: redis } }
  policyTypes: [Ingress]
  ingress:
    - from: [{ podSelector: { matchLabels: { ray.io/cluster: retinue } } }]
      ports: [{ port: 6379 }]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: ray }
spec:
  podSelector: { matchExpressions: [{ key: ray.io/cluster, operator: Exists }] }
  policyTypes: [Ingress]
  ingress:
    - from: [{ podSelector: { matchLabels: { ray.io/cluster: retinue } } }]
      ports: [{ port: 6379 }, { port: 9000, endPort: 9100 }]
---
apiVersion: ray.io/v1
kind: RayCluster
metadata: { name: retinue }
spec:
  authOptions: { mode: token, secretName: token }
  gcsFaultToleranceOptions:
    redisPassword: { valueFrom: { secretKeyRef: { name: password, key: redis } } }
  enableInTreeAutoscaling: true
  autoscalerOptions: { securityContext: SECURE, resources: LIMITS }
  headGroupSpec:
    rayStartParams: &ports
      port: "6379"
      dashboard-port: "9000"
      metrics-export-port: "9001"
      node-manager-port: "9002"
      object-manager-port: "9003"
      dashboard-agent-grpc-port: "9004"
      dashboard-agent-listen-port: "9005"
      runtime-env-agent-port: "9006"
      min-worker-port: "9010"
      max-worker-port: "9100"
    template: &template
      spec:
        securityContext: NOBODY
        containers:
          - name: ray
            image: retinue:0.1.0
            securityContext: SECURE
            resources: LIMITS
            lifecycle: { preStop: { exec: { command: [retinue, drain] } } }
  workerGroupSpecs:
    - { groupName: workers, rayStartParams: *ports, template: *template }
"""


def good() -> list[Manifest]:
    """The manifests, each call with a copy of its own."""
    text = _GOOD.replace("LIMITS", _LIMITS).replace("NOBODY", _NOBODY)
    flow = "{ " + ", ".join(_SECURE.strip().splitlines()) + " }"
    documents = list(yaml.safe_load_all(text.replace("SECURE", flow)))
    return [json.loads(json.dumps(one)) for one in documents]  # aliases become objects of their own
